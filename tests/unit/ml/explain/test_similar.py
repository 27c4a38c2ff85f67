"""Similar words in the place of words: which are chosen, where they stand, and what is reported of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from ml.errors import CapabilityError, InputError, OutOfReachError
from ml.explain import Run, prepare
from ml.explain.removal import SIMILAR_WORDS
from ml.explain.similar import with_similar_words
from ml.explain.values.cache import ValueCache
from ml.models.protocol import NearestTokens
from ml.result import SimilarWords
from ml.spec import (
    Budget,
    ContrastTarget,
    ExplanationSpec,
    Features,
    InputTimesGradient,
    IntegratedGradients,
    KernelShap,
    Occlusion,
    Prompt,
    Quality,
    Removal,
    RemovalKind,
    Target,
    Unit,
)
from ml.tokens import Tokenizer
from tests.unit.ml.explain.toys import WORDS, YES_RATHER_THAN_NO, ToyModel, byte_tokenizer, word_tokenizer

EFFECTS = {"good": 2.0, "bad": -1.0, "very": 0.5, "film": 0.3, "not": -3.0}
NEAREST = {"good": ["good", "bad", "very"], "film": ["film", "good", "the"], "not": ["not", "<eos>", "!", "<unk>"]}


class OpenToy(ToyModel):
    """A toy that has embeddings: `nearest` says which words are nearest to a word, or `order` to all of them."""

    def __init__(
        self,
        nearest: Mapping[str, Sequence[str]] | None = None,
        tokenizer: Tokenizer | None = None,
        order: Sequence[int] = (),
    ) -> None:
        tokenizer = tokenizer or word_tokenizer()
        super().__init__({} if order else EFFECTS, tokenizer=tokenizer)
        self._nearest = nearest or {}
        self._order = order

    def nearest_tokens(self, words: Sequence[Sequence[int]], count: int) -> NearestTokens:
        """Of each word the tokens of its list, each a tenth further away, and behind them what never fits."""
        if self._order:
            ids = np.array([self._order[:count]] * len(words))
        else:
            rows = [[self._id(near) for near in self._nearest.get(WORDS[word[0]], [])] for word in words]
            ids = np.array([row + [self._id("<eos>")] * (count - len(row)) for row in rows])
        return NearestTokens(ids, np.tile(1 - 0.1 * np.arange(ids.shape[1]), (len(words), 1)))

    def path_gradients(self, *_: object, **__: object) -> Any:
        raise AssertionError("nothing here asks for gradients")

    attention_rollout = value_zeroing_rollout = key_gradients = path_gradients


def spec(text: str, method: Any = Occlusion(), **parts: Any) -> ExplanationSpec:  # noqa: B008 -- frozen
    return ExplanationSpec(
        Prompt(text=text),
        method,
        target=YES_RATHER_THAN_NO,
        removal=Removal(RemovalKind.SIMILAR),
        quality=Quality(faithfulness=False),
        **parts,
    )


def explained(model: ToyModel, asked: ExplanationSpec) -> Any:
    *_, last = Run(model, asked)
    assert last.result is not None
    return last.result


@pytest.mark.parametrize("method", [Occlusion(), KernelShap()])
def test_what_words_do_beside_similar_ones(method):
    """In a sum of effects a word's own part is its effect less the mean of theirs, the nearer counting more."""
    result = explained(OpenToy(NEAREST), spec("the film was good", method))
    weights = 1 / np.arange(1, 1 + SIMILAR_WORDS)
    first = weights[::2].sum() / weights.sum()  # of two words that alternate, how much the nearer one counts
    assert [each.attribution for each in result.attributions] == pytest.approx(
        [0.0, 0.3 - first * 2.0, 0.0, 2.0 - first * -1.0 - (1 - first) * 0.5], abs=1e-9
    )
    assert result.full_value == pytest.approx(2.3)
    assert result.removal.similar == (
        SimilarWords(()),
        SimilarWords(("good", "the")),
        SimilarWords(()),
        SimilarWords(("bad", "very")),
    )


SLOPES = Removal(RemovalKind.SIMILAR_SLOPES)


