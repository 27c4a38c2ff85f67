"""Sequences that grow from step to step, and the slots of their keys and values."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from ml.runtime.kv_cache import KvCache
from ml.runtime.ragged_batch import IntArray

_FIRST_CAPACITY = 64


@dataclass(eq=False)
class Growing:
    """A sequence: the tokens whose keys and values lie in its slots, and where these are among the others'."""

    table_row: int
    ids: list[int] = field(default_factory=list)


class Sequences:
    """Each sequence has a stretch of slots, position by position; all are as long, and grow with the longest.

    So what a step's decode rows see is one table, [sequences, capacity], that attention reads as it stands.
    """

    def __init__(self, *, keep: bool = False) -> None:
        """Hold no sequence, and no memory.

        Args:
            keep: whether the table stays where it is when the last sequence leaves, for what is recorded of it.
        """
        self._keep = keep
        self._numbers = itertools.count()
        self.clear()

    def clear(self) -> None:
        """Drop all sequences. Their numbers are not given again."""
        self.cache = KvCache(0)
        self.capacity = 0
        """Slots of each sequence."""
        self._max_sequences = 0  # sequences that there are slots for
        self._by_number: dict[int, Growing] = {}
        self._by_row: list[Growing] = []

    def begin(self) -> int:
        """Add a sequence without tokens. Returns its number."""
        number = next(self._numbers)
        self._by_number[number] = Growing(len(self._by_row))
        self._by_row.append(self._by_number[number])
        return number

    def __getitem__(self, number: int) -> Growing:
        """The sequence of that number.

        Raises:
            KeyError: there is none, or it was lost.
        """
        return self._by_number[number]

    def slots(self, sequence: Growing, start: int, stop: int) -> IntArray:
        """Of the positions from `start` to `stop`."""
        first = sequence.table_row * self.capacity
        return np.arange(first + start, first + stop)

    def reserve(self, length: int) -> None:
        """Make room for all sequences, of up to `length` tokens. Where memory does not suffice, all are lost."""
        max_sequences, capacity = self._max_sequences, self.capacity
        while self._max_sequences < len(self._by_row):
            self._max_sequences = max(1, 2 * self._max_sequences)
        while self.capacity < length:
            self.capacity = max(_FIRST_CAPACITY, 2 * self.capacity)
        if (max_sequences, capacity) != (self._max_sequences, self.capacity):
            try:
                self.cache.stretch(max_sequences, capacity, self._max_sequences, self.capacity)
            except BaseException:
                self.clear()
                raise

    def drop(self, number: int) -> None:
        """Forget a sequence; the last one takes its place. Without any, no memory is held but what is to be kept."""
        sequence = self._by_number.pop(number, None)
        if sequence is None:
            return
        last = self._by_row.pop()
        if not self._by_row and not self._keep:
            self.cache, self.capacity, self._max_sequences = KvCache(0), 0, 0
        elif last.table_row < self._max_sequences:  # else no step has been since it began
            source = self.slots(last, 0, self.capacity)
            if last is not sequence:
                self.cache.copy_from(self.cache, source, self.slots(sequence, 0, self.capacity))
            # What a mask hides is multiplied by 0, and a number that is not one would come through.
            self.cache.clear(source)
        if last is not sequence:
            last.table_row = sequence.table_row
            self._by_row[last.table_row] = last
