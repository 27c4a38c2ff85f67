"""Whose turn it is: callers share the models' time equally, whatever they ask and however many items that is.

By weighted fair queueing (Demers, Keshav and Shenker 1989): next is the caller who will have had the least time when
its next item is done. Time is measured; how long an item will take is predicted. Who comes starts level with those who
are there, so nobody saves up time. That level is the virtual time of Bennett and Zhang (WF²Q+, 1996): it goes on while
others run, so nobody waits for ever behind callers who come anew, and while nothing waits. Who goes and comes back has
had what it had, until that level has reached it: else to go for a moment would be worth more than to stay.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

from server.batching import Item
from server.round_robin import interleave
from server.slots import Slots

T = TypeVar("T")

_WEIGHT_OF_REFUSED = 8
"""A refused caller's time counts so many times. Such callers ask for more than there is, and their steps end early for
others; eight of them still get half of the time."""

_MICROSECONDS = 6
"""Digits to which ends of turns are compared: sums that differ less differ by rounding."""


@dataclass(slots=True)
class Caller(Generic[T]):
    """Who has items waiting or a running sequence, or had them a moment ago."""

    calls: dict[Hashable, dict[Item[T], None]] = field(default_factory=dict)
    """Those with items waiting, in the order of their turns; a dict serves as an ordered set of items."""

    seen: float = float("-inf")
    """When a batch was last taken while it had items waiting, or a running sequence, or when its last batch ended."""

    time: float = 0.0
    """Seconds of the models' time that it had. Who comes counts as having had as much as those who are there."""

    def first(self, slots: Mapping[str, Slots]) -> Item[T] | None:
        """The item that its next turn begins with, if it has one that can run."""
        for call in self.calls.values():
            for item in call:
                if not item.needs_slot or can_run(item, slots):
                    return item
                break  # those of a call need a place, or need none
        return None


class Candidate(NamedTuple, Generic[T]):
    """A caller's next turn."""

    end: float
    """The time that its caller will have had after it."""

    seconds: float
    """How long the first item takes, by prediction."""

    item: Item[T]
    """The first one."""

    caller: Caller[T]

    weight: int
    """How many times its time counts."""


_END = attrgetter("end")


