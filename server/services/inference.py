"""InferenceService: tokenizes what is asked, lets the engine run it, and writes the answer down."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

from gloss import v1 as pb
from gloss.v1.inference_service_pb2_grpc import InferenceServiceServicer
from ml import attention
from ml.generation import Generation
from ml.models.protocol import ExplainableModel
from ml.prediction import check_names_tokens, check_temperature, check_top_k
from schema.convert import from_tokens
from server.callers import caller, queued_as
from server.calls import Answer
from server.engines import Engines, Text
from server.helpers import Helpers
from server.interceptors import Context
from server.questions import AttentionTask, NextTokenTask, ScoreTask, Task
from server.registry import Registry
from server.services import conversions, sizes, wire
from server.services.fields import check_count
from server.settings import Settings

T = TypeVar("T")

DEFAULT_TOP_K, DEFAULT_TEMPERATURE = 10, 1.0


class InferenceService(InferenceServiceServicer):
    """The methods of the contract, which documents them."""

    def __init__(self, registry: Registry, engine: Engines, helpers: Helpers, settings: Settings) -> None:
        """Serve the models of `registry` through `engine`; `helpers` read requests and write replies."""
        self._registry = registry
        self._engine = engine
        self._helpers = helpers
        self._max_prompts = settings.max_prompts
        self._max_bytes = settings.max_message_bytes
        self._caches_by_tenant = settings.caches_by_tenant

    async def NextToken(self, request: pb.NextTokenRequest, context: Context) -> pb.NextTokenResponse:  # noqa: N802
        """Predict what follows each prompt."""
        clock = _Clock()
        model = self._registry.resolve(request.model)
        self._engine.check_capacity(model.info.name, queued_as(context))
        check_count("prompts", len(request.prompts), self._max_prompts)
        top_k = request.top_k if request.HasField("top_k") else DEFAULT_TOP_K
        temperature = request.temperature if request.HasField("temperature") else DEFAULT_TEMPERATURE
        check_top_k(top_k, model.info)
        check_temperature(temperature, model.info)
        size = sizes.check_next_token(model, len(request.prompts), top_k, self._max_bytes)

        prompts = await self._helped(request.ByteSize(), context, conversions.prompt_ids, model, request)
        clock.tokenized()
        tasks = [NextTokenTask(ids, top_k, temperature) for ids in prompts]
        answer = await self._run(model, tasks, context)
        clock.answered(answer)
        lengths = [len(ids) for ids in prompts]
        reply = await self._helped(
            size, context, conversions.next_token_reply, model, lengths, answer.values, answer.cached_tokens
        )
        clock.write_timings(reply.timings)
        return reply

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:  # noqa: N802
        """Measure how likely each continuation is."""
        clock = _Clock()
        model = self._registry.resolve(request.model)
        self._engine.check_capacity(model.info.name, queued_as(context))
        check_count("items", len(request.items), self._max_prompts)
        check_top_k(request.top_k, model.info, least=0)

        asked = await self._helped(request.ByteSize(), context, conversions.scored, model, request)
        size = sizes.check_score(model, sum(len(each.ids) for each in asked), request.top_k, self._max_bytes)
        clock.tokenized()
        tasks = [ScoreTask(each.prompt.ids, each.ids, request.top_k) for each in asked]
        answer = await self._run(model, tasks, context)
        clock.answered(answer)
        reply = await self._helped(
            size, context, conversions.score_reply, model, asked, answer.values, answer.cached_tokens
        )
        clock.write_timings(reply.timings)
        return reply

    async def Attention(self, request: pb.AttentionRequest, context: Context) -> pb.AttentionResponse:  # noqa: N802
        """Show what the prompt's tokens attend to."""
        clock = _Clock()
        model = self._registry.resolve(request.model)
        self._engine.check_capacity(model.info.name, queued_as(context))
        encoding = await self._helped(request.ByteSize(), context, conversions.encoding, model, request.prompt)
        plan = attention.resolve(wire.attention_spec(request), model.info, len(encoding.ids))
        reply = pb.AttentionResponse(
            tokens=from_tokens(model.tokenizer.tokens(encoding)),
            layers=plan.layers,
            heads=plan.heads,
            queries=plan.queries,
            model=wire.version(model.info),
            usage=pb.Usage(prompt_tokens=len(encoding.ids)),
        )
        sizes.check_attention(reply.ByteSize(), plan.reply_bytes, self._max_bytes)
        clock.tokenized()
        answer = await self._run(model, [AttentionTask(encoding.ids, plan)], context)
        clock.answered(answer)
        wire.write_attention(reply, answer.values[0])
        clock.write_timings(reply.timings)
        return reply

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncIterator[pb.GenerateResponse]:  # noqa: N802
        """Continue a prompt, a token at a time."""
        clock = _Clock()
        model = self._registry.resolve(request.model)
        self._engine.check_capacity(model.info.name, queued_as(context))
        spec = wire.generation_spec(request)
        check_names_tokens(model.info)
        check_top_k(spec.top_k, model.info, least=0)
        prompt = await self._helped(request.ByteSize(), context, conversions.encoding, model, request.prompt)
        limit = spec.tokens(len(prompt.ids), model.info.context_length)
        clock.tokenized()
        generation = Generation(spec, model.tokenizer, prompt.ids, limit)
        stream = self._engine.generate(
            model.info.name, prompt.ids, generation, caller=queued_as(context), namespace=self._namespace()
        )
        try:
            usage = pb.Usage(prompt_tokens=len(prompt.ids))
            async for step in stream:
                usage.completion_tokens += 1
                reply = wire.generated(model, step)
                if step.finish is not None:
                    clock.answered(stream)
                    usage.cached_tokens = stream.cached_tokens or 0
                    reply.model.CopyFrom(wire.version(model.info))
                    reply.usage.CopyFrom(usage)
                    clock.write_timings(reply.timings)
                yield reply
        finally:
            stream.abandon()

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:  # noqa: N802
        """Show how a prompt is cut into tokens."""
        model = self._registry.resolve(request.model)
        return await self._helped(request.ByteSize(), context, conversions.tokenized, model, request)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: N802
        """Name the models."""
        default = self._registry.default
        return pb.ListModelsResponse(
            models=[wire.model_info(model, is_default=model is default) for model in self._registry.values()]
        )

    async def _run(self, model: ExplainableModel, tasks: Sequence[Task], context: Context) -> Answer:
        return await self._engine.submit(
            model.info.name,
            tasks,
            caller=queued_as(context),
            namespace=self._namespace(),
            seconds=context.time_remaining(),
        )

    def _namespace(self) -> str:
        """Whose cached prefixes the current call may use."""
        return caller().access.tenant if self._caches_by_tenant else ""

    async def _helped(
        self, size: int, context: Context, function: Callable[..., T], model: ExplainableModel, *arguments: Any
    ) -> T:
        """The result of `function` on messages of `size` bytes, computed where it delays nobody else."""
        return await self._helpers.run(size, function, model, *arguments, caller=queued_as(context))


class _Clock:
    """Where the time of one call goes, in seconds."""

    def __init__(self) -> None:
        self._mark = time.perf_counter()
        self._tokenize = self._queue = self._model = 0.0

    def tokenized(self) -> None:
        """Note that the prompts are tokenized, and the engine comes next."""
        self._tokenize = self._lap()

    def answered(self, answer: Answer | Text) -> None:
        """Note that the engine has answered, and the reply comes next."""
        self._lap()
        self._queue, self._model = answer.queue_seconds, answer.model_seconds

    def write_timings(self, timings: pb.Timings) -> None:
        """Write all stages into a reply that is complete but for them."""
        wire.write_duration(timings.tokenize_duration, self._tokenize)
        wire.write_duration(timings.queue_duration, self._queue)
        wire.write_duration(timings.model_duration, self._model)
        wire.write_duration(timings.reply_duration, self._lap())

    def _lap(self) -> float:
        """The time since the last lap."""
        now = time.perf_counter()
        lap, self._mark = now - self._mark, now
        return lap
