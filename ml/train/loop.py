"""The training loop: the same for every model, and the same numbers whether it was interrupted or not."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from ml.train.average import WeightAverage
from ml.train.checkpoint import load_checkpoint, save_checkpoint
from ml.train.display import Display
from ml.train.errors import DivergedError, InterruptedRunError, ResumeError, StorageError
from ml.train.perplexity import Perplexity
from ml.train.plot import plot_history
from ml.train.schedule import Schedule, Shape
from ml.train.task import Task


@dataclass(frozen=True)
class RunSettings:
    """What a run does beside the model's own settings."""

    epochs: int
    shape: Shape = Shape.TRAPEZOID
    warmup: int = 0
    decay: float = 0.4
    clip: float = 1.0
    """Largest norm of all gradients together; 0 does not clip."""
    average: float = 0.0
    """Decay of the weights' running mean, which is then what is validated and exported; 1 is averaged SGD, 0 is off."""
    stall: int = 0
    """With `average`: begin the mean when this many validations brought no improvement; 0 begins at once."""
    validations: int = 1
    """Per epoch."""
    patience: int = 0
    """Stop after this many validations without an improvement; 0 never does."""
    checkpoint_seconds: float = 300.0
    """Beside the checkpoint after every validation."""
    seed: int = 0


@dataclass(frozen=True)
class Record:
    """One line of the history."""

    step: int
    epoch: float
    seconds: float
    train_loss: float
    """Mean nats per token since the line before, dropout and all."""
    valid_loss: float
    valid_perplexity: float
    """Per word."""
    rate: float
    """The learning rate's factor."""


