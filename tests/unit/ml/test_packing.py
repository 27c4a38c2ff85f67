"""Packing is right when every row sees exactly its own prefix, whatever the steps and blocks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ml.packing import Packing, Step

tokens = st.integers(0, 2)  # few, so that prefixes are shared


@st.composite
def sequences_and_tails(draw: st.DrawFn) -> tuple[list[list[int]], list[int]]:
    trunk = draw(st.lists(tokens, max_size=10))
    beginnings = st.integers(0, len(trunk)).map(lambda n: trunk[:n])
    endings = st.lists(tokens, min_size=1, max_size=8)
    sequences = draw(st.lists(st.builds(list.__add__, beginnings, endings), min_size=1, max_size=10))
    tails = [draw(st.integers(1, min(3, len(sequence)))) for sequence in sequences]
    return sequences, tails


class Reader:
    """Follows the steps as a model would, and knows of each key which prefix it stands for."""

    def __init__(self) -> None:
        self._path: list[tuple[int, ...]] = []

    def read(self, step: Step) -> list[tuple[int, ...]]:
        """The prefix that each row of the step stands for."""
        keys = self._path[: step.cached] + [()] * step.rows
        queries = step.queries
        block = queries.rows.shape[1] or 1
        if not step.is_trunk:
            assert queries.visible.any(axis=2).all()  # a softmax over nothing is not a number
            assert queries.rows.ravel()[queries.places].tolist() == list(range(step.rows))
        for row in range(step.rows):
            if step.is_trunk:
                seen = set(range(row + 1))
            else:
                n, place = divmod(int(queries.places[row]), block)
                seen = {*range(step.trunk), *step.keys[n][queries.visible[n, place]].tolist()}
            seen.remove(step.cached + row)
            ancestors = sorted((keys[key] for key in seen), key=len)
            assert len(ancestors) == step.positions[row]
            prefix = ancestors[-1] if ancestors else ()
            assert ancestors == [prefix[: length + 1] for length in range(len(prefix))]
            keys[step.cached + row] = (*prefix, int(step.ids[row]))
        self._path = [keys[key] for key in step.path]
        return keys[step.cached :]


@settings(max_examples=300, deadline=None)
@given(
    sequences_and_tails(), st.integers(1, 30), st.integers(1, 10), st.sets(st.sampled_from([1, 2, 3, 8]), min_size=1)
)
def test_each_row_sees_its_prefix_and_each_read_out_row_is_its_sequence(
    case: tuple[list[list[int]], list[int]], max_rows: int, max_readout: int, sizes: set[int]
) -> None:
    sequences, tails = case
    packing = Packing(sequences, tails)
    reader = Reader()
    rows = 0
    read_out = []
    for step in packing.steps(max_rows=max_rows, max_readout=max_readout, trunk=min(sizes), sizes=sorted(sizes)):
        prefixes = reader.read(step)
        rows += step.rows
        wanted = [
            tuple(sequences[i][: len(sequences[i]) - back])
            for i in step.sequences
            for back in reversed(range(tails[i]))
        ]
        assert [prefixes[row] for row in step.readout] == wanted
        read_out += step.sequences.tolist()
    assert sorted(read_out) == list(range(len(sequences)))
    assert rows == packing.rows
    assert packing.rows + packing.rows_saved == sum(map(len, sequences))


def test_sequences_that_differ_in_one_place_compute_what_follows_it_only() -> None:
    original = list(range(10, 20))
    occluded = [[*original[:i], 0, *original[i + 1 :]] for i in range(10)]
    packing = Packing([original, *occluded], [1] * 11)
    assert packing.rows == 10 + sum(10 - i for i in range(10))


def test_a_long_shared_beginning_is_a_step_of_its_own_and_in_no_block() -> None:
    shared = list(range(100))
    packing = Packing([[*shared, 200 + i, 300] for i in range(5)], [1] * 5)
    trunk, rest = packing.steps(max_rows=1000, max_readout=1000, sizes=[16])
    assert trunk.is_trunk
    assert trunk.rows == 100
    assert rest.trunk == rest.cached == 100
    assert rest.keys.shape == (1, 16)  # nothing behind the trunk where the one block starts, and its 10 rows filled up


@settings(max_examples=100, deadline=None)
@given(sequences_and_tails(), st.sampled_from([1, 2, 3, 8]))
def test_queries_of_some_rows_see_the_same_keys(case: tuple[list[list[int]], list[int]], size: int) -> None:
    sequences, tails = case
    for step in Packing(sequences, tails).steps(max_rows=100, max_readout=100, trunk=100, sizes=[size]):
        picked = step.queries.only(step.readout)
        assert picked.rows.ravel()[picked.places].tolist() == list(range(len(step.readout)))
        assert picked.visible.any(axis=2).all()
        for row, place in zip(step.readout, picked.places, strict=True):
            block, within = divmod(int(place), picked.rows.shape[1])
            same, before = divmod(int(step.queries.places[row]), step.queries.rows.shape[1])
            assert block == same
            assert (picked.visible[block, within] == step.queries.visible[block, before]).all()
