"""Between the contract's messages and the explainers' own vocabulary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from gloss import v1 as pb
from ml import result, spec
from ml.errors import InputError
from schema.convert_method import SURROGATES, known, to_method

_SCALES = {
    pb.TARGET_SCALE_UNSPECIFIED: spec.Scale.LOG_PROBABILITY,
    pb.TARGET_SCALE_LOG_PROBABILITY: spec.Scale.LOG_PROBABILITY,
    pb.TARGET_SCALE_PROBABILITY: spec.Scale.PROBABILITY,
}
_UNITS = {
    pb.FEATURE_UNIT_UNSPECIFIED: spec.Unit.WORD,
    pb.FEATURE_UNIT_TOKEN: spec.Unit.TOKEN,
    pb.FEATURE_UNIT_WORD: spec.Unit.WORD,
    pb.FEATURE_UNIT_SENTENCE: spec.Unit.SENTENCE,
}
_REMOVALS = {
    pb.REMOVAL_KIND_UNSPECIFIED: None,
    pb.REMOVAL_KIND_MASK_TOKEN: spec.RemovalKind.MASK_TOKEN,
    pb.REMOVAL_KIND_TEXT: spec.RemovalKind.TEXT,
    pb.REMOVAL_KIND_DELETE: spec.RemovalKind.DELETE,
    pb.REMOVAL_KIND_MEAN_EMBEDDING: spec.RemovalKind.MEAN_EMBEDDING,
}
_PRECISIONS = {
    pb.PRECISION_POLICY_UNSPECIFIED: spec.PrecisionPolicy.FLOAT32,
    pb.PRECISION_POLICY_FLOAT32: spec.PrecisionPolicy.FLOAT32,
    pb.PRECISION_POLICY_AUTO: spec.PrecisionPolicy.AUTO,
}
_ESTIMATORS = {
    pb.ESTIMATOR_UNSPECIFIED: spec.Estimator.CONTROL_VARIATES,
    pb.ESTIMATOR_CONTROL_VARIATES: spec.Estimator.CONTROL_VARIATES,
    pb.ESTIMATOR_TEXTBOOK: spec.Estimator.TEXTBOOK,
}
# The other way round, a later spelling of the same meaning (never UNSPECIFIED) wins.
_SCALE_NUMBERS = {scale: number for number, scale in _SCALES.items()}
_REMOVAL_NUMBERS = {kind: number for number, kind in _REMOVALS.items()}
_SURROGATE_NUMBERS = {kind: number for number, kind in SURROGATES.items()}
_VERDICT_NUMBERS = {
    result.Verdict.TRUSTED: pb.TRUST_VERDICT_TRUSTED,
    result.Verdict.CAUTION: pb.TRUST_VERDICT_CAUTION,
    result.Verdict.NOT_TRUSTED: pb.TRUST_VERDICT_NOT_TRUSTED,
}
_UNIT_NUMBERS = {
    result.AttributionUnit.NAT: pb.ATTRIBUTION_UNIT_NAT,
    result.AttributionUnit.PROBABILITY: pb.ATTRIBUTION_UNIT_PROBABILITY,
    result.AttributionUnit.LOG_ODDS: pb.ATTRIBUTION_UNIT_LOG_ODDS,
    result.AttributionUnit.SHARE: pb.ATTRIBUTION_UNIT_SHARE,
    result.AttributionUnit.IMPURITY_SHARE: pb.ATTRIBUTION_UNIT_IMPURITY_SHARE,
}
_STOP_NUMBERS = {
    None: pb.STOP_REASON_UNSPECIFIED,
    result.StopReason.COMPLETE: pb.STOP_REASON_COMPLETE,
    result.StopReason.EVALUATIONS: pb.STOP_REASON_EVALUATIONS,
    result.StopReason.SECONDS: pb.STOP_REASON_SECONDS,
    result.StopReason.STANDARD_ERROR: pb.STOP_REASON_STANDARD_ERROR,
    result.StopReason.CANCELLED: pb.STOP_REASON_CANCELLED,
}


def to_prompt(message: pb.Prompt, path: str = "prompt") -> spec.Prompt:
    """The prompt of a request. `path` is where it sits there, such as ``prompts[2]``.

    Raises:
        InputError: the prompt is empty, blank, holds NUL or is not set.
    """
    kind = message.WhichOneof("content")
    with _placed("prompt", path):
        return spec.Prompt(
            text=message.text if kind == "text" else None,
            chat=tuple(spec.ChatMessage(m.role, m.content) for m in message.chat.messages) if kind == "chat" else None,
            token_ids=tuple(message.token_ids.ids) if kind == "token_ids" else None,
        )


def to_continuation(message: pb.Continuation, path: str = "continuation") -> spec.Continuation:
    """The continuation of a request. `path` is where it sits there.

    Raises:
        InputError: the continuation is empty, holds NUL or is not set.
    """
    kind = message.WhichOneof("content")
    with _placed("continuation", path):
        return spec.Continuation(
            text=message.text if kind == "text" else None,
            token_ids=tuple(message.token_ids.ids) if kind == "token_ids" else None,
        )


def to_spec(message: pb.ExplanationSpec) -> spec.ExplanationSpec:
    """The explainers' spec of a request's, with the contract's defaults filled in.

    Raises:
        InputError: a field's value is not allowed, whatever the model; its path is relative to the spec.
    """
    quality = message.quality
    return spec.ExplanationSpec(
        prompt=to_prompt(message.prompt),
        method=to_method(message),
        target=_to_target(message.target),
        features=_to_features(message.features),
        removal=spec.Removal(known("removal.kind", _REMOVALS, message.removal.kind), message.removal.text),
        budget=_to_budget(message.budget),
        faithfulness=quality.faithfulness if quality.HasField("faithfulness") else True,
        precision=known("precision", _PRECISIONS, message.precision),
        estimator=known("estimator", _ESTIMATORS, message.estimator),
    )


def _to_target(message: pb.Target) -> spec.Target:
    kind = message.WhichOneof("kind")
    target: spec.TargetKind = spec.NextTokenTarget()
    if kind == "next_token":
        token = message.next_token.WhichOneof("token")
        target = spec.NextTokenTarget(
            text=message.next_token.text if token == "text" else None,  # noqa: S105 - a field's name
            id=message.next_token.id if token == "id" else None,  # noqa: S105
        )
    elif kind == "continuation":
        target = spec.ContinuationTarget(to_continuation(message.continuation, "target.continuation"))
    elif kind == "generation":
        generation = message.generation
        target = spec.GenerationTarget(generation.max_tokens if generation.HasField("max_tokens") else 16)
    elif kind == "contrast":
        target = spec.ContrastTarget(
            chosen=to_continuation(message.contrast.chosen, "target.contrast.chosen"),
            rejected=to_continuation(message.contrast.rejected, "target.contrast.rejected"),
        )
    return spec.Target(target, known("target.scale", _SCALES, message.scale))


def _to_features(message: pb.Features) -> spec.Features:
    if message.spans and message.unit != pb.FEATURE_UNIT_UNSPECIFIED:
        raise InputError("features.unit", "leave the unit unset when spans are given: they are the features")
    return spec.Features(
        unit=known("features.unit", _UNITS, message.unit),
        spans=tuple((span.start, span.end) for span in message.spans),
        within=(message.within.start, message.within.end) if message.HasField("within") else None,
    )


def _to_budget(message: pb.Budget) -> spec.Budget:
    return spec.Budget(
        max_evaluations=message.max_evaluations if message.HasField("max_evaluations") else None,
        max_seconds=message.max_seconds if message.HasField("max_seconds") else None,
        standard_error=message.standard_error if message.HasField("standard_error") else None,
        seed=message.seed,
    )


def from_progress(progress: result.Progress) -> pb.Progress:
    """The contract's message of an explainer's progress."""
    return pb.Progress(
        evaluations_done=progress.evaluations_done,
        evaluations_planned=progress.evaluations_planned,
        remaining_seconds=progress.remaining_seconds,
        stage=progress.stage,
        tokens_planned=progress.tokens_planned,
    )


def from_tokens(tokens: Iterable[result.Token]) -> list[pb.Token]:
    """The contract's messages of tokens."""
    return [pb.Token(id=token.id, text=token.text, bytes=token.bytes, span=_from_span(token.span)) for token in tokens]


