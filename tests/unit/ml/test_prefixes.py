"""What is remembered is always right, within its bounds, and what was used last stays. The model is a fake."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from ml.prefixes import BLOCK, PrefixTree

TOKEN_BYTES = 10
BLOCK_BYTES = BLOCK * TOKEN_BYTES


@dataclass(frozen=True)
class Kept:
    """Knows which tokens it stands for, and what lies before them."""

    before: tuple[int, ...]
    ids: tuple[int, ...]

    def part(self, start: int, stop: int) -> Kept:
        return Kept(self.before + self.ids[:start], self.ids[start:stop])


def blocks(*numbers: int, rest: int = 0) -> tuple[int, ...]:
    """A prompt of blocks that each repeat a number, and `rest` more tokens."""
    return tuple(number for number in numbers for _ in range(BLOCK)) + (0,) * rest


def remember(tree: PrefixTree[Kept], ids: tuple[int, ...]) -> None:
    tree.remember(ids, lambda start, stop: Kept(ids[:start], ids[start:stop]))


def recalled(tree: PrefixTree[Kept], ids: tuple[int, ...], most: int | None = None) -> int:
    """How many tokens are recalled; each piece must stand for its place in `ids`."""
    position = 0
    for piece in tree.recall(ids, len(ids) if most is None else most):
        assert piece.kept.before == ids[:position]
        assert piece.kept.ids[: piece.tokens] == ids[position : position + piece.tokens]
        position += piece.tokens
    return position


prompts = st.builds(lambda numbers, rest: blocks(*numbers, rest=rest), st.lists(st.integers(1, 2)), st.integers(0, 40))


@given(st.lists(prompts, max_size=30), st.integers(0, 12))
def test_recalls_the_longest_remembered_beginning_within_its_bounds(asked, room):
    tree: PrefixTree[Kept] = PrefixTree(room * BLOCK_BYTES, TOKEN_BYTES)
    known: set[tuple[int, ...]] = set()
    for ids in asked:
        found = recalled(tree, ids)
        assert found % BLOCK == 0
        assert found == 0 or ids[:found] in known  # nothing is made up
        remember(tree, ids)
        known |= {ids[:length] for length in range(BLOCK, len(ids) + 1, BLOCK)}
        assert tree.bytes <= room * BLOCK_BYTES
    roomy: PrefixTree[Kept] = PrefixTree(10**9, TOKEN_BYTES)
    for ids in asked:
        remember(roomy, ids)
    for ids in asked:
        assert recalled(roomy, ids) == len(ids) - len(ids) % BLOCK
    assert roomy.bytes == len(known) * BLOCK_BYTES


def test_what_was_used_longest_ago_goes_first():
    tree: PrefixTree[Kept] = PrefixTree(3 * BLOCK_BYTES, TOKEN_BYTES)
    for number in (1, 2, 3):
        remember(tree, blocks(number))
    assert recalled(tree, blocks(1)) == BLOCK
    remember(tree, blocks(4))
    assert [recalled(tree, blocks(number)) for number in (1, 2, 3, 4)] == [BLOCK, 0, BLOCK, BLOCK]


def test_a_beginning_outlives_its_endings():
    tree: PrefixTree[Kept] = PrefixTree(4 * BLOCK_BYTES, TOKEN_BYTES)
    for ending in range(10, 30):
        remember(tree, blocks(1, 2, 3, ending))
        assert recalled(tree, blocks(1, 2, 3)) == 3 * BLOCK


def test_a_growing_prompt_adds_what_is_new():
    tree: PrefixTree[Kept] = PrefixTree(10**9, TOKEN_BYTES)
    made: list[tuple[int, int]] = []
    for length in range(1, 6):
        ids = blocks(*range(length), rest=5)
        tree.remember(
            ids, lambda start, stop, ids=ids: made.append((start, stop)) or Kept(ids[:start], ids[start:stop])
        )
    assert made == [(n * BLOCK, (n + 1) * BLOCK) for n in range(5)]


def test_no_more_is_recalled_than_is_wanted():
    tree: PrefixTree[Kept] = PrefixTree(10**9, TOKEN_BYTES)
    remember(tree, blocks(1, 2))
    assert [recalled(tree, blocks(1, 2), most) for most in (0, 1, 40, 64, 100)] == [0, 1, 40, 64, 64]


def test_what_does_not_fit_is_not_made():
    tree: PrefixTree[Kept] = PrefixTree(2 * BLOCK_BYTES, TOKEN_BYTES)
    remember(tree, blocks(9))
    tree.remember(blocks(1, 2, 3), lambda *_: 1 / 0)  # type: ignore[arg-type, return-value]
    none: PrefixTree[Kept] = PrefixTree(0, TOKEN_BYTES)
    none.remember(blocks(1), lambda *_: 1 / 0)  # type: ignore[arg-type, return-value]
    assert (none.bytes, recalled(none, blocks(1))) == (0, 0)


def test_nothing_is_kept_whose_beginning_is_forgotten():
    tree: PrefixTree[Kept] = PrefixTree(10**9, TOKEN_BYTES)
    tree.remember(blocks(1, 2), lambda *_: 1 / 0, BLOCK)  # type: ignore[arg-type, return-value]
    remember(tree, blocks(1))
    tree.remember(blocks(1, 2), lambda start, stop: Kept(blocks(1), blocks(1, 2)[start:stop]), BLOCK)
    assert recalled(tree, blocks(1, 2)) == 2 * BLOCK
