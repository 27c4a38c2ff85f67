"""Passes of a model that end early when something more urgent waits. A pass looks at each layer's attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_is_preempted: ContextVar[Callable[[], bool] | None] = ContextVar("is_preempted", default=None)


class PreemptedError(Exception):
    """A pass ended early. Nothing of it is kept, and it may run again."""


@contextmanager
def preemptible(is_preempted: Callable[[], bool]) -> Iterator[None]:
    """Within, passes of this thread end at the next layer once `is_preempted`; by `PreemptedError`."""
    token = _is_preempted.set(is_preempted)
    try:
        yield
    finally:
        _is_preempted.reset(token)


def end_if_preempted() -> None:
    """End the pass under way if it is preempted.

    Raises:
        PreemptedError: it is.
    """
    is_preempted = _is_preempted.get()
    if is_preempted is not None and is_preempted():
        raise PreemptedError
