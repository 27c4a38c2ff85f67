"""What may be in one batch: items that are alike enough to run together, within the bounds of a batch.

Which of them a batch is filled with, and in which order, is up to the queue (`server.queue`).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from server.admission import Load
from server.slots import Slots

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Bounds of a batch and of the queue."""

    batch_tokens: int = 4096
    """Tokens of a batch, padding included. One longer item still runs, alone."""

    batch_items: int = 64
    """Items of a batch."""

    batch_bytes: int = 256 * 1024 * 1024
    """Memory for a batch's output."""

    padding: float = 0.25
    """Largest share of a batch's tokens that may be padding."""

    shortest: int = 32
    """Items shorter than this cost the model as much as this many tokens, so padding them up to it counts as free."""

    waiting_items: int = 2048
    """Items that may wait for one model."""

    waiting_tokens: int = 256 * 1024
    """Tokens that may wait for one model. One longer call may still wait alone."""


@dataclass(eq=False, slots=True)
class Item(Generic[T]):
    """A sequence that waits for the model. Two items are never equal."""

    payload: T
    tokens: int
    """Tokens to compute now: all of the sequence, or a chunk."""

    model: str
    """The model that it waits for."""

    batch_key: Hashable
    """Items of equal batch key, which are all of one model, may share a batch, others never."""

    caller: Hashable
    """Who asks."""

    call: Hashable
    """Which of the caller's calls. The items of one call keep their order."""

    output_bytes: int = 0
    """Memory for this item's output."""

    padded: bool = True
    """Whether its model pads a batch's sequences to the longest; so do all of a batch key, or none."""

    deadline: float = float("inf")
    """When the item expires, in seconds of the clock that `Queue.take` is given."""

    later_tokens: int = 0
    """Tokens of the same sequence that later chunks have."""

    chunk_tokens: int | None = None
    """For a chunk: the most tokens that all chunks of a batch have, unless one alone has more."""

    shared_tokens: int | None = None
    """Tokens of a batch up to which it may hold this item beside those whose turn it is, while others come too; None
    is as many as fit."""

    needs_slot: bool = False
    """Whether it waits for a slot; not where it needs none, or has one."""

    times_put_back: int = 0
    """How often it was put back into the queue without having run."""

    @property
    def load(self) -> Load:
        """What waits with it: all tokens of the sequence that remain."""
        return Load(1, self.tokens + self.later_tokens, int(self.needs_slot))


class Batch(Generic[T]):
    """A batch that is being filled."""

    def __init__(self, first: Item[T], limits: Limits, slots: Slots) -> None:
        """Begin with `first`, whatever its size. `slots` of its model count what starts."""
        self.items: list[Item[T]] = []
        self._limits = limits
        self._slots = slots
        self._padded = first.padded
        self._tokens = self._longest = self._useful = self._bytes = self._chunk_tokens = 0
        self._add(first)

    def add_if_it_fits(self, item: Item[T], max_tokens: int | None = None) -> None:
        """Add an item, if the batch has no more than `max_tokens` with it, and keeps its other bounds."""
        limits = self._limits
        count = len(self.items) + 1
        longest = max(self._longest, item.tokens)
        tokens = self._tokens + item.tokens
        useful = self._useful + max(item.tokens, limits.shortest)
        total = count * max(longest, limits.shortest) if self._padded else useful
        if (
            count <= limits.batch_items
            and (max_tokens is None or tokens <= max_tokens)
            and (count * longest if self._padded else tokens) <= limits.batch_tokens
            and total - useful <= limits.padding * total
            and self._bytes + item.output_bytes <= limits.batch_bytes
            and (not item.needs_slot or self._slots.may_start(item.caller))
            and self._fits_beside_chunks(item)
        ):
            self._add(item)

    def _fits_beside_chunks(self, item: Item[T]) -> bool:
        """Whether an item is no chunk, or the first, or leaves the batch's chunks within their tokens."""
        return (
            item.chunk_tokens is None or not self._chunk_tokens or self._chunk_tokens + item.tokens <= item.chunk_tokens
        )

    def _add(self, item: Item[T]) -> None:
        self.items.append(item)
        self._tokens += item.tokens
        self._longest = max(self._longest, item.tokens)
        self._useful += max(item.tokens, self._limits.shortest)
        self._bytes += item.output_bytes
        if item.needs_slot:
            self._slots.start(item.caller)
        if item.chunk_tokens is not None:
            self._chunk_tokens += item.tokens