class Training:
    """One run in one folder: the model in it, the run's own files in its `training/`."""

    def __init__(self, task: Task, settings: RunSettings, out: Path, display: Display) -> None:
        self.task = task
        self.settings = settings
        self.out = out
        self.display = display
        self.checkpoint = out / "training" / "checkpoint.safetensors"
        self.history: list[Record] = []
        self._total = settings.epochs * task.steps_per_epoch
        self._schedule = Schedule(settings.shape, self._total, settings.warmup, settings.decay)
        self._average = WeightAverage(task.module, settings.average) if settings.average else None
        self._averaging = self._average is not None and not settings.stall
        self._stopping = False
        self._step = 0
        self._plateau = 1.0
        self._seconds = 0.0
        self._loss_sum = 0.0
        self._loss_steps = 0
        for optimizer in task.optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]

    def resume(self) -> None:
        """Continue from the folder's checkpoint.

        Raises:
            ResumeError: there is none, or it is of another model.
        """
        state = load_checkpoint(self.checkpoint)
        try:
            self.task.module.load_state_dict(state["module"])
            for optimizer, stored in zip(self.task.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(stored)
            self.task.load_state_dict(state["task"])
            if self._average is not None:
                self._average.load_state_dict(state["average"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ResumeError(f"{self.checkpoint} is of another model or recipe: {error}") from error
        self._step, self._plateau, self._seconds = state["step"], state["plateau"], state["seconds"]
        self._loss_sum, self._loss_steps, self._averaging = state["loss_sum"], state["loss_steps"], state["averaging"]
        self.history = [Record(**record) for record in state["history"]]
        torch.set_rng_state(state["rng"])

    def stop(self) -> None:
        """End `run` after the step it is in. May be called from a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Train to the end, to an early stop, or to a `stop`.

        Raises:
            InterruptedRunError: `stop` was called; the checkpoint is up to date.
            DivergedError: the loss is no longer a number.
            StorageError: the disk is full or refuses.
        """
        self.task.module.train()
        per_epoch = self.task.steps_per_epoch
        # The epoch's last step always validates.
        validate_at = {per_epoch * (i + 1) // self.settings.validations for i in range(self.settings.validations)}
        with self.display.running(self._step, self._total):
            while self._step < self._total and not self._exhausted():
                epoch, skip = divmod(self._step, per_epoch)
                saved = began = time.monotonic()
                for inputs, targets in self.task.batches(epoch, skip):
                    loss = self._train_on(inputs, targets)
                    now = time.monotonic()
                    self._seconds, began = self._seconds + now - began, now
                    self.display.step(self._step, loss, inputs.numel())
                    validated = (self._step - 1) % per_epoch + 1 in validate_at
                    if validated:
                        self._validate()
                    if validated or self._stopping or now - saved > self.settings.checkpoint_seconds:
                        self._save()
                        saved = began = time.monotonic()
                    if self._stopping:
                        raise InterruptedRunError(f"interrupted after step {self._step}; go on with --resume")
                    if self._exhausted():
                        break

    def _train_on(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        factor = self._schedule.factor(self._step) * self._plateau
        for optimizer in self.task.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            optimizer.zero_grad()
        loss = self.task.loss(inputs, targets)
        loss.backward()
        value = loss.item()
        norm = clip_grad_norm_(self.task.module.parameters(), self.settings.clip or math.inf).item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise DivergedError(
                f"the loss at step {self._step + 1} is {value} and its gradient's norm {norm}; the last good "
                f"checkpoint is kept: resume it with a lower learning rate or stronger clipping"
            )
        for optimizer in self.task.optimizers:
            optimizer.step()
        self._step += 1
        self._loss_sum += value
        self._loss_steps += 1
        if self._average is not None and self._averaging:
            self._average.update()
        return value

    def _validate(self) -> None:
        if self._average is not None and self._averaging:
            with self._average.applied():
                self._record(self.task.validate())
        else:
            self._record(self.task.validate())

    def _record(self, found: Perplexity) -> None:
        best = min((record.valid_loss for record in self.history), default=math.inf)
        valid_loss = found.nats / found.tokens
        record = Record(
            step=self._step,
            epoch=self._step / self.task.steps_per_epoch,
            seconds=round(self._seconds, 1),
            train_loss=self._loss_sum / self._loss_steps,
            valid_loss=valid_loss,
            valid_perplexity=found.per_word,
            rate=self._schedule.factor(self._step - 1) * self._plateau,
        )
        self._loss_sum, self._loss_steps = 0.0, 0
        self.history.append(record)
        self.display.validated(record.epoch, record.train_loss, found)
        try:
            if valid_loss < best:
                # Still inside the averaged weights, where there are any: what was measured is what is exported.
                self.task.export(self.out)
            self._write_history()
        except OSError as error:
            raise StorageError(f"{self.out} cannot be written: {error.strerror}; the checkpoint is kept") from error
        if valid_loss >= best and self.settings.shape is Shape.PLATEAU:
            self._plateau /= 4
        if self.settings.stall and self._since_best() >= self.settings.stall:
            self._averaging = self._average is not None

    def _write_history(self) -> None:
        folder = self.checkpoint.parent
        folder.mkdir(parents=True, exist_ok=True)
        lines = [asdict(record) for record in self.history]
        (folder / "history.json").write_text(json.dumps(lines, indent=1) + "\n")
        plot_history(lines, folder / "loss.png")

    def _since_best(self) -> int:
        losses = [record.valid_loss for record in self.history]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0

    def _exhausted(self) -> bool:
        return 0 < self.settings.patience <= self._since_best()

    def _save(self) -> None:
        state: dict[str, Any] = {
            "module": self.task.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.task.optimizers],
            "task": self.task.state_dict(),
            "average": self._average.state_dict() if self._average is not None else None,
            "step": self._step,
            "plateau": self._plateau,
            "seconds": self._seconds,
            "loss_sum": self._loss_sum,
            "loss_steps": self._loss_steps,
            "averaging": self._averaging,
            "history": [asdict(record) for record in self.history],
            "rng": torch.get_rng_state(),
        }
        save_checkpoint(state, self.checkpoint)
