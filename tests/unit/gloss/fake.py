"""A scripted server: it answers as the real one would for a model of four tokens, and records what it was asked."""

from __future__ import annotations

import math
import re
import struct
from collections import defaultdict
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from gloss import v1
from gloss.v1 import explanation_service_pb2_grpc, inference_service_pb2_grpc

MODEL = v1.ModelVersion(name="fake", digest="0123456789abcdef" * 4)
TIMINGS = v1.Timings(
    queue_duration=timedelta(microseconds=100),
    tokenize_duration=timedelta(microseconds=200),
    model_duration=timedelta(milliseconds=3),
    reply_duration=timedelta(microseconds=100),
)
WORDS = ("The", "capital", "of", "France", "is")
TEXT = "The capital of France is"


@dataclass
class Script:
    """What the server says, and what it heard."""

    failures: dict[str, list[grpc.StatusCode | status_pb2.Status]] = field(default_factory=lambda: defaultdict(list))
    """Failures that the next calls of a method meet, first one first."""
    requests: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))
    metadata: dict[str, str] = field(default_factory=dict)
    """Metadata of the last call."""
    attempts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    explanations: dict[str, v1.Explanation] = field(default_factory=dict)
    watches: list[list[v1.Explanation | grpc.StatusCode]] = field(default_factory=list)
    """What each connection of a watch says before it ends; without any, the explanation's final state."""
    end: v1.ExplanationState = v1.EXPLANATION_STATE_SUCCEEDED
    generated: tuple[str, ...] = (" Paris", ".")
    """What a generation says, a token each."""
    finish_reason: v1.FinishReason = v1.FINISH_REASON_STOP

    def hear(self, method: str, request: Message, context: grpc.ServicerContext) -> None:
        """Record a call, and fail it where the script says so."""
        self.attempts[method] += 1
        self.metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        if self.failures[method]:
            failure = self.failures[method].pop(0)
            if isinstance(failure, grpc.StatusCode):
                context.abort(failure, f"scripted {failure.name}")
            code = next(code for code in grpc.StatusCode if code.value[0] == failure.code)
            context.set_trailing_metadata((("grpc-status-details-bin", failure.SerializeToString()),))
            context.abort(code, failure.message)
        self.requests[method].append(request)


def rich_status(code: grpc.StatusCode, message: str, *details: Message) -> status_pb2.Status:
    """A google.rpc.Status with its details."""
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code.value[0], message=message, details=packed)


def bad_field(field_: str, message: str) -> status_pb2.Status:
    """INVALID_ARGUMENT that names a field, as the real server sends it."""
    return rich_status(
        grpc.StatusCode.INVALID_ARGUMENT,
        message,
        error_details_pb2.ErrorInfo(reason="INVALID_FIELD", domain="gloss.v1"),
        error_details_pb2.BadRequest(
            field_violations=[error_details_pb2.BadRequest.FieldViolation(field=field_, description=message)]
        ),
    )


def queue_full() -> status_pb2.Status:
    """RESOURCE_EXHAUSTED with the time after which trying again may help."""
    return rich_status(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "1000 explanations are waiting",
        error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="gloss.v1"),
        error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000)),
    )


def tokens(text: str) -> list[v1.Token]:
    """The words of a text as tokens."""
    found, start = [], 0
    for number, word in enumerate(text.split()):
        start = text.index(word, start)
        found.append(
            v1.Token(
                id=number, text=word, bytes=word.encode(), span=v1.CharacterSpan(start=start, end=start + len(word))
            )
        )
        start += len(word)
    return found


