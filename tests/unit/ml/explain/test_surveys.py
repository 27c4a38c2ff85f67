"""Explanations over many prompts: global surrogates and bias probes of models whose answers are known."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.errors import InputError, PromptTooLongError
from ml.explain import Run, prepare
from ml.explain.bias import clustered_mean
from ml.explain.global_surrogate import bag
from ml.result import StopReason, Verdict
from ml.spec import (
    BiasProbe,
    Budget,
    ExplanationSpec,
    Features,
    GenerationTarget,
    GlobalSurrogate,
    Prompt,
    RemovalKind,
    SurrogateKind,
    SwapSet,
    Target,
)
from tests.unit.ml.explain.toys import WORDS, YES_RATHER_THAN_NO, ToyModel, word_tokenizer

EFFECTS = {"good": 2.0, "bad": -1.5, "film": 0.25}
KINDS = [SurrogateKind.RIDGE, SurrogateKind.DECISION_TREE]


def texts(number, seed=0):
    """Texts of some of the toy's words, each at most once, so that presence is all that there is to know."""
    random = np.random.default_rng(seed)
    chosen = [word for word in WORDS if word.isalpha() and word not in {"yes", "no"}]
    return tuple(" ".join(random.permutation(chosen)[: random.integers(2, len(chosen))]) for _ in range(number))


def surrogate(prompts=None, prompt="the film was good", **parts):
    method = GlobalSurrogate(prompts or texts(120), **parts)
    return ExplanationSpec(Prompt(text=prompt), method, target=YES_RATHER_THAN_NO)


def probe(prompt="the {} was", templates=(), groups=None, **parts):
    groups = groups or {"good": ("good", "film"), "bad": ("bad", "the")}
    method = BiasProbe(tuple(SwapSet(label, words) for label, words in groups.items()), tuple(templates))
    return ExplanationSpec(Prompt(text=prompt), method, target=YES_RATHER_THAN_NO, **parts)


def last(run):
    *_, update = run
    return update.result


