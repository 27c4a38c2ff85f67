"""Whose turn it is: callers take turns, whatever each of them has waiting."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


class RoundRobin(Generic[H]):
    """Items of several callers. Iterates in the order of turns: one item of every caller, then a second, and so on.

    Not safe for use from several threads at once.
    """

    def __init__(self) -> None:
        """Hold nothing."""
        # Callers in the order of their turns, and the items of each; a dict serves as an ordered set.
        self._callers: dict[Hashable, dict[H, None]] = {}
        self._caller_of: dict[H, Hashable] = {}

    def __len__(self) -> int:
        return len(self._caller_of)

    def __contains__(self, item: H) -> bool:
        return item in self._caller_of

    def __iter__(self) -> Iterator[H]:
        return (item for _, item in interleave(self._callers.values()))

    def add(self, item: H, caller: Hashable) -> None:
        """Add an item behind those of its caller."""
        self._callers.setdefault(caller, {})[item] = None
        self._caller_of[item] = caller

    def remove(self, item: H) -> None:
        """Take an item out, if it is there; its caller keeps the turn."""
        if item not in self._caller_of:
            return
        caller = self._caller_of.pop(item)
        del self._callers[caller][item]
        if not self._callers[caller]:
            del self._callers[caller]

    def rotate(self, item: H) -> None:
        """Let everybody else go first: an item has had its turn, and its caller too."""
        caller = self._caller_of[item]
        items = self._callers.pop(caller)
        del items[item]
        items[item] = None
        self._callers[caller] = items


def interleave(sources: Iterable[Iterable[T]]) -> Iterator[tuple[int, T]]:
    """The first of every source, then the second of every source, and so on, each with the number of its round."""
    # Lazily: of hundreds of sources, a batch needs a few items.
    iterators: Iterable[Iterator[T]] = map(iter, sources)
    for rank in itertools.count():
        unfinished = []
        for iterator in iterators:
            for element in iterator:
                yield rank, element
                unfinished.append(iterator)
                break
        if not unfinished:
            return
        iterators = unfinished
