"""The loop of all explainers that sample: ask for growing batches, estimate after each, and stop in time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np

from ml.explain.estimator import BoolArray, Estimate, Estimating, FloatArray, Game, batch_size, empty_and_full
from ml.explain.sampling.stopping import Stopping, widened
from ml.result import StopReason

PLAIN_GROWTH, CONTROLLED_GROWTH = 0.25, 0.5
"""By how much the samples grow before each estimate: one with control variates takes tenths of a second."""
_FIRST_BATCH = 64


class Estimator(Protocol):
    """From the samples so far to an estimate."""

    def __call__(self, coalitions: BoolArray, values: FloatArray) -> Estimate:
        """Estimate from `coalitions` [blocks, rows, features] and their `values` [blocks, rows]; blocks may be 0."""
        ...


def anytime(
    game: Game,
    draws: Iterator[BoolArray],
    estimate: Estimator,
    *,
    rows: int,
    blocks: int,
    stopping: Stopping,
    growth: float = PLAIN_GROWTH,
    end: StopReason = StopReason.EVALUATIONS,
) -> Estimating:
    """Ask for growing batches, about 64 coalitions at first and then a quarter more each time; estimate after each.

    Args:
        draws: at least `blocks` blocks of coalitions that belong together (a pair, a permutation), bool [rows,
            features] each. They are drawn as they are needed.
        rows: coalitions of a block.
        blocks: the most blocks.
        stopping: when to stop before.
        growth: by how much the samples grow each time; more where estimates are slow beside a small model.
        end: why it stopped, if all blocks were evaluated.
    """
    coalitions = np.empty((0, rows, game.features), dtype=np.bool_)
    values = np.empty((0, rows))
    looks = stopping.looks(blocks)
    before: Estimate | None = None  # of the check before
    while True:
        size = max(_FIRST_BATCH // rows, int(len(values) * growth), batch_size(game) // rows, 1)
        size = min(size, *(count - len(values) for count in (*looks, blocks) if count > len(values)))
        batch = np.array([next(draws) for _ in range(size)])
        asked = yield from game(batch.reshape(-1, game.features))
        answers = asked.reshape(size, rows)
        # Only the blocks before the first unanswered one: which of the others were answered depends on the order of
        # computation, so that they are no random sample.
        known = np.isfinite(answers).all(axis=1)
        answered = size if known.all() else int(np.argmin(known))
        coalitions = np.concatenate([coalitions, batch[:answered]])
        values = np.concatenate([values, answers[:answered]])

        found = estimate(coalitions, values)
        stop: StopReason | None = None
        finished = len(values) == blocks
        if finished and end is StopReason.COMPLETE:
            stop = end
        elif enough := stopping.reason(found, before, len(values), blocks):
            stop = enough
        elif answered < size:
            stop = StopReason.DURATION
        elif finished:
            stop = end
        if stop is StopReason.RANKED and before is not None:
            found = widened(before, found)
        if stopping.is_check(len(values), blocks):
            before = found
        yield replace(found, stop=stop, samples=values.size)
        if stop is not None:
            return


def anytime_from_ends(
    game: Game,
    draws: Iterator[BoolArray],
    estimate: Estimator,
    *,
    nothing: Estimate,
    rows: int,
    blocks: int,
    stopping: Stopping,
    growth: float = PLAIN_GROWTH,
    end: StopReason = StopReason.EVALUATIONS,
) -> Estimating:
    """As `anytime`, after the values of the empty and the full coalition.

    Args:
        estimate: its values begin with those two: [2 + blocks · rows].
        nothing: the estimate if time runs out before them.
    """
    ends = yield from game(empty_and_full(game.features))
    if not np.isfinite(ends).all():
        yield replace(nothing, stop=StopReason.DURATION)
        return
    yield from anytime(
        game,
        draws,
        lambda coalitions, values: estimate(coalitions, np.concatenate([ends, values.ravel()])),
        rows=rows,
        blocks=blocks,
        stopping=stopping,
        growth=growth,
        end=end,
    )
