"""The training loop: the same for every model, and the same numbers whether it was interrupted or not."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from ml.train.average import WeightAverage
from ml.train.checkpoint import load_checkpoint, save_checkpoint
from ml.train.display import Display
from ml.train.errors import DivergedError, InterruptedRunError, ResumeError, StorageError
from ml.train.folder import Record, RunFolder
from ml.train.options import differences, flag, plain
from ml.train.perplexity import Perplexity
from ml.train.run import RunSettings
from ml.train.schedule import Schedule, Shape
from ml.train.task import Task


class Training:
    """One run in one folder: the model in it, the run's own files in its `training/`."""

    def __init__(self, task: Task, settings: RunSettings, out: Path, display: Display) -> None:
        self.task = task
        self.settings = settings
        self.folder = RunFolder(out)
        self.display = display
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

    def begin(self) -> None:
        """Write the first checkpoint, and remove what an earlier run left in the folder.

        Raises:
            StorageError: the folder cannot be written; what lay in it is unharmed.
        """
        self._save()
        self.folder.clear()

    def resume(self) -> None:
        """Continue from the folder's checkpoint; report what is set otherwise than before.

        Raises:
            ResumeError: there is none, it is of another model or text, or has what a started run cannot change.
        """
        state = load_checkpoint(self.folder.checkpoint)
        if state.get("settings") is None:
            raise ResumeError(
                f"{self.folder.checkpoint} is of an earlier version of Gloss; start again with --overwrite"
            )
        self._compare(state["settings"])
        try:
            self.task.module.load_state_dict(state["module"])
            for optimizer, stored in zip(self.task.optimizers, state["optimizers"], strict=True):
                _load_keeping_rates(optimizer, stored)
            self.task.load_state_dict(state["task"])
            if self._average is not None:
                self._average.load_state_dict(state["average"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ResumeError(f"{self.folder.checkpoint} is of another model or recipe: {error}") from error
        self._step, self._plateau, self._seconds = state["step"], state["plateau"], state["seconds"]
        self._loss_sum, self._loss_steps, self._averaging = state["loss_sum"], state["loss_steps"], state["averaging"]
        self.history = [Record(**record) for record in state["history"]]
        torch.set_rng_state(state["rng"])
        if not self.history:  # a run that was killed in the middle of `begin`
            self.folder.clear()

    def _compare(self, before: dict[str, Any]) -> None:
        if before["model"] != self.task.name:
            raise ResumeError(
                f"{self.folder.checkpoint} is of another model: a {before['model']}, not a {self.task.name}"
            )
        if before["text"] != self.task.fingerprint:
            raise ResumeError(
                "the text in --data is another than the run began with: name that one, or start again in another --out"
            )
        changes = [*differences(self.task.settings, before["task"]), *differences(self.settings, before["run"])]
        fixed = ", ".join(str(change) for change in changes if change.fixed)
        if fixed:
            raise ResumeError(
                f"a run that has begun cannot change {fixed}: leave it out to go on, or start again in another --out"
            )
        for change in changes:
            self.display.note(f"changed from here on: {change}")

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
        if self._step >= self._total or self._exhausted():
            self.display.note(f"nothing to do: {self._outcome()}")
            return
        if self.settings.warmup >= self._total:
            self.display.note(
                f"the run has {self._total} steps and --warmup {self.settings.warmup}: its learning rate stays below"
                " what was asked for"
            )
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
        self.display.note(self._outcome())

    def _outcome(self) -> str:
        """How the run ended, and what it left."""
        done = self._step / self.task.steps_per_epoch
        if self._step >= self._total:
            end = f"{done:g} epochs are done of {self.settings.epochs} asked for (more: --resume --epochs N)"
        else:
            waited = f"{self._since_best()} validations without an improvement"
            end = f"ended at epoch {done:.2f} after {waited} (more: --resume with a larger --patience)"
        if not self.history:
            return end
        best = min(self.history, key=lambda record: record.valid_loss_per_token)
        return (
            f"{end}; {self.folder.path} holds the model of epoch {best.epoch:.2f}, the best: validation perplexity"
            f" {best.valid_perplexity_per_word:.2f} per word"
        )

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
            lower = " or ".join(flag(name) for name in self.task.rates)
            raise DivergedError(
                f"the loss at step {self._step + 1} is {value} and its gradient's norm {norm}; the last good "
                f"checkpoint is kept: --resume it with a lower {lower} or a smaller --clip"
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
        best = min((record.valid_loss_per_token for record in self.history), default=math.inf)
        valid_loss = found.nats / found.tokens
        factor = self._schedule.factor(self._step - 1) * self._plateau
        record = Record(
            step=self._step,
            epoch=self._step / self.task.steps_per_epoch,
            seconds=round(self._seconds, 1),
            train_loss_per_token=self._loss_sum / self._loss_steps,
            valid_loss_per_token=valid_loss,
            valid_perplexity_per_word=found.per_word,
            learning_rate_factor=factor,
            learning_rates={name: rate * factor for name, rate in self.task.rates.items()},
        )
        self._loss_sum, self._loss_steps = 0.0, 0
        self.history.append(record)
        self.display.validated(record.epoch, record.train_loss_per_token, found)
        try:
            if valid_loss < best:
                # Still inside the averaged weights, where there are any: what was measured is what is exported.
                self.task.export(self.folder.path)
            self.folder.write_history(self.history)
        except OSError as error:
            raise StorageError(
                f"{self.folder.path} cannot be written: {error.strerror}; the checkpoint is kept"
            ) from error
        if valid_loss >= best and self.settings.shape is Shape.PLATEAU:
            self._plateau /= 4
        if self.settings.stall and self._since_best() >= self.settings.stall:
            self._averaging = self._average is not None

    def _since_best(self) -> int:
        losses = [record.valid_loss_per_token for record in self.history]
        return len(losses) - 1 - losses.index(min(losses)) if losses else 0

    def _exhausted(self) -> bool:
        return 0 < self.settings.patience <= self._since_best()

    def _save(self) -> None:
        state: dict[str, Any] = {
            "settings": {
                "model": self.task.name,
                "text": self.task.fingerprint,
                "task": plain(self.task.settings),
                "run": plain(self.settings),
            },
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
        save_checkpoint(state, self.folder.checkpoint)


def _load_keeping_rates(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state, not its settings: a run may go on with another learning rate."""
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group.update(values)
