"""Decide how the rows of a batch attend: in which blocks, over which slots, and what is merged.

Rows attend in blocks of neighbours. A block's keys are the slots of the path before its first row and of its own rows.
Where many blocks are short, as those of an explanation's perturbed prompts, their keys are gathered and all blocks
are batched matmuls under masks; a small block multiplies less that is masked, a large one gathers fewer keys, so a few
ways to cut are compared by what attention will cost. The blocks of a batch are filled up to the keys of the longest, so
on a CPU those of about as many keys are together. Where blocks are long, as those of callers' prompts, each is matmuls
of its own over slots that stand together, and nothing is copied.

What many rows see in common is left out of the blocks where it is long: the rows attend to it once, without a copy or a
mask, and the two are merged by their log-sum-exp.

This module is arithmetic on indices: no torch, no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ml.runtime.ragged_batch import FULL, IntArray, RaggedBatch, Span

BoolArray = npt.NDArray[np.bool_]

MIN_SHARED = 64
"""Positions from which on a prefix that many rows see is worth an attention of its own."""
_KEYS = 16
"""Keys of a gathered block are filled up to a multiple of it: a softmax over an odd number takes far longer."""
_LONG_BRANCH = 40
"""Mean rows of a branch from which on blocks attend one by one to what they need not gather."""
_FEW_BRANCHES = 2
"""Branches up to which blocks attend one by one, however short: starting an attention costs less than gathering."""
_LONG_BLOCK = 64
"""Rows of such a block: fewer are slow to multiply, and more look at too many keys that they do not see."""
SIZES = (16, 32, 64, 128)
"""The most rows that a gathered block may have."""

# What a head's attention costs, in products of one query and one key; measured with torch's on a CPU.
_QUERIES = 32
"""Queries that the kernel takes at a time."""
_PER_BLOCK = 1200
_PER_KEY = 10
_PER_GATHERED_KEY = 5
_PER_BATCH = 8000


@dataclass(frozen=True)
class Gathered:
    """Queries in N blocks of up to B, each over K gathered slots. What fills a block up sees its first key.

    Attributes:
        queries: of each block, [N, B], filled up with query 0.
        indices: where each query stands in flattened `queries`, [queries of all blocks].
        rows: which queries these are, ascending, as long as `indices`.
        slots: of each block's keys, [N, K].
        visible: which of its block's keys each query sees, [N, B, K].
    """

    queries: IntArray
    indices: IntArray
    rows: IntArray
    slots: IntArray
    visible: BoolArray


@dataclass(frozen=True)
class Run:
    """Consecutive queries over some slots.

    Attributes:
        queries: which.
        slots: of the keys, by position; a range where they stand together.
        visible: which keys each query sees, [queries, keys]; None is all.
        causal: whether query i of n sees all but the last n - 1 - i keys, in place of `visible`.
    """

    queries: slice
    slots: range | IntArray
    visible: BoolArray | None = None
    causal: bool = False


@dataclass(frozen=True)
class AttentionPlan:
    """How some queries attend: each is in one block, and may also see what is shared.

    Attributes:
        count: how many queries there are.
        gathered: the blocks that gather their keys, in batches of one shape each.
        runs: the blocks that do not.
        shared: what queries see besides, to be merged.
    """

    count: int
    gathered: Sequence[Gathered]
    runs: Sequence[Run]
    shared: Sequence[Run]


def as_range(slots: IntArray) -> range | None:
    """`slots` as a range, where they stand together in order."""
    if not len(slots):
        return range(0)
    first, last = int(slots[0]), int(slots[-1])
    together = last - first + 1 == len(slots) and bool((slots[1:] - slots[:-1] == 1).all())
    return range(first, last + 1) if together else None


_Block = tuple[slice, IntArray, IntArray]
"""Its queries, their rows, and the nodes of its keys."""


class Planner:
    """Plans how rows of one batch attend in layers that see one span. Where blocks are cut, is decided once."""

    def __init__(
        self, batch: RaggedBatch, span: Span = FULL, *, gather: bool = False, min_shared: int = MIN_SHARED
    ) -> None:
        """Prepare.

        Args:
            gather: whether every block gathers its keys, and all are one batch: for a GPU, where starting a kernel
                costs more than a copy.
            min_shared: see `MIN_SHARED`.
        """
        self._batch = batch
        self._span = span
        branches = len(batch.branches) - 1
        self._one_batch = gather
        self._gather = gather or (branches > _FEW_BRANCHES and batch.rows < _LONG_BRANCH * branches)
        self._first_seen = span.first(batch.positions)
        self._branch_of = np.repeat(np.arange(branches), np.diff(batch.branches))
        self._groups = list(self._shared_prefixes(min_shared)) if span.is_full(batch.longest) else []
        self._shared_of = np.zeros(batch.rows, dtype=np.int64)  # positions that a row sees apart from its block
        for first, stop, length in self._groups:
            self._shared_of[batch.branches[first] : batch.branches[stop]] = length
        self._blocks = list(self._gathered_blocks() if self._gather else self._long_blocks())

    def plan(self, rows: IntArray | None = None) -> AttentionPlan:
        """How `rows`, ascending, attend; by default all."""
        rows = np.arange(self._batch.rows) if rows is None else rows
        runs, others = [], []
        bounds = np.searchsorted(rows, np.array(self._blocks)).tolist()
        for (start, _), (first, last) in zip(self._blocks, bounds, strict=True):
            if first == last:
                continue
            queries = rows[first:last]
            nodes = self._keys(start, int(queries[-1]) + 1, int(queries[0]) if last - first == 1 else start)
            slots = None if self._gather else as_range(self._batch.nodes.slots[nodes])
            if slots is None:
                others.append((slice(first, last), queries, nodes))
            else:
                runs.append(self._run(slice(first, last), queries, nodes, slots))
        return AttentionPlan(len(rows), list(self._batches(others)), runs, list(self._shared(rows)))

    def _shared_prefixes(self, min_shared: int) -> Iterator[tuple[int, int, int]]:
        """Runs of branches that see the same first positions: (first branch, behind the last, positions)."""
        keeps, contexts = self._batch.keeps.tolist(), self._batch.contexts
        first, length = 0, 0
        for branch, keep in enumerate(keeps):
            common = min(length, keep)
            same = common >= min_shared and contexts[branch][common - 1] == contexts[first][common - 1]
            if same:
                length = common
                continue
            if length >= min_shared:
                yield first, branch, length
            first, length = branch, keep
        if length >= min_shared:
            yield first, len(keeps), length

    def _long_blocks(self) -> Iterator[tuple[int, int]]:
        """Rows of each block, cut where branches end, long ones into equal parts."""
        for start, stop in pairwise(self._batch.branches.tolist()):
            parts = max(1, round((stop - start) / _LONG_BLOCK))
            yield from pairwise([start + part * (stop - start) // parts for part in range(parts + 1)])

    def _gathered_blocks(self) -> Iterator[tuple[int, int]]:
        """Rows of each block, cut in the way that costs least, and where what is shared changes."""
        counts = np.diff(self._batch.branches).tolist()
        must = {int(self._batch.branches[first]) for first, _, _ in self._groups}
        must |= {int(self._batch.branches[stop]) for _, stop, _ in self._groups}
        must |= {int(self._batch.branches[branch]) for branch, entered in enumerate(self._batch.entered) if entered}
        context = self._batch.positions - np.maximum(self._shared_of, self._first_seen)
        ways = [_cut(counts, size, must) for size in SIZES]
        starts = min(ways, key=lambda starts: _cost(starts, context)).tolist()
        yield from zip(starts, [*starts[1:], self._batch.rows], strict=True)

    def _keys(self, start: int, stop: int, first_query: int) -> IntArray:
        """Nodes of the keys of the block of rows `start` to `stop`: the path before it, then its own.

        Args:
            first_query: the row whose path bounds what is seen, where it is the only one; else `start`.
        """
        batch, branch = self._batch, int(self._branch_of[start])
        lowest = int(self._shared_of[start])
        if self._span.size is not None:
            lowest = max(lowest, int(self._first_seen[first_query:stop].min()))
        context, own = batch.contexts[branch], batch.row_nodes[batch.branches[branch] : stop]
        if lowest > len(context):
            return own[lowest - len(context) :]
        return np.concatenate([context[lowest:], own])

    def _visible(self, rows: IntArray, nodes: IntArray) -> BoolArray:
        """Which nodes rows see, [..., rows, nodes] of [..., rows] and [..., nodes]; node -1 is none."""
        known, rows = self._batch.nodes, rows[..., :, None]
        seen = (nodes >= 0)[..., None, :] & (known.rows[nodes][..., None, :] <= rows)
        seen &= rows < known.ends[nodes][..., None, :]
        if self._span.size is not None:
            seen &= known.positions[nodes][..., None, :] >= self._first_seen[rows]
        return seen

    def _run(self, queries: slice, rows: IntArray, nodes: IntArray, slots: range) -> Run:
        """A block whose keys stand together. Its rows are of one branch, so without a window it is causal."""
        full = self._span.size is None or not self._first_seen[rows].any()
        if full and int(rows[-1]) - int(rows[0]) + 1 == len(rows):
            return Run(queries, slots, causal=True)
        return Run(queries, slots, visible=self._visible(rows, nodes))

    def _batches(self, blocks: Sequence[_Block]) -> Iterator[Gathered]:
        """Blocks in batches, each in the blocks' order."""
        if not blocks:
            return
        if self._one_batch:
            yield self._gathered(blocks)
            return
        rows, keys = np.array([(len(rows), len(nodes)) for _, rows, nodes in blocks]).T
        numbers = _batched(-(-keys // _KEYS) * _KEYS, int(rows.max()))
        for number in range(int(numbers.max()) + 1):
            yield self._gathered([blocks[index] for index in np.nonzero(numbers == number)[0].tolist()])

    def _gathered(self, blocks: Sequence[_Block]) -> Gathered:
        """Blocks filled up to the same shape."""
        max_rows = max(len(rows) for _, rows, _ in blocks)
        max_keys = -(-max(len(nodes) for _, _, nodes in blocks) // _KEYS) * _KEYS
        queries = _stacked([np.arange(which.start, which.stop) for which, _, _ in blocks], max_rows, filler=0)
        rows = _stacked([its_rows for _, its_rows, _ in blocks], max_rows)
        nodes = _stacked([its_nodes for _, _, its_nodes in blocks], max_keys)
        visible = self._visible(rows, nodes)
        filler = rows < 0
        visible[:, :, 0] |= filler  # a softmax over nothing is not a number
        indices = np.nonzero(~filler.ravel())[0]
        # Filled up with keys of its own: what is hidden is multiplied by 0, which leaves what is not a number.
        slots = self._batch.nodes.slots[np.where(nodes < 0, nodes[:, :1], nodes)]
        return Gathered(queries, indices, queries.ravel()[indices], slots, visible)

    def _shared(self, rows: IntArray) -> Iterator[Run]:
        """What queries see apart from their blocks."""
        for first, stop, length in self._groups:
            ends = (self._batch.branches[first], self._batch.branches[stop])
            queries = slice(*np.searchsorted(rows, ends).tolist())
            if queries.start < queries.stop:
                slots = self._batch.nodes.slots[self._batch.contexts[first][:length]]
                together = as_range(slots)
                yield Run(queries, slots if together is None else together)


def _stacked(arrays: Sequence[IntArray], width: int, filler: int = -1) -> IntArray:
    """`arrays` one below the other, [arrays, width], each filled up on the right."""
    lengths = np.array([len(each) for each in arrays])
    stacked = np.full((len(arrays), width), filler, dtype=np.int64)
    stacked[np.arange(width) < lengths[:, None]] = np.concatenate(arrays)
    return stacked


def _cut(counts: Sequence[int], size: int, must: set[int]) -> IntArray:
    """First rows of blocks of at most `size` rows, cut where a branch ends unless it is longer than that.

    Args:
        counts: rows of each branch.
        must: first rows of branches at which a block has to begin.
    """
    starts: list[int] = []
    row, left = 0, 0
    for count in counts:
        if count > left or row in must:
            starts += range(row, row + count, size)
            left = starts[-1] + size - row
        row += count
        left -= count
    return np.array(starts, dtype=np.int64)


def _batched(keys: IntArray, rows: int) -> IntArray:
    """The number of the batch that each block comes into, where all cost least; blocks of fewer keys come first.

    Args:
        keys: of each block.
        rows: that each is filled up to.
    """
    sizes, which_size, counts = np.unique(keys, return_inverse=True, return_counts=True)
    before = np.concatenate([[0], np.cumsum(counts)])
    least, begins = np.zeros(len(sizes) + 1, dtype=np.int64), [0]  # of batches of all blocks below a size
    for stop, size in enumerate(sizes.tolist(), 1):
        costs = least[:stop] + (before[stop] - before[:stop]) * rows * size + _PER_BATCH
        begins.append(int(costs.argmin()))
        least[stop] = costs.min()
    first = np.zeros(len(sizes), dtype=np.int64)
    stop = len(sizes)
    while stop:
        stop = begins[stop]
        first[stop] = 1
    return np.cumsum(first)[which_size] - 1


def _cost(starts: IntArray, context: IntArray) -> int:
    """What attention in such blocks costs; `context` counts the positions before each row that its block gathers."""
    rows = np.diff(starts, append=len(context))
    highest, keys = int(rows.max()), int((context[starts] + rows).max())
    block = _PER_BLOCK + _PER_KEY * keys
    return len(starts) * (-(-highest // _QUERIES) * block + highest * keys + _PER_GATHERED_KEY * keys)
