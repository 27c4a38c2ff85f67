"""Between the contract's messages and the explainers' vocabulary."""

import dataclasses
import math
from collections.abc import Callable

import pytest
from google.protobuf.descriptor import FieldDescriptor

from gloss import v1 as pb
from ml import result, spec
from ml.errors import InputError
from schema import convert, convert_method


def message(**parts) -> pb.ExplanationSpec:
    if not any(field.name in parts for field in pb.ExplanationSpec.DESCRIPTOR.oneofs_by_name["method"].fields):
        parts["lime"] = pb.Lime()
    return pb.ExplanationSpec(**{"prompt": pb.Prompt(text="one two"), **parts})


MANY = [f"prompt {number}" for number in range(20)]


class TestToSpec:
    def test_defaults_are_the_vocabularys_own(self):
        expected = spec.ExplanationSpec(prompt=spec.Prompt(text="one two"), method=spec.Lime())
        assert convert.to_spec(message()) == expected
        assert convert.to_spec(message(occlusion=pb.Occlusion())).method == spec.Occlusion()

    def test_everything_is_taken_over(self):
        full = pb.ExplanationSpec(
            model="tiny",
            prompt=pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="hi")])),
            target=pb.Target(
                contrast=pb.ContrastTarget(
                    chosen=pb.Continuation(text=" a"), rejected=pb.Continuation(token_ids=pb.TokenIds(ids=[1, 2]))
                ),
                scale=pb.TARGET_SCALE_LOG_PROBABILITY,
            ),
            features=pb.Features(unit=pb.FEATURE_UNIT_SENTENCE, within=pb.CharacterSpan(start=1, end=5)),
            removal=pb.Removal(kind=pb.REMOVAL_KIND_TEXT, text=" "),
            lime=pb.Lime(surrogate=pb.SURROGATE_DECISION_TREE, alpha=0, kernel_width=3.5, max_depth=2),
            budget=pb.Budget(max_evaluations=9, max_seconds=2.5, standard_error=0.1, seed=2**63),
            quality=pb.Quality(faithfulness=False),
            precision=pb.PRECISION_POLICY_AUTO,
            estimator=pb.ESTIMATOR_TEXTBOOK,
        )
        assert convert.to_spec(full) == spec.ExplanationSpec(
            prompt=spec.Prompt(chat=(spec.ChatMessage("user", "hi"),)),
            target=spec.Target(spec.ContrastTarget(spec.Continuation(" a"), spec.Continuation(token_ids=(1, 2)))),
            features=spec.Features(unit=spec.Unit.SENTENCE, within=(1, 5)),
            removal=spec.Removal(spec.RemovalKind.TEXT, " "),
            method=spec.Lime(spec.SurrogateKind.DECISION_TREE, alpha=0.0, kernel_width=3.5, max_depth=2),
            budget=spec.Budget(9, 2.5, 0.1, 2**63),
            faithfulness=False,
            precision=spec.PrecisionPolicy.AUTO,
            estimator=spec.Estimator.TEXTBOOK,
        )

    def test_spans_are_features(self):
        features = pb.Features(spans=[pb.CharacterSpan(start=0, end=3), pb.CharacterSpan(start=4, end=7)])
        assert convert.to_spec(message(features=features)).features.spans == ((0, 3), (4, 7))

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            (pb.Target(), spec.Target()),
            (pb.Target(next_token=pb.NextTokenTarget()), spec.Target(spec.NextTokenTarget())),
            (pb.Target(next_token=pb.NextTokenTarget(text=" x")), spec.Target(spec.NextTokenTarget(text=" x"))),
            (pb.Target(next_token=pb.NextTokenTarget(id=0)), spec.Target(spec.NextTokenTarget(id=0))),
            (
                pb.Target(continuation=pb.Continuation(text=" x"), scale=pb.TARGET_SCALE_PROBABILITY),
                spec.Target(spec.ContinuationTarget(spec.Continuation(" x")), spec.Scale.PROBABILITY),
            ),
            (pb.Target(generation=pb.GenerationTarget()), spec.Target(spec.GenerationTarget(16))),
            (pb.Target(generation=pb.GenerationTarget(max_tokens=3)), spec.Target(spec.GenerationTarget(3))),
        ],
    )
    def test_targets(self, target, expected):
        assert convert.to_spec(message(target=target)).target == expected

    @pytest.mark.parametrize(
        ("parts", "method"),
        [
            ({"kernel_shap": pb.KernelShap()}, spec.KernelShap()),
            ({"shapley_permutation": pb.ShapleyPermutation()}, spec.ShapleyPermutation()),
            ({"context_attribution": pb.ContextAttribution()}, spec.ContextAttribution(0.01)),
            ({"context_attribution": pb.ContextAttribution(alpha=0)}, spec.ContextAttribution(0)),
            ({"input_times_gradient": pb.InputTimesGradient()}, spec.InputTimesGradient()),
            ({"integrated_gradients": pb.IntegratedGradients()}, spec.IntegratedGradients(50)),
            ({"integrated_gradients": pb.IntegratedGradients(steps=7)}, spec.IntegratedGradients(7)),
            ({"attention_rollout": pb.AttentionRollout()}, spec.AttentionRollout()),
            ({"value_zeroing": pb.ValueZeroing()}, spec.ValueZeroing()),
            ({"interactions": pb.Interactions()}, spec.Interactions()),
            ({"global_surrogate": pb.GlobalSurrogate(prompts=MANY)}, spec.GlobalSurrogate(tuple(MANY))),
            (
                {
                    "global_surrogate": pb.GlobalSurrogate(
                        prompts=MANY, surrogate=pb.SURROGATE_DECISION_TREE, held_out=0.5, max_depth=2
                    )
                },
                spec.GlobalSurrogate(tuple(MANY), spec.SurrogateKind.DECISION_TREE, 0.5, 2),
            ),
        ],
    )
    def test_methods(self, parts, method):
        assert convert.to_spec(pb.ExplanationSpec(prompt=pb.Prompt(text="one"), **parts)).method == method

    def test_a_bias_probe(self):
        groups = [pb.SwapSet(label="a", words=["he", "him"]), pb.SwapSet(label="b", words=["she", "her"])]
        asked = pb.ExplanationSpec(
            prompt=pb.Prompt(text="so {} said"), bias_probe=pb.BiasProbe(groups=groups, templates=["{} was"])
        )
        expected = spec.BiasProbe((spec.SwapSet("a", ("he", "him")), spec.SwapSet("b", ("she", "her"))), ("{} was",))
        assert convert.to_spec(asked).method == expected

    def test_every_method_of_the_contract_is_known(self):
        methods = pb.ExplanationSpec.DESCRIPTOR.oneofs_by_name["method"].fields
        assert [method.name for method in methods] == list(convert_method._METHODS)

    @pytest.mark.parametrize(
        ("field", "parts"),
        [
            ("prompt", {"prompt": pb.Prompt()}),
            ("prompt.text", {"prompt": pb.Prompt(text=" \n")}),
            ("prompt.text", {"prompt": pb.Prompt(text="a\0b")}),
            ("prompt.chat.messages", {"prompt": pb.Prompt(chat=pb.Chat())}),
            (
                "prompt.chat.messages[1].content",
                {"prompt": pb.Prompt(chat=pb.Chat(messages=[pb.ChatMessage(content=c) for c in ("a", "")]))},
            ),
            ("prompt.token_ids.ids", {"prompt": pb.Prompt(token_ids=pb.TokenIds())}),
            ("target.next_token.text", {"target": pb.Target(next_token=pb.NextTokenTarget(text=""))}),
            ("target.continuation", {"target": pb.Target(continuation=pb.Continuation())}),
            ("target.continuation.text", {"target": pb.Target(continuation=pb.Continuation(text=""))}),
            (
                "target.continuation.token_ids.ids",
                {"target": pb.Target(continuation=pb.Continuation(token_ids=pb.TokenIds()))},
            ),
            ("target.contrast.chosen", {"target": pb.Target(contrast=pb.ContrastTarget())}),
            (
                "target.contrast.rejected.text",
                {
                    "target": pb.Target(
                        contrast=pb.ContrastTarget(chosen=pb.Continuation(text="a"), rejected=pb.Continuation(text=""))
                    )
                },
            ),
            ("target.generation.max_tokens", {"target": pb.Target(generation=pb.GenerationTarget(max_tokens=0))}),
            ("target.scale", {"target": pb.Target(scale=77)}),
            (
                "features.unit",
                {"features": pb.Features(unit=pb.FEATURE_UNIT_WORD, spans=[pb.CharacterSpan(start=0, end=1)])},
            ),
            ("features.unit", {"features": pb.Features(unit=77)}),
            ("features.spans[0]", {"features": pb.Features(spans=[pb.CharacterSpan(start=-1, end=1)])}),
            (
                "features.spans[1]",
                {"features": pb.Features(spans=[pb.CharacterSpan(start=0, end=3), pb.CharacterSpan(start=2, end=4)])},
            ),
            ("features.within", {"features": pb.Features(within=pb.CharacterSpan(start=3, end=3))}),
            ("removal.text", {"removal": pb.Removal(kind=pb.REMOVAL_KIND_TEXT)}),
            ("removal.text", {"removal": pb.Removal(text="x")}),
            ("removal.kind", {"removal": pb.Removal(kind=77)}),
            ("occlusion.window", {"occlusion": pb.Occlusion(window=0)}),
            ("occlusion.stride", {"occlusion": pb.Occlusion(window=2, stride=3)}),
            ("lime.alpha", {"lime": pb.Lime(alpha=-1)}),
            ("lime.alpha", {"lime": pb.Lime(alpha=math.nan)}),
            ("lime.alpha", {"lime": pb.Lime(alpha=1e306)}),
            ("lime.kernel_width", {"lime": pb.Lime(kernel_width=math.inf)}),
            ("lime.kernel_width", {"lime": pb.Lime(kernel_width=1e-200)}),
            ("lime.kernel_width", {"lime": pb.Lime(kernel_width=1e155)}),
            ("context_attribution.alpha", {"context_attribution": pb.ContextAttribution(alpha=1e306)}),
            ("global_surrogate.held_out", {"global_surrogate": pb.GlobalSurrogate(prompts=MANY, held_out=math.nan)}),
            ("lime.max_depth", {"lime": pb.Lime(max_depth=9)}),
            ("lime.surrogate", {"lime": pb.Lime(surrogate=77)}),
            ("budget.max_evaluations", {"budget": pb.Budget(max_evaluations=0)}),
            ("budget.max_seconds", {"budget": pb.Budget(max_seconds=math.nan)}),
            ("budget.max_seconds", {"budget": pb.Budget(max_seconds=1e300)}),
            ("budget.standard_error", {"budget": pb.Budget(standard_error=0)}),
            ("budget.standard_error", {"budget": pb.Budget(standard_error=5e-324)}),
        ],
    )
    def test_mistakes_are_named_by_the_contracts_path(self, field, parts):
        with pytest.raises(InputError) as caught:
            convert.to_spec(message(**parts))
        assert caught.value.field == field

    def test_a_method_must_be_set(self):
        with pytest.raises(InputError, match=r"occlusion, lime, .*bias_probe") as caught:
            convert.to_spec(pb.ExplanationSpec(prompt=pb.Prompt(text="one")))
        assert caught.value.field == "method"

    @pytest.mark.parametrize(
        ("call", "field"),
        [
            (lambda: convert.to_prompt(pb.Prompt(), "prompts[3]"), "prompts[3]"),
            (lambda: convert.to_prompt(pb.Prompt(text=""), "prompts[3]"), "prompts[3].text"),
            (lambda: convert.to_continuation(pb.Continuation(text=""), "items[0].continuation"), None),
        ],
    )
    def test_parts_are_named_by_their_place(self, call: Callable[[], object], field):
        with pytest.raises(InputError) as caught:
            call()
        assert caught.value.field == (field or "items[0].continuation.text")


