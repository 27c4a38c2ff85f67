"""Trust: whether to rely on an explanation, and if not, why not, in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ml.result import ExplanationResult, Trust, Verdict
from ml.spec import Scale

_TINY_EFFECT = {Scale.LOG_PROBABILITY: 0.01, Scale.PROBABILITY: 0.001}
_INCOMPLETE = 0.1  # part of the whole effect
_FEWEST_FOR_NOISE = 4

Reason = tuple[Verdict, str]


def judge(result: ExplanationResult, *, faithfulness_asked: bool, in_units: bool = True) -> Trust:
    """The verdict: the worst of the reasons that speak against a result, or TRUSTED where none does.

    `in_units`: whether attributions are in the value's unit; otherwise they are shares, and no effect can be told by
    their size.
    """
    reasons = [*_effect(result, in_units), *_precision(result), *_completeness(result), *_surrogate(result)]
    reasons += _faithfulness(result, faithfulness_asked)
    verdicts = {verdict for verdict, _ in reasons}
    worst = next((each for each in (Verdict.NOT_TRUSTED, Verdict.CAUTION) if each in verdicts), Verdict.TRUSTED)
    return Trust(worst, tuple(sentence for _, sentence in reasons))


def _effect(result: ExplanationResult, in_units: bool) -> Iterator[Reason]:
    effect = abs(result.full_value - result.base_value)
    largest = _largest(result) if in_units else 0.0
    if max(effect, largest) < _TINY_EFFECT[result.target.scale]:
        feature = f", and no feature by more than {largest:.2g}" if in_units else ""
        yield (
            Verdict.NOT_TRUSTED,
            f"The prompt hardly matters: removing all of it changes the value by {effect:.2g}{feature}.",
        )


def _completeness(result: ExplanationResult) -> Iterator[Reason]:
    if result.completeness_error is None:
        return
    effect = abs(result.full_value - result.base_value)
    if result.completeness_error > _INCOMPLETE * max(effect, _TINY_EFFECT[result.target.scale]):
        yield (
            Verdict.CAUTION,
            f"The attributions miss what they should sum to, {result.full_value - result.base_value:.3g}, by"
            f" {result.completeness_error:.2g}; more steps bring them closer.",
        )


def _precision(result: ExplanationResult) -> Iterator[Reason]:
    largest = _largest(result)
    worst = max((each.standard_error for each in result.attributions), default=0.0)
    if math.isinf(worst):
        unknown = sum(math.isinf(each.standard_error) for each in result.attributions)
        yield (
            Verdict.NOT_TRUSTED,
            f"Time ran out before {unknown} of {len(result.attributions)} features were measured; they show 0.",
        )
    elif worst > largest / 2:
        yield (
            Verdict.NOT_TRUSTED if worst > largest else Verdict.CAUTION,
            f"The samples are too few: the largest standard error is {worst:.2g} and the largest attribution"
            f" {largest:.2g}.",
        )


def _surrogate(result: ExplanationResult) -> Iterator[Reason]:
    if result.surrogate is not None and result.surrogate.r_squared < 0.5:
        share = result.surrogate.r_squared
        yield (
            Verdict.NOT_TRUSTED if share < 0.2 else Verdict.CAUTION,
            f"The {result.surrogate.kind.value} fits the model poorly around this prompt: its R² is {share:.2f}.",
        )


def _faithfulness(result: ExplanationResult, asked: bool) -> Iterator[Reason]:
    if result.faithfulness is None:
        why = "before time ran out" if asked else "because it was not asked for"
        yield Verdict.CAUTION, f"Faithfulness was not measured {why}."
        return
    aopc = result.faithfulness.comprehensiveness.aopc
    features = len(result.attributions)
    if features == 1:
        return  # there is one ranking only
    compared = (
        f"removing its top features lowers the value by {aopc.value:.3g} on average, removing random ones by"
        f" {aopc.random:.3g} ± {aopc.random_deviation:.2g}."
    )
    if aopc.value <= aopc.random:
        yield Verdict.NOT_TRUSTED, f"The ranking is no better than a random one: {compared}"
    elif features >= _FEWEST_FOR_NOISE and aopc.value < aopc.random + aopc.random_deviation:
        yield Verdict.CAUTION, f"The ranking is hardly better than a random one: {compared}"


def _largest(result: ExplanationResult) -> float:
    return max((abs(each.value) for each in result.attributions), default=0.0)