def result(text: str = TEXT, *, sampled: bool = False) -> v1.ExplanationResult:
    """A finished result whose second-last word matters most."""
    parts = tokens(text)
    values = [-0.4, 0.9, 0.05, 2.5, 0.0] if text == TEXT else [1.0 / (1 + number) for number in range(len(parts))]
    error = 0.2 if sampled else 0.0
    metric = v1.ControlledMetric(value=2.0, random=0.7, random_deviation=0.3)
    curve = v1.ControlledCurve(values=[1.0, 3.0], random_values=[0.5, 0.9], aopc=metric)
    built = v1.ExplanationResult(
        text=text,
        tokens=parts,
        target=v1.ResolvedTarget(
            description='log p(" Paris")',
            tokens=[v1.Token(id=9, text=" Paris", bytes=b" Paris")],
            scale=v1.TARGET_SCALE_LOG_PROBABILITY,
        ),
        removal=v1.ResolvedRemoval(kind=v1.REMOVAL_KIND_MASK_TOKEN, replacement="<unk>"),
        attributions=[
            v1.FeatureAttribution(
                text=part.text,
                span=part.span,
                positions=[number],
                attribution=value,
                standard_error=error,
                interval=v1.Interval(lower=value - 1.96 * error, upper=value + 1.96 * error, level=0.95),
            )
            for number, (part, value) in enumerate(zip(parts, values, strict=True))
        ],
        base_value=-6.0,
        full_value=-1.0,
        faithfulness=v1.Faithfulness(
            fractions=[0.1, 0.5],
            comprehensiveness=curve,
            sufficiency=curve,
            deletion_auc=v1.ControlledMetric(value=0.2, random=0.5, random_deviation=0.1),
            insertion_auc=v1.ControlledMetric(value=0.8, random=0.5, random_deviation=0.1),
            random_rankings=10,
        ),
        converged=True,
        trust=v1.Trust(verdict=v1.TRUST_VERDICT_TRUSTED),
        cost=v1.Cost(
            evaluations=32,
            tokens_computed=160,
            tokens_saved=40,
            duration=Duration(nanos=250_000_000),
            stop_reason=v1.STOP_REASON_COMPLETE,
        ),
        precision=v1.Precision(dtype="float32"),
    )
    if sampled:
        built.surrogate.CopyFrom(v1.SurrogateFit(kind=v1.SURROGATE_RIDGE, r_squared=0.83, intercept=-6.1))
        built.stability = 0.97
    return built


def row_result(spec: v1.ExplanationSpec) -> v1.ExplanationResult:
    """A result of spans and of one row, for which the first of them does most."""
    built = result(spec.prompt.text)
    del built.attributions[:]
    text = spec.target.continuation.text
    built.target.text = text
    for number, span in enumerate(spec.features.spans):
        positions = [at for at, token in enumerate(built.tokens) if span.start <= token.span.start < span.end]
        built.attributions.add(
            text=built.text[span.start : span.end],
            span=span,
            positions=positions,
            attribution=4.0 if number == 0 else 1.0,
            standard_error=0.0,
        )
    values = [part.attribution for part in built.attributions]
    begin = len(text) - len(text.lstrip())
    built.rows.add(
        text=text.strip(),
        span=v1.CharacterSpan(start=begin, end=begin + len(text.strip())),
        positions=[0],
        base_value=-1.0 - sum(values),
        full_value=-1.0,
        attributions=values,
        interval_reach=1.96,
        interval_level=0.95,
    )
    return built


def study_result(*, tree: bool = False) -> v1.StudyResult:
    """A finished result of a bias probe, or of a global surrogate that is a tree."""
    built = v1.StudyResult()
    whole = result()
    for name in ("target", "trust", "cost", "precision"):
        getattr(built, name).CopyFrom(getattr(whole, name))
    if not tree:
        built.bias_probe.differences.add(
            first="men",
            second="women",
            difference=1.0,
            pairs=12,
            standard_error=0.25,
            interval=v1.Interval(lower=0.5, upper=1.5, level=0.95),
        )
        return built
    found = built.global_surrogate
    found.surrogate.CopyFrom(
        v1.SurrogateFit(
            kind=v1.SURROGATE_DECISION_TREE,
            r_squared=0.75,
            nodes=[
                v1.TreeNode(feature=1, absent=2, present=1, value=-3, samples=100),
                v1.TreeNode(value=-1, samples=60),
                v1.TreeNode(value=-6, samples=40),
            ],
        )
    )
    found.held_out_r_squared, found.held_out_prompts, found.fitted_prompts = 0.5, 25, 100
    found.coefficient_unit = v1.ATTRIBUTION_UNIT_IMPURITY_SHARE
    found.coefficients.extend(
        [
            v1.WordCoefficient(word="good", coefficient=0.75, standard_error=0.125),
            v1.WordCoefficient(word="bad", coefficient=-0.25),
        ]
    )
    return built