class TestGlobalSurrogate:
    def test_a_ridge_finds_an_additive_model(self):
        result = last(Run(ToyModel(EFFECTS), surrogate()))
        fit = result.surrogate
        assert fit.kind is SurrogateKind.RIDGE
        assert fit.held_out_r_squared > 0.99
        assert fit.r_squared > 0.99
        found = {each.word: each.coefficient for each in fit.coefficients}
        assert found["good"] == pytest.approx(2.0, abs=0.05)
        assert found["bad"] == pytest.approx(-1.5, abs=0.05)
        assert [each.word for each in fit.coefficients[:2]] == ["good", "bad"]
        assert {each.text: each.value for each in result.attributions} == pytest.approx(
            {word: found[word] for word in ("the", "film", "was", "good")}
        )
        assert result.trust.verdict is Verdict.TRUSTED
        assert result.faithfulness is None
        assert (result.full_value, result.base_value) == pytest.approx((2.25, 0.0))
        assert result.cost.stop_reason is StopReason.COMPLETE

    def test_standard_errors_shrink_with_the_prompts(self):
        model = ToyModel(EFFECTS, {("not", "good"): -3.0})
        few, many = (last(Run(model, surrogate(texts(n)))) for n in (60, 600))
        errors = [
            {each.word: each.standard_error for each in result.surrogate.coefficients}["good"] for result in (few, many)
        ]
        assert 0 < errors[1] < errors[0] / 2

    def test_a_tree_asks_about_words(self):
        model = ToyModel({"good": 4.0}, {("not", "good"): -2.0})
        result = last(Run(model, surrogate(texts(300), surrogate=SurrogateKind.DECISION_TREE, max_depth=2)))
        fit = result.surrogate
        root = fit.nodes[0]
        assert fit.coefficients[root.feature].word == "good"
        assert fit.coefficients[fit.nodes[root.present].feature].word == "not"
        assert fit.nodes[root.absent].value == pytest.approx(0.0)
        assert fit.held_out_r_squared > 0.99
        assert sum(abs(each.coefficient) for each in fit.coefficients) == pytest.approx(1.0)

    def test_held_out_prompts_tell_what_the_fit_does_not(self):
        random = np.random.default_rng(1)
        noise = {word: float(random.normal()) for word in EFFECTS}
        model = ToyModel(noise, {(a, b): 5.0 * float(random.normal()) for a in WORDS[4:] for b in WORDS[4:] if a < b})
        result = last(Run(model, surrogate(texts(25), held_out=0.3)))
        assert result.surrogate.held_out_r_squared < result.surrogate.r_squared
        assert result.trust.verdict is not Verdict.TRUSTED
        assert any("held-out prompts" in reason for reason in result.trust.reasons)

    def test_case_does_not_matter_and_rare_words_are_left_out(self):
        assert bag("The the THE Straße!") == {"the", "strasse", "!"}
        prompts = (*texts(60), "very unique good")
        result = last(Run(ToyModel(EFFECTS), surrogate(prompts)))
        assert "unique" not in {each.word for each in result.surrogate.coefficients}

    def test_nothing_in_common(self):
        prompts = tuple(f"w{index}" for index in range(20))
        result = last(Run(ToyModel(EFFECTS), surrogate(prompts, prompt="good")))
        assert result.surrogate is None
        assert result.trust.verdict is Verdict.NOT_TRUSTED
        assert any("no words in common" in reason for reason in result.trust.reasons)
        assert all(math.isinf(each.standard_error) for each in result.attributions)

    @pytest.mark.parametrize("share", [0.01, 0.97, 0.99])
    def test_no_prompt_is_both_fitted_and_held_out(self, share):
        random = np.random.default_rng(0)
        noise = {(a, b): float(random.normal()) for a in WORDS[4:] for b in WORDS[4:] if a < b}
        result = last(Run(ToyModel({}, noise), surrogate(texts(40), held_out=share)))
        assert result.surrogate is None or result.surrogate.held_out_r_squared < 0.9
        assert any("held out" in reason or "held-out" in reason for reason in result.trust.reasons) or share > 0.9

    def test_all_prompts_are_counted_when_they_are_too_few(self):
        with pytest.raises(InputError, match="send 21 to 4001 prompts, the spec's own among them, not 10") as error:
            surrogate(texts(9))
        assert error.value.field == "global_surrogate.prompts"

    def test_copies_are_no_more_evidence(self):
        model = ToyModel(EFFECTS, {("not", "good"): -3.0})
        once, often = (last(Run(model, surrogate(texts(60) * times))) for times in (1, 4))
        assert once.surrogate == often.surrogate
        with pytest.raises(InputError, match="only 2 differ, the spec's own among them; send at least 21") as error:
            prepare(model.tokenizer, model.info, surrogate(("the film",) * 30))
        assert error.value.field == "global_surrogate.prompts"

    def test_a_part_of_a_word_has_the_word_s_weight_where_it_begins(self):
        model = ToyModel(EFFECTS)
        spec = replace(surrogate(prompt="the film"), features=Features(spans=((0, 2), (2, 5), (5, 8))))
        with pytest.raises(InputError):
            prepare(model.tokenizer, model.info, spec)  # no token begins within "the"
        problem = prepare(model.tokenizer, model.info, replace(spec, features=Features(spans=((0, 2), (4, 8)))))
        assert problem.explainer.features == (frozenset({"the"}), frozenset({"film"}))

    @pytest.mark.parametrize("kind", KINDS)
    def test_seed(self, kind):
        model = ToyModel(EFFECTS, {("not", "good"): -3.0})
        spec = surrogate(surrogate=kind)
        first, again = (last(Run(model, spec)).surrogate for _ in range(2))
        assert first == again
        other = last(Run(model, replace(spec, budget=Budget(seed=1)))).surrogate
        assert other.held_out_r_squared != first.held_out_r_squared

    def test_time_runs_out(self):
        ticks = count()
        model = ToyModel(EFFECTS, parameters=10**9)  # which is read in small chunks
        spec = replace(surrogate(texts(400)), budget=Budget(max_seconds=10.0))
        result = last(Run(model, spec, clock=lambda: next(ticks) * 0.7))
        assert result.cost.stop_reason is StopReason.SECONDS
        assert result.cost.evaluations < 400
        assert any("Time ran out" in reason for reason in result.trust.reasons)

    def test_it_goes_on_from_a_checkpoint(self):
        model, spec = ToyModel(EFFECTS, parameters=10**9), surrogate()
        ticks = count()
        run, begun = Run(model, spec, clock=lambda: float(next(ticks))), 0
        for update in run:
            begun = update.progress.evaluations_done
            if begun > 20:
                break
        model.read.clear()
        result = last(again := Run(model, spec, run.checkpoint()))
        assert len(model.read) <= 122 - begun + 2  # two texts may be asked for twice
        assert result.surrogate == last(Run(model, spec)).surrogate
        assert again.problem.max_evaluations == 2 + 1 + len(set(texts(120)))

    @pytest.mark.parametrize(
        ("field", "parts"),
        [
            ("global_surrogate.prompts", {"prompts": texts(19)}),
            ("global_surrogate.prompts", {"prompts": ("good",) * 4001}),
            ("global_surrogate.prompts[3]", {"prompts": (*texts(3), " ", *texts(30))}),
            ("global_surrogate.surrogate", {"surrogate": SurrogateKind.LASSO}),
            ("global_surrogate.held_out", {"held_out": 1.0}),
            ("global_surrogate.max_depth", {"max_depth": 9}),
        ],
    )
    def test_refused(self, field, parts):
        with pytest.raises(InputError) as error:
            surrogate(**parts)
        assert error.value.field == field

    def test_a_prompt_too_long(self):
        model = ToyModel(EFFECTS, tokenizer=word_tokenizer(context=8))
        with pytest.raises(PromptTooLongError) as error:
            prepare(model.tokenizer, model.info, surrogate((*texts(24), "film " * 9)))
        assert (error.value.field, error.value.tokens) == ("global_surrogate.prompts[24]", 9)
        spec = replace(surrogate((*texts(24), "film " * 8)), target=Target(GenerationTarget(3)))
        with pytest.raises(PromptTooLongError, match=r"the prompt has \d tokens and the target adds 2") as error:
            prepare(model.tokenizer, model.info, spec)
        assert error.value.field.startswith("global_surrogate.prompts[")

    def test_a_budget_below_the_prompts(self):
        model = ToyModel(EFFECTS)
        spec = replace(surrogate(), budget=Budget(max_evaluations=100))
        with pytest.raises(InputError, match="evaluations of so many texts"):
            prepare(model.tokenizer, model.info, spec)


