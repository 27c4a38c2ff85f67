"""Any Hugging Face causal language model behind the `LanguageModel` protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ml.errors import CapabilityError, GlossError, NoAttentionError
from ml.models.base import MEAN, AttentionSink, Batch, ModelInfo, Prefix, Runner
from ml.models.fallback.by_length import RunnerByLength
from ml.models.fallback.cache_runner import CacheRunner
from ml.models.fallback.cached_batches import CachedPrefix, CachedRun
from ml.models.fallback.padded_batches import batch_logits, padded_batches
from ml.models.internals.attention_capture import Reader, capture, read_eager
from ml.models.internals.gradients import gradients
from ml.models.internals.key_gradients import key_gradients
from ml.models.internals.objective import LogitsObjective, of_logits
from ml.models.internals.open_model import OpenModel
from ml.models.internals.value_zeroing import ValueZeroing
from ml.models.loading.placement import Placement
from ml.models.objective import FloatArray, Objective
from ml.models.protocol import RoundedModel
from ml.models.rounding import TEXT, rounding_error, roundings
from ml.models.verification.trials import difference
from ml.models.verification.verify import Ways, tolerance
from ml.precision import has_fast_bfloat16
from ml.runtime.embedding import lookup
from ml.runtime.model_runner import ModelRunner
from ml.runtime.recorded_prompts import record
from ml.runtime.spans import spans_of
from ml.runtime.variants import CachedTokens, Variants
from ml.tokens import Tokenizer

_Stream = Callable[..., Iterator[Batch]]


class HuggingFaceModel(OpenModel):
    """A causal language model of transformers, resident and in evaluation mode."""

    def __init__(
        self,
        module: PreTrainedModel,
        tokenizer: Tokenizer,
        info: ModelInfo,
        read: Reader | None,
        *,
        ways: Ways = Ways(),  # noqa: B008 -- frozen
        placement: Placement | None = None,
        matmul_dtype: torch.dtype | None = None,
    ) -> None:
        """Wrap `module`, whose attention `read` reads; None where it has none.

        Args:
            ways: what `module` may use in place of its plain forward; by default nothing.
            matmul_dtype: what attention of a ragged batch rounds to on a CPU; by default nothing.
        """
        self.module = module
        self.ways = ways
        self._placement = placement or Placement(module.device)
        self.tokenizer = tokenizer
        self.info = info
        self._read = read
        self._rounded: tuple[RoundedModel, ...] | None = None
        self._matmul_dtype = matmul_dtype
        self._span_of = spans_of(module)
        one_device = not self._placement.spread and self._placement.ranks == 1
        shortest = int(min(ways.ragged, ways.padded, info.context_length)) if ways.ragged else 0
        self.recorded = record(module, self._span_of, shortest) if shortest and one_device else None

    def in_bfloat16(self) -> tuple[RoundedModel, ...]:
        """The same weights with products in bfloat16; see `LanguageModel.in_bfloat16`."""
        if self.module.dtype != torch.float32 or not has_fast_bfloat16(self.module.device):
            return ()
        if self._placement.spread or self._placement.ranks > 1:
            return ()
        if self._rounded is None:
            self._rounded = tuple(self._round())
        return self._rounded

    def _round(self) -> Iterator[RoundedModel]:
        info = replace(self.info, dtype="bfloat16")
        ids = self.tokenizer.ids(TEXT)[: info.context_length]
        for module, attention in roundings(self.module):
            model = HuggingFaceModel(module, self.tokenizer, info, None, ways=self.ways, matmul_dtype=attention)
            yield RoundedModel(model, rounding_error(self._all_logits, model._all_logits, ids))

    def _all_logits(self, ids: Sequence[int]) -> Tensor:
        """Logits after each of `ids`, [tokens, vocabulary], as an explanation's prompts are read."""
        [batch] = self.stream_logits([ids], [len(ids)], max_tokens=len(ids), max_logits=len(ids))
        return batch.logits[0]

    @torch.inference_mode()
    def logits(self, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int] | None = None) -> list[Tensor]:
        """Next-token logits after the last `logit_counts[i]` positions of sequence i; see `LanguageModel.logits`.

        Prompts that are longer than padding leaves them alone run one by one.
        """
        logit_counts = [1] * len(sequences) if logit_counts is None else logit_counts
        if (
            self.recorded is not None
            and list(logit_counts) == [1]
            and MEAN not in sequences[0]
            and (logits := self.recorded.logits([sequences[0]])) is not None
        ):
            return [logits]
        spread = self._placement.spread
        together = [i for i, sequence in enumerate(sequences) if len(sequence) <= self.ways.padded]
        found: dict[int, Tensor] = {}
        for indices in (together, *([i] for i in range(len(sequences)) if len(sequences[i]) > self.ways.padded)):
            if indices:
                some = [sequences[i] for i in indices], [logit_counts[i] for i in indices]
                found.update(zip(indices, batch_logits(self.module, *some, spread=spread), strict=True))
        return [found[i] for i in range(len(sequences))]

    @torch.inference_mode()
    def read_prefix(self, ids: Sequence[int]) -> Prefix | None:
        """Read a prefix once for all sequences to come; see `LanguageModel.read_prefix`."""
        if len(ids) <= self.ways.ragged:
            return self._variants(None).read(ids)
        return CachedRun(self.module).read(ids) if len(ids) <= self.ways.cached else None

    @torch.inference_mode()
    def stream_logits(
        self,
        sequences: Sequence[Sequence[int]],
        logit_counts: Sequence[int],
        *,
        max_tokens: int,
        max_logits: int,
        prefix: Prefix | None = None,
    ) -> Iterator[Batch]:
        """Logits of many sequences, each distinct prefix computed once; see `LanguageModel.stream_logits`."""
        limits = {"max_tokens": max_tokens, "max_logits": max_logits}
        if any(MEAN in ids for ids in sequences):
            self._check_embeddable(*(ids for ids in sequences if MEAN in ids))
            with self._capable("takes no embeddings in place of tokens", "remove features in another way"):
                yield from self._stream(sequences, logit_counts, prefix, limits)
        else:
            yield from self._stream(sequences, logit_counts, prefix, limits)

    def _stream(
        self,
        sequences: Sequence[Sequence[int]],
        logit_counts: Sequence[int],
        prefix: Prefix | None,
        limits: dict[str, int],
    ) -> Iterator[Batch]:
        short = [i for i, ids in enumerate(sequences) if len(ids) <= self.ways.ragged]
        cached = [i for i, ids in enumerate(sequences) if self.ways.ragged < len(ids) <= self.ways.cached]
        other = [i for i, ids in enumerate(sequences) if len(ids) > max(self.ways.ragged, self.ways.cached)]
        run = CachedRun(self.module, prefix if isinstance(prefix, CachedPrefix) else None)
        ways: list[tuple[list[int], _Stream]] = [
            (short, self._variants(prefix if isinstance(prefix, CachedTokens) else None).batches),
            (cached, run.batches),
            (other, partial(padded_batches, self.logits)),
        ]
        for chosen, way in ways:
            if chosen:
                for batch in way([sequences[i] for i in chosen], [logit_counts[i] for i in chosen], **limits):
                    yield replace(batch, indices=[chosen[i] for i in batch.indices])

    def _variants(self, prefix: CachedTokens | None) -> Variants:
        return Variants(self.module, self._span_of, prefix, matmul_dtype=self._matmul_dtype)

    def runner(self, max_bytes: int = 0) -> Runner:
        """Rows of all kinds in one pass where the model allows it, else part by part; see `LanguageModel.runner`."""
        serial = CacheRunner(self.module, self.logits, self.ways.decoded, pads=self.ways.padded > 0)
        if not self.ways.served:
            return serial
        runner = ModelRunner(self.module, self._span_of, max_bytes, self.recorded)
        limited = self.ways.served < self.info.context_length
        return RunnerByLength(runner, serial, self.ways.served) if limited else runner

    @property
    def sequence_bytes(self) -> int:
        """What the model's cache takes at the full context; see `LanguageModel.sequence_bytes`."""
        # Buffers double as they grow, so up to half of them may lie idle. Each rank has measured its own.
        whole = self.ways.cache_bytes + self.ways.token_bytes * self.info.context_length
        return 2 * whole * self._placement.ranks

    @torch.inference_mode()
    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        """Hand the softmax weights of `queries` over all keys to `sink`; see `LanguageModel.attention`.

        Raises:
            NoAttentionError: the model has none.
            LayersError: some layers of this model have none.
            CapabilityError: its code does not give them.
        """
        if self._read is None:
            raise NoAttentionError(self.info.name)
        read = self._read
        if read is capture and len(ids) > self.ways.captured:
            read = read_eager

        def check(layer: int, weights: Tensor) -> None:
            if weights.shape[-1] != len(ids):
                message = f"attention of model {self.info.name!r} is to other keys than the prompt's tokens"
                raise CapabilityError(self.info.name, f"{message}; choose a method of perturbations")
            sink(layer, weights)

        with self._capable("gives no attention weights"):
            read(self.module, ids, layers, queries, check)

    @property
    def embedding(self) -> nn.Module:
        """See `OpenModel.embedding`."""
        return self.module.get_input_embeddings()

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """See `OpenModel.embed`."""
        return lookup(self.embedding, torch.tensor(list(ids), device=self.module.device)).float()

    def _check_embeddable(self, *sequences: Sequence[int]) -> None:
        """Raise `CapabilityError` where a model reads the padding token of a prompt otherwise than its embedding.

        Some count positions without it, or take as many tokens off the end.
        """
        if any(self._padding in ids for ids in sequences) and not self._embeds_padding:
            raise CapabilityError(
                self.info.name,
                f"model {self.info.name!r} reads its padding token, which the prompt has in it, otherwise than its "
                "embedding; take it out of the prompt, or choose a method or removal without embeddings",
            )

    @property
    def _padding(self) -> int | None:
        padding = getattr(self.module.config.get_text_config(), "pad_token_id", None)
        return padding if isinstance(padding, int) else None

    @cached_property
    def _embeds_padding(self) -> bool:
        padding = self._padding or 0
        other = 1 if padding == 0 else 0
        ids = torch.tensor([[other, padding, other, other]], device=self.module.device)
        with self._capable("takes no embeddings in place of tokens"), torch.no_grad():
            read = self.module(input_ids=ids, use_cache=False).logits[0].float()
            rows = lookup(self.module.get_input_embeddings(), ids)
            embedded = self.module(inputs_embeds=rows, use_cache=False).logits[0].float()
        return difference(embedded, read) <= tolerance(self.module)

    def embed_prompt(self, ids: Sequence[int]) -> Tensor:
        """See `OpenModel.embed_prompt`."""
        self._check_embeddable(ids)
        return self.embed(ids)

    def gradients(
        self, points: Tensor, tail: int, objective: LogitsObjective, prefix: Prefix | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `OpenModel.gradients`."""
        with self._capable("gives no gradients at these embeddings"):
            return self._gradients(points, tail, objective, prefix)

    def _gradients(
        self, points: Tensor, tail: int, objective: LogitsObjective, prefix: Prefix | None
    ) -> tuple[Tensor, Tensor]:
        known = prefix if isinstance(prefix, CachedTokens | CachedPrefix) else None
        length = (known.length if known else 0) + points.shape[1]
        span_of = self._span_of if length <= self.ways.differentiated else None
        if known and span_of is None and length > self.ways.cached:
            # What was read of the prefix is no part of so long a prompt.
            first = self.embed(known.ids).to(points.device).expand(len(points), -1, -1)
            values, found = gradients(self.module, torch.cat([first, points], dim=1), tail, objective, (), span_of=None)
            return values, found[:, known.length :]
        return gradients(self.module, points, tail, objective, known.by_heads if known else (), span_of=span_of)

    def key_gradients(
        self, ids: Sequence[int], objective: Objective, numbers: Sequence[int] = (0,)
    ) -> FloatArray | None:
        """See `ModelInternals.key_gradients`."""
        if not self.info.heads or len(ids) > self.ways.differentiated:
            return None
        values = [of_logits(objective, [number])[0] for number in numbers]
        _, positions = of_logits(objective)
        try:
            with self._capable("gives no gradients at its keys"):
                found = key_gradients(self.module, self.embed(ids)[None], positions, values, self._span_of)
        except (CapabilityError, torch.OutOfMemoryError):
            return None
        return None if found is None else found.double().cpu().numpy()

    @contextmanager
    def _capable(self, refusal: str, advice: str = "choose another method") -> Iterator[None]:
        """Within, what the model's own code cannot do is refused, where each architecture fails in its own way."""
        try:
            yield
        except (GlossError, MemoryError, torch.OutOfMemoryError):
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError, NotImplementedError, LookupError) as error:
            name, reason = self.info.name, str(error).strip().partition("\n")[0]
            message = f"the code of model {name!r} {refusal} ({type(error).__name__}: {reason}); {advice}"
            raise CapabilityError(name, message) from error

    @torch.inference_mode()
    def value_zeroing(self, ids: Sequence[int], max_tokens: int, sink: AttentionSink) -> Iterator[int]:
        """See `OpenModel.value_zeroing`."""
        if not self.info.heads:
            raise NoAttentionError(self.info.name)
        with self._capable("gives no shares of its value vectors"):
            zeroing = ValueZeroing(self.module, self.info.name, renamed=len(ids) <= self.ways.captured)
            yield from zeroing.shares(ids, max_tokens, sink)
