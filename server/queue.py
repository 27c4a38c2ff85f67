"""Which waiting work runs next: pure policy, free of torch, gRPC, threads and clocks.

The policy in seven rules:

1. Nothing waits while the model is idle: `Queue.take` returns a batch whenever something that can run waits.
2. Callers take turns by time, whatever they ask (`server.fair_queueing`). A batch begins with an item of the caller
   who, with it, will have had the least of the models' time; among equals, of the one whose last turn was longest ago.
   It is filled with one item of every caller, then always with one of who will have had the least; in one caller's
   turn, its calls take turns.
3. A batch is bounded by its tokens, padding included, by its items and by the memory of its output.
4. A long prompt is prefilled in chunks. Each is an item, the next one waits for its turn behind all others, and a batch
   has few tokens of them. A sequence that is to run waits until one more may.
5. Where a model pads, similar lengths go together: padding may take a small share of a batch only.
6. Where several callers come, a batch is no longer than a turn of each needs: more than one item of a caller is in it
   only up to a few tokens. So nobody waits for all that another sent at once. Of the caller whose turn it is, as much
   is in it as takes no longer than the longest of the items that others' turns begin with. Whoever has more waiting
   than these few tokens take is backlogged: unless all callers are, those who are do not share the batches of those who
   are not, and share theirs with each other up to these few tokens. A longer item is added only if its caller has had
   no more than the one whose turn it is will have had. A caller who is alone has whole batches. Who has a running
   sequence is there too.
7. Expired items are dropped before they cost anything, and a full queue refuses at once: items, tokens and sequences
   that wait for a model are bounded. A caller with less than an equal share of them is admitted anyway.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

from server.admission import Admission, Load
from server.batching import Batch, Item, Limits
from server.fair_queueing import Caller, Candidate, FairQueueing
from server.slots import Slots

T = TypeVar("T")


@dataclass(frozen=True)
class Schedule(Generic[T]):
    """What to run now, and what has expired."""

    batch: tuple[Item[T], ...]
    expired: tuple[Item[T], ...]


class Queue(Generic[T]):
    """Items on their way into batches. Not safe for use from several threads at once."""

    # How many items, in the order of turns, are looked at to fill a batch: enough to find similar lengths, and few
    # enough that scheduling costs far less than the batch.
    _WINDOW = 4

    # How long a caller keeps its place after its last item: others' batches stay short meanwhile.
    _SEEN_SECONDS = 1.0

    def __init__(
        self,
        limits: Limits,
        seconds_per_token: Callable[[str], float] = lambda _: 0.0,
        was_refused: Callable[[Hashable], bool] = lambda _: False,
    ) -> None:
        """Hold nothing.

        Args:
            seconds_per_token: of a model, as far as is known; 0 where it is not.
            was_refused: whether a caller was refused lately.
        """
        self._limits = limits
        self._seconds_per_token = seconds_per_token
        self._fair: FairQueueing[T] = FairQueueing(limits.shortest, was_refused)
        self._callers: dict[Hashable, Caller[T]] = {}
        """In the order of their last candidates."""
        self._admissions: defaultdict[str, Admission] = defaultdict(
            lambda: Admission(limits.waiting_items, limits.waiting_tokens)
        )
        """Of each model."""
        self._earliest_deadline = float("inf")
        """Of all items that wait, or of one that has left."""
        self._resting_since: float | None = None
        """When a batch was last asked for and nothing waited that could run; None if a batch was taken since."""

    def __len__(self) -> int:
        return sum(admission.total.items for admission in self._admissions.values())

    @property
    def waiting(self) -> dict[str, Load]:
        """What waits for each model."""
        return {model: admission.total for model, admission in self._admissions.items() if admission.total.items}

    def check(self, model: str, caller: Hashable, max_tokens: float) -> None:
        """Check whether `caller` may add an item for `model`; see `Admission.check`.

        Raises:
            QueueOverflowError: it may not.
        """
        self._admissions[model].check(caller, Load(items=1, tokens=1), max_tokens=max_tokens)

    def offer(
        self, items: Sequence[Item[T]], max_tokens: float = float("inf"), max_sequences: float = float("inf")
    ) -> None:
        """Add all `items` of a call, one at least, or none of them; see `Admission.check`.

        Raises:
            QueueOverflowError: they do not fit.
        """
        load = sum((item.load for item in items), Load())
        self._admissions[items[0].model].check(
            items[0].caller, load, max_tokens=max_tokens, max_sequences=max_sequences
        )
        for item in items:
            self.put(item)

    def put(self, item: Item[T], *, first: bool = False) -> None:
        """Add an item of a call that was admitted before: its next chunk, or a sequence that is prefilled again.

        Args:
            first: whether it goes before what else its caller has waiting.
        """
        caller = self._callers.setdefault(item.caller, Caller())
        if not caller.calls:
            self._fair.come(item.caller, caller)
        caller.calls.setdefault(item.call, {})[item] = None
        if first:
            caller.calls = {item.call: caller.calls.pop(item.call), **caller.calls}
        self._count(item)

    def put_back(self, batch: Sequence[Item[T]], is_ahead: Callable[[Hashable], bool] = lambda _: False) -> None:
        """Put back a batch that was not run. It has its turn again, before what else its callers have waiting.

        Args:
            is_ahead: whether a caller goes before them, if it has items waiting. The others keep their places behind
                them: else a caller whose batches are put back again and again might never have one that runs.
        """
        for item in reversed(batch):
            caller = self._callers.setdefault(item.caller, Caller())
            others = caller.calls.pop(item.call, {})
            caller.calls = {item.call: {item: None, **others}, **caller.calls}
            item.times_put_back += 1
            self._count(item)
        again = dict.fromkeys(item.caller for item in batch)
        ahead = [
            name for name, caller in self._callers.items() if name not in again and caller.calls and is_ahead(name)
        ]
        self._callers = {name: self._callers[name] for name in dict.fromkeys((*ahead, *again, *self._callers))}
        self._fair.let_ahead(ahead)

    def charge(self, batch: Sequence[Item[T]], seconds: float, now: float) -> None:
        """Count the `seconds` that a batch took, until `now`, as the time of its callers."""
        for item in batch:
            if item.caller in self._callers:
                self._callers[item.caller].seen = now
        self._fair.charge(self._callers, batch, seconds)

    def withdraw(self, items: Iterable[Item[T]]) -> None:
        """Take out those of `items` that still wait."""
        for item in items:
            calls = self._callers[item.caller].calls if item.caller in self._callers else {}
            waiting = calls.get(item.call, {})
            if item not in waiting:
                continue
            del waiting[item]
            self._admissions[item.model].leave(item.caller, item.load)
            if not waiting:
                del calls[item.call]

    def take(
        self,
        now: float,
        slots: Mapping[str, Slots] = MappingProxyType({}),
        running: Collection[Hashable] = (),
    ) -> Schedule[T]:
        """Take out the next batch and whatever expired by `now`. The batch is empty only if nothing waits that can run.

        Args:
            slots: for sequences, by model. They count what starts.
            running: callers who have a running sequence.
        """
        expired = self._take_expired(now)
        self._look(now, running)
        if self._resting_since is not None:
            self._fair.rest(self._callers, max(0.0, now - self._resting_since))
        prices = {model: self._seconds_per_token(model) for model in self._admissions}
        candidates = self._fair.order(self._callers, slots, prices)
        batch = tuple(self._next_batch(candidates, slots, prices))
        self._resting_since = None if batch else now
        self.withdraw(batch)
        # All have had their turn now, and those who have more waiting stand behind.
        for item in sorted(batch, key=lambda item: self._tokens(item.caller)):
            self._rotate(item)
        return Schedule(batch, expired)

    def _count(self, item: Item[T]) -> None:
        """Take note of an item that waits from now on."""
        self._admissions[item.model].enter(item.caller, item.load)
        self._earliest_deadline = min(self._earliest_deadline, item.deadline)

    def _take_expired(self, now: float) -> tuple[Item[T], ...]:
        """Take out the items whose deadline has passed."""
        if now < self._earliest_deadline:  # hundreds may wait: they are not looked through at every step
            return ()
        expired = tuple(item for item in self._waiting() if item.deadline <= now)
        self.withdraw(expired)
        self._earliest_deadline = min((item.deadline for item in self._waiting()), default=float("inf"))
        return expired

    def _look(self, now: float, running: Collection[Hashable]) -> None:
        """Note who is there, and forget who has been gone for a while."""
        for name in running:
            self._callers.setdefault(name, Caller())
        gone: dict[Hashable, Caller[T]] = {}
        for name, caller in self._callers.items():
            if caller.calls or name in running:
                caller.seen = now
            elif caller.seen <= now - self._SEEN_SECONDS:
                gone[name] = caller
        for name in gone:
            del self._callers[name]
        self._fair.go(gone)

    def _next_batch(
        self, candidates: Sequence[Candidate[T]], slots: Mapping[str, Slots], prices: Mapping[str, float]
    ) -> list[Item[T]]:
        if not candidates:
            return []
        first = candidates[0].item
        calls = candidates[0].caller.calls
        if len(candidates) == len(calls) == len(calls[first.call]) == 1:  # most often
            return [first]
        batch = Batch(first, self._limits, slots.get(first.model, Slots()))
        is_short = len(self._callers) > 1 and first.shared_tokens is not None
        items = self._fair.items(candidates, slots, prices)
        next(items)  # the first
        window: Iterator[tuple[int, Item[T]]] = itertools.islice(
            ((rank, item) for rank, item in items if item.batch_key == first.batch_key),
            (1 if is_short else self._WINDOW) * self._limits.batch_items,
        )
        if first.padded:  # Within one round of turns, those nearest in length come first.
            window = iter(sorted(window, key=lambda rank: (rank[0], abs(rank[1].tokens - first.tokens))))
        price = prices[first.model]
        longest = int(max((candidate.seconds for candidate in candidates[1:]), default=0.0) / price) if price else 0
        is_alone = len(self._callers) == 1

        def is_due(item: Item[T]) -> bool:
            return self._fair.is_due(self._callers[item.caller], candidates[0])

        backlogged = functools.cache(functools.partial(self._backlogged, model=first.model, prices=prices))
        for rank, item in window:
            limit = item.shared_tokens
            if not is_alone and self._is_long(item) and not is_due(item):
                continue
            if limit is None or is_alone or (rank == 0 and item.caller not in backlogged(limit)):
                batch.add_if_it_fits(item)
            elif item.caller == first.caller:
                batch.add_if_it_fits(item, max(limit, longest))
            elif item.caller not in backlogged(limit) or first.caller in backlogged(limit):
                batch.add_if_it_fits(item, limit)
        return batch.items

    def _is_long(self, item: Item[T]) -> bool:
        """Whether an item lengthens a batch by more than what all callers share."""
        limit = self._limits.shortest if item.chunk_tokens is not None else item.shared_tokens
        return limit is not None and item.tokens > limit

    def _backlogged(self, tokens: int, model: str, prices: Mapping[str, float]) -> set[Hashable]:
        """The callers with more waiting than so many tokens of `model` take; none if all have."""
        waiting: dict[Hashable, float] = defaultdict(float)
        for other, admission in self._admissions.items():
            rate = prices[other] / prices[model] if prices[other] and prices[model] else 1.0
            for caller, load in admission.loads.items():
                waiting[caller] += rate * load.tokens
        found = {caller for caller, much in waiting.items() if much > tokens}
        return set() if len(found) == len(self._callers) else found

    def _tokens(self, caller: Hashable) -> int:
        """Tokens that a caller has waiting, whichever model they are for."""
        return sum(admission.load(caller).tokens for admission in self._admissions.values())

    def _waiting(self) -> Iterator[Item[T]]:
        """All items, in any order."""
        return (item for caller in self._callers.values() for call in caller.calls.values() for item in call)

    def _rotate(self, item: Item[T]) -> None:
        """Move the item's caller and call behind all others."""
        caller = self._callers.pop(item.caller)
        self._callers[item.caller] = caller
        if waiting := caller.calls.pop(item.call, None):
            caller.calls[item.call] = waiting
