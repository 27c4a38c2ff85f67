"""Cut the rows of a step into blocks that share a list of keys.

A block sees the path behind its first row and its own rows, under a mask. A small block multiplies less that is masked,
a large one has fewer keys to gather; where sequences are short, blocks that end where sequences end have the fewest
keys. So a few ways to cut are compared by what attention will cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

SIZES = (16, 32, 64, 128)
"""The most rows that a block may have."""

# What a head's attention costs, in products of one query and one key; measured with torch's on a CPU.
_QUERIES = 32
"""Queries that the kernel takes at a time."""
_PER_VISIT = 1200
_PER_VISITED_KEY = 10
_PER_GATHERED_KEY = 5


@dataclass(frozen=True)
class Queries:
    """R rows as queries in N blocks of up to B, each block with K keys. What fills a block up sees its first key."""

    rows: Indices
    """The rows of each block, [N, B], filled up with row 0."""
    places: Indices
    """Where each row stands in flattened `rows`, [R]."""
    visible: npt.NDArray[np.bool_]
    """Which of its block's keys each sees, [N, B, K]."""

    def only(self, rows: Indices) -> Queries:
        """Some of the rows, ascending, which are numbered anew; the blocks keep their keys."""
        block, within = np.divmod(self.places[rows], self.rows.shape[1])
        among = np.arange(len(rows)) - np.searchsorted(block, block)
        most = int(among.max(initial=0)) + 1
        picked = np.zeros((len(self.rows), most), dtype=np.int64)
        picked[block, among] = np.arange(len(rows))
        visible = np.zeros((len(self.rows), most, self.visible.shape[2]), dtype=np.bool_)
        visible[:, :, 0] = True
        visible[block, among] = self.visible[block, within]
        return Queries(picked, block * most + among, visible)


def cut(counts: Sequence[int], positions: Indices, trunk: int, sizes: Sequence[int] = SIZES) -> Indices:
    """The first row of each block, of the way that costs least.

    Args:
        counts: how many rows each sequence has, in their order.
        positions: of each row, its position in its sequence.
        trunk: how many first positions are in no block's keys.
        sizes: the sizes of blocks to choose from.
    """
    return min((_cut(counts, size) for size in sizes), key=lambda starts: _cost(starts, positions, trunk))


def _cut(counts: Sequence[int], size: int) -> Indices:
    """Blocks of at most `size` rows, cut where a sequence ends unless it is longer than that."""
    starts: list[int] = []
    row, room = 0, 0
    for count in counts:
        if count > room:
            starts += range(row, row + count, size)
            room = starts[-1] + size - row
        row += count
        room -= count
    return np.array(starts, dtype=np.int64)


def _cost(starts: Indices, positions: Indices, trunk: int) -> int:
    rows = np.diff(starts, append=len(positions))
    most, keys = int(rows.max()), int((positions[starts] + rows).max()) - trunk
    visit = _PER_VISIT + _PER_VISITED_KEY * keys
    return len(starts) * (-(-most // _QUERIES) * visit + most * keys + _PER_GATHERED_KEY * keys)
