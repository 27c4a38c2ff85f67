"""Messages of requests and results, and what they are here."""

import math
from collections.abc import Callable

import pytest
from google.protobuf.duration_pb2 import Duration

from gloss import v1 as pb
from ml import result, spec
from ml.errors import InputError
from schema import convert


def message(**parts) -> pb.ExplanationSpec:
    if not any(field.name in parts for field in pb.ExplanationSpec.DESCRIPTOR.oneofs_by_name["method"].fields):
        parts["lime"] = pb.Lime()
    return pb.ExplanationSpec(**{"prompt": pb.Prompt(text="one two"), **parts})


MANY = [pb.Prompt(text=f"prompt {number}") for number in range(20)]


def study(**method) -> pb.StudySpec:
    return pb.StudySpec(**method)


class TestToQuestion:
    def test_defaults_are_the_vocabularys_own(self):
        expected = spec.ExplanationSpec(prompt=spec.Prompt(text="one two"), method=spec.Lime())
        assert convert.to_question(message()) == expected
        assert convert.to_question(message(occlusion=pb.Occlusion())).method == spec.Occlusion()

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
            lime=pb.Lime(
                surrogate=pb.SURROGATE_DECISION_TREE,
                alpha=0,
                kernel_width=3.5,
                max_depth=2,
                estimator=pb.ESTIMATOR_TEXTBOOK,
            ),
            budget=pb.Budget(
                max_evaluations=9, max_duration=Duration(seconds=2, nanos=500_000_000), standard_error=0.1, seed=2**63
            ),
            quality=pb.Quality(faithfulness=False),
            precision=pb.PRECISION_POLICY_AUTO,
        )
        assert convert.to_question(full) == spec.ExplanationSpec(
            prompt=spec.Prompt(chat=(spec.ChatMessage("user", "hi"),)),
            target=spec.Target(spec.ContrastTarget(spec.Continuation(" a"), spec.Continuation(token_ids=(1, 2)))),
            features=spec.Features(unit=spec.Unit.SENTENCE, within=(1, 5)),
            removal=spec.Removal(spec.RemovalKind.TEXT, " "),
            method=spec.Lime(spec.SurrogateKind.DECISION_TREE, 0.0, 3.5, 2, spec.Estimator.TEXTBOOK),
            budget=spec.Budget(9, 2.5, 0.1, 2**63),
            quality=spec.Quality(faithfulness=False),
            precision=spec.PrecisionPolicy.AUTO,
            model="tiny",
        )

    def test_spans_are_features(self):
        features = pb.Features(spans=[pb.CharacterSpan(start=0, end=3), pb.CharacterSpan(start=4, end=7)])
        assert convert.to_question(message(features=features)).features.spans == ((0, 3), (4, 7))

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            (pb.Target(), spec.Target()),
            (pb.Target(next_token=pb.NextTokenTarget()), spec.Target(spec.NextTokenTarget())),
            (pb.Target(next_token=pb.NextTokenTarget(text=" x")), spec.Target(spec.NextTokenTarget(text=" x"))),
            (pb.Target(next_token=pb.NextTokenTarget(id=0)), spec.Target(spec.NextTokenTarget(id=0))),
            (
                pb.Target(continuation=pb.Continuation(text=" x"), scale=pb.TARGET_SCALE_PROBABILITY),
                spec.Target(spec.Continuation(" x"), spec.Scale.PROBABILITY),
            ),
            (pb.Target(generation=pb.GenerationTarget()), spec.Target(spec.GenerationTarget(16))),
            (pb.Target(generation=pb.GenerationTarget(max_tokens=3)), spec.Target(spec.GenerationTarget(3))),
        ],
    )
    def test_targets(self, target, expected):
        assert convert.to_question(message(target=target)).target == expected

    @pytest.mark.parametrize(
        ("parts", "method"),
        [
            ({"kernel_shap": pb.KernelShap()}, spec.KernelShap()),
            ({"context_attribution": pb.ContextAttribution(alpha=0)}, spec.ContextAttribution(0)),
            ({"integrated_gradients": pb.IntegratedGradients(steps=7)}, spec.IntegratedGradients(7)),
            ({"value_zeroing": pb.ValueZeroing()}, spec.ValueZeroing()),
            ({"hierarchical": pb.Hierarchical()}, spec.Hierarchical(spec.NodeValue.REMOVAL, 0.05)),
            (
                {"hierarchical": pb.Hierarchical(node_value=pb.NODE_VALUE_OWEN, threshold=0)},
                spec.Hierarchical(spec.NodeValue.OWEN, 0.0),
            ),
        ],
    )
    def test_methods(self, parts, method):
        assert convert.to_question(pb.ExplanationSpec(prompt=pb.Prompt(text="one"), **parts)).method == method

    def test_a_global_surrogate(self):
        asked = pb.GlobalSurrogate(prompts=MANY, surrogate=pb.SURROGATE_DECISION_TREE, held_out=0.5, max_depth=2)
        prompts = tuple(spec.Prompt(prompt.text) for prompt in MANY)
        expected = spec.GlobalSurrogate(prompts, spec.SurrogateKind.DECISION_TREE, 0.5, 2)
        assert convert.to_question(study(global_surrogate=asked)) == spec.StudySpec(expected)

    def test_a_bias_probe(self):
        groups = [pb.SwapSet(label="a", words=["he", "him"]), pb.SwapSet(label="b", words=["she", "her"])]
        asked = study(bias_probe=pb.BiasProbe(groups=groups, templates=["so {} said", "{} was"]))
        sets = (spec.SwapSet("a", ("he", "him")), spec.SwapSet("b", ("she", "her")))
        assert convert.to_question(asked).method == spec.BiasProbe(("so {} said", "{} was"), sets)

    @pytest.mark.parametrize(
        ("field", "method"),
        [
            ("method", {}),
            ("global_surrogate.prompts", {"global_surrogate": pb.GlobalSurrogate(prompts=MANY[1:])}),
            ("global_surrogate.max_depth", {"global_surrogate": pb.GlobalSurrogate(prompts=MANY, max_depth=2)}),
            (
                "global_surrogate.prompts[3].text",
                {"global_surrogate": pb.GlobalSurrogate(prompts=[*MANY[:3], pb.Prompt(text=" ")])},
            ),
            ("global_surrogate.held_out", {"global_surrogate": pb.GlobalSurrogate(prompts=MANY, held_out=math.nan)}),
            (
                "bias_probe.groups[0].words[1]",
                {"bias_probe": pb.BiasProbe(templates=["{}"], groups=[pb.SwapSet(label="a", words=["he", " "])])},
            ),
        ],
    )
    def test_mistakes_of_studies_are_named_by_the_contracts_path(self, field, method):
        with pytest.raises(InputError) as caught:
            convert.to_question(study(**method))
        assert caught.value.field == field

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
            ("lime.max_depth", {"lime": pb.Lime(surrogate=pb.SURROGATE_DECISION_TREE, max_depth=9)}),
            ("lime.max_depth", {"lime": pb.Lime(max_depth=2)}),
            ("lime.max_depth", {"lime": pb.Lime(surrogate=pb.SURROGATE_LASSO, max_depth=2)}),
            ("hierarchical.threshold", {"hierarchical": pb.Hierarchical(threshold=1.5)}),
            ("hierarchical.node_value", {"hierarchical": pb.Hierarchical(node_value=77)}),
            ("lime.surrogate", {"lime": pb.Lime(surrogate=77)}),
            ("budget.max_evaluations", {"budget": pb.Budget(max_evaluations=0)}),
            ("budget.max_duration", {"budget": pb.Budget(max_duration=Duration())}),
            ("budget.max_duration", {"budget": pb.Budget(max_duration=Duration(seconds=-1))}),
            ("budget.max_duration", {"budget": pb.Budget(max_duration=Duration(seconds=2**40))}),
            ("budget.max_duration", {"budget": pb.Budget(max_duration=Duration(seconds=1, nanos=-1))}),
            ("budget.max_duration", {"budget": pb.Budget(max_duration=Duration(seconds=-1, nanos=1))}),
            ("budget.max_duration", {"budget": pb.Budget(max_duration=Duration(nanos=10**9))}),
            ("budget.standard_error", {"budget": pb.Budget(standard_error=0)}),
            ("budget.standard_error", {"budget": pb.Budget(standard_error=5e-324)}),
        ],
    )
    def test_mistakes_are_named_by_the_contracts_path(self, field, parts):
        with pytest.raises(InputError) as caught:
            convert.to_question(message(**parts))
        assert caught.value.field == field

    def test_a_length_of_time_has_a_unit(self):
        with pytest.raises(InputError, match=r"between 1e-09 and 1e\+09 seconds, not 0"):
            convert.to_question(message(budget=pb.Budget(max_duration=Duration())))

    def test_what_is_no_length_of_time_has_no_unit(self):
        with pytest.raises(InputError, match=r"between 1e-09 and 1e\+09, not 0"):  # an equal range of another field
            convert.to_question(message(budget=pb.Budget(standard_error=0)))

    def test_a_method_must_be_set(self):
        with pytest.raises(InputError, match=r"occlusion, lime, .*interactions") as caught:
            convert.to_question(pb.ExplanationSpec(prompt=pb.Prompt(text="one")))
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


