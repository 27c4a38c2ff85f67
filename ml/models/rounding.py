"""Copies of a model that multiply in bfloat16, and the error of each, by which a job chooses one.

Rounding causes most of the error in attention, where queries, keys and values are rounded, and in the lowest layers,
whose errors all later layers read. So there are two copies: one rounds all products, the other keeps those exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.kernels.bfloat16_linear import Bfloat16Copies
from ml.runtime.implementation import register
from ml.runtime.last_layer import layers_of

EXACT_SHARE = 1 / 3
"""Of the layers, from the lowest up, those that the careful copy keeps in float32."""
TEXT = (
    "The storm had passed by noon, and most of the boats were back in the harbour. Only the pilot's was missing: he had"
    " gone out at 6:40 to meet a freighter from Oslo, as he did every Tuesday (it was called the *Signe*), and nobody"
    " had heard of him since."
)
"""On which copies are compared with their original: a text as any other, so that equal models have equal errors."""
_TOKENS = 64

LogitsOf = Callable[[Sequence[int]], Tensor]
"""From token ids to the logits after each of them, [tokens, vocabulary]."""
Rounding = tuple[PreTrainedModel, torch.dtype | None]
"""A copy, and what its attention rounds to: None for nothing."""


def roundings(module: PreTrainedModel) -> Iterator[Rounding]:
    """Copies of `module`, the fastest first, the most exact last."""
    copies = Bfloat16Copies(module)
    layers = layers_of(module)
    exact = [] if layers is None else list(layers)[: int(EXACT_SHARE * len(layers))]
    for parts, attention in (((), torch.bfloat16), (exact, None)):
        copied = copies.copy(parts)
        register(copied)
        yield copied, attention


def rounding_error(exact: LogitsOf, rough: LogitsOf, ids: Sequence[int]) -> float:
    """Root mean square of the errors, in nats, of what `rough` says of each of `ids` but the first."""
    ids = ids[:_TOKENS]
    if len(ids) < 2:
        return 0.0
    following = torch.tensor(ids[1:])[:, None]
    found = [logits(ids[:-1]).double().log_softmax(-1).gather(-1, following) for logits in (exact, rough)]
    return float((found[1] - found[0]).square().mean().sqrt())
