"""Which waiting work runs next: pure policy, free of torch, gRPC, threads and clocks.

The policy in five rules:

1. Nothing waits while the model is idle: `Queue.take` gives a batch whenever anything waits.
2. Callers take turns. A batch begins with an item of the caller who has waited longest for a turn, and is filled with
   one item of every caller, then a second, and so on; the calls of one caller take turns the same way.
3. A batch is bounded by its tokens, padding included, by its items and by the memory of what is read out.
4. Where a model pads, similar lengths go together: padding may take a small share of a batch only.
5. What nobody waits for any more is dropped before it costs anything, and a full queue refuses at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from server.round_robin import interleave

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Bounds of a batch and of the queue."""

    batch_tokens: int = 4096
    """Tokens of a batch, padding included. One longer item still runs, alone."""

    batch_items: int = 64
    """Items of a batch."""

    batch_bytes: int = 256 * 1024 * 1024
    """Memory for what a batch reads out of the model."""

    padding: float = 0.25
    """Largest share of a batch's tokens that may be padding."""

    shortest: int = 32
    """Items shorter than this cost the model as much as this many tokens, so padding them up to it counts as free."""

    waiting_items: int = 2048
    """Items that may wait."""

    waiting_tokens: int = 256 * 1024
    """Tokens that may wait. One longer call still enters an empty queue."""


@dataclass(eq=False, slots=True)
class Item(Generic[T]):
    """A sequence that waits for the model. Two items are never equal."""

    payload: T
    tokens: int
    """Length of the sequence."""

    batch_key: Hashable
    """Items of equal batch key may share a batch, others never."""

    caller: Hashable
    """Who asks; callers take turns."""

    call: Hashable
    """Which of the caller's calls; a caller's calls take turns, and the items of one call keep their order."""

    output_bytes: int = 0
    """Memory for what this item reads out of the model."""

    padded: bool = True
    """Whether its model pads a batch's sequences to the longest; so do all of a batch key, or none."""

    deadline: float = float("inf")
    """Nobody waits for the item at this moment or later, in seconds of the clock that `Queue.take` is given."""


@dataclass(frozen=True)
class Schedule(Generic[T]):
    """What to run now, and what expired while it waited."""

    batch: tuple[Item[T], ...]
    expired: tuple[Item[T], ...]


class QueueOverflowError(Exception):
    """The call does not fit into the queue; nothing of it was queued. `tokens` are waiting already."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"{tokens} tokens are waiting already")
        self.tokens = tokens


class Queue(Generic[T]):
    """Items on their way into batches. Not safe for use from several threads at once."""

    # How many items, in the order of turns, are looked at to fill a batch: enough to find similar lengths, and few
    # enough that scheduling costs far less than the batch.
    _WINDOW = 4

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # Callers, and each caller's calls, in the order of their turns; a dict serves as an ordered set of items.
        self._callers: dict[Hashable, dict[Hashable, dict[Item[T], None]]] = {}
        self._items = 0
        self._tokens = 0

    def __len__(self) -> int:
        return self._items

    @property
    def tokens(self) -> int:
        """Tokens that wait."""
        return self._tokens

    def offer(self, items: Sequence[Item[T]], max_tokens: float = float("inf")) -> None:
        """Add all of `items`, or none of them.

        Args:
            max_tokens: tokens that may wait for now, where that is less than the limit. As with the limit, an empty
                queue takes any call.

        Raises:
            QueueOverflowError: they do not fit.
        """
        tokens = sum(item.tokens for item in items)
        too_many = self._items + len(items) > self._limits.waiting_items
        too_long = self._tokens > 0 and self._tokens + tokens > min(max_tokens, self._limits.waiting_tokens)
        if too_many or too_long:
            raise QueueOverflowError(self._tokens)
        for item in items:
            self._callers.setdefault(item.caller, {}).setdefault(item.call, {})[item] = None
        self._items += len(items)
        self._tokens += tokens

    def withdraw(self, items: Iterable[Item[T]]) -> None:
        """Take out those of `items` that still wait."""
        for item in items:
            calls = self._callers.get(item.caller, {})
            waiting = calls.get(item.call, {})
            if item not in waiting:
                continue
            del waiting[item]
            self._items -= 1
            self._tokens -= item.tokens
            if not waiting:
                del calls[item.call]
            if not calls:
                del self._callers[item.caller]

    def take(self, now: float) -> Schedule[T]:
        """Take out the next batch, which is empty only if nothing waits, and whatever expired by `now`."""
        expired = tuple(item for _, item in self._turns() if item.deadline <= now)
        self.withdraw(expired)
        batch = tuple(self._next_batch())
        self.withdraw(batch)
        for item in batch:
            self._rotate(item)
        return Schedule(batch, expired)

    def _next_batch(self) -> list[Item[T]]:
        turns = self._turns()
        _, first = next(turns, (0, None))
        if first is None:
            return []
        batch = _Batch(first, self._limits)
        window: Iterator[tuple[int, Item[T]]] = itertools.islice(
            ((rank, item) for rank, item in turns if item.batch_key == first.batch_key),
            self._WINDOW * self._limits.batch_items,
        )
        if first.padded:  # Within one round of turns, those nearest in length come first.
            window = iter(sorted(window, key=lambda rank: (rank[0], abs(rank[1].tokens - first.tokens))))
        for _, item in window:
            batch.add_if_it_fits(item)
        return batch.items

    def _turns(self) -> Iterator[tuple[int, Item[T]]]:
        """All items in the order of turns, each with the number of its caller's turn."""
        return interleave((item for _, item in interleave(calls.values())) for calls in self._callers.values())

    def _rotate(self, item: Item[T]) -> None:
        """Move the item's caller and call behind all others."""
        calls = self._callers.pop(item.caller, None)
        if calls is None:
            return
        self._callers[item.caller] = calls
        if waiting := calls.pop(item.call, None):
            calls[item.call] = waiting


class _Batch(Generic[T]):
    """A batch that is being filled."""

    def __init__(self, first: Item[T], limits: Limits) -> None:
        self.items = [first]
        self._limits = limits
        self._padded = first.padded
        self._tokens = first.tokens
        self._longest = first.tokens
        self._useful = max(first.tokens, limits.shortest)
        self._bytes = first.output_bytes

    def add_if_it_fits(self, item: Item[T]) -> None:
        limits = self._limits
        count = len(self.items) + 1
        longest = max(self._longest, item.tokens)
        tokens = self._tokens + item.tokens
        useful = self._useful + max(item.tokens, limits.shortest)
        total = count * max(longest, limits.shortest) if self._padded else useful
        output_bytes = self._bytes + item.output_bytes
        if (
            count <= limits.batch_items
            and (count * longest if self._padded else tokens) <= limits.batch_tokens
            and total - useful <= limits.padding * total
            and output_bytes <= limits.batch_bytes
        ):
            self.items.append(item)
            self._tokens, self._longest, self._useful, self._bytes = tokens, longest, useful, output_bytes