METRICS = [result.ControlledMetric(value, value + 0.5, value + 0.25) for value in (1.0, 2.0, 3.0, 4.0)]
FULL = result.ExplanationResult(
    text="one two",
    tokens=(result.Token(5, "one", (0, 3)), result.Token(6, "</s>", None)),
    target=result.ResolvedTarget(
        "log p", (result.Token(7, " x"),), spec.Scale.PROBABILITY, (result.Token(8, " y"),), (result.Token(9, " z"),)
    ),
    removal=result.ResolvedRemoval(spec.RemovalKind.TEXT, "_"),
    attributions=(
        result.Attribution("one", (0, 3), (0, 1), 0.5, 0.1, result.Interval(0.3, 0.7, 0.9)),
        result.Attribution("two", (4, 7), (2,), -0.5),
    ),
    base_value=-3.5,
    full_value=-1.5,
    surrogate=result.SurrogateFit(
        spec.SurrogateKind.LASSO,
        0.75,
        0.125,
        (result.TreeNode(1, 2, 3, 0.5, 10), result.TreeNode(-1, -1, -1, 0.25, 4)),
        0.5,
        (result.WordCoefficient("word", -1.5, 0.25),),
    ),
    interactions=(result.Interaction(0, 1, 0.75, 0.125),),
    group_differences=(result.GroupDifference("a", "b", 0.5, 0.25, result.Interval(0.25, 0.75, 0.9), 6),),
    completeness_error=0.0,
    stability=0.875,
    faithfulness=result.Faithfulness(
        (0.1, 0.5),
        result.ControlledCurve((1.0, 2.0), (0.5, 0.75), METRICS[0]),
        result.ControlledCurve((3.0, 4.0), (0.25, 0.125), METRICS[1]),
        METRICS[2],
        METRICS[3],
        20,
    ),
    converged=True,
    trust=result.Trust(result.Verdict.CAUTION, ("because",)),
    cost=result.Cost(10, 100, 50, 3, 1.5, result.StopReason.SECONDS),
    precision=result.Precision("bfloat16", 0.01),
)


