"""Admission to the queue: what may wait for a model is bounded, but no caller is refused an equal share of it.

So a greedy caller fills the queue only for itself: a caller with less than an equal share waiting is admitted to a full
queue. With n callers, at most 1 + 1/2 + ... + 1/n times as much waits as the bounds say.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass


class QueueOverflowError(Exception):
    """The call does not fit into the queue; nothing of it was queued."""


@dataclass(slots=True)
class Load:
    """What waits. Never changed, but not frozen: each call makes ten, and a frozen one takes three times as long."""

    items: int = 0

    tokens: int = 0
    """All that are to be read, those of later chunks included."""

    sequences: int = 0
    """Items that wait for a place."""

    def __add__(self, other: Load) -> Load:
        return Load(self.items + other.items, self.tokens + other.tokens, self.sequences + other.sequences)

    def __sub__(self, other: Load) -> Load:
        return Load(self.items - other.items, self.tokens - other.tokens, self.sequences - other.sequences)


class Admission:
    """Keeps count of what each caller has waiting for one model. Not safe for use from several threads at once."""

    def __init__(self, max_items: int, max_tokens: float = math.inf) -> None:
        """Let so many items and tokens wait."""
        self._max_items, self._max_tokens = max_items, max_tokens
        self._loads: dict[Hashable, Load] = {}
        self.total = Load()
        """Of all callers."""

    def enter(self, caller: Hashable, load: Load) -> None:
        """Count `load` as waiting."""
        self.total += load
        self._loads[caller] = self.load(caller) + load

    def leave(self, caller: Hashable, load: Load) -> None:
        """Count `load` as waiting no more."""
        self.total -= load
        self._loads[caller] -= load
        if not self._loads[caller].items:
            del self._loads[caller]

    @property
    def loads(self) -> Mapping[Hashable, Load]:
        """What each caller has waiting, of those who have."""
        return self._loads

    def load(self, caller: Hashable) -> Load:
        """What a caller has waiting."""
        return self._loads.get(caller, _NOTHING)

    def check(
        self, caller: Hashable, more: Load, *, max_tokens: float = math.inf, max_sequences: float = math.inf
    ) -> None:
        """Find out whether `more` of `caller` may wait.

        Args:
            max_tokens: tokens that may wait for now, where that is less than the bound. Where none do, any call may.
            max_sequences: items that may wait for a place. The first may always.

        Raises:
            QueueOverflowError: it may not.
        """
        total, own = self.total, self.load(caller)
        share = 1 / (len(self._loads) + (caller not in self._loads))

        def overflows(waiting: int, own: int, added: int, limit: float) -> bool:
            return added > 0 and waiting + added > limit and own + added > share * limit

        max_tokens = min(max_tokens, self._max_tokens)
        if (
            overflows(total.items, own.items, more.items, self._max_items)
            or (total.tokens and overflows(total.tokens, own.tokens, more.tokens, max_tokens))
            or (total.sequences and overflows(total.sequences, own.sequences, more.sequences, max_sequences))
        ):
            raise QueueOverflowError


_NOTHING = Load()
