"""An explanation in sentences, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gloss import v1
from gloss.durations import seconds
from gloss.render import features, figures
from gloss.render.escaping import visible
from gloss.values import enum_names

_METHODS = {
    "lime": "LIME",
    "kernel_shap": "KernelSHAP",
    "shapley_permutation": "Shapley values by permutation",
    "input_times_gradient": "Input × gradient",
}
"""Methods whose names are not their fields' names."""
_ROW_UNITS = {v1.FEATURE_UNIT_WORD: "word", v1.FEATURE_UNIT_SENTENCE: "sentence"}
_UNITS = {v1.FEATURE_UNIT_TOKEN: "token", v1.FEATURE_UNIT_SENTENCE: "sentence"}
_ATTRIBUTION_UNITS = {
    v1.ATTRIBUTION_UNIT_NAT: "Attributions are in nats, differences of the log-probability.",
    v1.ATTRIBUTION_UNIT_PROBABILITY: "Attributions are differences of the probability.",
    v1.ATTRIBUTION_UNIT_LOG_ODDS: (
        "Attributions are in log-odds, differences of log p/(1 − p), and not on the scale of the values above."
    ),
    v1.ATTRIBUTION_UNIT_IMPURITY_SHARE: (
        "Attributions are shares of the variance that the tree explains, with the sign of the effect;"
        " their sizes add up to 1."
    ),
}
_STOPS = {
    v1.STOP_REASON_COMPLETE: "nothing was left to evaluate",
    v1.STOP_REASON_EVALUATIONS: "the allowed evaluations were used",
    v1.STOP_REASON_DURATION: "the allowed time was used",
    v1.STOP_REASON_STANDARD_ERROR: "every standard error was small enough",
    v1.STOP_REASON_CANCELLED: "it was cancelled",
    v1.STOP_REASON_RANKED: "signs and order of the largest attributions were known",
}
_TRUST = {
    v1.TRUST_VERDICT_TRUSTED: "Trusted: no reason for doubt.",
    v1.TRUST_VERDICT_CAUTION: "Use it with care.",
    v1.TRUST_VERDICT_NOT_TRUSTED: "Do not rely on it.",
}


def question(explanation: v1.Explanation) -> v1.ExplanationSpec | v1.StudySpec:
    """The spec of an explanation or a study."""
    return explanation.study if explanation.HasField("study") else explanation.spec


def is_study(explanation: v1.Explanation) -> bool:
    """Whether it is a study, in any view."""
    return any(map(explanation.HasField, ("study", "study_result", "partial_study_result")))


def method(explanation: v1.Explanation) -> str:
    """The method's name as its authors write it."""
    field = explanation.method or "explanation"
    return _METHODS.get(field, visible(field).replace("_", " ").capitalize())


def stage(progress: v1.Progress) -> str:
    """The current stage, such as "measuring faithfulness"; empty if unknown."""
    names = {number: name.replace("-", " ") for name, number in enum_names(v1.Stage).items()}
    return names.get(progress.stage, "")


def remaining(explanation: v1.Explanation) -> str:
    """How long it still takes; while it is queued, once it runs: for how long it will wait is unknown."""
    if not explanation.progress.HasField("remaining_duration"):
        return ""
    duration = figures.duration(seconds(explanation.progress.remaining_duration))
    return f"takes {duration}" if explanation.state == v1.EXPLANATION_STATE_QUEUED else f"{duration} left"


def unit(spec: v1.ExplanationSpec, count: int = 1) -> str:
    """What a feature is called: "word", "tokens"."""
    name = "span" if spec.features.spans else _UNITS.get(spec.features.unit, "word")
    return name if count == 1 else f"{name}s"


def row_unit(spec: v1.ExplanationSpec) -> str:
    """What a row is about: "token", "sentence"."""
    return "span" if spec.rows.spans else _ROW_UNITS.get(spec.rows.unit, "token")


def model(version: v1.ModelVersion) -> str:
    """Name and the first digits of the digest."""
    return visible(f"{version.name} {version.digest[:8]}".strip())


def state(explanation: v1.Explanation) -> str:
    """ "running"."""
    return v1.ExplanationState.Name(explanation.state).removeprefix("EXPLANATION_STATE_").lower()


def value_line(result: v1.ExplanationResult, spec: v1.ExplanationSpec) -> str:
    """The target, with its full and base value."""
    digits_shown = features.digits(result)
    if isinstance(digits_shown, figures.Percent):
        digits_shown = figures.decimals(max(abs(result.full_value), abs(result.base_value)))
    line = (
        f"{visible(result.target.description)} = {figures.number(result.full_value, digits_shown)}; "
        f"with every {unit(spec)} {removal(result)}, {figures.number(result.base_value, digits_shown)}"
    )
    if not result.target.HasField("skipped_token"):
        return line
    skipped = visible(result.target.skipped_token.text)
    return f"{line}. {skipped!r} is more likely, but stands for a missing or unknown word and was skipped."


def study_line(result: v1.StudyResult) -> str:
    """The target of a study."""
    return f"{visible(result.target.description)} of every text."


