"""Any Hugging Face causal language model behind the `LanguageModel` protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml import language_model
from ml.errors import CapabilityError, NoAttentionError
from ml.language_model import MEAN, AttentionSink, Batch, Decoder, ModelInfo, Objective, Prefix
from ml.models.attention_capture import Reader, capture, read_eager
from ml.models.batches import PaddedReader, batch_logits, padded_batches
from ml.models.bfloat16 import bfloat16_twin
from ml.models.cached_batches import CachedPrefix, CachedRun
from ml.models.cuda import record
from ml.models.decoding import CacheDecoder, SlotDecoder
from ml.models.embedding import lookup
from ml.models.gradients import gradients
from ml.models.implementation import register
from ml.models.packed_attention import PackedPrefix, PackedRun
from ml.models.placement import Placement
from ml.models.prefix_reader import PrefixReader
from ml.models.value_zeroing import ValueZeroing
from ml.models.verification import Ways
from ml.packing import Packing
from ml.precision import has_fast_bfloat16
from ml.tokens import Tokenizer


class HuggingFaceModel:
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
        products: torch.dtype | None = None,
    ) -> None:
        """Wrap `module`, whose attention `read` reads; None where it has none.

        Args:
            ways: what `module` may use in place of its plain forward; by default nothing.
            products: what packed attention multiplies in; by default what `module` computes in.
        """
        self.module = module
        self.ways = ways
        self._placement = placement or Placement(module.device)
        self.tokenizer = tokenizer
        self.info = info
        self._read = read
        self._twin: HuggingFaceModel | None = None
        self._products = products
        one_device = not self._placement.spread and self._placement.ranks == 1
        shortest = int(min(ways.packed, ways.padded, info.context_length)) if ways.packed else 0
        self.recorded = record(module, shortest) if shortest and one_device else None

    def in_bfloat16(self) -> HuggingFaceModel | None:
        """The same weights with products in bfloat16; see `LanguageModel.in_bfloat16`."""
        if self.module.dtype != torch.float32 or not has_fast_bfloat16(self.module.device):
            return None
        if self._placement.spread or self._placement.ranks > 1:
            return None
        if self._twin is None:
            info = replace(self.info, dtype="bfloat16")
            twin = bfloat16_twin(self.module)
            register(twin)
            self._twin = HuggingFaceModel(twin, self.tokenizer, info, None, ways=self.ways, products=torch.bfloat16)
        return self._twin

    @torch.inference_mode()
    def logits(self, sequences: Sequence[Sequence[int]], tails: Sequence[int] | None = None) -> list[Tensor]:
        """Next-token logits after each of the last `tails[i]` positions of sequence i; see `LanguageModel.logits`.

        Prompts that are longer than padding leaves them alone run one by one.
        """
        tails = [1] * len(sequences) if tails is None else tails
        if (
            self.recorded is not None
            and list(tails) == [1]
            and MEAN not in sequences[0]
            and (logits := self.recorded.logits(sequences[0])) is not None
        ):
            return [logits]
        spread = self._placement.spread
        together = [i for i, sequence in enumerate(sequences) if len(sequence) <= self.ways.padded]
        found: dict[int, Tensor] = {}
        for indices in (together, *([i] for i in range(len(sequences)) if len(sequences[i]) > self.ways.padded)):
            if indices:
                some = [sequences[i] for i in indices], [tails[i] for i in indices]
                found.update(zip(indices, batch_logits(self.module, *some, spread=spread), strict=True))
        return [found[i] for i in range(len(sequences))]

    @torch.inference_mode()
    def read_prefix(self, ids: Sequence[int]) -> Prefix | None:
        """Read a beginning once for all sequences to come; see `LanguageModel.read_prefix`."""
        if len(ids) <= self.ways.packed:
            return PackedRun(dtype=self._products).read(self.module, ids)
        return CachedRun(self.module).read(ids) if len(ids) <= self.ways.cached else None

    @torch.inference_mode()
    def stream_logits(
        self,
        sequences: Sequence[Sequence[int]],
        tails: Sequence[int],
        *,
        max_tokens: int,
        max_readout: int,
        prefix: Prefix | None = None,
    ) -> Iterator[Batch]:
        """Logits of many sequences, each distinct prefix computed once; see `LanguageModel.stream_logits`."""
        longest = max(map(len, sequences), default=0)
        if longest > self.ways.packed:
            limits = {"max_tokens": max_tokens, "max_readout": max_readout}
            if longest <= self.ways.cached:
                cached = CachedRun(self.module, prefix if isinstance(prefix, CachedPrefix) else None)
                yield from cached.batches(sequences, tails, **limits)
            else:
                yield from padded_batches(self.logits, sequences, tails, **limits)
            return
        known = prefix if isinstance(prefix, PackedPrefix) else PackedPrefix((), {})
        run = PackedRun(known.states, dtype=self._products)
        packing = Packing(sequences, tails, known.length)
        computed = 0  # of the prefix that all share, which is a step without sequences
        for step in packing.steps(max_rows=max_tokens, max_readout=max_readout):
            logits = run.forward(self.module, step).float()
            computed += step.rows
            if step.is_trunk:
                continue
            indices = step.sequences.tolist()
            rows = logits.split([tails[i] for i in indices])
            yield Batch(indices, rows, computed, sum(len(sequences[i]) for i in indices) - computed)
            computed = 0

    def reader(self, max_bytes: int) -> language_model.Reader:
        """Packed rows without padding where the model allows it, else padded batches; see `LanguageModel.reader`."""
        if self.info.context_length <= self.ways.read:
            return PrefixReader(self.module, max_bytes, self.recorded.logits if self.recorded else None)
        return PaddedReader(self.logits, pads=self.ways.padded > 0)

    def decoder(self, reader: language_model.Reader | None = None) -> Decoder:
        """All sequences in one pass where the model allows it, else one after the other."""
        if self.info.context_length > self.ways.read:
            return CacheDecoder(self.module, self.ways.decoded)
        return SlotDecoder(self.module, reader if isinstance(reader, PrefixReader) else PrefixReader(self.module, 0))

    @property
    def decoder_bytes(self) -> int:
        """What the model's cache takes at the full context; see `LanguageModel.decoder_bytes`."""
        # Buffers double as they grow, so up to half of them may lie idle. Each rank has measured its own.
        whole = self.ways.cache_bytes + self.ways.token_bytes * self.info.context_length
        return 2 * whole * self._placement.ranks

    @torch.inference_mode()
    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        """Hand the softmax weights of `queries` over all keys to `sink`; see `LanguageModel.attention`.

        Raises:
            NoAttentionError: the model has none.
            InputError: some layers of this model have none.
        """
        if self._read is None:
            raise NoAttentionError(self.info.name)
        read = self._read
        if read is capture and len(ids) > self.ways.captured:
            read = read_eager
        read(self.module, ids, layers, queries, sink)

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """See `WhiteBox.embed`."""
        embedding = self.module.get_input_embeddings()
        return lookup(embedding, torch.tensor(list(ids), device=self.module.device)).float()

    def gradients(
        self, points: Tensor, tail: int, objective: Objective, prefix: Prefix | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `WhiteBox.gradients`."""
        known = prefix if isinstance(prefix, PackedPrefix | CachedPrefix) else None
        length = (known.length if known else 0) + points.shape[1]
        packs = length <= self.ways.differentiated
        if known and not packs and length > self.ways.cached:
            # What was read of the prefix is no part of so long a prompt.
            first = self.embed(known.ids).to(points.device).expand(len(points), -1, -1)
            values, found = gradients(self.module, torch.cat([first, points], dim=1), tail, objective, (), packs=False)
            return values, found[:, known.length :]
        return gradients(self.module, points, tail, objective, known.by_heads if known else (), packs=packs)

    @torch.inference_mode()
    def value_zeroing(self, ids: Sequence[int], max_tokens: int, sink: AttentionSink) -> Iterator[int]:
        """See `WhiteBox.value_zeroing`."""
        if not self.info.heads:
            raise NoAttentionError(self.info.name)
        if len(ids) > self.ways.captured:
            name = self.info.name
            raise CapabilityError(
                name,
                f"model {name!r} keeps its value vectors to itself where a prompt is so long; choose another method",
            )
        yield from ValueZeroing(self.module, self.info.name).shares(ids, max_tokens, sink)
