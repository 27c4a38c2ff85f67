"""Lay sequences out as the rows of one forward pass, each distinct prefix once and without padding.

A row is a token at a position of one sequence, or of several that are equal up to there. Rows stand in the order of a
depth-first walk through the prefix tree of their sequences. Every row has a slot of the KV cache, which its keys and
values are written to, and sees the slots of its own path: those of tokens before it in its sequence, some of them
cached by an earlier pass. Two facts make that cheap to compute:

- Rows that come after row s and see it are a run: with `end[s]` its end, row r sees row s exactly when s <= r < end[s].
- Of cached tokens the same holds: a cached token is seen by a run of rows.

A layer may see only the last tokens of the path: a sliding window, or the chunk that a position lies in (`Span`).

This module is arithmetic on indices: no torch, no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Span:
    """Which positions of its path a position sees: the last `size` with its own, or those of its chunk; None is all."""

    size: int | None = None
    chunked: bool = False

    def first(self, positions: IntArray) -> IntArray:
        """The first position that each of `positions` sees."""
        if self.size is None:
            return np.zeros_like(positions)
        return positions // self.size * self.size if self.chunked else np.maximum(positions - self.size + 1, 0)

    def is_full(self, longest: int) -> bool:
        """Whether positions of sequences of up to `longest` tokens see all that is before them."""
        return self.size is None or longest <= self.size


FULL = Span()


@dataclass(frozen=True)
class Nodes:
    """Tokens that rows of a batch may see, cached ones and the batch's own, [nodes] each.

    Attributes:
        slots: where their keys and values lie.
        positions: in their sequences.
        rows: the row that computes each; -1 for one that is cached.
        ends: the first row behind those that see it.
    """

    slots: IntArray
    positions: IntArray
    rows: IntArray
    ends: IntArray


@dataclass(frozen=True)
class RaggedBatch:
    """R rows.

    Attributes:
        ids, positions: of each row, [R].
        slots: that each row's keys and values are written to, [R].
        nodes: what there is to see.
        row_nodes: the node of each row, [R].
        branches: the first row of each run of rows that one sequence adds, and R, ascending.
        keeps: of each of these runs, how many positions it takes over from the path before it.
        contexts: the path before each of these runs, as nodes by position.
        entered: whether a path of cached tokens was entered right before each of these runs.
        logit_rows: rows whose logits are asked for, by sequence, one after the other.
        paths: of each sequence, the slots of all its positions.
    """

    ids: IntArray
    positions: IntArray
    slots: IntArray
    nodes: Nodes
    row_nodes: IntArray
    branches: IntArray
    keeps: IntArray
    contexts: Sequence[IntArray]
    entered: Sequence[bool]
    logit_rows: IntArray
    paths: Sequence[IntArray]

    @property
    def rows(self) -> int:
        """R."""
        return len(self.ids)

    @cached_property
    def sees_cached(self) -> bool:
        """Whether some row sees a token that an earlier pass computed."""
        return bool((self.nodes.rows < 0).any())

    @cached_property
    def longest(self) -> int:
        """The most positions that a sequence of the batch has."""
        return int(self.positions.max(initial=-1)) + 1


class BatchBuilder:
    """Builds a batch: a depth-first walk through the prefix tree of some sequences."""

    def __init__(self, first_slot: int = 0) -> None:
        """Start at the root. Rows get the slots from `first_slot` on unless others are given."""
        self._first_slot = first_slot
        self._ids: list[IntArray] = []
        self._positions: list[IntArray] = []
        self._slots: list[IntArray] = []
        self._rows = 0
        self._node_slots: list[IntArray] = []
        self._node_positions: list[IntArray] = []
        self._node_rows: list[IntArray] = []
        self._nodes = 0
        self._left: list[tuple[IntArray, int]] = []  # nodes that the walk left, and the row before which it did
        self._path = np.empty(0, dtype=np.int64)
        self._branches: list[int] = []
        self._keeps: list[int] = []
        self._contexts: list[IntArray] = []
        self._entered: list[bool] = []
        self._entering = False
        self._logit_rows: list[IntArray] = []
        self._paths: list[IntArray] = []

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self._rows

    def enter(self, slots: IntArray) -> None:
        """Go to another path: tokens that are cached in `slots`, by position."""
        known = len(self._path) and len(slots)
        cached = np.concatenate(self._node_slots)[self._path] if known else self._path[:0]
        same = common_prefix(cached, slots)  # rows that share what is cached see the same nodes
        self._leave(same)
        positions = np.arange(same, len(slots))
        self._path = np.concatenate([self._path, self._add_nodes(slots[same:], positions, np.full(len(positions), -1))])
        self._entering = len(positions) > 0

    def append(self, keep: int, ids: IntArray, logit_rows: int, slots: IntArray | None = None) -> None:
        """Go back to position `keep` of the path, and down a sequence that goes on with `ids`.

        Args:
            keep: at most the path's length.
            ids: the sequence's tokens from position `keep` on. None is a sequence that ends in the path.
            logit_rows: how many last rows of the sequence are read out; they are among its path.
            slots: where the rows' keys and values go.
        """
        self._leave(keep)
        count = len(ids)
        if count:
            rows = np.arange(self._rows, self._rows + count)
            slots = self._first_slot + rows if slots is None else slots
            positions = np.arange(keep, keep + count)
            self._branches.append(self._rows)
            self._keeps.append(keep)
            self._contexts.append(self._path)
            self._entered.append(self._entering)
            self._entering = False
            self._ids.append(ids)
            self._positions.append(positions)
            self._slots.append(slots)
            self._rows += count
            self._path = np.concatenate([self._path, self._add_nodes(slots, positions, rows)])
        self._paths.append(self._path)
        self._logit_rows.append(self._path[len(self._path) - logit_rows :])

    def finish(self) -> RaggedBatch:
        """The batch."""
        nodes = Nodes(
            _joined(self._node_slots),
            _joined(self._node_positions),
            _joined(self._node_rows),
            np.full(self._nodes, self._rows, dtype=np.int64),
        )
        for left, row in self._left:
            nodes.ends[left] = row
        computed = nodes.rows >= 0
        return RaggedBatch(
            ids=_joined(self._ids),
            positions=_joined(self._positions),
            slots=_joined(self._slots),
            nodes=nodes,
            row_nodes=np.nonzero(computed)[0],
            branches=np.array([*self._branches, self._rows], dtype=np.int64),
            keeps=np.array(self._keeps, dtype=np.int64),
            contexts=self._contexts,
            entered=self._entered,
            logit_rows=nodes.rows[_joined(self._logit_rows)],
            paths=[nodes.slots[path] for path in self._paths],
        )

    def _leave(self, keep: int) -> None:
        if keep < len(self._path):
            self._left.append((self._path[keep:], self._rows))
            self._path = self._path[:keep]

    def _add_nodes(self, slots: IntArray, positions: IntArray, rows: IntArray) -> IntArray:
        added = np.arange(self._nodes, self._nodes + len(slots))
        self._nodes += len(slots)
        self._node_slots.append(slots)
        self._node_positions.append(positions)
        self._node_rows.append(rows)
        return added


def common_prefix(left: IntArray, right: IntArray) -> int:
    """How many first tokens are the same."""
    shortest = min(len(left), len(right))
    different = left[:shortest] != right[:shortest]
    place = int(different.argmax()) if shortest else 0
    return place if shortest and different[place] else shortest


def _joined(arrays: Sequence[IntArray]) -> IntArray:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int64)