def unit_line(result: v1.ExplanationResult, spec: v1.ExplanationSpec) -> str:
    """The unit of attributions; for shares, also where the rest is. Empty if the server is too old to report it."""
    if not features.tells_shares(result):
        return _ATTRIBUTION_UNITS.get(result.attribution_unit, "")
    line = f"Attributions are shares of what reaches the prediction from these {unit(spec, 2)}"
    if result.outside_share < 0.0005:
        return f"{line}."
    outside = figures.percent(result.outside_share)
    return f"{line}. Of everything that reaches it, {outside} comes from other tokens, such as a start token."


def scale(target: v1.ResolvedTarget) -> str:
    """The unit of the target's values with a leading space, or nothing."""
    return "" if target.scale == v1.TARGET_SCALE_PROBABILITY else " nats"


def removal(result: v1.ExplanationResult) -> str:
    """How features were removed."""
    if result.removal.kind == v1.REMOVAL_KIND_DELETE:
        return "deleted"
    if result.removal.kind == v1.REMOVAL_KIND_MEAN_EMBEDDING:
        return "replaced by the mean embedding"
    if result.removal.kind == v1.REMOVAL_KIND_SIMILAR:
        return "replaced by similar words (the mean over them)"
    if result.removal.kind == v1.REMOVAL_KIND_SIMILAR_SLOPES:
        return "replaced by similar words (root mean square of their changes, by distance)"
    if result.removal.kind == v1.REMOVAL_KIND_TEXT_AND_DELETE:
        return f"replaced by {visible(result.removal.replacement)!r} or deleted (the mean of both)"
    return f"replaced by {visible(result.removal.replacement)!r}"


@dataclass(frozen=True)
class Comparison:
    """A faithfulness metric and its control; `better` is None if the difference is within the deviation."""

    name: str
    sentence: str
    metric: v1.ControlledMetric
    better: bool | None


def faithfulness(found: v1.Faithfulness, units: str, scale: str = "") -> Iterator[Comparison]:
    """Each metric in a sentence, with whether it beats random rankings by more than their standard deviation.

    `scale` is the unit of the target's values, with its space; the areas are parts of the whole effect.
    """
    parts = (
        ("comprehensiveness", True, found.comprehensiveness.aopc, "removing the top {0} costs {1}{3}, random {2}"),
        ("sufficiency", False, found.sufficiency.aopc, "keeping only the top {0} costs {1}{3}, random {2}"),
        ("deletion", False, found.deletion_auc, "top {0} out first leaves {1} of the effect, random {2}"),
        ("insertion", True, found.insertion_auc, "top {0} back first gives {1} of the effect, random {2}"),
    )
    for name, high_is_good, metric, sentence in parts:
        gain = (metric.value - metric.random) * (1 if high_is_good else -1)
        distinct = abs(gain) > max(metric.random_deviation, 1e-9)
        control = f"{figures.number(metric.random)}±{figures.number(metric.random_deviation)}"
        shown = sentence.format(units, figures.number(metric.value), control, scale)
        yield Comparison(name, shown, metric, gain > 0 if distinct else None)


def trust(verdict: v1.Trust) -> tuple[str, Sequence[str]]:
    """The verdict as a sentence, and its reasons."""
    return _TRUST.get(verdict.verdict, "Not judged yet: this is a partial result."), list(verdict.reasons)


def cost(result: v1.ExplanationResult | v1.StudyResult) -> str:
    """The cost, the precision if it was reduced, and why the method stopped."""
    found, precision = result.cost, result.precision
    evaluations = f"{found.evaluations:,} model evaluation{'' if found.evaluations == 1 else 's'}"
    parts = [f"{evaluations} in {figures.duration(seconds(found.duration))}"]
    tokens = f"{found.tokens_computed:,} tokens computed"
    if found.tokens_saved:
        saved = found.tokens_saved / (found.tokens_saved + found.tokens_computed)
        tokens += f", {100 * saved:.0f}% saved by prefix reuse"
    parts.append(tokens)
    if found.cache_hits:
        parts.append(f"{found.cache_hits:,} from the cache")
    if precision.HasField("measured_error"):
        parts.append(f"in {visible(precision.dtype)}, off by at most {precision.measured_error:.1g} in a trial")
    if precision.HasField("noise"):
        parts.append(f"engine's noise {precision.noise:.1g} nats")
    if found.HasField("price"):
        parts.append(f"price {found.price:.3g}")
    if found.stop_reason in _STOPS:
        parts.append(f"ended because {_STOPS[found.stop_reason]}")
    return " · ".join(parts)


def cost_ahead(at: v1.Progress) -> str:
    """The planned cost: ``at most 52 model evaluations, 1,234 tokens, about 3.0 s``, with the time if it is known."""
    parts = [f"at most {at.evaluations_planned:,} model evaluations", f"{at.tokens_planned:,} tokens"]
    if at.HasField("remaining_duration"):
        parts.append(f"about {figures.duration(seconds(at.remaining_duration))}")
    return ", ".join(parts)
