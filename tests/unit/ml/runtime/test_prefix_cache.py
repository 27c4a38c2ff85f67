"""What is cached is always right, within its bounds, and what was used last stays. The model is a fake."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ml.runtime.prefix_cache import BLOCK, Inserted, PrefixCache

PLENTY = 10**9


class Memory:
    """A tree and a store that notes of each slot for which token it stands, what lies before that, and whose it is."""

    def __init__(self, slots: int) -> None:
        self.tree = PrefixCache(slots)
        self.store: dict[int, tuple[str, tuple[int, ...]]] = {}

    def stored(self, ids: tuple[int, ...], first: int = 0, namespace: str = "") -> Inserted | None:
        inserted = self.tree.insert(ids, first, namespace)
        if inserted:
            for position, slot in enumerate(inserted.slots, inserted.start):
                self.store[slot] = namespace, ids[: position + 1]
        return inserted

    def cached(self, ids: tuple[int, ...], limit: int | None = None, namespace: str = "") -> int:
        """How many tokens are cached; each slot must stand for its token in `ids`, and be the namespace's."""
        runs = self.tree.match(ids, len(ids) if limit is None else limit, namespace)
        slots = [slot for run in runs for slot in run]
        assert [self.store[slot] for slot in slots] == [(namespace, ids[: n + 1]) for n in range(len(slots))]
        return len(slots)


def blocks(*numbers: int, rest: int = 0) -> tuple[int, ...]:
    """A prompt of blocks that each repeat a number, and `rest` more tokens."""
    return tuple(number for number in numbers for _ in range(BLOCK)) + (0,) * rest


prompts = st.builds(lambda numbers, rest: blocks(*numbers, rest=rest), st.lists(st.integers(1, 2)), st.integers(0, 40))


@given(st.lists(st.tuples(prompts, st.sampled_from(["", "a", "b"])), max_size=30), st.integers(0, 12))
def test_finds_the_longest_prefix_of_its_own_namespace_within_its_bounds(asked, capacity):
    memory = Memory(capacity * BLOCK + 5)
    known: set[tuple[str, tuple[int, ...]]] = set()
    for ids, namespace in asked:
        found = memory.cached(ids, namespace=namespace)
        assert found % BLOCK == 0
        assert found == 0 or (namespace, ids[:found]) in known  # nothing is made up
        memory.stored(ids, namespace=namespace)
        known |= {(namespace, ids[:length]) for length in range(BLOCK, len(ids) + 1, BLOCK)}
        assert memory.tree.tokens <= capacity * BLOCK
        assert not memory.store or max(memory.store) < capacity * BLOCK
    roomy = Memory(PLENTY)
    for ids, namespace in asked:
        roomy.stored(ids, namespace=namespace)
    for ids, namespace in asked:
        assert roomy.cached(ids, namespace=namespace) == len(ids) - len(ids) % BLOCK
    assert roomy.tree.tokens == len(known) * BLOCK


def test_the_least_recently_used_prefix_is_evicted_whoever_has_it():
    memory = Memory(3 * BLOCK)
    for namespace in "abc":
        memory.stored(blocks(1), namespace=namespace)
    assert memory.cached(blocks(1), namespace="a") == BLOCK
    memory.stored(blocks(2), namespace="d")
    assert [memory.cached(blocks(1), namespace=each) for each in "abcd"] == [BLOCK, 0, BLOCK, 0]


def test_what_was_used_longest_ago_goes_first():
    memory = Memory(3 * BLOCK)
    for number in (1, 2, 3):
        memory.stored(blocks(number))
    assert memory.cached(blocks(1)) == BLOCK
    memory.stored(blocks(4))
    assert [memory.cached(blocks(number)) for number in (1, 2, 3, 4)] == [BLOCK, 0, BLOCK, BLOCK]


def test_a_beginning_outlives_its_endings():
    memory = Memory(4 * BLOCK)
    for ending in range(10, 30):
        memory.stored(blocks(1, 2, 3, ending))
        assert memory.cached(blocks(1, 2, 3)) == 3 * BLOCK


def test_a_growing_prompt_adds_what_is_new():
    memory = Memory(PLENTY)
    found = [memory.stored(blocks(*range(length), rest=5)) for length in range(1, 6)]
    assert found == [Inserted(n * BLOCK, range(n * BLOCK, (n + 1) * BLOCK)) for n in range(5)]


def test_no_more_is_found_than_is_wanted():
    memory = Memory(PLENTY)
    memory.stored(blocks(1, 2))
    assert [memory.cached(blocks(1, 2), limit) for limit in (0, 1, 40, 64, 100)] == [0, 1, 40, 64, 64]


def test_what_does_not_fit_is_not_remembered():
    memory = Memory(2 * BLOCK)
    memory.stored(blocks(9))
    assert memory.stored(blocks(1, 2, 3)) is None
    assert memory.cached(blocks(9)) == BLOCK  # nor does it cost what others have there
    assert memory.stored(blocks(9, 1, 2)) is None
    assert memory.cached(blocks(9)) == BLOCK
    assert Memory(0).stored(blocks(1)) is None


def test_places_that_were_given_up_one_by_one_serve_a_longer_run():
    memory = Memory(4 * BLOCK)
    for number in (1, 2, 3, 4):
        memory.stored(blocks(number))
    memory.cached(blocks(2))
    inserted = memory.stored(blocks(5, 6))
    assert inserted is not None
    assert [memory.cached(blocks(number)) for number in (1, 2, 3, 4)] == [0, BLOCK, 0, 0]
    assert memory.cached(blocks(5, 6)) == 2 * BLOCK


def test_nothing_is_kept_whose_beginning_is_forgotten():
    memory = Memory(PLENTY)
    assert memory.stored(blocks(1, 2), BLOCK) is None
    memory.stored(blocks(1))
    memory.stored(blocks(1, 2), BLOCK)
    assert memory.cached(blocks(1, 2)) == 2 * BLOCK