def from_result(found: result.ExplanationResult) -> pb.ExplanationResult:
    """The contract's message of a result, partial or final."""
    cost = found.cost
    return pb.ExplanationResult(
        text=found.text,
        tokens=from_tokens(found.tokens),
        target=pb.ResolvedTarget(
            description=found.target.description,
            tokens=from_tokens(found.target.tokens),
            rejected_tokens=from_tokens(found.target.rejected_tokens),
            shared_tokens=from_tokens(found.target.shared_tokens),
            scale=_SCALE_NUMBERS[found.target.scale],
        ),
        removal=pb.ResolvedRemoval(kind=_REMOVAL_NUMBERS[found.removal.kind], replacement=found.removal.replacement),
        attributions=[_from_attribution(attribution) for attribution in found.attributions],
        base_value=found.base_value,
        full_value=found.full_value,
        attribution_unit=_UNIT_NUMBERS[found.attribution_unit],
        surrogate=_from_surrogate(found.surrogate),
        interactions=[
            pb.Interaction(first=each.first, second=each.second, value=each.value, standard_error=each.standard_error)
            for each in found.interactions
        ],
        group_differences=[
            pb.GroupDifference(
                first=each.first,
                second=each.second,
                difference=each.difference,
                standard_error=each.standard_error,
                interval=_from_interval(each.interval),
                pairs=each.pairs,
            )
            for each in found.group_differences
        ],
        completeness_error=found.completeness_error,
        stability=found.stability,
        faithfulness=_from_faithfulness(found.faithfulness),
        converged=found.converged,
        trust=_from_trust(found.trust),
        cost=pb.Cost(
            evaluations=cost.evaluations,
            tokens_computed=cost.tokens_computed,
            tokens_saved=cost.tokens_saved,
            cache_hits=cost.cache_hits,
            seconds=cost.seconds,
            stop_reason=_STOP_NUMBERS[cost.stop_reason],
        ),
        precision=pb.Precision(dtype=found.precision.dtype, measured_error=found.precision.measured_error),
    )


