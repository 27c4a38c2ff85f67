"""Studies: global surrogates and bias probes of models whose answers are known."""

from __future__ import annotations

import math
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.errors import InputError, PromptTooLongError
from ml.explain import StudyRun, prepare
from ml.explain.studies.bias import clustered_mean
from ml.explain.studies.global_surrogate import bag
from ml.result import AttributionUnit, StopReason, Verdict
from ml.spec import (
    BiasProbe,
    Budget,
    Continuation,
    GenerationTarget,
    GlobalSurrogate,
    Prompt,
    StudySpec,
    SurrogateKind,
    SwapSet,
    Target,
)
from tests.fixtures.tokenizers import tokenizer
from tests.unit.ml.explain.toys import WORDS, YES_RATHER_THAN_NO, ToyModel, word_tokenizer

EFFECTS = {"good": 2.0, "bad": -1.5, "film": 0.25}
ALL = Budget()
KINDS = [SurrogateKind.RIDGE, SurrogateKind.DECISION_TREE]


def texts(number, seed=0):
    """Texts of some of the toy's words, each at most once, so that presence is all that there is to know."""
    random = np.random.default_rng(seed)
    chosen = [word for word in WORDS if word.isalpha() and word not in {"yes", "no"}]
    return tuple(" ".join(random.permutation(chosen)[: random.integers(2, len(chosen))]) for _ in range(number))


def prompts(number, seed=0):
    return tuple(Prompt(text) for text in texts(number, seed))


def surrogate(asked=None, *, budget=ALL, target=YES_RATHER_THAN_NO, **parts):
    return StudySpec(GlobalSurrogate(asked or prompts(120), **parts), target=target, budget=budget)


def probe(templates=("the {} was",), groups=None, *, budget=ALL, target=YES_RATHER_THAN_NO):
    groups = groups or {"good": ("good", "film"), "bad": ("bad", "the")}
    sets = tuple(SwapSet(label, words) for label, words in groups.items())
    return StudySpec(BiasProbe(tuple(templates), sets), target=target, budget=budget)


def last(run):
    *_, update = run
    return update.result


