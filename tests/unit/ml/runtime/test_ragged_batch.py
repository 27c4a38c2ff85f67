"""A batch is right when every row sees exactly its own prefix, once, as far as a layer sees."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.runtime.attention_plan import AttentionPlan, Planner
from ml.runtime.ragged_batch import FULL, BatchBuilder, RaggedBatch, Span, common_prefix

FIRST_SLOT = 1000

tokens = st.lists(st.integers(1, 2), min_size=1, max_size=90)
spans = st.one_of(st.just(FULL), st.builds(Span, st.integers(1, 40), st.booleans()))


def laid_out(
    sequences: list[list[int]], cached: list[int], logit_counts: list[int]
) -> tuple[RaggedBatch, dict[int, tuple[int, ...]]]:
    """A batch of sorted `sequences`, the first `cached[i]` tokens of which lie in slots of their own.

    Returns the batch, and for each slot the tokens up to and with its own.
    """
    builder = BatchBuilder(FIRST_SLOT)
    slots: dict[tuple[int, ...], int] = {}
    before: np.ndarray = np.empty(0, dtype=np.int64)
    entered = None
    for ids, known, tail in zip(sequences, cached, logit_counts, strict=True):
        array = np.array(ids)
        shared = common_prefix(before, array)
        if entered is not None and shared > known >= entered:
            keep = shared
        else:
            for length in range(1, known + 1):
                slots.setdefault(tuple(ids[:length]), len(slots))
            builder.enter(np.array([slots[tuple(ids[:length])] for length in range(1, known + 1)], dtype=np.int64))
            keep = entered = known
        builder.append(keep, array[keep:], tail)
        before = array
    batch = builder.finish()
    tokens_of = {slot: prefix for prefix, slot in slots.items()}
    for ids, path in zip(sequences, batch.paths, strict=True):
        tokens_of |= {int(slot): tuple(ids[: place + 1]) for place, slot in enumerate(path) if slot >= FIRST_SLOT}
    return batch, tokens_of


def seen_slots(plan: AttentionPlan) -> list[Counter[int]]:
    """The slots that each query of a plan sees."""
    seen: list[Counter[int]] = [Counter() for _ in range(plan.count)]
    for run in [*plan.runs, *plan.shared]:
        slots = np.array(run.slots)
        queries = range(run.queries.start, run.queries.stop)
        visible = run.visible
        if visible is None:
            visible = np.ones((len(queries), len(slots)), dtype=bool)
            if run.causal:
                visible = np.tril(visible, len(slots) - len(queries))
        for query, row in zip(queries, visible, strict=True):
            seen[query].update(slots[row].tolist())
    for batch in plan.gathered:
        width = batch.queries.shape[1]
        for query, place in zip(batch.rows.tolist(), batch.indices.tolist(), strict=True):
            block, within = divmod(place, width)
            assert batch.queries[block, within] == query
            seen[query].update(batch.slots[block][batch.visible[block, within]].tolist())
    return seen


@given(st.lists(tokens, min_size=1, max_size=8), spans, st.booleans(), st.integers(1, 30), st.data())
def test_each_row_sees_its_prefix_once_as_far_as_the_span_reaches(sequences, span, gather, min_shared, data):
    sequences.sort()
    logit_counts = [data.draw(st.integers(1, len(ids))) for ids in sequences]
    cached = [data.draw(st.integers(0, len(ids) - tail)) for ids, tail in zip(sequences, logit_counts, strict=True)]
    batch, tokens_of = laid_out(sequences, cached, logit_counts)
    prefixes = [tokens_of[slot] for slot in batch.slots.tolist()]
    assert [prefix[-1] for prefix in prefixes] == batch.ids.tolist()
    assert [len(prefix) - 1 for prefix in prefixes] == batch.positions.tolist()
    # The rows that are asked for are the last ones of each sequence.
    wanted = [
        tuple(ids[: place + 1])
        for ids, tail in zip(sequences, logit_counts, strict=True)
        for place in range(len(ids) - tail, len(ids))
    ]
    assert [prefixes[row] for row in batch.logit_rows.tolist()] == wanted
    for path, ids in zip(batch.paths, sequences, strict=True):
        assert [tokens_of[slot][-1] for slot in path.tolist()] == ids
    planner = Planner(batch, span, gather=gather, min_shared=min_shared)
    for rows in (np.arange(batch.rows), np.unique(batch.logit_rows)):
        plan = planner.plan(rows)
        for row, seen in zip(rows.tolist(), seen_slots(plan), strict=True):
            first = int(span.first(batch.positions[row : row + 1])[0])
            mine = [prefixes[row][: place + 1] for place in range(first, len(prefixes[row]))]
            assert Counter({tokens_of[slot]: count for slot, count in seen.items()}) == Counter(mine)


def test_equal_prefixes_are_laid_out_once():
    sequences = sorted([[1] * 70 + [n, 2] for n in range(3, 9)])
    batch, _ = laid_out(sequences, [0] * 6, [1] * 6)
    assert batch.rows == 70 + 2 * 6


def test_a_prefix_that_many_see_is_attended_to_once():
    sequences = sorted([[1] * 100 + [n, 2] for n in range(3, 20)])
    batch, _ = laid_out(sequences, [100] * 17, [1] * 17)
    plan = Planner(batch).plan()
    [shared] = plan.shared
    assert shared.slots == range(100)
    assert shared.queries == slice(0, 34)
    [gathered] = plan.gathered
    assert gathered.slots.shape[1] < 100


def test_blocks_are_filled_up_to_others_of_about_as_many_keys_unless_a_start_is_dear():
    sequences = sorted([n % 3 + 2, *[1] * (40 * (n % 8 + 1)), n + 2] for n in range(24))
    batch, _ = laid_out(sequences, [0] * 24, [1] * 24)
    assert len(Planner(batch, gather=True).plan().gathered) == 1

    def products(plan: AttentionPlan) -> int:
        return sum(gathered.visible.size for gathered in plan.gathered)

    plan = Planner(batch).plan()
    assert 2 * sum(int(gathered.visible.sum()) for gathered in plan.gathered) > products(plan)
    assert products(plan) < products(Planner(batch, gather=True).plan())


@pytest.mark.parametrize(("prompts", "gathers"), [(1, False), (2, False), (40, True)])
def test_a_few_short_prompts_are_not_gathered(prompts: int, gathers: bool):
    batch, _ = laid_out([[n, 1, 2] for n in range(prompts)], [0] * prompts, [1] * prompts)
    assert bool(Planner(batch).plan().gathered) == gathers


@pytest.mark.parametrize(
    ("span", "first"),
    [(FULL, [0, 0, 0, 0]), (Span(4), [0, 2, 5, 6]), (Span(4, chunked=True), [0, 4, 8, 8])],
)
def test_spans(span: Span, first: list[int]):
    assert span.first(np.array([0, 5, 8, 9])).tolist() == first