def test_a_result():
    found = result.ExplanationResult(
        text="one two",
        tokens=(result.Token(5, "one", (0, 3)), result.Token(6, "</s>")),
        target=result.ResolvedTarget("log p", (result.Token(7, " x"),), spec.Scale.PROBABILITY),
        removal=result.ResolvedRemoval(spec.RemovalKind.TEXT, "_"),
        attributions=(
            result.Attribution("one", (0, 3), (0, 1), 0.5, 0.1, result.Interval(0.3, 0.7, 0.9)),
            result.Attribution("two", (4, 7), (2,), -0.5, None),
        ),
        base_value=-3.5,
        full_value=-1.5,
        completeness_error=0.0,
        surrogate=result.SurrogateFit(
            spec.SurrogateKind.DECISION_TREE,
            0.75,
            nodes=(result.TreeNode(0.5, 10, 0, 1, 2), result.TreeNode(0.25, 6), result.TreeNode(0.75, 4)),
        ),
        trust=result.Trust(result.Verdict.CAUTION, ("because",)),
        cost=result.Cost(10, 100, 50, 3, 1.5, result.StopReason.DURATION),
    )
    assert convert.from_result(found) == pb.ExplanationResult(
        text="one two",
        tokens=[
            pb.Token(id=5, text="one", span=pb.CharacterSpan(start=0, end=3)),
            pb.Token(id=6, text="</s>"),
        ],
        target=pb.ResolvedTarget(
            description="log p", tokens=[pb.Token(id=7, text=" x")], scale=pb.TARGET_SCALE_PROBABILITY
        ),
        removal=pb.ResolvedRemoval(kind=pb.REMOVAL_KIND_TEXT, replacement="_"),
        attributions=[
            pb.FeatureAttribution(
                text="one",
                span=pb.CharacterSpan(start=0, end=3),
                positions=[0, 1],
                attribution=0.5,
                standard_error=0.1,
                interval=pb.Interval(lower=0.3, upper=0.7, level=0.9),
            ),
            pb.FeatureAttribution(text="two", span=pb.CharacterSpan(start=4, end=7), positions=[2], attribution=-0.5),
        ],
        base_value=-3.5,
        full_value=-1.5,
        attribution_unit=pb.ATTRIBUTION_UNIT_NAT,
        completeness_error=0.0,
        surrogate=pb.SurrogateFit(
            kind=pb.SURROGATE_DECISION_TREE,
            r_squared=0.75,
            nodes=[
                pb.TreeNode(value=0.5, samples=10, feature=0, absent=1, present=2),
                pb.TreeNode(value=0.25, samples=6),
                pb.TreeNode(value=0.75, samples=4),
            ],
        ),
        trust=pb.Trust(verdict=pb.TRUST_VERDICT_CAUTION, reasons=["because"]),
        cost=pb.Cost(
            evaluations=10,
            tokens_computed=100,
            tokens_saved=50,
            cache_hits=3,
            duration=Duration(seconds=1, nanos=500_000_000),
            stop_reason=pb.STOP_REASON_DURATION,
        ),
        precision=pb.Precision(dtype="float32"),
    )


def test_a_study_result():
    target = result.ResolvedTarget("log p", (), spec.Scale.LOG_PROBABILITY)
    difference = result.GroupDifference("a", "b", 0.5, 1)
    found = convert.from_result(result.StudyResult(target, result.BiasProbeResult((difference,))))
    assert found.bias_probe == pb.BiasProbeResult(
        differences=[pb.GroupDifference(first="a", second="b", difference=0.5, pairs=1)]
    )
    assert convert.from_result(result.StudyResult(target)).WhichOneof("finding") is None


def test_progress():
    progress = convert.from_progress(result.Progress(3, 10, result.Stage.EXPLAINING, 1.5))
    assert progress == pb.Progress(
        evaluations_done=3,
        evaluations_planned=10,
        stage=pb.STAGE_EXPLAINING,
        remaining_duration=Duration(seconds=1, nanos=500_000_000),
    )
    assert not convert.from_progress(result.Progress(3, 10, result.Stage.DONE)).HasField("remaining_duration")