class TestGlobalSurrogate:
    def test_a_ridge_finds_an_additive_model(self):
        result = last(StudyRun(ToyModel(EFFECTS), surrogate()))
        found = result.finding
        assert found.surrogate.kind is SurrogateKind.RIDGE
        assert found.held_out_r_squared > 0.99
        assert found.surrogate.r_squared > 0.99
        weights = {each.word: each.coefficient for each in found.coefficients}
        assert weights["good"] == pytest.approx(2.0, abs=0.05)
        assert weights["bad"] == pytest.approx(-1.5, abs=0.05)
        assert [each.word for each in found.coefficients[:2]] == ["good", "bad"]
        assert found.coefficient_unit is AttributionUnit.NAT
        assert found.fitted_prompts + found.held_out_prompts == result.cost.evaluations == len(set(prompts(120)))
        assert result.target.description == 'log p("yes") − log p("no")'
        assert result.trust.verdict is Verdict.TRUSTED
        assert result.cost.stop_reason is StopReason.COMPLETE

    def test_standard_errors_shrink_with_the_prompts(self):
        model = ToyModel(EFFECTS, {("not", "good"): -3.0})
        few, many = (last(StudyRun(model, surrogate(prompts(n)))) for n in (60, 600))
        errors = [
            {each.word: each.standard_error for each in result.finding.coefficients}["good"] for result in (few, many)
        ]
        assert 0 < errors[1] < errors[0] / 2

    def test_a_tree_asks_about_words(self):
        model = ToyModel({"good": 4.0}, {("not", "good"): -2.0})
        asked = surrogate(prompts(300), surrogate=SurrogateKind.DECISION_TREE, max_depth=2)
        found = last(StudyRun(model, asked)).finding
        nodes = found.surrogate.nodes
        root = nodes[0]
        assert found.coefficients[root.feature].word == "good"
        assert found.coefficients[nodes[root.present].feature].word == "not"
        assert nodes[root.absent].value == pytest.approx(0.0)
        assert found.held_out_r_squared > 0.99
        assert sum(abs(each.coefficient) for each in found.coefficients) == pytest.approx(1.0)
        assert found.coefficient_unit is AttributionUnit.IMPURITY_SHARE

    def test_held_out_prompts_tell_what_the_fit_does_not(self):
        random = np.random.default_rng(1)
        noise = {word: float(random.normal()) for word in EFFECTS}
        model = ToyModel(noise, {(a, b): 5.0 * float(random.normal()) for a in WORDS[4:] for b in WORDS[4:] if a < b})
        result = last(StudyRun(model, surrogate(prompts(25), held_out=0.3)))
        assert result.finding.held_out_r_squared < result.finding.surrogate.r_squared
        assert result.trust.verdict is not Verdict.TRUSTED
        assert any("held-out prompts" in reason for reason in result.trust.reasons)

    def test_case_does_not_matter_and_rare_words_are_left_out(self):
        assert bag("The the THE Straße!", [(0, 19)]) == {"the", "strasse", "!"}
        asked = (*prompts(60), Prompt("very unique good"))
        found = last(StudyRun(ToyModel(EFFECTS), surrogate(asked))).finding
        assert "unique" not in {each.word for each in found.coefficients}

    def test_prompts_may_be_token_ids(self):
        model = ToyModel(EFFECTS)
        ids = tuple(Prompt(token_ids=model.tokenizer.encode(prompt).ids) for prompt in prompts(120))
        of_ids, of_texts = (last(StudyRun(model, surrogate(asked))).finding for asked in (ids, prompts(120)))
        assert of_ids == of_texts

    def test_of_a_chat_the_contents_are_looked_at(self):
        assert bag("user: good film", [(6, 15)]) == {"good", "film"}

    def test_nothing_in_common(self):
        asked = tuple(Prompt(f"w{index}") for index in range(20))
        result = last(StudyRun(ToyModel(EFFECTS), surrogate(asked)))
        assert result.finding is None
        assert result.trust.verdict is Verdict.NOT_TRUSTED
        assert any("no words in common" in reason for reason in result.trust.reasons)

    @pytest.mark.parametrize("share", [0.01, 0.97, 0.99])
    def test_no_prompt_is_both_fitted_and_held_out(self, share):
        random = np.random.default_rng(0)
        noise = {(a, b): float(random.normal()) for a in WORDS[4:] for b in WORDS[4:] if a < b}
        result = last(StudyRun(ToyModel({}, noise), surrogate(prompts(40), held_out=share)))
        assert result.finding is None or result.finding.held_out_r_squared < 0.9
        assert any("held out" in reason or "held-out" in reason for reason in result.trust.reasons) or share > 0.9

    def test_copies_are_no_more_evidence(self):
        model = ToyModel(EFFECTS, {("not", "good"): -3.0})
        once, often = (last(StudyRun(model, surrogate(prompts(60) * times))) for times in (1, 4))
        assert once.finding == often.finding

    @pytest.mark.parametrize("kind", KINDS)
    def test_seed(self, kind):
        model = ToyModel(EFFECTS, {("not", "good"): -3.0})
        first, again = (last(StudyRun(model, surrogate(surrogate=kind))).finding for _ in range(2))
        assert first == again
        other = last(StudyRun(model, surrogate(surrogate=kind, budget=Budget(seed=1)))).finding
        assert other.held_out_r_squared != first.held_out_r_squared

    def test_time_runs_out(self):
        ticks = count()
        model = ToyModel(EFFECTS, parameters=10**9)  # which is read in small chunks
        spec = surrogate(prompts(400), budget=Budget(max_duration=10.0))
        result = last(StudyRun(model, spec, clock=lambda: next(ticks) * 0.7))
        assert result.cost.stop_reason is StopReason.DURATION
        assert result.cost.evaluations < 400
        assert any("Time ran out" in reason for reason in result.trust.reasons)

    def test_it_goes_on_from_a_checkpoint(self):
        model, spec = ToyModel(EFFECTS, parameters=10**9), surrogate()
        ticks = count()
        run, begun = StudyRun(model, spec, clock=lambda: float(next(ticks))), 0
        for update in run:
            begun = update.progress.evaluations_done
            if begun > 20:
                break
        model.read.clear()
        result = last(again := StudyRun(model, spec, run.checkpoint()))
        assert len(model.read) <= 120 - begun + 2  # two texts may be asked for twice
        assert result.finding == last(StudyRun(model, spec)).finding
        assert again.problem.max_evaluations == len(set(prompts(120)))

    @pytest.mark.parametrize(
        ("field", "parts"),
        [
            ("prompts", {"prompts": prompts(19)}),
            ("prompts", {"prompts": (Prompt("good"),) * 30}),
            ("prompts", {"prompts": (Prompt("good"),) * 4001}),
            ("surrogate", {"surrogate": SurrogateKind.LASSO}),
            ("held_out", {"held_out": 1.0}),
            ("max_depth", {"max_depth": 9}),
        ],
    )
    def test_refused(self, field, parts):
        with pytest.raises(InputError) as error:
            GlobalSurrogate(**{"prompts": prompts(40), **parts})
        assert error.value.field == field

    def test_a_prompt_too_long(self):
        model = ToyModel(EFFECTS, tokenizer=word_tokenizer(context=8))
        with pytest.raises(PromptTooLongError) as error:
            prepare(model.tokenizer, model.info, surrogate((*prompts(24), Prompt("film " * 9))))
        assert (error.value.field, error.value.tokens) == ("global_surrogate.prompts[24].text", 9)
        spec = surrogate((*prompts(24), Prompt("film " * 8)), target=Target(GenerationTarget(3)))
        with pytest.raises(PromptTooLongError, match=r"the prompt has \d tokens and the target adds 2") as error:
            prepare(model.tokenizer, model.info, spec)
        assert error.value.field.startswith("global_surrogate.prompts[")

    def test_a_target_has_the_same_tokens_after_every_prompt(self):
        model = ToyModel({}, tokenizer=tokenizer("first"))
        texts = [f"The capital {number} of" for number in range(20)]
        mixed = [f"{text} " for text in texts[1:]] + texts[:1]

        def prepared(texts, target):
            asked = surrogate(tuple(map(Prompt, texts)), target=Target(Continuation(text=target)))
            return prepare(model.tokenizer, model.info, asked)

        spaced, plain = prepared([f"{text} " for text in texts], "capital"), prepared(texts, " capital")
        assert (spaced.prompts, spaced.target.tokens) == (plain.prompts, plain.target.tokens)
        with pytest.raises(InputError, match="other tokens after this text") as error:
            prepared(mixed, "capital")
        assert error.value.field.startswith("global_surrogate.prompts[19]")

    def test_a_prompt_that_the_model_cannot_read_is_named(self):
        model = ToyModel(EFFECTS)
        with pytest.raises(InputError) as error:
            prepare(model.tokenizer, model.info, surrogate((*prompts(24), Prompt(token_ids=(1, 99)))))
        assert error.value.field == "global_surrogate.prompts[24].token_ids.ids[1]"

    def test_a_budget_below_the_prompts(self):
        model = ToyModel(EFFECTS)
        with pytest.raises(InputError, match="texts, more than 100") as error:
            prepare(model.tokenizer, model.info, surrogate(budget=Budget(max_evaluations=100)))
        assert error.value.field == "budget.max_evaluations"

    def test_a_standard_error_has_no_place(self):
        with pytest.raises(InputError) as error:
            surrogate(budget=Budget(standard_error=0.1))
        assert error.value.field == "budget.standard_error"