class Inference(inference_service_pb2_grpc.InferenceServiceServicer):
    """Answers at once."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def NextToken(self, request, context):  # noqa: N802
        self.script.hear("NextToken", request, context)
        shares = [0.7, 0.2, 0.05, 0.05][: request.top_k or 10]
        top = [
            v1.TokenProbability(
                id=number, text=word, bytes=word.encode(), probability=share, log_probability=math.log(share)
            )
            for number, (word, share) in enumerate(zip((" Paris", " the", "\n", " a"), shares, strict=False))
        ]
        usage = v1.Usage(prompt_tokens=5, cached_tokens=3)
        predictions = [v1.NextTokenPrediction(top=top, entropy=1.25, usage=usage) for _ in request.prompts]
        return v1.NextTokenResponse(predictions=predictions, model=MODEL, timings=TIMINGS, usage=usage)

    def Score(self, request, context):  # noqa: N802
        self.script.hear("Score", request, context)
        token = v1.TokenScore(id=9, text=" Paris", bytes=b" Paris", log_probability=-0.5, rank=1)
        if request.top_k:
            token.top.add(id=8, text=" Rome", bytes=b" Rome", probability=0.25, log_probability=math.log(0.25))
            token.entropy = 1.75
        usage = v1.Usage(prompt_tokens=5, cached_tokens=3, completion_tokens=1)
        scores = [v1.ContinuationScore(tokens=[token], log_probability=-0.5, usage=usage) for _ in request.items]
        return v1.ScoreResponse(scores=scores, model=MODEL, timings=TIMINGS, usage=usage)

    def Generate(self, request, context):  # noqa: N802
        self.script.hear("Generate", request, context)
        for number, word in enumerate(self.script.generated):
            last = number == len(self.script.generated) - 1
            yield v1.GenerateResponse(
                text=word,
                token=v1.TokenProbability(
                    id=number, text=word, bytes=word.encode(), probability=0.5, log_probability=-0.69
                ),
                top=[v1.TokenProbability(id=8, text=" Rome", bytes=b" Rome", probability=0.25)][: request.top_k],
                finish_reason=self.script.finish_reason if last else v1.FINISH_REASON_UNSPECIFIED,
                model=MODEL if last else None,
                timings=TIMINGS if last else None,
                usage=v1.Usage(prompt_tokens=3, completion_tokens=2) if last else None,
            )

    def Attention(self, request, context):  # noqa: N802
        self.script.hear("Attention", request, context)
        parts = tokens(request.prompt.text)
        layers = list(request.layers) or [0, 1]
        reduced = request.reduction != v1.ATTENTION_REDUCTION_RAW
        heads = [] if reduced else list(request.heads) or [0, 1]
        rows = len(layers) * max(1, len(heads))
        count = len(parts)
        weights = [(key + 1) * 2 / (count * (count + 1)) for key in range(count)]
        keys = None
        if request.HasField("top_n"):
            order = sorted(range(count), key=lambda key: -weights[key])[: request.top_n]
            weights = [weights[key] for key in order]
            keys = v1.Tensor(
                shape=[len(layers), max(1, len(heads)), 1, len(order)],
                type=v1.TENSOR_TYPE_INT32,
                data=struct.pack(f"<{len(order)}i", *order) * rows,
            )
        packed = v1.Tensor(
            shape=[len(layers), max(1, len(heads)), 1, len(weights)],
            type=v1.TENSOR_TYPE_FLOAT32,
            data=struct.pack(f"<{len(weights)}f", *weights) * rows,
        )
        return v1.AttentionResponse(
            tokens=parts, layers=layers, heads=heads, queries=[count - 1], weights=packed, keys=keys, model=MODEL
        )

    def Tokenize(self, request, context):  # noqa: N802
        self.script.hear("Tokenize", request, context)
        text = request.prompt.text
        lines = [v1.CharacterSpan(start=line.start(), end=line.end()) for line in re.finditer(r"[^\n]+", text)]
        return v1.TokenizeResponse(
            tokens=tokens(text), text=text, units=lines if request.unit else (), context_length=64, model=MODEL
        )

    def ListModels(self, request, context):  # noqa: N802
        self.script.hear("ListModels", request, context)
        info = v1.ModelInfo(
            version=MODEL,
            architecture="llama",
            parameter_count=1234567,
            layer_count=2,
            head_count=2,
            hidden_size=16,
            vocabulary_size=100,
            context_length=64,
            device="cpu",
            dtype="float32",
            has_attention=True,
            mask_token="<unk>",  # noqa: S106 no password
            is_default=True,
        )
        return v1.ListModelsResponse(models=[info])


class Explanations(explanation_service_pb2_grpc.ExplanationServiceServicer):
    """Explanations that end as soon as they are watched."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def _find(self, name: str, context: grpc.ServicerContext) -> v1.Explanation:
        if name not in self.script.explanations:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{name} does not exist, or it has expired")
        return self.script.explanations[name]

    def CreateExplanation(self, request, context):  # noqa: N802
        self.script.hear("CreateExplanation", request, context)
        kind = request.WhichOneof("question")
        asked = getattr(request, kind)
        first = asked.prompt.text if kind == "spec" else next(iter(asked.bias_probe.templates), "prompts")
        explanation = v1.Explanation(
            model=MODEL,
            method=asked.WhichOneof("method"),
            prompt_preview=first,
            progress=v1.Progress(
                evaluations_planned=32, tokens_planned=1600, remaining_duration=Duration(nanos=500_000_000)
            ),
        )
        getattr(explanation, kind).CopyFrom(asked)
        if request.validate_only:
            return explanation
        name = f"explanations/{len(self.script.explanations) + 1}"
        explanation.name, explanation.state = name, v1.EXPLANATION_STATE_QUEUED
        explanation.create_time.FromSeconds(1_700_000_000)
        self.script.explanations[name] = explanation
        return explanation

    def GetExplanation(self, request, context):  # noqa: N802
        self.script.hear("GetExplanation", request, context)
        return seen(self._find(request.name, context), full=request.view != v1.EXPLANATION_VIEW_BASIC)

    def ListExplanations(self, request, context):  # noqa: N802
        self.script.hear("ListExplanations", request, context)
        known = [e for e in self.script.explanations.values() if request.state in (0, e.state)][::-1]
        start, size = int(request.page_token or 0), request.page_size or 50
        more = str(start + size) if start + size < len(known) else ""
        page = [seen(one, full=request.view == v1.EXPLANATION_VIEW_FULL) for one in known[start : start + size]]
        for one in page:
            one.ClearField("result")
            one.ClearField("study_result")
        return v1.ListExplanationsResponse(explanations=page, next_page_token=more)

    def WatchExplanation(self, request, context):  # noqa: N802
        self.script.hear("WatchExplanation", request, context)
        explanation = self._find(request.name, context)
        steps = self.script.watches.pop(0) if self.script.watches else [*running(explanation), self._ended(explanation)]
        for step in steps:
            if isinstance(step, grpc.StatusCode):
                context.abort(step, f"scripted {step.name}")
            yield v1.WatchExplanationResponse(explanation=seen(step, full=request.view == v1.EXPLANATION_VIEW_FULL))

    def _ended(self, explanation: v1.Explanation) -> v1.Explanation:
        explanation.state = self.script.end
        explanation.attempt = 1
        if self.script.end == v1.EXPLANATION_STATE_SUCCEEDED:
            if explanation.HasField("study"):
                tree = explanation.study.HasField("global_surrogate")
                explanation.study_result.CopyFrom(study_result(tree=tree))
            else:
                spec, sampled = explanation.spec, explanation.spec.WhichOneof("method") == "lime"
                found = row_result(spec) if spec.HasField("rows") else result(spec.prompt.text, sampled=sampled)
                explanation.result.CopyFrom(found)
        if self.script.end == v1.EXPLANATION_STATE_FAILED:
            explanation.error.CopyFrom(
                v1.ExplanationError(reason=v1.ERROR_REASON_WORKER_LOST, message="every attempt lost its worker")
            )
        return explanation

    def CancelExplanation(self, request, context):  # noqa: N802
        self.script.hear("CancelExplanation", request, context)
        explanation = self._find(request.name, context)
        explanation.state = v1.EXPLANATION_STATE_CANCELLED
        return explanation

    def DeleteExplanation(self, request, context):  # noqa: N802
        self.script.hear("DeleteExplanation", request, context)
        self._find(request.name, context)
        del self.script.explanations[request.name]
        return v1.DeleteExplanationResponse()


