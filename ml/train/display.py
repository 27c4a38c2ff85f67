"""What a run shows while it works: a live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ml.train.perplexity import Perplexity

_MEMORY = 0.98
"""Of the shown loss and speed: a mean over about the last 50 steps."""
_LOG_SECONDS = 60.0


class Display:
    """Loss, perplexity, tokens per second and time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("training", total=None, figures="")
        self._loss: float | None = None
        self._speed: float | None = None
        self._last = self._logged = time.monotonic()
        self._total = 0

    @contextmanager
    def running(self, step: int, total: int) -> Iterator[None]:
        """Show a run of `total` steps of which `step` are done."""
        self._total = total
        self._progress.update(self._bar, total=total, completed=step)
        self._last = time.monotonic()
        with self._progress:
            yield

    def step(self, step: int, loss: float, tokens: int) -> None:
        """Step number `step` is done; its `loss` is in nats per token."""
        now = time.monotonic()
        speed = tokens / max(now - self._last, 1e-9)
        self._last = now
        self._loss = loss if self._loss is None else _MEMORY * self._loss + (1 - _MEMORY) * loss
        self._speed = speed if self._speed is None else _MEMORY * self._speed + (1 - _MEMORY) * speed
        perplexity = math.exp(min(self._loss, 50.0))
        figures = f"loss {self._loss:.3f}  perplexity {perplexity:.1f}  {self._speed:,.0f} tokens/s"
        self._progress.update(self._bar, completed=step, figures=figures)
        if not self._console.is_terminal and now - self._logged > _LOG_SECONDS:
            self._logged = now
            left = (self._total - step) * tokens / self._speed / 60
            self._console.print(f"step {step}/{self._total}  {figures}  {left:.0f} min left", soft_wrap=True)

    def validated(self, epoch: float, train_loss: float, found: Perplexity) -> None:
        """A validation is done."""
        self._console.print(
            f"epoch {epoch:.2f}: training loss {train_loss:.3f}; validation perplexity "
            f"{found.per_token:.1f} per token, {found.per_word:.1f} per word",
            soft_wrap=True,
        )
        self._last = time.monotonic()

    def note(self, text: str) -> None:
        """Something to know of the run."""
        self._console.print(text, soft_wrap=True)
