"""Any Hugging Face causal language model behind the `LanguageModel` protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml import language_model
from ml.errors import NoAttentionError
from ml.language_model import MEAN, AttentionSink, Batch, Decoder, ModelInfo, Objective, Prefix
from ml.models.attention_capture import Reader
from ml.models.batches import PaddedReader, padded_batches
from ml.models.bfloat16 import bfloat16_twin
from ml.models.cached_batches import CachedPrefix, CachedRun
from ml.models.cuda import record, to_device
from ml.models.decoding import CacheDecoder, SlotDecoder
from ml.models.embedding import inputs, lookup
from ml.models.gradients import gradients
from ml.models.packed_attention import PackedPrefix, PackedRun
from ml.models.placement import Placement
from ml.models.prefix_reader import PrefixReader
from ml.models.value_zeroing import ValueZeroing
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
        packs: bool = False,
        caches: bool = False,
        placement: Placement | None = None,
        products: torch.dtype | None = None,
    ) -> None:
        """Wrap `module`, whose attention `read` reads; None where it has none.

        Args:
            packs: see `can_pack`.
            caches: see `can_cache`.
            products: what packed attention multiplies in; by default what `module` computes in.
        """
        self.module = module
        self.packs = packs
        self._caches = caches
        self._placement = placement or Placement(module.device)
        self.tokenizer = tokenizer
        self.info = info
        self._read = read
        self._twin: HuggingFaceModel | None = None
        self._products = products
        one_device = not self._placement.spread and self._placement.ranks == 1
        self.recorded = record(module, info.context_length) if packs and one_device else None

    def in_bfloat16(self) -> HuggingFaceModel | None:
        """The same weights with products in bfloat16; see `LanguageModel.in_bfloat16`."""
        if self.module.dtype != torch.float32 or not has_fast_bfloat16(self.module.device):
            return None
        if self._placement.spread or self._placement.ranks > 1:
            return None
        if self._twin is None:
            info = replace(self.info, dtype="bfloat16")
            twin = bfloat16_twin(self.module)
            self._twin = HuggingFaceModel(
                twin, self.tokenizer, info, None, packs=self.packs, caches=self._caches, products=torch.bfloat16
            )
        return self._twin

    @torch.inference_mode()
    def logits(self, sequences: Sequence[Sequence[int]], tails: Sequence[int] | None = None) -> list[Tensor]:
        """Next-token logits after each of the last `tails[i]` positions of sequence i; see `LanguageModel.logits`.

        Padding stands on the right, where no position of a causal model sees it: so there is no mask, SDPA takes its
        causal fast path whatever the lengths, and every position has the number that it has alone.
        """
        tails = [1] * len(sequences) if tails is None else tails
        if (
            self.recorded is not None
            and list(tails) == [1]
            and MEAN not in sequences[0]
            and (logits := self.recorded.logits(sequences[0])) is not None
        ):
            return [logits]
        ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
        wanted = torch.zeros_like(ids, dtype=torch.bool)
        for row, sequence, tail in zip(range(len(sequences)), sequences, tails, strict=True):
            ids[row, : len(sequence)] = torch.as_tensor(sequence)
            wanted[row, len(sequence) - tail : len(sequence)] = True
        # A mask on the CPU picks from a tensor on whichever GPU, and the last layer's need not be the first's.
        wanted = wanted if self._placement.spread else to_device(wanted, self.module.device)
        # The mask picks the hidden states before the head: the result is [sum of tails, vocabulary], row by row.
        out = self.module(**inputs(self.module, ids), use_cache=False, logits_to_keep=wanted).logits
        return list(out.float().split(list(tails)))

    @torch.inference_mode()
    def read_prefix(self, ids: Sequence[int]) -> Prefix | None:
        """Read a beginning once for all sequences to come; see `LanguageModel.read_prefix`."""
        if self._can_pack(len(ids)):
            return PackedRun(dtype=self._products).read(self.module, ids)
        return CachedRun(self.module).read(ids) if self._caches else None

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
        if not self._can_pack(max(map(len, sequences), default=0)):
            limits = {"max_tokens": max_tokens, "max_readout": max_readout}
            if self._caches:
                cached = CachedRun(self.module, prefix if isinstance(prefix, CachedPrefix) else None)
                yield from cached.batches(sequences, tails, **limits)
            else:
                yield from padded_batches(self.logits, sequences, tails, **limits)
            return
        known = prefix if isinstance(prefix, PackedPrefix) else PackedPrefix(0, {})
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
        if self._can_pack(self.info.context_length):
            return PrefixReader(self.module, max_bytes, self.recorded.logits if self.recorded else None)
        return PaddedReader(self.logits)

    def decoder(self, reader: language_model.Reader | None = None) -> Decoder:
        """All sequences in one pass where the model allows it, else one after the other."""
        if not self._can_pack(self.info.context_length):
            return CacheDecoder(self.module)
        return SlotDecoder(self.module, reader if isinstance(reader, PrefixReader) else PrefixReader(self.module, 0))

    @property
    def decoder_bytes(self) -> int:
        """Keys and values of all layers at the full context; see `LanguageModel.decoder_bytes`."""
        config = self.module.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        per_position = 2 * config.num_hidden_layers * heads * size * self.module.dtype.itemsize
        # The buffers double as they grow, so up to half of them may lie idle.
        return 2 * int(per_position) * self.info.context_length

    @torch.inference_mode()
    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        """Hand the softmax weights of `queries` over all keys to `sink`; see `LanguageModel.attention`.

        Raises:
            NoAttentionError: the model has none.
            InputError: some layers of this model have none.
        """
        if self._read is None:
            raise NoAttentionError(self.info.name)
        self._read(self.module, ids, layers, queries, sink)

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """See `WhiteBox.embed`."""
        embedding = self.module.get_input_embeddings()
        return lookup(embedding, torch.tensor(list(ids), device=self.module.device)).float()

    def gradients(
        self, points: Tensor, tail: int, objective: Objective, prefix: Prefix | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `WhiteBox.gradients`."""
        before = prefix.by_heads if isinstance(prefix, PackedPrefix | CachedPrefix) else ()
        packs = self._can_pack((prefix.length if prefix else 0) + points.shape[1])
        return gradients(self.module, points, tail, objective, before, packs=packs)

    @torch.inference_mode()
    def value_zeroing(self, ids: Sequence[int], max_tokens: int, sink: AttentionSink) -> Iterator[int]:
        """See `WhiteBox.value_zeroing`."""
        if not self.info.heads:
            raise NoAttentionError(self.info.name)
        yield from ValueZeroing(self.module, self.info.name).shares(ids, max_tokens, sink)

    def _can_pack(self, longest: int) -> bool:
        # Packed attention sees the whole prefix, so it is right as long as a sliding window does.
        return self.packs and longest <= (window(self.module) or longest)


def window(module: PreTrainedModel) -> int | None:
    """How far back a position sees, where some layer of the model bounds it."""
    window: int | None = getattr(module.config.get_text_config(), "sliding_window", None)
    return window
