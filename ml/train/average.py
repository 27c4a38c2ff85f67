"""Averages of the weights over the last steps: what a run ends in without the noise of its last batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_RAMP = 10


class WeightAverage:
    """A running mean of a module's parameters.

    With `decay` 1 every step counts alike (averaged SGD, Polyak & Juditsky 1992). Below 1 the mean forgets: its memory
    is 1 / (1 − decay) steps, but at most a tenth of those taken, so that it is soon rid of the first ones.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._parameters = list[Tensor](module.parameters())
        self._means = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights as they are now into the mean."""
        self.steps += 1
        share = 1 / self.steps if self.decay == 1 else max(1 - self.decay, _RAMP / (_RAMP - 1 + self.steps))
        torch._foreach_lerp_(self._means, self._parameters, share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the module computes with the mean."""
        if not self.steps:
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, mean in zip(self._parameters, self._means, strict=True):
            kept = parameter.clone()
            parameter.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"steps": self.steps, "means": list[Tensor](self._means)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue an earlier mean."""
        self.steps = state["steps"]
        for mean, stored in zip(self._means, state["means"], strict=True):
            mean.copy_(stored)
