"""Muon (Jordan 2024): momentum whose matrices are made orthogonal before they are applied.

It learns in about two thirds of the steps that AdamW takes for the matrices of a transformer. torch's own computes in
bfloat16, which processors without it emulate slowly, and one matrix at a time; this one computes in the precision that
it is told, and matrices of one shape together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration whose fixed points lie around 1; Jordan 2024."""


class Muon(Optimizer):
    """For matrices only, embeddings excluded. `lr` is the length of a step in units of the matrix's spectral norm."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        products: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._products = products

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Apply one step; `closure` is not supported."""
        if closure is not None:
            raise NotImplementedError("Muon takes no closure")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for weights in by_shape.values():
                self._step_together(weights, group)

    def _step_together(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        updates = []
        for weight in weights:
            gradient = cast(Tensor, weight.grad)
            average = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            average.lerp_(gradient, 1 - group["momentum"])
            updates.append(gradient.lerp(average, group["momentum"]))  # Nesterov's look ahead
        rows, columns = weights[0].shape
        scale = max(1.0, rows / columns) ** 0.5
        for weight, update in zip(weights, orthogonalized(torch.stack(updates).to(self._products)), strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(update, alpha=-group["lr"] * scale)


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """Each of `matrices` [n, rows, columns] with its singular values moved near 1 (to about 0.7 to 1.2)."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