class TestFromResult:
    def test_everything_is_taken_over(self):
        found = convert.from_result(FULL)
        expected = {
            "text": FULL.text,
            "base_value": FULL.base_value,
            "full_value": FULL.full_value,
            "completeness_error": FULL.completeness_error,
            "stability": FULL.stability,
            "converged": FULL.converged,
        }
        assert {name: getattr(found, name) for name in expected} == expected
        assert found.HasField("completeness_error")  # 0 is something else than nothing
        assert [t.id for t in found.tokens] == [5, 6]
        assert [t.text for t in found.tokens] == ["one", "</s>"]
        assert found.tokens[0].span == pb.CharacterSpan(start=0, end=3)
        assert not found.tokens[1].HasField("span")
        assert found.target == pb.ResolvedTarget(
            description="log p",
            tokens=[pb.Token(id=7, text=" x")],
            rejected_tokens=[pb.Token(id=8, text=" y")],
            shared_tokens=[pb.Token(id=9, text=" z")],
            scale=pb.TARGET_SCALE_PROBABILITY,
        )
        assert found.removal == pb.ResolvedRemoval(kind=pb.REMOVAL_KIND_TEXT, replacement="_")
        first, second = found.attributions
        assert first == pb.FeatureAttribution(
            text="one",
            span=pb.CharacterSpan(start=0, end=3),
            positions=[0, 1],
            attribution=0.5,
            standard_error=0.1,
            interval=pb.Interval(lower=0.3, upper=0.7, level=0.9),
        )
        assert second.interval == pb.Interval(lower=-0.5, upper=-0.5, level=0.95)
        assert found.surrogate.kind == pb.SURROGATE_LASSO
        assert (found.surrogate.r_squared, found.surrogate.intercept) == (0.75, 0.125)
        assert found.surrogate.nodes[0] == pb.TreeNode(feature=1, absent=2, present=3, value=0.5, samples=10)
        assert found.surrogate.nodes[1].feature == -1
        for name in ("fractions", "random_rankings"):
            value = getattr(found.faithfulness, name)
            assert (value if isinstance(value, int) else tuple(value)) == getattr(FULL.faithfulness, name)
        assert list(found.faithfulness.comprehensiveness.values) == [1.0, 2.0]
        assert list(found.faithfulness.sufficiency.random_values) == [0.25, 0.125]
        measured = found.faithfulness
        for metric, original in zip(
            (measured.comprehensiveness.aopc, measured.sufficiency.aopc, measured.deletion_auc, measured.insertion_auc),
            METRICS,
            strict=True,
        ):
            assert (metric.value, metric.random, metric.random_deviation) == dataclasses.astuple(original)
        assert found.trust == pb.Trust(verdict=pb.TRUST_VERDICT_CAUTION, reasons=["because"])
        assert found.cost == pb.Cost(
            evaluations=10,
            tokens_computed=100,
            tokens_saved=50,
            cache_hits=3,
            seconds=1.5,
            stop_reason=pb.STOP_REASON_SECONDS,
        )
        assert found.precision == pb.Precision(dtype="bfloat16", measured_error=0.01)
        # Nothing that a result can hold was forgotten.
        assert {f.name for f in found.DESCRIPTOR.fields} == {f.name for f, _ in found.ListFields()}

    def test_of_pairs_words_and_groups(self):
        found = convert.from_result(FULL)
        assert list(found.interactions) == [pb.Interaction(first=0, second=1, value=0.75, standard_error=0.125)]
        assert found.surrogate.held_out_r_squared == 0.5
        assert list(found.surrogate.coefficients) == [
            pb.WordCoefficient(word="word", coefficient=-1.5, standard_error=0.25)
        ]
        assert list(found.group_differences) == [
            pb.GroupDifference(
                first="a",
                second="b",
                difference=0.5,
                standard_error=0.25,
                interval=pb.Interval(lower=0.25, upper=0.75, level=0.9),
                pairs=6,
            )
        ]

    def test_what_is_absent_stays_absent(self):
        partial = dataclasses.replace(
            FULL, surrogate=None, completeness_error=None, stability=None, faithfulness=None, trust=None
        )
        found = convert.from_result(partial)
        for name in ("surrogate", "completeness_error", "stability", "faithfulness", "trust"):
            assert not found.HasField(name)

    def test_every_kind_has_its_number(self):
        for kind in spec.RemovalKind:
            replaced = dataclasses.replace(FULL, removal=result.ResolvedRemoval(kind))
            assert convert.from_result(replaced).removal.kind != pb.REMOVAL_KIND_UNSPECIFIED
        for surrogate in spec.SurrogateKind:
            replaced = dataclasses.replace(FULL, surrogate=result.SurrogateFit(surrogate, 0.5))
            assert convert.from_result(replaced).surrogate.kind != pb.SURROGATE_UNSPECIFIED
        for verdict in result.Verdict:
            replaced = dataclasses.replace(FULL, trust=result.Trust(verdict))
            assert convert.from_result(replaced).trust.verdict != pb.TRUST_VERDICT_UNSPECIFIED
        for reason in result.StopReason:
            replaced = dataclasses.replace(FULL, cost=result.Cost(stop_reason=reason))
            assert convert.from_result(replaced).cost.stop_reason != pb.STOP_REASON_UNSPECIFIED
        for scale in spec.Scale:
            replaced = dataclasses.replace(FULL, target=dataclasses.replace(FULL.target, scale=scale))
            assert convert.from_result(replaced).target.scale != pb.TARGET_SCALE_UNSPECIFIED

    def test_every_enum_of_the_contract_is_known(self):
        """A value that is added to the contract must be given a meaning here."""
        known = {
            "kind": (pb.Removal, convert._REMOVALS),
            "scale": (pb.Target, convert._SCALES),
            "unit": (pb.Features, convert._UNITS),
            "surrogate": (pb.Lime, convert_method.SURROGATES),
        }
        for name, (owner, meanings) in known.items():
            field: FieldDescriptor = owner.DESCRIPTOR.fields_by_name[name]
            assert {value.number for value in field.enum_type.values} == set(meanings)


def test_progress():
    progress = convert.from_progress(result.Progress(3, 10, "sampling", 1.5))
    assert progress == pb.Progress(evaluations_done=3, evaluations_planned=10, stage="sampling", remaining_seconds=1.5)
    assert not convert.from_progress(result.Progress(3, 10, "sampling")).HasField("remaining_seconds")