class FairQueueing(Generic[T]):
    """Keeps count of time. Not safe for use from several threads at once."""

    def __init__(self, shortest: int, was_refused: Callable[[Hashable], bool]) -> None:
        """Count from 0.

        Args:
            shortest: an item with fewer tokens takes as long as with this many.
            was_refused: whether a caller was refused lately.
        """
        self._shortest = shortest
        self._was_refused = was_refused
        self._virtual_time = 0.0
        """What a caller has had who was there all along, with an equal share."""
        self._shares = 1.0
        """Among how many callers the time of the last batch is divided."""
        self._longest = 0.0
        """What the longest of the next turns is to be charged."""
        self._ahead: frozenset[Hashable] = frozenset()
        """Who goes before all others next."""
        self._gone: dict[Hashable, float] = {}
        """The time of callers who have gone, and had more than their share."""

    def come(self, name: Hashable, caller: Caller[T]) -> None:
        """Let a caller start who had nothing waiting."""
        caller.time = max(caller.time, self._virtual_time, self._gone.pop(name, 0.0))

    def go(self, callers: Mapping[Hashable, Caller[T]]) -> None:
        """Remember what callers had who are forgotten otherwise, as far as it is more than their share."""
        self._gone.update((name, caller.time) for name, caller in callers.items())
        if self._gone:
            self._gone = {name: time for name, time in self._gone.items() if time > self._virtual_time}

    def rest(self, callers: Mapping[Hashable, Caller[T]], seconds: float) -> None:
        """Let `seconds` pass in which nothing waited that could run: all who wait now have come since."""
        self._virtual_time += seconds
        for name, caller in callers.items():
            if caller.calls:
                self.come(name, caller)

    def let_ahead(self, callers: Iterable[Hashable]) -> None:
        """Let `callers` go before all others next, however much time they had."""
        self._ahead = frozenset(callers)

    def order(
        self, callers: Mapping[Hashable, Caller[T]], slots: Mapping[str, Slots], prices: Mapping[str, float]
    ) -> list[Candidate[T]]:
        """The next turns, the first one first; of equal ones, in the order of `callers`.

        Args:
            callers: all that there are. Those who have nothing that can run have no turn, and get nothing back later.
            slots: for sequences, by model.
            prices: predicted seconds of a token, by model; 0 where nothing is known.
        """
        candidates: list[Candidate[T]] = []
        shares, least = 0.0, math.inf
        for name, caller in callers.items():  # of whom there may be hundreds
            if not caller.calls:
                continue
            item = caller.first(slots)
            if item is None:
                self.come(name, caller)
                continue
            seconds = self._seconds(item, prices)
            weight = _WEIGHT_OF_REFUSED if self._was_refused(name) else 1
            shares += 1 / weight
            least = min(least, caller.time)
            end = round(caller.time + weight * seconds, _MICROSECONDS)
            candidates.append(Candidate(end, seconds, item, caller, weight))
        if candidates:
            candidates.sort(key=_END)
            self._shares = shares
            self._longest = max(candidate.weight * candidate.seconds for candidate in candidates)
            # Callers who were let ahead had more than their share. Who comes does not wait until the others have, too.
            self._virtual_time = max(least, min(self._virtual_time, candidates[0].end))
        if self._ahead:
            candidates.sort(key=lambda candidate: candidate.item.caller not in self._ahead)
            self._ahead = frozenset()
        return candidates

    def items(
        self, candidates: Sequence[Candidate[T]], slots: Mapping[str, Slots], prices: Mapping[str, float]
    ) -> Iterator[tuple[int, Item[T]]]:
        """What a batch is filled with, each item with how many of its caller come before it.

        They are the first item of every candidate, and then always one of the caller who will have had the least time.
        """
        for candidate in candidates:  # lazily: of hundreds, a batch needs a few
            yield 0, candidate.item
        further = [itertools.islice(_waiting(candidate.caller, slots), 1, None) for candidate in candidates]
        heap: list[tuple[float, int, int, Item[T]]] = []

        def push(number: int, rank: int, before: float) -> None:
            if (item := next(further[number], None)) is not None:
                end = before + candidates[number].weight * self._seconds(item, prices)
                heapq.heappush(heap, (round(end, _MICROSECONDS), rank, number, item))

        for number, candidate in enumerate(candidates):
            push(number, 1, candidate.end)
        while heap:
            end, rank, number, item = heapq.heappop(heap)
            yield rank, item
            push(number, rank + 1, end)

    def is_due(self, caller: Caller[T], first: Candidate[T]) -> bool:
        """Whether a caller has had no more than the one whose turn is `first` will have had after it."""
        return round(caller.time, _MICROSECONDS) <= first.end

    def charge(self, callers: Mapping[Hashable, Caller[T]], batch: Sequence[Item[T]], seconds: float) -> None:
        """Count the `seconds` that a batch took as the time of its callers, by their tokens.

        Nobody has more of a lead than turns take: else callers who share the batches of others, or were let ahead,
        would later wait for as long as that went on.
        """
        tokens = sum(item.tokens for item in batch) or 1
        for item in batch:
            if caller := callers.get(item.caller):
                charged = seconds * (_WEIGHT_OF_REFUSED if self._was_refused(item.caller) else 1)
                limit = self._virtual_time + self._longest + charged
                caller.time = min(caller.time + charged * item.tokens / tokens, limit)
        self._virtual_time += seconds / self._shares

    def _seconds(self, item: Item[T], prices: Mapping[str, float]) -> float:
        """How long an item takes, by prediction."""
        return prices[item.model] * max(item.tokens, self._shortest)


def can_run(item: Item[T], slots: Mapping[str, Slots]) -> bool:
    """Whether an item needs no slot, or its caller may have one."""
    return not item.needs_slot or (item.model in slots and slots[item.model].may_start(item.caller))


def _waiting(caller: Caller[T], slots: Mapping[str, Slots]) -> Iterator[Item[T]]:
    """What a caller has waiting that can run, its calls in turn."""
    return (item for _, item in interleave(caller.calls.values()) if can_run(item, slots))