def seen(explanation: v1.Explanation, *, full: bool) -> v1.Explanation:
    """The explanation in view FULL or BASIC."""
    shown = v1.Explanation()
    shown.CopyFrom(explanation)
    if not full:
        shown.ClearField("spec")
        shown.ClearField("study")
    return shown


def running(explanation: v1.Explanation) -> list[v1.Explanation]:
    """Two moments of the work."""
    steps = []
    for done in (8, 24):
        step = v1.Explanation()
        step.CopyFrom(explanation)
        step.state = v1.EXPLANATION_STATE_RUNNING
        step.attempt = 1
        step.progress.CopyFrom(
            v1.Progress(
                evaluations_done=done,
                evaluations_planned=32,
                remaining_duration=Duration(nanos=100_000_000),
                stage=v1.STAGE_EXPLAINING,
            )
        )
        steps.append(step)
    if explanation.HasField("spec"):
        steps[-1].partial_result.CopyFrom(result(explanation.spec.prompt.text))
    return steps


@contextmanager
def serve(
    script: Script | None = None, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> Iterator[tuple[str, Script]]:
    """The server's address and its script; a port of 0 is any free one."""
    script = script or Script()
    server = grpc.server(futures.ThreadPoolExecutor(8))
    inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(Inference(script), server)
    explanation_service_pb2_grpc.add_ExplanationServiceServicer_to_server(Explanations(script), server)
    if credentials is None:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        port = server.add_secure_port(f"0.0.0.0:{port}", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}", script
    finally:
        server.stop(0).wait()
