"""Lay prompts out as a forest: each run of tokens that some of them share goes through the model once.

The rows of all prompts stand end to end, without padding, in the order of a depth-first walk through the tree that
their beginnings make. A *segment* is a run of rows of one branch; its rows see each other causally, and every row of
the branches that grow out of it, which are the rows right behind it, sees the whole of it. The same holds for what the
model remembers of earlier prompts: a run of rows sees the whole of it. So attention is a causal product for each
segment and a plain one for each *visit*, and nothing is copied or masked. (`ml.packing` cuts finer, at any token in
place of at blocks: that suits the variants of one prompt, of which explanations compute hundreds.)

This module is arithmetic on indices: no torch, no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ml.prefixes import BLOCK, Piece

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Visit:
    """Rows that see all of some keys."""

    rows: range
    keys: range | Piece
    """Of other rows, or remembered."""


class Forest:
    """Prompts laid out.

    Attributes:
        ids, positions: of each row, [R].
        segments: runs of rows that see each other causally, in order; together they are all rows.
        visits: what rows see beside their own segment.
        readout: the rows of the last `tails` positions of each prompt, one prompt after the other.
        recalled: for each prompt, how many first positions were remembered.
    """

    def __init__(
        self, sequences: Sequence[Sequence[int]], tails: Sequence[int], recalled: Sequence[Sequence[Piece]]
    ) -> None:
        """Lay `sequences` out.

        Args:
            sequences: token ids, each at least one.
            tails: how many last positions of each will be read out. None of them may be remembered.
            recalled: what is remembered of each sequence's beginning.
        """
        self.recalled = [sum(len(piece.places) for piece in pieces) for pieces in recalled]
        self._sequences = sequences
        self._paths: list[Indices] = [np.empty(0, dtype=np.int64)] * len(sequences)
        self._starts: list[tuple[int, int]] = []  # of each run of new rows: its first row and position
        self._ends: list[int] = []  # of each row: where the rows that see it end
        self._walk(recalled)
        self.ids = np.concatenate(self._ids)
        self.positions = np.concatenate(self._positions)
        self.readout = np.concatenate([path[-tail:] for path, tail in zip(self._paths, tails, strict=True)])
        self._cut()

    @property
    def rows(self) -> int:
        """R: positions that go through the model."""
        return len(self.ids)

    def path(self, index: int) -> Indices:
        """The rows of sequence `index`, one for each position from `recalled[index]` on."""
        return self._paths[index]

    def _walk(self, recalled: Sequence[Sequence[Piece]]) -> None:
        self._ids: list[Indices] = []
        self._positions: list[Indices] = []
        self.visits: list[Visit] = []
        open_pieces: list[tuple[Piece, int]] = []  # what the walk's prompts remember, and the first row that sees it
        path = np.empty(0, dtype=np.int64)  # rows from position `base` to where the walk stands
        base = 0
        before: Indices | None = None
        for index in sorted(range(len(self._sequences)), key=lambda i: tuple(self._sequences[i])):
            ids = np.asarray(self._sequences[index], dtype=np.int64)
            row = len(self._ends)
            shared = 0 if before is None else _shared(before, ids)
            if shared > self.recalled[index] >= base:
                self._close(path[shared - base :], row)
                path = path[: shared - base]
            else:
                self._close(path, row)
                path = path[:0]
                base = shared = self.recalled[index]
                open_pieces = self._open(open_pieces, recalled[index], row)
            count = len(ids) - shared
            if count:
                self._ids.append(ids[shared:])
                self._positions.append(np.arange(shared, len(ids)))
                self._starts.append((row, shared))
                self._ends.extend([-1] * count)
                path = np.concatenate([path, np.arange(row, row + count)])
            self._paths[index] = path[self.recalled[index] - base :]
            before = ids
        self._close(path, len(self._ends))
        self._open(open_pieces, (), len(self._ends))

    def _close(self, rows: Indices, end: int) -> None:
        """What follows does not see `rows`."""
        for row in rows.tolist():
            self._ends[row] = end

    def _open(self, before: list[tuple[Piece, int]], pieces: Sequence[Piece], row: int) -> list[tuple[Piece, int]]:
        """Go from the remembered pieces of the rows so far to those of the rows from `row` on."""
        same = 0
        while same < min(len(before), len(pieces)) and before[same][0] == pieces[same]:
            same += 1
        self.visits += [Visit(range(first, row), piece) for piece, first in before[same:]]
        return before[:same] + [(piece, row) for piece in pieces[same:]]

    def _cut(self) -> None:
        """Cut runs into segments where the rows that see them differ."""
        ends = np.array(self._ends)
        runs = [first for first, _ in self._starts]
        cuts = sorted({*runs, *(np.nonzero(np.diff(ends))[0] + 1).tolist(), len(ends)})
        self.segments = [range(first, stop) for first, stop in pairwise(cuts)]
        for segment in self.segments:
            end = int(ends[segment.start])
            if end > segment.stop:
                self.visits.append(Visit(range(segment.stop, end), segment))


def _shared(left: Indices, right: Indices) -> int:
    """How many first tokens of `right` to take over from `left`: whole blocks, or all of it."""
    shortest = min(len(left), len(right))
    different = np.nonzero(left[:shortest] != right[:shortest])[0]
    common = int(different[0]) if len(different) else shortest
    return common if common == len(right) else common - common % BLOCK
