"""The softmax cross-entropy over a large vocabulary, which is most of what a small language model's training costs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 22
"""Logits held at a time (16 MiB in float32): about what a processor's last cache keeps between the passes over them."""


def cross_entropy_sum(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Sum over positions of −log softmax(hidden · weightᵀ + bias)[target], in nats; no gradient.

    Args:
        hidden: [positions, width].
        weight: [vocabulary, width].
        bias: [vocabulary] or None.
        targets: [positions].
    """
    total = hidden.new_zeros((), dtype=torch.float64)
    for rows in _chunks(hidden, weight):
        logits = _logits(hidden[rows], weight, bias)
        chosen = logits.gather(1, targets[rows, None]).squeeze(1)
        total += (logits.logsumexp(1) - chosen).sum(dtype=torch.float64)
    return total


def cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Mean over positions of −log softmax(hidden · weightᵀ + bias)[target], in nats; differentiable.

    The same number and gradients as `F.cross_entropy(F.linear(hidden, weight, bias), targets)`, but the logits exist
    for a chunk of positions at a time and are turned into their own gradient in place: the matrix of all logits, which
    the plain way writes four times and reads ten, never reaches main memory.
    """
    loss: Tensor = _CrossEntropy.apply(hidden, weight, bias, targets)
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Computes the gradients along with the loss; backward only scales them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        count = len(targets)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight)
        d_bias = None if bias is None else torch.zeros_like(bias)
        total = hidden.new_zeros((), dtype=torch.float64)
        for rows in _chunks(hidden, weight):
            logits, wanted = _logits(hidden[rows], weight, bias), targets[rows, None]
            normalizer = logits.logsumexp(1, keepdim=True)
            total += (normalizer - logits.gather(1, wanted)).sum(dtype=torch.float64)
            # d loss / d logits = (softmax − one-hot) / count
            gradient = logits.sub_(normalizer).exp_()
            gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, -1.0))
            torch.mm(gradient, weight, out=d_hidden[rows])
            d_weight.addmm_(gradient.T, hidden[rows])
            if d_bias is not None:
                d_bias += gradient.sum(0)
        ctx.save_for_backward(d_hidden.div_(count), d_weight.div_(count), None if d_bias is None else d_bias / count)
        return (total / count).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = upstream
        return *(None if gradient is None else gradient * scale for gradient in ctx.saved_tensors), None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return hidden @ weight.T if bias is None else torch.addmm(bias, hidden, weight.T)


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // len(weight))
    return [slice(start, start + size) for start in range(0, len(hidden), size)]
