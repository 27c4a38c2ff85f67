"""Pack many token sequences so that each distinct prefix goes through the model once.

Sorted, the sequences stand in the order of a depth-first walk through their prefix tree: the rows that sequence i adds
to those before it are its tokens from the longest common prefix with its left neighbour on. Laid end to end, without
padding, these new rows are all that a model has to compute. Two facts make attention over them simple:

- The subtree of a row is a contiguous run of rows. With `end[s]` its end, row s is an ancestor of row r, and so visible
  to it, exactly when s <= r < end[s].
- Whatever rows a walk has reached, the ancestors of all later rows are later rows themselves or lie on the one path
  from the root to where the walk stands. So a step of any size needs the keys and values of one path from the steps
  before it, and memory stays bounded by the longest sequence, not by their number.

Attention then works in blocks of neighbouring rows (`ml.blocks`): each sees the path at its start and itself, under a
mask that the first fact gives. What every row of a step shares, its trunk, is left out of the blocks where it is long:
the caller attends to it once, without a copy or a mask, and merges the two by their log-sum-exp.

This module is arithmetic on indices: no torch, no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ml import blocks

Indices = npt.NDArray[np.int64]

_TRUNK = 64
"""Positions from which on a prefix that many share is worth a step of its own, and an attention of its own."""
_KEYS = 16
"""Keys of a block are filled up to a multiple of it: a softmax over an odd number takes several times longer."""


@dataclass(frozen=True)
class Step:
    """Rows that go through the model together: R rows in N blocks of up to B, beside C cached rows.

    Key indices count the cached rows first, then the step's own: 0..C-1 and C..C+R-1. The cached rows are the first C
    positions of the path at which the step before ended, in order.
    """

    ids: Indices
    """Token of each row, [R]."""
    positions: Indices
    """Position of each row in its sequence, [R]."""
    cached: int
    """C: how many positions of the path so far this step builds on."""
    trunk: int
    """The first positions of the path that every row sees, at most C. They are in no block's keys."""
    keys: Indices
    """Key index of each block's keys, [N, K]: the path behind the trunk, then the block's own rows, filled up."""
    queries: blocks.Queries
    """The rows in their blocks, and which keys they see."""
    path: Indices
    """Key index of the rows that make up the path at which this step ends, by position: what the next step may use."""
    sequences: Indices
    """Index, in the caller's order, of each sequence whose rows end in this step, [S]."""
    readout: Indices
    """Rows to read out, in 0..R-1: the last `tails` rows of each of `sequences`, in their order."""

    @classmethod
    def prefix(cls, ids: Sequence[int] | Indices) -> Step:
        """The step that reads `ids`, the beginning of sequences to come: see `is_trunk`."""
        places, nothing = np.arange(len(ids)), np.empty(0, dtype=np.int64)
        return cls(
            ids=np.asarray(ids, dtype=np.int64),
            positions=places,
            cached=0,
            trunk=0,
            keys=nothing.reshape(0, 0),
            queries=blocks.Queries(nothing.reshape(0, 0), nothing, np.empty((0, 0, 0), dtype=np.bool_)),
            path=places,
            sequences=nothing,
            readout=nothing,
        )

    @property
    def rows(self) -> int:
        """R."""
        return len(self.ids)

    @property
    def is_trunk(self) -> bool:
        """Whether this is the prefix that all sequences share: one block, causal, nothing cached or read out."""
        return not len(self.sequences)


