"""How far the reading of weights has come, in a log instead of a bar."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any

from transformers.utils.logging import set_tqdm_hook

_SECONDS = 2.0
"""Between two lines."""


@contextmanager
def logged_progress(log: logging.Logger, model: str, seconds: float = _SECONDS) -> Iterator[None]:
    """Log, at most once in `seconds`, how many of its weights `model` has read while transformers loads it."""

    def hook(make: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if options.get("desc") == "Loading weights" and arguments:
            return _logged(arguments[0], log, model, seconds)
        return make(*arguments, **options)

    began = time.monotonic()
    before = set_tqdm_hook(hook)
    try:
        yield
    finally:
        set_tqdm_hook(before)
    log.info("model=%s weights read in %.1f s", model, time.monotonic() - began)


def _logged(items: Iterable[Any], log: logging.Logger, model: str, seconds: float) -> Iterator[Any]:
    total = len(items) if isinstance(items, Sized) else 0
    logged_at = time.monotonic()
    for number, item in enumerate(items):
        if total and time.monotonic() - logged_at >= seconds:
            logged_at = time.monotonic()
            log.info("model=%s weights=%d/%d %d%%", model, number, total, 100 * number // total)
        yield item
