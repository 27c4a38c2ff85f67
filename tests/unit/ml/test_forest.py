"""A forest is right when every row sees exactly its own prefix, once."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ml.forest import Forest
from ml.prefixes import BLOCK, Piece
from tests.unit.ml.test_prefixes import PLENTY, Memory, blocks

prompts = st.builds(
    lambda numbers, rest: blocks(*numbers) + tuple(rest),
    st.lists(st.integers(1, 2), max_size=4),
    st.lists(st.integers(1, 2), min_size=1, max_size=40),
)


@given(st.lists(prompts, min_size=1, max_size=8), st.lists(prompts, max_size=4), st.data())
def test_each_row_sees_its_prefix_once_and_the_right_rows_are_read_out(sequences, earlier, data):
    memory = Memory(PLENTY)
    for ids in earlier:
        memory.remember(ids)
    tails = [data.draw(st.integers(1, len(ids))) for ids in sequences]
    recalled = [memory.tree.recall(ids, len(ids) - tail) for ids, tail in zip(sequences, tails, strict=True)]
    forest = Forest(sequences, tails, recalled)

    # Who sees what, as (position, token): a row's own segment up to itself, and whatever visits it.
    row_keys = list(zip(forest.positions.tolist(), forest.ids.tolist(), strict=True))
    seen = [Counter() for _ in row_keys]
    for segment in forest.segments:
        for row in segment:
            seen[row].update(row_keys[segment.start : row + 1])
    for visit in forest.visits:
        if isinstance(visit.keys, Piece):
            before = [memory.store[place] for place in visit.keys.places]
            keys = [(len(ids) - 1, ids[-1]) for ids in before]
        else:
            keys = [row_keys[row] for row in visit.keys]
        for row in visit.rows:
            seen[row].update(keys)
    assert [row for segment in forest.segments for row in segment] == list(range(forest.rows))

    read_out = iter(forest.readout.tolist())
    for index, (ids, tail) in enumerate(zip(sequences, tails, strict=True)):
        rows = forest.path(index).tolist()
        first = forest.recalled[index]
        assert [row_keys[row] for row in rows] == list(enumerate(ids))[first:]
        for position, row in enumerate(rows, first):
            assert seen[row] == Counter(enumerate(ids[: position + 1]))
        assert [next(read_out) for _ in range(tail)] == rows[-tail:]


def test_a_beginning_that_prompts_share_is_laid_out_once():
    shared = blocks(1, 2, 3)
    forest = Forest([(*shared, 7 + n, 5) for n in range(10)], [1] * 10, [[]] * 10)
    assert forest.rows == 3 * BLOCK + 20
    assert len(forest.segments) == 11


def test_unrelated_prompts_stay_whole():
    sequences = [(9, *range(20 + n, 60 + n)) for n in range(5)]  # one token is no beginning worth sharing
    forest = Forest(sequences, [1] * 5, [[]] * 5)
    assert (len(forest.segments), forest.visits) == (5, [])


def test_equal_prompts_are_laid_out_once():
    forest = Forest([blocks(1, rest=3)] * 4, [1, 2, 3, 4], [[]] * 4)
    assert forest.rows == BLOCK + 3
