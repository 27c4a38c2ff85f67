"""The softmax cross-entropy over a large vocabulary, which is most of what a small language model's training costs."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ml.kernels.onednn_linear import pointwise, use_onednn
from ml.kernels.processors import rule_for

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


def cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, products: torch.dtype = torch.float32
) -> Tensor:
    """Mean over positions of −log softmax(hidden · weightᵀ + bias)[target], in nats; differentiable.

    The same number and gradients as `F.cross_entropy(F.linear(hidden, weight, bias), targets)`, but the logits exist
    for a chunk of positions at a time and are turned into their own gradient in place: the matrix of all logits, which
    the plain way writes four times and reads ten, never reaches main memory.

    Args:
        products: type of the matrix products and of the logits. In bfloat16 a logit is rounded to 8 bits; sums over the
            vocabulary and gradients are float32 anyway.
    """
    return cast(Tensor, _CrossEntropy.apply(hidden, weight, bias, targets, products))  # type: ignore[no-untyped-call]


class _CrossEntropy(torch.autograd.Function):
    """Computes the gradients along with the loss; backward only scales them."""

    @staticmethod
    def forward(  # noqa: PLR0917 -- autograd passes arguments by position
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, products: torch.dtype
    ) -> Tensor:
        count = len(targets)
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight)
        d_bias = None if bias is None else torch.zeros_like(bias)
        total = hidden.new_zeros((), dtype=torch.float64)
        factors = hidden.to(products), weight.to(products), None if bias is None else bias.to(products)
        ones = factors[0].new_ones(count, 1)
        # d loss / d logits = (softmax − one-hot) / count. The softmax is the large matrix: it is made in one pass, and
        # the one-hot part and the division need no matrix at all.
        for rows in _chunks(*factors[:2]):
            logits = _logits(factors[0][rows], *factors[1:])
            probabilities = torch.softmax(logits, 1)
            # The largest probability is 1 / Σ exp(logit − top): it gives the normaliser without another sum.
            normalisers = logits.amax(1).to(hidden.dtype) - probabilities.amax(1).to(hidden.dtype).log()
            total += (normalisers - logits.gather(1, targets[rows, None]).squeeze(1)).sum(dtype=torch.float64)
            d_hidden[rows] = (probabilities @ factors[1]).to(hidden.dtype)
            _add_product(d_weight, probabilities.T, factors[0][rows])
            if d_bias is not None:
                _add_product(d_bias[:, None], probabilities.T, ones[rows])
        d_hidden.sub_(weight[targets]).div_(count)
        d_weight.index_add_(0, targets, hidden, alpha=-1).div_(count)
        if d_bias is not None:
            d_bias.index_add_(0, targets, d_bias.new_ones(count), alpha=-1).div_(count)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        return (total / count).to(hidden.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = upstream
        gradients = ctx.saved_tensors
        if scale.item() != 1:  # a pass over all weights, which a loss that is not scaled can spare
            gradients = tuple(None if gradient is None else gradient * scale for gradient in gradients)
        return *gradients, None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a · b, in the precision of the factors."""
    if a.dtype is total.dtype:
        total.addmm_(a, b)
    else:
        total.add_(a @ b)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    min_rows = rule_for(weight.numel()).min_rows
    if min_rows is None or len(hidden) < min_rows or hidden.dtype is not torch.float32 or not use_onednn(weight):
        return F.linear(hidden, weight, bias)
    return pointwise(hidden, weight, bias)


def _chunks(hidden: Tensor, weight: Tensor) -> list[slice]:
    # A chunk in bfloat16 is larger: its gradients are added up apart, which has to be worth a pass over all weights.
    elements = CHUNK_ELEMENTS if hidden.dtype is torch.float32 else 4 * CHUNK_ELEMENTS
    limit = max(1, elements // len(weight))
    size = -(-len(hidden) // -(-len(hidden) // limit)) if len(hidden) else 1  # chunks of equal size
    return [slice(start, start + size) for start in range(0, len(hidden), size)]


def sampled_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    *,
    frequent: int,
    samples: int,
    products: torch.dtype = torch.float32,
) -> Tensor:
    """An estimate of `cross_entropy` from a part of the vocabulary, whose ids are ordered by falling frequency.

    The normaliser's sum is exact over the `frequent` first words and over all targets of the batch; the rest is
    estimated from `samples` words drawn evenly, each counted for as many as it stands for (stratified importance
    sampling, after Bengio & Senécal 2003). The sum is unbiased for every position and so nearly is its logarithm.
    """
    present = torch.zeros(len(weight), dtype=torch.bool, device=targets.device)
    present[:frequent] = True
    present[targets] = True
    rare = (~present).nonzero().squeeze(1)
    drawn = rare[torch.randint(len(rare), (samples,), device=rare.device)] if len(rare) > samples else rare
    exact = present.nonzero().squeeze(1)
    columns = torch.cat([exact, drawn])
    correction = bias.new_zeros(len(columns))
    correction[len(exact) :] = math.log(max(1.0, len(rare) / samples))
    place = torch.empty(len(weight), dtype=torch.long, device=targets.device)
    place[exact] = torch.arange(len(exact), device=targets.device)
    return cross_entropy(hidden, weight[columns], bias[columns] + correction, place[targets], products=products)