class TestBiasProbe:
    def test_differences_of_an_additive_model(self):
        result = last(Run(ToyModel(EFFECTS), probe(templates=["{} and the film", "not very {} !"])))
        [difference] = result.group_differences
        assert (difference.first, difference.second, difference.pairs) == ("good", "bad", 6)
        # good − bad is 3.5 and film − the is 0.25, whatever the template.
        assert difference.difference == pytest.approx((3.5 + 0.25) / 2)
        assert difference.interval.lower < difference.difference < difference.interval.upper
        # Two places among the words are all the evidence: half their distance, and 1 degree of freedom.
        assert difference.standard_error == pytest.approx((3.5 - 0.25) / 2)
        assert difference.interval.upper - difference.difference == pytest.approx(12.706 * 1.625, rel=1e-3)
        assert result.trust.verdict is Verdict.TRUSTED

    def test_the_word_itself_is_the_one_feature(self):
        result = last(Run(ToyModel(EFFECTS), probe()))
        assert result.text == "the good was"
        [word] = result.attributions
        assert (word.text, word.span, word.positions) == ("good", (4, 8), (1,))
        assert word.value == pytest.approx(2.0)
        assert (result.full_value, result.base_value) == pytest.approx((2.0, 0.0))
        assert result.removal.kind is RemovalKind.MASK_TOKEN

    def test_every_two_groups_are_compared(self):
        groups = {"a": ("good",), "b": ("bad",), "c": ("film",)}
        result = last(Run(ToyModel(EFFECTS), probe(groups=groups, templates=["{} and the", "not {}"])))
        assert {(each.first, each.second): each.difference for each in result.group_differences} == pytest.approx(
            {("a", "b"): 3.5, ("a", "c"): 1.75, ("b", "c"): -1.75}
        )
        assert all(each.standard_error == pytest.approx(0.0, abs=1e-6) for each in result.group_differences)
        assert any("one word of each group" in reason for reason in result.trust.reasons)

    def test_one_pair_is_no_evidence(self):
        result = last(Run(ToyModel(EFFECTS), probe(groups={"a": ("good",), "b": ("bad",)})))
        [difference] = result.group_differences
        assert math.isinf(difference.standard_error)
        assert math.isinf(difference.interval.upper)
        assert result.trust.verdict is Verdict.NOT_TRUSTED

    def test_equal_texts_are_read_once(self):
        model = ToyModel(EFFECTS)
        run = Run(model, probe(groups={"a": ("good", "bad"), "b": ("bad", "good")}))
        assert last(run).group_differences[0].difference == pytest.approx(0.0)
        assert len(model.read) == 3  # the third is the template without its word

    def test_the_target_is_settled_by_the_first_text(self):
        spec = replace(probe(), target=type(YES_RATHER_THAN_NO)())
        result = last(Run(ToyModel(EFFECTS), spec))
        assert result.target.description == 'log p("yes")'

    @pytest.mark.parametrize(
        ("field", "make"),
        [
            ("bias_probe.groups", lambda: probe(groups={"a": ("good",)})),
            ("bias_probe.groups[1].words", lambda: probe(groups={"a": ("good",), "b": ("bad", "film")})),
            ("bias_probe.groups[0].words", lambda: probe(groups={"a": (), "b": ()})),
            ("bias_probe.groups[1].words[0]", lambda: probe(groups={"a": ("good",), "b": (" ",)})),
            ("bias_probe.groups[0].label", lambda: probe(groups={"": ("good",), "b": ("bad",)})),
            ("bias_probe.templates[0]", lambda: probe(templates=["the film"])),
            ("bias_probe.templates[0]", lambda: probe(templates=["{} and {}"])),
            ("bias_probe.templates", lambda: probe(templates=["the {}"] * 1000)),
            ("prompt.text", lambda: probe(prompt="the film")),
            ("features", lambda: probe(features=Features(spans=((0, 3),)))),
            ("prompt", lambda: replace(probe(), prompt=Prompt(token_ids=(1, 2)))),
        ],
    )
    def test_refused(self, field, make):
        with pytest.raises(InputError) as error:
            make()
        assert error.value.field == field

    def test_a_slot_within_a_token(self):
        model = ToyModel(EFFECTS)
        with pytest.raises(InputError, match="part of a longer token") as error:
            prepare(model.tokenizer, model.info, probe(prompt="the f{} was", groups={"a": ("ilm",), "b": ("ool",)}))
        assert error.value.field == "prompt.text"

    def test_time_that_runs_out_leaves_whole_blocks(self):
        ticks = count()
        model = ToyModel(EFFECTS, parameters=10**9)
        words = tuple(WORDS[4:8])
        templates = [f"{{}} {text}" for text in dict.fromkeys(texts(400))]
        spec = probe(groups={"a": words, "b": words[::-1]}, templates=templates)
        spec = replace(spec, budget=Budget(max_seconds=75.0))
        result = last(Run(model, spec, clock=lambda: next(ticks) * 1.0))
        assert result.cost.stop_reason is StopReason.SECONDS
        assert result.trust.verdict is not Verdict.TRUSTED
        [difference] = result.group_differences
        assert 0 < difference.pairs < len(words) * (1 + len(spec.method.templates))

    def test_a_template_too_long(self):
        model = ToyModel(EFFECTS, tokenizer=word_tokenizer(context=8))
        with pytest.raises(PromptTooLongError) as error:
            prepare(model.tokenizer, model.info, probe(templates=["film " * 8 + "{}"]))
        assert error.value.field == "bias_probe.templates[0]"