def test_slopes_count_larger_changes_more_and_those_by_distant_words_less():
    """Of "film" the nearest is "film" itself, so that its similar words are 0.1 and 0.2 away, as those of "good"."""
    result = explained(OpenToy(NEAREST), replace(spec("the film was good"), removal=SLOPES))
    weights = 1 / np.sqrt(np.arange(1, 1 + SIMILAR_WORDS))

    def expected(*changes: float) -> float:
        slopes = np.array([changes[rank % 2] * 0.15 / (0.1, 0.2)[rank % 2] for rank in range(SIMILAR_WORDS)])
        mean = (weights * np.sign(slopes) * slopes**2).sum() / weights.sum()
        return float(np.sign(mean) * np.sqrt(abs(mean)))

    assert [each.attribution for each in result.attributions] == pytest.approx(
        [0.0, expected(0.3 - 2.0, 0.3), 0.0, expected(2.0 + 1.0, 2.0 - 0.5)], abs=1e-9
    )
    assert result.removal.kind is RemovalKind.SIMILAR_SLOPES
    assert result.removal.similar[3] == SimilarWords(("bad", "very"))


def test_slopes_of_why_not_are_the_negative_of_those_of_why():
    asked = replace(spec("the film was not good"), removal=SLOPES)
    why = asked.target.kind
    assert isinstance(why, ContrastTarget)
    other_way = replace(asked, target=Target(ContrastTarget(why.rejected, why.chosen)))
    ours, theirs = (
        [each.attribution for each in explained(OpenToy(NEAREST), each).attributions] for each in (asked, other_way)
    )
    assert any(ours)
    assert ours == pytest.approx([-each for each in theirs], abs=1e-12)


def test_slopes_where_no_word_has_a_similar_one_are_those_of_deletion():
    asked = spec("not good !")
    ours, deleted = (
        [each.attribution for each in explained(OpenToy({}), replace(asked, removal=removal)).attributions]
        for removal in (SLOPES, Removal(RemovalKind.DELETE))
    )
    assert ours == pytest.approx(deleted, abs=1e-12)


