"""InferenceService: tokenizes what is asked, lets the engine run it, and writes the answer down."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from typing import TypeVar

from gloss import v1 as pb
from gloss.v1.inference_service_pb2_grpc import InferenceServiceServicer
from ml import attention
from ml.encoding import Encoding
from ml.errors import PromptTooLongError
from ml.generation import Generation
from ml.junction import Junction
from ml.models.protocol import ExplainableModel
from ml.prediction import check_temperature, check_top_k
from schema.convert import from_tokens, to_continuation, to_prompt
from server.answers import Answer
from server.engines import Engines, Text
from server.gate import caller_of, key_name
from server.interceptors import Context
from server.questions import AttentionTask, NextTokenTask, ScoreTask, Task
from server.registry import Registry
from server.services import sizes, wire
from server.services.fields import check_count, read_each
from server.settings import Settings

T = TypeVar("T")

DEFAULT_TOP_K, DEFAULT_TEMPERATURE = 10, 1.0

_SMALL = 8192
"""Bytes of a request or reply that are tokenized or written down faster than another thread would take over."""


class InferenceService(InferenceServiceServicer):
    """The methods of the contract, which documents them."""

    def __init__(self, registry: Registry, engine: Engines, helpers: Executor, settings: Settings) -> None:
        """Serve the models of `registry` through `engine`; `helpers` are threads for large requests and replies."""
        self._registry = registry
        self._engine = engine
        self._helpers = helpers
        self._max_prompts = settings.max_prompts
        self._max_bytes = settings.max_message_bytes
        self._prefixes_by_key = settings.prefix_cache_by_key

    async def NextToken(self, request: pb.NextTokenRequest, context: Context) -> pb.NextTokenResponse:  # noqa: N802
        """Predict what follows each prompt."""
        clock = _Clock()
        model = self._registry.resolve(request.model)
        self._engine.check_capacity(model.info.name)
        check_count("prompts", len(request.prompts), self._max_prompts)
        top_k = request.top_k if request.HasField("top_k") else DEFAULT_TOP_K
        temperature = request.temperature if request.HasField("temperature") else DEFAULT_TEMPERATURE
        check_top_k(top_k, model.info)
        check_temperature(temperature, model.info)
        size = sizes.check_next_token(model, len(request.prompts), top_k, self._max_bytes)

        def read() -> list[NextTokenTask]:
            ids = read_each("prompts", request.prompts, lambda prompt: _ids(model, prompt), called="prompt")
            return [NextTokenTask(each, top_k, temperature) for each in ids]

        tasks = await self._helped(request.ByteSize(), read)
        clock.tokenized()
        answer = await self._run(model, tasks, context)
        clock.answered(answer)

        def write() -> pb.NextTokenResponse:
            reply = pb.NextTokenResponse(model=wire.version(model.info))
            for task, found, cached in zip(tasks, answer.values, answer.cached_tokens, strict=True):
                usage = pb.Usage(prompt_tokens=len(task.ids), cached_tokens=cached)
                wire.write_prediction(reply.predictions.add(), model, found, usage)
            reply.usage.CopyFrom(wire.total(prediction.usage for prediction in reply.predictions))
            return reply

        reply = await self._helped(size, write)
        clock.write_timings(reply.timings)
        return reply

    async def Score(self, request: pb.ScoreRequest, context: Context) -> pb.ScoreResponse:  # noqa: N802
        """Measure how likely each continuation is."""
        clock = _Clock()
        model = self._registry.resolve(request.model)
        self._engine.check_capacity(model.info.name)
        check_count("items", len(request.items), self._max_prompts)
        check_top_k(request.top_k, model.info, least=0)

        def read() -> list[tuple[ScoreTask, Junction]]:
            return read_each("items", request.items, lambda item: _score_task(model, item, request.top_k))

        asked = await self._helped(request.ByteSize(), read)
        positions = sum(len(task.continuation) for task, _ in asked)
        size = sizes.check_score(model, positions, request.top_k, self._max_bytes)
        clock.tokenized()
        answer = await self._run(model, [task for task, _ in asked], context)
        clock.answered(answer)

        def write() -> pb.ScoreResponse:
            reply = pb.ScoreResponse(model=wire.version(model.info))
            for (task, continuation), found, cached in zip(asked, answer.values, answer.cached_tokens, strict=True):
                prompt, completion = len(task.prompt), len(task.continuation)
                usage = pb.Usage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)
                wire.write_score(reply.scores.add(), model, continuation, found, usage)
            reply.usage.CopyFrom(wire.total(score.usage for score in reply.scores))
            return reply

        reply = await self._helped(size, write)
        clock.write_timings(reply.timings)
        return reply

    async def Attention(self, request: pb.AttentionRequest, context: Context) -> pb.AttentionResponse:  # noqa: N802
        """Show what the prompt's tokens attend to."""
        clock = _Clock()
        model = self._registry.resolve(request.model)
        self._engine.check_capacity(model.info.name)
        encoding = await self._helped(request.ByteSize(), lambda: _encode(model, request.prompt))
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
        spec = wire.generation_spec(request)
        check_top_k(spec.top_k, model.info, least=0)
        prompt = await self._helped(request.ByteSize(), lambda: _encode(model, request.prompt))
        limit = spec.tokens(len(prompt.ids), model.info.context_length)
        clock.tokenized()
        generation = Generation(spec, model.tokenizer, prompt.ids, limit)
        stream = self._engine.generate(
            model.info.name, prompt.ids, generation, caller=caller_of(context), namespace=self._namespace()
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
            stream.leave()

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:  # noqa: N802
        """Show how a prompt is cut into tokens."""
        model = self._registry.resolve(request.model)

        def tokenize() -> pb.TokenizeResponse:
            encoding = _encode(model, request.prompt)
            return pb.TokenizeResponse(
                tokens=from_tokens(model.tokenizer.tokens(encoding)),
                text=encoding.text,
                has_start_token=model.tokenizer.has_start(encoding),
                context_length=model.info.context_length,
                model=wire.version(model.info),
            )

        return await self._helped(request.ByteSize(), tokenize)

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
            caller=caller_of(context),
            namespace=self._namespace(),
            seconds=context.time_remaining(),
        )

    def _namespace(self) -> str:
        """Whose cached prefixes the call under way may use."""
        return key_name.get() if self._prefixes_by_key else ""

    async def _helped(self, size: int, work: Callable[[], T]) -> T:
        """The result of `work` on `size` bytes, in another thread where it would hold up the event loop."""
        if size <= _SMALL:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._helpers, work)


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


def _encode(model: ExplainableModel, message: pb.Prompt) -> Encoding:
    return model.tokenizer.encode(to_prompt(message))


def _ids(model: ExplainableModel, message: pb.Prompt) -> tuple[int, ...]:
    return model.tokenizer.prompt_ids(to_prompt(message))


def _score_task(model: ExplainableModel, item: pb.ScoreItem, top_k: int) -> tuple[ScoreTask, Junction]:
    found = model.tokenizer.prompt_and_continuation(to_prompt(item.prompt), to_continuation(item.continuation))
    before, limit = len(found.prompt.ids), model.info.context_length
    length = before + len(found.ids)
    if length > limit:
        message = (
            f"the continuation has {len(found.ids)} tokens, and after the prompt's {before} this model"
            f" reads at most {limit - before}; shorten it"
        )
        raise PromptTooLongError("continuation", length, limit, message)
    return ScoreTask(found.prompt.ids, found.ids, top_k), found