class TestClusteredMean:
    def test_one_way_clusters_are_the_means_of_rows(self):
        cells = np.array([[1.0, 2.0, 6.0]])
        mean, error, freedom = clustered_mean(cells)
        assert (mean, freedom) == (3.0, 2)
        assert error == pytest.approx(np.std(cells, ddof=1) / math.sqrt(3))
        assert clustered_mean(cells.T) == (mean, error, freedom)

    def test_a_single_cell(self):
        assert clustered_mean(np.array([[2.0]])) == (2.0, math.inf, 0)

    def test_unknown_cells_do_not_count(self):
        cells = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]])
        mean, error, freedom = clustered_mean(cells)
        assert (mean, freedom) == (2.0, 1)
        assert error == pytest.approx(1.0)

    @given(st.integers(0, 1000))
    def test_intervals_cover_where_templates_and_words_have_effects(self, seed):
        random = np.random.default_rng(seed)
        rows, columns = random.normal(size=(12, 1)), random.normal(size=(1, 12))
        mean, error, freedom = clustered_mean(rows + columns + random.normal(size=(12, 12)))
        assert freedom == 11
        # The truth: the mean of 12 row effects, 12 column effects and 144 cells, each of variance 1.
        assert 0.3 < error / math.sqrt(2 / 12 + 1 / 144) < 2.5
        assert abs(mean) < 6 * error