def test_where_several_features_are_missing_their_distances_are_averaged():
    model, asked = OpenToy(NEAREST), replace(spec("the film was good"), removal=SLOPES)
    perturbed = with_similar_words(prepare(model.tokenizer, model.info, asked), model).perturbation
    assert perturbed.slopes(np.array([True, True, True, True])) == [1.0] * SIMILAR_WORDS
    only_film = perturbed.slopes(np.array([True, False, True, True]))
    assert only_film == pytest.approx([1.5, 0.75] * (SIMILAR_WORDS // 2))
    deleted_too = perturbed.slopes(np.array([False, False, True, True]))  # 0.15 away, as the mean is
    assert deleted_too == pytest.approx([0.15 / 0.125, 0.15 / 0.175] * (SIMILAR_WORDS // 2))


def test_slopes_are_for_occlusion():
    with pytest.raises(InputError, match="choose occlusion") as refused:
        prepare(
            (model := OpenToy(NEAREST)).tokenizer, model.info, replace(spec("so good", KernelShap()), removal=SLOPES)
        )
    assert refused.value.field == "removal.kind"


def test_slopes_are_the_same_with_faithfulness_and_with_known_values():
    """Coalitions of faithfulness lack several features, and what is in the cache is computed by nobody."""
    model, cache = OpenToy(NEAREST), ValueCache()
    asked = replace(spec("the film was not good"), removal=SLOPES)
    alone = explained(model, asked).attributions
    for _ in range(2):
        *_, last = Run(model, replace(asked, quality=Quality()), cache=cache)
        assert last.result is not None
        assert last.result.attributions == alone
        assert last.result.faithfulness is not None


def test_the_whole_prompt_is_one_evaluation_and_has_its_own_value_to_the_bit():
    model = OpenToy(NEAREST)
    result = explained(model, spec("the film was good"))
    ids = model.tokenizer.encode(Prompt(text="the film was good")).ids
    yes, no = (model.log_probability(ids, model.tokenizer.ids(word)[0]) for word in ("yes", "no"))
    assert result.full_value == yes - no
    assert model.read.count(ids) == 1


def test_what_no_word_is_similar_to_is_taken_out():
    """Marks, commands to the model and its placeholders are no words."""
    model = OpenToy(NEAREST)
    result = explained(model, spec("not good !"))
    assert result.removal.similar == (SimilarWords(()), SimilarWords(("bad", "very")), SimilarWords(()))
    good, mark = model.tokenizer.ids("good !")
    assert (good, mark) in model.read


def test_no_word_is_similar_to_one_that_the_model_does_not_know():
    """Words that look alike to the model are all at the place of <unk>, and what is near it says nothing of them."""
    model = OpenToy(order=range(len(WORDS)))
    result = explained(model, spec("the zyx was good"))
    the, zyx, was, good = result.removal.similar
    assert zyx == SimilarWords(())
    assert all(each.texts for each in (the, was, good))
    assert model.tokenizer.ids("the was good") in model.read
    assert explained(model, spec("zyx qrs")).removal.similar == (SimilarWords(()),) * 2


def test_the_cost_is_known_before():
    model, asked = OpenToy(NEAREST), spec("the film was good")
    planned = prepare(model.tokenizer, model.info, asked).max_evaluations
    assert explained(model, asked).cost.evaluations == len(model.read) <= planned


@pytest.mark.parametrize("kind", [RemovalKind.SIMILAR, RemovalKind.TEXT_AND_DELETE])
@pytest.mark.parametrize("limit", [2, 3, 9])
@pytest.mark.parametrize("method", [Occlusion(), KernelShap()])
def test_a_budget_that_several_removals_exceed_is_refused_by_its_name(kind, limit, method):
    model = OpenToy(NEAREST)
    asked = replace(spec("the film was good", method, budget=Budget(max_evaluations=limit)), removal=Removal(kind))
    with pytest.raises(InputError, match=f"more than {limit}") as refused:
        prepare(model.tokenizer, model.info, asked)
    assert refused.value.field == "budget.max_evaluations"


def test_where_similar_words_are_out_of_reach():
    toy = ToyModel(EFFECTS)
    with pytest.raises(CapabilityError, match="embeddings are out of reach"):
        Run(toy, spec("the film was good"))
    toy.info = type(toy.info)(**{**vars(toy.info), "engine": "vllm 1"})
    with pytest.raises(OutOfReachError, match="similar embeddings"):
        prepare(toy.tokenizer, toy.info, spec("the film was good"))
    with pytest.raises(InputError, match="equally many tokens"):
        Run(OpenToy(NEAREST), spec("the film was good", IntegratedGradients()))
    assert prepare(toy.tokenizer, ToyModel(EFFECTS).info, spec("the film was good", InputTimesGradient()))


CASES = byte_tokenizer(unk=True, context=256)


@settings(max_examples=60, deadline=None)
@given(
    text=st.text("aA zé1.,-'😀\n", min_size=1, max_size=24).filter(lambda text: text.strip()),
    unit=st.sampled_from(Unit),
    order=st.permutations(range(320)),
    words=st.booleans(),
)
def test_whatever_tokens_are_near_little_else_changes(text, unit, order, words):
    """Never more tokens, never the word itself; and the whole prompt stays what it is."""
    tokenizer = word_tokenizer(context=256) if words else CASES
    model = OpenToy(tokenizer=tokenizer, order=[each for each in order if each < tokenizer.vocabulary_size])
    asked = spec(f"the {text} film", features=Features(unit))
    before = prepare(tokenizer, model.info, asked)
    problem = with_similar_words(before, model)
    perturbed, count = problem.perturbation, len(problem.features)
    assert perturbed.removals == SIMILAR_WORDS
    assert problem.max_evaluations == before.max_evaluations
    assert max(map(len, perturbed.variants(np.zeros(count, dtype=bool)))) <= perturbed.longest
    assert perturbed.longest <= before.perturbation.longest
    for whole in perturbed.variants(np.ones(count, dtype=bool)):
        assert whole.tolist() == list(problem.encoding.ids)
    for index, (feature, used) in enumerate(zip(problem.features, perturbed.resolved.similar, strict=True)):
        kept = np.arange(count) != index
        own = {tokenizer.decode([problem.encoding.ids[position] for position in feature.positions]).strip()}
        assert own.isdisjoint(used.texts)
        assert len({*used.texts}) == len(used.texts)
        assert max(map(len, perturbed.variants(kept))) <= len(problem.encoding.ids)


@pytest.mark.parametrize(
    ("word", "near", "used"),
    [
        ("The", ["this", "This", "THIS", " This", "A", "That"], ("This", "That")),
        ("an", ["a", "AN", "an", "the", "ан", "12"], ("the",)),
        ("12", ["a", "3", "14"], ("3", "14")),
        ("ABC", ["abc", "Abd", "ABD"], ("ABD",)),
    ],
)
def test_similar_words_are_written_alike(word, near, used):
    vocabulary = [word, *near]
    backend = Backend(models.WordLevel({each: index for index, each in enumerate(vocabulary)}, word))
    tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), 64)
    model = OpenToy(tokenizer=tokenizer, order=range(len(vocabulary)))
    asked = ExplanationSpec(Prompt(text=word), Occlusion(), removal=Removal(RemovalKind.SIMILAR))
    problem = with_similar_words(prepare(tokenizer, model.info, asked), model)
    assert problem.perturbation.resolved.similar == (SimilarWords(used),)
