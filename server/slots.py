"""Who may start a sequence, and who gives up a slot for it: pure policy.

Texts run for seconds, and the slots for them are few. While one is free, anybody may take it. When none is, a caller
who holds less than half of an equal share is given one of the caller who holds most. So nobody waits for the end of
another's texts. Only half of a share is given so, as each change costs a prefill of the text that gives way: callers
who hold about as many would take slots from each other for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable


def may_give(held: int, other: int) -> bool:
    """Whether a caller who has `held` slots may give one to a caller with `other`: not if it would then have fewer."""
    return other + 2 <= held


class Slots:
    """The slots of one model."""

    def __init__(self, free: int = 0, holders: Iterable[Hashable] = ()) -> None:
        """Begin with `free` slots, and with the callers of the sequences that hold the others, one for each."""
        self._free = free
        self._held = Counter(holders)
        self._may_start: dict[Hashable, bool] = {}
        """By caller, until the next one starts: each of a thousand items of a caller asks."""

    def may_start(self, caller: Hashable) -> bool:
        """Whether a sequence of `caller` may start now."""
        if self._free > 0:
            return True
        if caller not in self._may_start:
            own, largest = self._held[caller], max(self._held.values(), default=0)
            callers = len(self._held.keys() | {caller})
            self._may_start[caller] = may_give(largest, own) and 2 * own * callers < self._held.total()
        return self._may_start[caller]

    def start(self, caller: Hashable) -> None:
        """Count a sequence of `caller` that starts."""
        if self._free > 0:
            self._free -= 1
        else:
            self._held[self.giver()] -= 1
        self._held[caller] += 1
        self._may_start.clear()

    def giver(self) -> Hashable:
        """The caller who gives up a slot: whoever holds most.

        Raises:
            ValueError: nobody holds any.
        """
        return max(self._held, key=self._held.__getitem__)
