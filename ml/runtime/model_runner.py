"""Steps of any mix: decode rows, prefill chunks and whole prompts, behind what the prefix cache holds of each.

A sequence that goes on has slots of its own (see `ml.runtime.sequences`): what is cached of its prompt is copied there,
the rest is computed in place, chunk by chunk, and then token by token. A prompt that nothing follows reads what is
cached of it where it lies, and prompts of one step that begin alike share what they compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.models.base import Chunk, StepResult
from ml.runtime.decoding import DecodingStep
from ml.runtime.forward import RaggedForward
from ml.runtime.kv_cache import KvCache
from ml.runtime.prefix_cache import BLOCK, PrefixCache
from ml.runtime.ragged_batch import BatchBuilder, IntArray, common_prefix
from ml.runtime.recorded_decoding import RecordedDecoding
from ml.runtime.recorded_prompts import RecordedPrompts
from ml.runtime.sequences import Growing, Sequences
from ml.runtime.spans import SpanOf
from ml.runtime.step import Part, run_parts

_BATCH_SLOTS = 4096
"""Slots for the rows of prompts, beside those of the prefix cache; a larger batch gets more."""


@dataclass(frozen=True)
class _Planned:
    """A part of a step: of which chunks its rows are, in order, and how many tokens of each were cached."""

    rows: Part
    chunks: Sequence[int]
    cached: Sequence[int]


@dataclass(frozen=True)
class _Computed:
    """A prompt whose tokens from `cached` on are to be inserted; their keys and values lie in the slots of `path`."""

    ids: Sequence[int]
    path: IntArray
    cached: int
    namespace: str


class ModelRunner:
    """See `ml.models.base.Runner`."""

    pads = False
    is_preemptible = True

    def __init__(
        self,
        module: PreTrainedModel,
        span_of: SpanOf,
        max_bytes: int,
        recorded: RecordedPrompts | None = None,
    ) -> None:
        """Run `module`, with a prefix cache of up to `max_bytes`.

        Args:
            recorded: computes a few short prompts faster than looking them up would be. What can be recorded of a model
                are its steps too.
        """
        self._module, self._span_of, self._recorded = module, span_of, recorded
        self._max_bytes = max_bytes
        self._sequences = Sequences(keep=recorded is not None)
        self._recorded_steps = RecordedDecoding(module, span_of) if recorded else None
        self._cache: KvCache | None = None
        self._prefixes = PrefixCache(0)
        self._first_slot = 0  # of the rows of prompts: behind the prefix cache
        # What the last step computed, until it is inserted.
        self._prompts: tuple[RaggedForward, list[_Computed]] | None = None
        self._prefilled: list[tuple[Growing, str]] = []

    @property
    def bytes(self) -> int:
        """Memory of cached prefixes; see `Runner.bytes`."""
        return self._prefixes.tokens * self._cache.token_bytes if self._cache else 0

    def begin(self) -> int:
        """Add a sequence; see `Runner.begin`."""
        return self._sequences.begin()

    @torch.inference_mode()
    def drop(self, sequence: int) -> None:
        """Forget a sequence; see `Runner.drop`."""
        try:
            self.insert_prefixes()  # while its slots are known
        finally:
            self._sequences.drop(sequence)

    @torch.inference_mode()
    def step(self, chunks: Sequence[Chunk]) -> StepResult:
        """Run the chunks in one pass; see `Runner.step`."""
        self.insert_prefixes()
        try:
            return self._run(chunks)
        except BaseException:
            self._prompts, self._prefilled = None, []  # some of it was not computed
            raise

    def _run(self, chunks: Sequence[Chunk]) -> StepResult:
        if (found := self._short_prompts(chunks)) is not None:
            return found
        if (decoded := self._decode_only(chunks)) is not None:
            return decoded
        growing = {i: self._sequences[c.sequence] for i, c in enumerate(chunks) if c.sequence is not None}
        if growing:
            self._sequences.reserve(max(len(each.ids) + len(chunks[i].ids) for i, each in growing.items()))
        decoding = [i for i, each in growing.items() if each.ids and len(chunks[i].ids) == chunks[i].logits == 1]
        prefilling = sorted(growing.keys() - set(decoding))
        prompts = [i for i, chunk in enumerate(chunks) if chunk.sequence is None]
        planned = []
        if decoding:
            planned.append(self._decode(chunks, growing, decoding))
        if prefilling:
            planned.append(self._prefill(chunks, growing, prefilling))
        if prompts:
            planned.append(self._prompt_batch(chunks, prompts))
        parts = [each.rows for each in planned if len(each.rows.ids)]
        if parts:
            logits = run_parts(self._module, parts).float()
        else:  # all that there is of some prompts so far is cached
            logits = torch.empty(0, self._module.config.get_text_config().vocab_size, device=self._module.device)
        for index, each in growing.items():
            each.ids.extend(chunks[index].ids)
        return _in_order(chunks, planned, logits)

    @torch.inference_mode()
    def insert_prefixes(self) -> None:
        """Copy what the last step computed into the prefix cache; see `Runner.insert_prefixes`."""
        prefilled, self._prefilled = self._prefilled, []
        prompts, self._prompts = self._prompts, None
        try:
            for growing, namespace in prefilled:
                self._insert_prefilled(growing, namespace)
            if prompts is not None:
                self._insert_prompts(*prompts)
        except BaseException:
            self._prefixes = PrefixCache(self._first_slot)  # it names slots that were not written
            raise

    def _short_prompts(self, chunks: Sequence[Chunk]) -> StepResult | None:
        """A step of a few short prompts alone, by a recorded pass; None for any other step."""
        if not self._recorded or any(chunk.sequence is not None or chunk.logits != 1 for chunk in chunks):
            return None
        logits = self._recorded.logits([chunk.ids for chunk in chunks])
        if logits is None:
            return None
        return StepResult(list(logits.split(1)), sum(len(chunk.ids) for chunk in chunks), 0, [0] * len(chunks))

    def _decode_only(self, chunks: Sequence[Chunk]) -> StepResult | None:
        """A step of decode rows alone, without the bookkeeping of a mix; None for any other step."""
        growing = []
        for chunk in chunks:
            if chunk.sequence is None or not len(chunk.ids) == chunk.logits == 1:
                return None
            growing.append(self._sequences[chunk.sequence])
            if not growing[-1].ids:
                return None
        self._sequences.reserve(max(len(each.ids) for each in growing) + 1)
        step, order = self._decode_rows(growing, [chunk.ids[0] for chunk in chunks])
        logits = None
        if self._recorded_steps:
            logits = self._recorded_steps.logits(self._sequences, step.table_rows, step.ids, step.positions)
        found = (step.run(self._module).float() if logits is None else logits).split(1)
        for each, chunk in zip(growing, chunks, strict=True):
            each.ids.append(chunk.ids[0])
        return StepResult([found[i] for i in np.argsort(order)], len(chunks), 0, [0] * len(chunks))

    def _decode(self, chunks: Sequence[Chunk], growing: dict[int, Growing], indices: Sequence[int]) -> _Planned:
        """A token of each of some sequences."""
        rows, order = self._decode_rows([growing[i] for i in indices], [chunks[i].ids[0] for i in indices])
        return _Planned(rows, [indices[i] for i in order], [0] * len(indices))

    def _decode_rows(self, growing: Sequence[Growing], tokens: Sequence[int]) -> tuple[DecodingStep, IntArray]:
        """Decode rows in the order of the sequences' table rows, and which sequence each row is of."""
        table_rows = np.array([each.table_row for each in growing], dtype=np.int64)
        positions = np.array([len(each.ids) for each in growing], dtype=np.int64)
        ids = np.array(tokens, dtype=np.int64)
        order = np.argsort(table_rows)
        rows = DecodingStep(
            self._sequences, self._span_of, table_rows=table_rows[order], ids=ids[order], positions=positions[order]
        )
        return rows, order

    def _prefill(self, chunks: Sequence[Chunk], growing: dict[int, Growing], indices: Sequence[int]) -> _Planned:
        """More tokens of some sequences, each behind its own slots."""
        builder, cached = BatchBuilder(), []
        for index in indices:
            chunk, sequence = chunks[index], growing[index]
            ids, before = [*sequence.ids, *chunk.ids], len(sequence.ids)
            known = self._copy_cached(sequence, ids, len(ids) - chunk.logits, chunk.namespace)
            builder.enter(self._sequences.slots(sequence, 0, known))
            slots = self._sequences.slots(sequence, known, len(ids))
            builder.append(known, np.array(ids[known:], dtype=np.int64), chunk.logits, slots)
            cached.append(known - before)
            if self._max_bytes:
                self._prefilled.append((sequence, chunk.namespace))
        rows = RaggedForward(builder.finish(), self._sequences.cache, self._span_of, in_place=True)
        return _Planned(rows, indices, cached)

    def _copy_cached(self, sequence: Growing, ids: Sequence[int], limit: int, namespace: str) -> int:
        """Copy what is cached of `ids` behind a sequence's tokens. Returns how many of `ids` it then has."""
        before = len(sequence.ids)
        if not self._max_bytes or limit - before < BLOCK:
            return before
        cached = self._match(ids, limit, namespace)
        if len(cached) <= before:
            return before
        slots = self._sequences.slots(sequence, before, len(cached))
        self._sequences.cache.copy_from(self._open(), cached[before:], slots)
        return len(cached)

    def _prompt_batch(self, chunks: Sequence[Chunk], indices: Sequence[int]) -> _Planned:
        """Whole prompts, those of a namespace that begin alike next to each other."""
        cache = self._open()
        order = sorted(indices, key=lambda i: (chunks[i].namespace, tuple(chunks[i].ids)))
        builder, matched = BatchBuilder(self._first_slot), []
        namespace, before, entered = "", np.empty(0, dtype=np.int64), -1
        for index in order:
            chunk = chunks[index]
            ids = np.asarray(chunk.ids, dtype=np.int64)
            slots = self._match(chunk.ids, len(ids) - chunk.logits, chunk.namespace)
            shared = common_prefix(before, ids) if chunk.namespace == namespace else 0
            shared = shared if shared == len(ids) else shared - shared % BLOCK
            keep = len(slots)
            if shared > keep >= entered >= 0:
                keep = shared
            else:
                builder.enter(slots)
                entered = keep
            builder.append(keep, ids[keep:], chunk.logits)
            matched.append(len(slots))
            namespace, before = chunk.namespace, ids
        batch = builder.finish()
        cache.grow(self._first_slot + batch.rows, self._first_slot)
        rows = RaggedForward(batch, cache, self._span_of)
        if self._max_bytes:
            several = zip(order, batch.paths, matched, strict=True)
            computed = [_Computed(tuple(chunks[i].ids), path, known, chunks[i].namespace) for i, path, known in several]
            self._prompts = rows, computed
        return _Planned(rows, order, matched)

    def _match(self, ids: Sequence[int], limit: int, namespace: str) -> IntArray:
        """Slots of the first tokens of `ids` that are cached, at most so many."""
        runs = self._prefixes.match(ids, limit, namespace)
        return np.concatenate([np.arange(run.start, run.stop) for run in runs] or [np.empty(0, dtype=np.int64)])

    def _open(self) -> KvCache:
        """Slots for prefixes, as many as fit, and behind them those for the rows of prompts."""
        if self._cache is None:
            if self._max_bytes:
                builder, probe = BatchBuilder(), KvCache(1)
                builder.append(0, np.zeros(1, dtype=np.int64), 0)
                RaggedForward(builder.finish(), probe, self._span_of, in_place=True).run(self._module)
                self._first_slot = self._max_bytes // probe.token_bytes
                self._prefixes = PrefixCache(self._first_slot)
            self._cache = KvCache(self._first_slot + _BATCH_SLOTS)
        return self._cache

    def _insert_prefilled(self, sequence: Growing, namespace: str) -> None:
        cache, known = self._open(), self._sequences.cache
        if not known.is_finite(self._sequences.slots(sequence, 0, len(sequence.ids))):
            return
        if inserted := self._prefixes.insert(sequence.ids, 0, namespace):
            source = self._sequences.slots(sequence, inserted.start, inserted.start + len(inserted.slots))
            cache.copy_from(known, source, np.array(inserted.slots))

    def _insert_prompts(self, forward: RaggedForward, prompts: Sequence[_Computed]) -> None:
        if not forward.is_finite():
            return
        sources, targets = [], []
        for prompt in prompts:
            if inserted := self._prefixes.insert(prompt.ids, prompt.cached, prompt.namespace):
                sources.append(prompt.path[inserted.start : inserted.start + len(inserted.slots)])
                targets.append(np.array(inserted.slots))
        if sources:
            source, target = np.concatenate(sources), np.concatenate(targets)
            # Where a prompt's slots were taken again by one behind it, the later one has them.
            target, last = np.unique(target[::-1], return_index=True)
            forward.copy_to(self._open(), source[::-1][last], target)


def _in_order(chunks: Sequence[Chunk], planned: Sequence[_Planned], logits: Tensor) -> StepResult:
    """What a step gives, by chunk, of `logits` by part."""
    order = [index for each in planned for index in each.chunks]
    cached = [tokens for each in planned for tokens in each.cached]
    found = logits.split([chunks[index].logits for index in order])
    computed = sum(len(each.rows.ids) for each in planned)
    inverse = np.argsort(order).tolist()
    return StepResult([found[i] for i in inverse], computed, 0, [cached[i] for i in inverse])
