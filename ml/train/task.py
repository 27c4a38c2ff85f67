"""What the training loop needs to know of a model and its data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from ml.train.perplexity import Perplexity


class Task(Protocol):
    """A module, its optimizers, and batches to feed them."""

    name: str
    """Of the recipe, as the command line has it."""
    settings: Any
    """The record of its options; see `ml.train.options`."""
    fingerprint: str
    """Of the text; see `ml.train.corpus.fingerprint`."""
    optimizers: list[Optimizer]
    steps_per_epoch: int

    @property
    def rates(self) -> dict[str, float]:
        """Learning rates by the name of their setting, before the schedule."""
        ...

    @property
    def module(self) -> nn.Module:
        """What is trained, in training mode."""
        ...

    def batches(self, epoch: int, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's inputs and targets from its batch `skip` on: always the same for the same epoch and seed."""
        ...

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean nats per token, differentiable."""
        ...

    def validate(self) -> Perplexity:
        """Of the validation split, with the weights as they are."""
        ...

    def export(self, folder: Path) -> None:
        """Write the model's folder as it is served."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What is carried from batch to batch beside weights and optimizers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from an earlier `state_dict`."""
        ...
