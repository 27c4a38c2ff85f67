"""The folder of a run: its model, and in `training/` its checkpoint, its history and a picture of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ml.models.loading.files import CONFIG, remove_model, replacing
from ml.train.errors import OptionError, StorageError
from ml.train.plot import plot_history

_HISTORY = "history.json"
_PICTURE = "loss.png"


@dataclass(frozen=True)
class Record:
    """One line of the history: what a validation found."""

    step: int
    """Steps that are done."""
    epoch: float
    """Passes over the training text that are done."""
    seconds: float
    """Of training, validations left out."""
    train_loss_per_token: float
    """Mean nats per token since the record before, dropout and all."""
    valid_loss_per_token: float
    """Mean nats per token of the validation split."""
    valid_perplexity_per_word: float
    """exp(nats of the validation split / words of its original text)."""
    learning_rate_factor: float
    """What the schedule multiplies learning rates by, at the last step."""
    learning_rates: dict[str, float]
    """The learning rates of the last step, by the name of their option."""


class RunFolder:
    """Where one run writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = path / "training"
        self.checkpoint = self._own / "checkpoint.safetensors"

    def check(self, *, overwrite: bool) -> None:
        """Raise `OptionError` where no run may begin: in a file, or, without `overwrite`, beside a run or a model."""
        if self.path.exists() and not self.path.is_dir():
            raise OptionError(f"--out {self.path} is a file; name a folder")
        if overwrite:
            return
        if any((self._own / name).exists() for name in (self.checkpoint.name, _HISTORY)):
            raise OptionError(
                f"{self.path} holds a run already: go on with it by --resume, replace it by --overwrite, or name"
                " another --out"
            )
        if (self.path / CONFIG).exists() or any(self.path.glob("*.safetensors")):
            raise OptionError(f"{self.path} holds a model already: replace it by --overwrite, or name another --out")

    def clear(self) -> None:
        """Remove what an earlier run left, all but the checkpoint.

        Raises:
            StorageError: the disk refuses.
        """
        try:
            for name in (_HISTORY, _PICTURE):
                (self._own / name).unlink(missing_ok=True)
            remove_model(self.path)
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {error.strerror}") from error

    def write_history(self, history: list[Record]) -> None:
        """Write all records as JSON, and their curve. Raises OSError."""
        lines = [asdict(record) for record in history]
        with replacing(self._own) as scratch:
            (scratch / _HISTORY).write_text(json.dumps(lines, indent=1) + "\n")
            plot_history(lines, scratch / _PICTURE)