class Packing:
    """The steps through some sequences, and what sharing saves."""

    def __init__(self, sequences: Sequence[Sequence[int]], tails: Sequence[int], known: int = 0) -> None:
        """Lay out the rows.

        Args:
            sequences: token ids, each at least one.
            tails: how many last positions of each sequence will be read out, from 1 to its length. A sequence's
                read-out rows are always rows of its own.
            known: how many first positions, the same in all sequences and not read out, were computed before. They are
                the path on which the first step builds.
        """
        self._known = known
        self._order = np.array(sorted(range(len(sequences)), key=lambda i: tuple(sequences[i])), dtype=np.int64)
        walk = [np.asarray(sequences[i], dtype=np.int64) for i in self._order]
        self._lengths = np.array([len(sequence) for sequence in walk], dtype=np.int64)
        self._tails = np.array([tails[i] for i in self._order], dtype=np.int64)
        shared = [0] + [_common_prefix(left, right) for left, right in pairwise(walk)]
        self._shared = np.minimum(shared, self._lengths - self._tails)
        # Rows of sequence i: _first[i].._first[i + 1].
        self._first = np.concatenate([[0], np.cumsum(self._lengths - self._shared)])
        self._ids = np.concatenate([sequence[s:] for sequence, s in zip(walk, self._shared, strict=True)])
        self._positions = np.concatenate([np.arange(s, n) for s, n in zip(self._shared, self._lengths, strict=True)])

    @property
    def rows(self) -> int:
        """Rows that the model computes."""
        return int(self._first[-1]) - self._known

    @property
    def rows_saved(self) -> int:
        """Rows that the model would compute besides, did each sequence go through it whole."""
        return int(self._lengths.sum()) - self.rows

    def steps(
        self, *, max_rows: int, max_readout: int, trunk: int = _TRUNK, sizes: Sequence[int] = blocks.SIZES
    ) -> Iterator[Step]:
        """Walk all rows in steps of about `max_rows` rows and `max_readout` read-out rows.

        Steps are about equal, up to a quarter larger than told: a few rows at the end would cost as much as many do.
        A step holds at least one sequence. A prefix of `trunk` rows or more that all sequences share comes first, with
        nothing to read out. `sizes`: the sizes of blocks to choose from.
        """
        walk = _Walk(int(self._first[-1]), int(self._lengths.max()))
        known = self._known or self._trunk_rows(trunk)
        walk.append(0, 0, known)
        if known > self._known:
            yield Step.prefix(self._ids[:known])
        read_before = np.concatenate([[0], np.cumsum(self._tails)])
        begin = 0
        while begin < len(self._order):
            start_row = max(int(self._first[begin]), known)
            left = int(self._first[-1]) - start_row
            rows = -(-left // -(-left // (max_rows + max_rows // 4)))
            most = (
                int(np.searchsorted(self._first, start_row + rows, side="right")) - 1,
                int(np.searchsorted(read_before, read_before[begin] + max_readout, side="right")) - 1,
            )
            stop = max(min(most), begin + 1)
            yield self._step(walk, range(begin, stop), start_row, trunk, sizes)
            begin = stop

    def _trunk_rows(self, fewest: int) -> int:
        """Rows of the first sequence that all others share, where they are worth a step of their own."""
        if len(self._order) == 1:
            return 0
        shared = min(int(self._shared[1:].min()), int(self._lengths[0] - self._tails[0]))
        return shared if shared >= fewest else 0

    def _step(self, walk: _Walk, sequences: range, start_row: int, fewest: int, sizes: Sequence[int]) -> Step:
        """The step that holds the rows of `sequences` from `start_row` on."""
        first = np.maximum(self._first[sequences.start : sequences.stop + 1], start_row)
        rows = slice(start_row, int(first[-1]))
        positions = self._positions[rows]
        entered_at = int(positions[0])
        walk.branch(entered_at, start_row)
        entry = walk.path()
        shared = int(min([entered_at, *self._shared[sequences.start + 1 : sequences.stop]]))
        trunk = shared if shared >= fewest else 0
        starts = start_row + blocks.cut(np.diff(first).tolist(), positions, trunk, sizes)
        paths = self._walk_rows(walk, first, starts)

        cached = len(entry)
        local = np.zeros(len(walk.end) + 1, dtype=np.int64)  # its last entry serves the key -1
        local[entry] = np.arange(cached)
        local[rows] = np.arange(cached, cached + len(positions))
        counts = np.diff(starts, append=rows.stop)
        own = np.arange(counts.max())
        filler = own >= counts[:, None]
        own = own + starts[:, None]
        seen = [
            np.concatenate([path[trunk:], np.arange(s, s + n)])
            for path, s, n in zip(paths, starts, counts, strict=True)
        ]
        width = max(map(len, seen))
        keys = np.full((len(seen), -(-width // _KEYS) * _KEYS), -1, dtype=np.int64)
        for keys_of_block, each in zip(keys, seen, strict=True):
            keys_of_block[: len(each)] = each
        visible = (keys >= 0)[:, None, :] & (keys[:, None, :] <= own[:, :, None])
        visible &= own[:, :, None] < walk.end[keys][:, None, :]
        visible[:, :, 0] |= filler  # a softmax over nothing is not a number

        ends = first[1:] - start_row
        tails = self._tails[sequences.start : sequences.stop]
        return Step(
            ids=self._ids[rows],
            positions=positions,
            cached=cached,
            trunk=trunk,
            keys=local[keys],
            queries=blocks.Queries(np.where(filler, 0, own - start_row), np.nonzero(~filler.ravel())[0], visible),
            path=local[walk.path()],
            sequences=self._order[sequences.start : sequences.stop],
            readout=np.concatenate([np.arange(end - tail, end) for end, tail in zip(ends, tails, strict=True)]),
        )

    def _walk_rows(self, walk: _Walk, first: Indices, starts: Indices) -> list[Indices]:
        """Go through the rows of the sequences that begin at `first`; returns the path at each of `starts`."""
        paths: list[Indices] = []
        for begin, end in pairwise(first.tolist()):
            walk.branch(int(self._positions[begin]), begin)
            within = starts[np.searchsorted(starts, begin) : np.searchsorted(starts, end)].tolist()
            for row, stop in pairwise([begin, *within, end]):
                walk.append(int(self._positions[row]), row, stop - row)
                if stop < end:
                    paths.append(walk.path())
        return paths


class _Walk:
    """Where a depth-first walk stands: the path from the root, and how far each row's subtree reaches so far."""

    def __init__(self, rows: int, depth: int) -> None:
        self.end = np.full(rows, rows, dtype=np.int64)
        self._rows = np.zeros(depth, dtype=np.int64)
        self._depth = 0

    def branch(self, position: int, row: int) -> None:
        """Leave the path from `position` on: the subtrees there end before `row`."""
        self.end[self._rows[position : self._depth]] = row
        self._depth = min(self._depth, position)

    def append(self, position: int, row: int, count: int) -> None:
        """Go down `count` positions, through the rows from `row` on."""
        self._rows[position : position + count] = np.arange(row, row + count)
        self._depth = position + count

    def path(self) -> Indices:
        """The rows of the path, by position."""
        return self._rows[: self._depth].copy()


def _common_prefix(left: Indices, right: Indices) -> int:
    shortest = min(len(left), len(right))
    different = np.nonzero(left[:shortest] != right[:shortest])[0]
    return int(different[0]) if len(different) else shortest
