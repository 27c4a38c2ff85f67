"""Whose turn it is."""

from __future__ import annotations

from server.round_robin import RoundRobin


def of(*callers: str) -> RoundRobin[str]:
    """Items such as `a1`, in the order of arrival; the letter is the caller."""
    waiting: RoundRobin[str] = RoundRobin()
    for item in callers:
        waiting.add(item, item[0])
    return waiting


def served(waiting: RoundRobin[str], count: int, *, stay: bool) -> list[str]:
    """Who is first, so many times. `stay`: an item comes back behind the others of its caller."""
    order = []
    for _ in range(count):
        item = next(iter(waiting))
        waiting.rotate(item)
        if not stay:
            waiting.remove(item)
        order.append(item)
    return order


def test_the_order_is_one_of_each_caller_then_a_second():
    waiting = of("a1", "a2", "a3", "b1", "c1", "b2")
    assert list(waiting) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert len(waiting) == 6


def test_who_had_a_turn_is_behind_who_had_none():
    assert served(of("a1", "a2", "a3", "b1", "b2"), 5, stay=False) == ["a1", "b1", "a2", "b2", "a3"]


def test_a_callers_own_items_take_turns_too():
    assert served(of("a1", "a2", "b1"), 6, stay=True) == ["a1", "b1", "a2", "b1", "a1", "b1"]


def test_one_who_comes_late_waits_for_one_turn():
    waiting = of("a1", "a2", "a3", "a4")
    served(waiting, 2, stay=False)
    waiting.add("b1", "b")
    assert served(waiting, 3, stay=False) == ["a3", "b1", "a4"]


def test_what_is_removed_leaves_nothing():
    waiting = of("a1", "b1", "b2")
    for item in ("b1", "a1", "a1", "unknown"):
        waiting.remove(item)
    assert list(waiting) == ["b2"]
    assert ("b2" in waiting, "a1" in waiting) == (True, False)
    waiting.remove("b2")
    assert (len(waiting), list(waiting)) == (0, [])
