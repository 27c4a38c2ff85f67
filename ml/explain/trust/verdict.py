"""The verdict: whether to rely on an explanation, and if not, why not, in plain sentences."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence

from ml.result import (
    ExplanationResult,
    GlobalSurrogateResult,
    ResolvedTarget,
    StopReason,
    StudyResult,
    SurrogateFit,
    Trust,
    Verdict,
)
from ml.spec import RemovalKind, Scale

_TINY_EFFECT = {Scale.LOG_PROBABILITY: 0.01, Scale.PROBABILITY: 0.001}
_TINY_SHARE = 0.01  # of a probability, which is as much as 0.01 of its logarithm
_INCOMPLETE = 0.1  # part of the whole effect
_MIN_FOR_NOISE = 4
_MAX_NAMED = 3  # of many features
_SINK = 0.5  # part of what reaches the prediction
_MINOR = 20  # interactions and noise that are this many times smaller than an attribution do not matter

Reason = tuple[Verdict, str]


def judge(
    result: ExplanationResult,
    *,
    faithfulness_asked: bool,
    in_units: bool = True,
    unchanged: Sequence[int] = (),
    doubts: Iterable[Reason] = (),
) -> Trust:
    """The worst of the reasons to doubt a result, or TRUSTED without any.

    Args:
        in_units: whether attributions are in the value's unit; shares do not show the size of effects.
        unchanged: the indices of features that removal does not change.
        doubts: reasons to doubt the question.
    """
    reasons = [*_unchanged(result, unchanged)]
    if not unchanged or len(unchanged) < len(result.attributions):
        reasons += _effect(result, in_units)
    reasons += [*_precision(result), *_hidden(result), *_noise(result), *_completeness(result), *_interactions(result)]
    reasons += [*_target(result.target), *doubts, *_sink(result)]
    if result.surrogate is not None:
        reasons += _fit(result.surrogate, result.surrogate.r_squared, "around this prompt")
    reasons += _faithfulness(result, faithfulness_asked)
    return _worst(reasons)


def judge_study(result: StudyResult, doubts: Iterable[Reason]) -> Trust:
    """As `judge`, for a study; `doubts` are its method's about the texts."""
    reasons: list[Reason] = []
    if isinstance(result.finding, GlobalSurrogateResult):
        reasons += _fit(result.finding.surrogate, result.finding.held_out_r_squared, "on held-out prompts")
    reasons += _target(result.target)
    reasons += doubts
    if result.cost.stop_reason is StopReason.DURATION:
        worst = Verdict.NOT_TRUSTED if result.finding is None else Verdict.CAUTION
        reasons.append((worst, "Time ran out before all prompts were read."))
    elif result.finding is None:
        reasons.append((Verdict.NOT_TRUSTED, "The prompts have no words in common that a surrogate could be made of."))
    return _worst(reasons)


def _worst(reasons: Sequence[Reason]) -> Trust:
    verdicts = {verdict for verdict, _ in reasons}
    worst = next((each for each in (Verdict.NOT_TRUSTED, Verdict.CAUTION) if each in verdicts), Verdict.TRUSTED)
    return Trust(worst, tuple(sentence for _, sentence in reasons))


def _effect(result: ExplanationResult, in_units: bool) -> Iterator[Reason]:
    effect = abs(result.full_value - result.base_value)
    largest = _largest(result) if in_units else 0.0
    tiny = _tiny(result)
    if max(effect, largest) < tiny:
        feature = f", and no feature by more than {largest:.2g}" if in_units else ""
        yield (
            Verdict.NOT_TRUSTED,
            f"The prompt hardly matters: removing all of it changes the value by {effect:.2g}{feature}.",
        )
    elif in_units and (attributed := math.fsum(abs(each.attribution) for each in result.attributions)) < tiny:
        # A kernel that reaches no further than the prompt itself ranks features by numbers near zero.
        yield (
            Verdict.NOT_TRUSTED,
            f"The attributions mean nothing: removing the whole prompt changes the value by {effect:.2g}, and their"
            f" sizes sum to only {attributed:.2g}; choose other parameters (a wider kernel, a smaller penalty).",
        )


def _tiny(result: ExplanationResult) -> float:
    """Effects below it do not matter. Those on an improbable target are small, and may be all of its probability."""
    tiny = _TINY_EFFECT[result.target.scale]
    if result.target.scale is Scale.LOG_PROBABILITY:
        return tiny
    return min(tiny, _TINY_SHARE * max(abs(result.full_value), abs(result.base_value)))


def _unchanged(result: ExplanationResult, unchanged: Sequence[int]) -> Iterator[Reason]:
    count, of = len(unchanged), len(result.attributions)
    if not count:
        return
    names = ", ".join(f'"{result.attributions[index].text}"' for index in unchanged[:_MAX_NAMED])
    more = f" and {count - _MAX_NAMED} more" if count > _MAX_NAMED else ""
    if result.removal.kind is RemovalKind.MASK_TOKEN:
        why = f"The model has no tokens for {names}{more} and reads {result.removal.replacement} there anyway"
    else:
        why = f"The replacement of {names}{more} is the same text"
    yield (
        Verdict.NOT_TRUSTED if count == of else Verdict.CAUTION,
        f"{why}, so removing {'it' if count == 1 else 'them'} changes nothing; use another removal.",
    )


def _completeness(result: ExplanationResult) -> Iterator[Reason]:
    if result.completeness_error is None:
        return
    whole = result.full_value - result.base_value
    effect = abs(whole)
    if result.completeness_error > _INCOMPLETE * max(effect, _tiny(result)):
        yield (
            Verdict.CAUTION,
            f"The attributions miss what they should sum to, {_figures(whole, '.3g')}, by"
            f" {result.completeness_error:.2g}; more steps or evaluations bring them closer.",
        )