class TestBiasProbe:
    def test_differences_of_an_additive_model(self):
        result = last(StudyRun(ToyModel(EFFECTS), probe(["the {} was", "{} and the film", "not very {} !"])))
        [difference] = result.finding.differences
        assert (difference.first, difference.second, difference.pairs) == ("good", "bad", 6)
        # good − bad is 3.5 and film − the is 0.25, whatever the template.
        assert difference.difference == pytest.approx((3.5 + 0.25) / 2)
        assert difference.interval.lower < difference.difference < difference.interval.upper
        # Two places among the words are all the evidence: half their distance, and 1 degree of freedom.
        assert difference.standard_error == pytest.approx((3.5 - 0.25) / 2)
        assert difference.interval.upper - difference.difference == pytest.approx(12.706 * 1.625, rel=1e-3)
        assert result.trust.verdict is Verdict.TRUSTED
        assert result.cost.evaluations == 12

    def test_every_two_groups_are_compared(self):
        groups = {"a": ("good",), "b": ("bad",), "c": ("film",)}
        result = last(StudyRun(ToyModel(EFFECTS), probe(["the {} was", "{} and the", "not {}"], groups)))
        assert {(each.first, each.second): each.difference for each in result.finding.differences} == pytest.approx(
            {("a", "b"): 3.5, ("a", "c"): 1.75, ("b", "c"): -1.75}
        )
        assert all(each.standard_error == pytest.approx(0.0, abs=1e-6) for each in result.finding.differences)
        assert any("one word of each group" in reason for reason in result.trust.reasons)

    def test_one_pair_is_no_evidence(self):
        result = last(StudyRun(ToyModel(EFFECTS), probe(groups={"a": ("good",), "b": ("bad",)})))
        [difference] = result.finding.differences
        assert difference.standard_error is None
        assert difference.interval is None
        assert result.trust.verdict is Verdict.NOT_TRUSTED

    def test_equal_texts_are_read_once(self):
        model = ToyModel(EFFECTS)
        run = StudyRun(model, probe(groups={"a": ("good", "bad"), "b": ("bad", "good")}))
        assert last(run).finding.differences[0].difference == pytest.approx(0.0)
        assert len(model.read) == 2

    def test_the_target_is_ranked_by_the_first_text(self):
        result = last(StudyRun(ToyModel(EFFECTS), probe(target=Target())))
        assert result.target.description == 'log p("yes")'

    @pytest.mark.parametrize(
        ("field", "make"),
        [
            ("groups", lambda: probe(groups={"a": ("good",)})),
            ("groups[1].words", lambda: probe(groups={"a": ("good",), "b": ("bad", "film")})),
            ("groups[0].words", lambda: probe(groups={"a": (), "b": ()})),
            ("words[0]", lambda: probe(groups={"a": ("good",), "b": (" ",)})),
            ("groups[0].label", lambda: probe(groups={"": ("good",), "b": ("bad",)})),
            ("templates", lambda: probe([])),
            ("templates[0]", lambda: probe(["the film"])),
            ("templates[1]", lambda: probe(["the {}", "{} and {}"])),
            ("templates", lambda: probe(["the {}"] * 1001)),
        ],
    )
    def test_refused(self, field, make):
        with pytest.raises(InputError) as error:
            make()
        assert error.value.field == field

    def test_what_is_known_is_told_on_the_way(self):
        ticks = count()
        model = ToyModel(EFFECTS, parameters=10**9)
        templates = [f"{{}} {text}" for text in dict.fromkeys(texts(400))]
        run = StudyRun(model, probe(templates), clock=lambda: float(next(ticks)))
        known = [update.result.finding for update in run if update.result is not None]
        pairs = [found.differences[0].pairs if found else 0 for found in known]
        assert pairs == sorted(pairs)
        assert len({*pairs} - {0}) > 2

    def test_time_that_runs_out_leaves_whole_blocks(self):
        ticks = count()
        model = ToyModel(EFFECTS, parameters=10**9)
        words = tuple(WORDS[4:8])
        templates = [f"{{}} {text}" for text in dict.fromkeys(texts(400))]
        spec = probe(templates, {"a": words, "b": words[::-1]}, budget=Budget(max_duration=75.0))
        result = last(StudyRun(model, spec, clock=lambda: next(ticks) * 1.0))
        assert result.cost.stop_reason is StopReason.DURATION
        assert result.trust.verdict is not Verdict.TRUSTED
        [difference] = result.finding.differences
        assert 0 < difference.pairs < len(words) * len(templates)

    def test_a_template_too_long(self):
        model = ToyModel(EFFECTS, tokenizer=word_tokenizer(context=8))
        with pytest.raises(PromptTooLongError) as error:
            prepare(model.tokenizer, model.info, probe(["the {}", "film " * 8 + "{}"]))
        assert error.value.field == "bias_probe.templates[1]"


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