def _from_span(span: spec.Span | None) -> pb.CharacterSpan | None:
    return None if span is None else pb.CharacterSpan(start=span[0], end=span[1])


def _from_attribution(attribution: result.Attribution) -> pb.FeatureAttribution:
    # A method that does not sample is sure of its value: the interval is that point.
    interval = attribution.interval or result.Interval(attribution.value, attribution.value)
    return pb.FeatureAttribution(
        text=attribution.text,
        span=_from_span(attribution.span),
        positions=attribution.positions,
        attribution=attribution.value,
        standard_error=attribution.standard_error,
        interval=_from_interval(interval),
    )


def _from_interval(interval: result.Interval) -> pb.Interval:
    return pb.Interval(lower=interval.lower, upper=interval.upper, level=interval.level)


def _from_surrogate(fit: result.SurrogateFit | None) -> pb.SurrogateFit | None:
    if fit is None:
        return None
    return pb.SurrogateFit(
        kind=_SURROGATE_NUMBERS[fit.kind],
        r_squared=fit.r_squared,
        held_out_r_squared=fit.held_out_r_squared,
        intercept=fit.intercept,
        coefficients=[
            pb.WordCoefficient(word=each.word, coefficient=each.coefficient, standard_error=each.standard_error)
            for each in fit.coefficients
        ],
        nodes=[
            pb.TreeNode(
                feature=node.feature, absent=node.absent, present=node.present, value=node.value, samples=node.samples
            )
            for node in fit.nodes
        ],
    )


def _from_faithfulness(measured: result.Faithfulness | None) -> pb.Faithfulness | None:
    if measured is None:
        return None
    return pb.Faithfulness(
        fractions=measured.fractions,
        comprehensiveness=_from_curve(measured.comprehensiveness),
        sufficiency=_from_curve(measured.sufficiency),
        deletion_auc=_from_metric(measured.deletion_auc),
        insertion_auc=_from_metric(measured.insertion_auc),
        random_rankings=measured.random_rankings,
    )


def _from_curve(curve: result.ControlledCurve) -> pb.ControlledCurve:
    return pb.ControlledCurve(values=curve.values, random_values=curve.random_values, aopc=_from_metric(curve.aopc))


def _from_metric(metric: result.ControlledMetric) -> pb.ControlledMetric:
    return pb.ControlledMetric(value=metric.value, random=metric.random, random_deviation=metric.random_deviation)


def _from_trust(trust: result.Trust | None) -> pb.Trust | None:
    return None if trust is None else pb.Trust(verdict=_VERDICT_NUMBERS[trust.verdict], reasons=trust.reasons)


@contextmanager
def _placed(part: str, path: str) -> Iterator[None]:
    """Name the fields of errors from inside by where the part sits in the request."""
    try:
        yield
    except InputError as error:
        error.field = path + error.field.removeprefix(part)
        raise
