"""Admission to the queue: what may wait is bounded, but no caller is refused an equal share of it.

So a greedy caller fills the queue only for itself: a caller with less than an equal share waiting is admitted to a full
queue. With n callers, at most 1 + 1/2 + ... + 1/n times as much waits as the bounds say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field


class QueueOverflowError(Exception):
    """The call does not fit into the queue; nothing of it was queued."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"{tokens} tokens are waiting already")
        self.tokens = tokens
        """Tokens that wait already."""


@dataclass
class Load:
    """What waits."""

    items: int = 0
    tokens: int = 0
    """All that are to be read, those of later chunks included."""

    sequences: Counter[Hashable] = field(default_factory=Counter)
    """Items that wait for a running sequence, by pool."""

    def add(self, items: int, tokens: int, pool: Hashable = None) -> None:
        """Count so much more, or less where the numbers are negative. `pool`: that the items wait for."""
        self.items += items
        self.tokens += tokens
        if pool is not None:
            self.sequences[pool] += items


class Admission:
    """Keeps count of what each caller has waiting. Not safe for use from several threads at once."""

    def __init__(self, max_items: int, max_tokens: int) -> None:
        """Let so many items and tokens wait."""
        self._max_items, self._max_tokens = max_items, max_tokens
        self._loads: dict[Hashable, Load] = {}
        self.total = Load()
        """Of all callers."""

    def enter(self, caller: Hashable, tokens: int, pool: Hashable) -> None:
        """Count an item as waiting."""
        self.total.add(1, tokens, pool)
        self._loads.setdefault(caller, Load()).add(1, tokens, pool)

    def leave(self, caller: Hashable, tokens: int, pool: Hashable) -> None:
        """Count an item as waiting no more."""
        self.total.add(-1, -tokens, pool)
        load = self._loads[caller]
        load.add(-1, -tokens, pool)
        if not load.items:
            del self._loads[caller]

    def tokens(self, caller: Hashable) -> int:
        """Tokens that a caller has waiting, those of later chunks included."""
        return self._loads[caller].tokens if caller in self._loads else 0

    def check(self, caller: Hashable, more: Load, max_tokens: float, max_sequences: float) -> None:
        """Find out whether `more` of `caller` may wait.

        Args:
            max_tokens: tokens that may wait for now, where that is less than the bound. Where none do, any call may.
            max_sequences: items of one pool that may wait for a running sequence. The first may always.

        Raises:
            QueueOverflowError: it may not.
        """
        total, mine = self.total, self._loads.get(caller, Load())
        share = 1 / (len(self._loads) + (caller not in self._loads))

        def overflows(waiting: int, own: int, added: int, limit: float) -> bool:
            return waiting + added > limit and own + added > share * limit

        max_tokens = min(max_tokens, self._max_tokens)
        if (
            overflows(total.items, mine.items, more.items, self._max_items)
            or (total.tokens and overflows(total.tokens, mine.tokens, more.tokens, max_tokens))
            or any(
                total.sequences[pool] and overflows(total.sequences[pool], mine.sequences[pool], added, max_sequences)
                for pool, added in more.sequences.items()
            )
        ):
            raise QueueOverflowError(total.tokens)