def _target(target: ResolvedTarget) -> Iterator[Reason]:
    if target.overlap.strip():
        end = json.dumps(target.overlap, ensure_ascii=False)
        yield (
            Verdict.CAUTION,
            f"The prompt ends inside a token of prompt and target together, so {end} is measured with the target and is"
            " not a feature; end the prompt between two words.",
        )


def _sink(result: ExplanationResult) -> Iterator[Reason]:
    outside = result.outside_share or 0.0
    if outside > _SINK:
        share = "Over 99.9" if outside >= 0.9995 else f"{100 * outside:.1f}"
        yield (
            Verdict.CAUTION,
            f"{share}% of what reaches the prediction comes from tokens that belong to no feature; often a start token"
            " is an attention sink, which means nothing. The features' shares are of the rest alone.",
        )


def _precision(result: ExplanationResult) -> Iterator[Reason]:
    largest = _largest(result)
    errors = [each.standard_error for each in result.attributions if each.standard_error is not None]
    worst = max(errors, default=0.0)
    if result.hierarchy is None and (unknown := len(result.attributions) - len(errors)):
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


def _hidden(result: ExplanationResult) -> Iterator[Reason]:
    """Parts that were not looked into and may hide something, or that replace each other."""
    if (found := result.hierarchy) is None:
        return
    largest = max((abs(node.value) for node in found.nodes if node.feature_count == 1), default=0.0)
    pruned = [node for node in found.nodes if node.hidden is not None]
    hidden = max((node.hidden or 0.0 for node in pruned), default=0.0)
    if hidden > largest / 2:
        features = sum(node.feature_count - len(node.children) for node in pruned)
        yield (
            Verdict.CAUTION,
            f"{features} of {len(result.attributions)} features are in parts that were not looked into, and one of them"
            f" may carry as much as {hidden:.2g}; the largest that was found carries {largest:.2g}. Allow more"
            " evaluations.",
        )
    rest = [node for node in found.nodes if node.in_rest]
    known = [found.nodes[child] for node in rest for child in node.children]  # each is in the rest itself, or is not
    alone = math.fsum(node.value for node in rest) - math.fsum(node.value for node in known)
    together = found.rest_value or 0.0
    if abs(together) > largest and abs(together - alone) > abs(together) / 2:
        yield (
            Verdict.CAUTION,
            f"The parts that seem to carry little sum to {_figures(alone, '.2g')} when each is left out alone, but"
            f" carry {_figures(together, '.2g')} together: some content stands in several parts, which leaving"
            " out one at a time cannot show. Use Owen values.",
        )


def _noise(result: ExplanationResult) -> Iterator[Reason]:
    noise, largest = result.precision.noise or 0.0, _largest(result)
    if noise > largest / _MINOR:
        yield (
            Verdict.NOT_TRUSTED if noise > largest / 2 else Verdict.CAUTION,
            f"The log-probabilities of the engine that serves the model vary by {noise:.2g} for the same prompt, with"
            f" the other requests that it computes; the largest attribution is {largest:.2g}.",
        )


def _interactions(result: ExplanationResult) -> Iterator[Reason]:
    largest = max((abs(each.value) for each in result.interactions), default=0.0)
    errors = [math.inf if each.standard_error is None else each.standard_error for each in result.interactions]
    worst = max(errors, default=0.0)
    if worst > max(largest / 2, _largest(result) / _MINOR):
        yield (
            Verdict.CAUTION,
            f"The samples are too few for pairs: the largest standard error is {worst:.2g} and the largest interaction"
            f" {largest:.2g}.",
        )


def _fit(fit: SurrogateFit, share: float, where: str) -> Iterator[Reason]:
    if share < 0.5:
        yield (
            Verdict.NOT_TRUSTED if share < 0.2 else Verdict.CAUTION,
            f"The {fit.kind.value} fits the model poorly {where}: its R² is {_figures(share, '.2f')}.",
        )


def _faithfulness(result: ExplanationResult, asked: bool) -> Iterator[Reason]:
    if len(result.attributions) == 1:
        yield Verdict.CAUTION, "There is a single feature, so no ranking could be compared with random ones."
        return
    if result.faithfulness is None:
        why = "before time ran out" if asked else "because it was not asked for"
        yield Verdict.CAUTION, f"Faithfulness was not measured {why}."
        return
    aopc = result.faithfulness.comprehensiveness.aopc
    features = len(result.attributions)
    compared = (
        f"removing its top features lowers the value by {_figures(aopc.value, '.3g')} on average, removing random ones"
        f" by {_figures(aopc.random, '.3g')} ± {aopc.random_deviation:.2g}."
    )
    if aopc.value <= aopc.random:
        yield Verdict.NOT_TRUSTED, f"The ranking is no better than a random one: {compared}"
    elif features == 2:
        yield (
            Verdict.CAUTION,
            "There are two features, and every other random ranking is right: the ranking shows nothing.",
        )
    elif features >= _MIN_FOR_NOISE and aopc.value < aopc.random + aopc.random_deviation:
        yield Verdict.CAUTION, f"The ranking is hardly better than a random one: {compared}"


def _figures(value: float, form: str) -> str:
    """A number with a typographic minus sign; without one if it rounds to zero."""
    text = format(value, form)
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def _largest(result: ExplanationResult) -> float:
    return max((abs(each.attribution) for each in result.attributions), default=0.0)
