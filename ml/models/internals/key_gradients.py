"""How much an objective depends on what is seen of each token: its gradient at a bias of its key's scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from transformers import PreTrainedModel

from ml.models.internals.gradients import DenseForward
from ml.models.internals.objective import LogitsObjective
from ml.models.loading.memory import available_bytes
from ml.runtime.last_layer import LayerCall
from ml.runtime.spans import SpanOf

_ADDED = 8
"""Dimensions that queries, keys and values get more, one of which is the bias: kernels want multiples of eight."""


_SHARE, _UNKNOWN = 0.25, 1 << 30
"""What the backward pass may keep in memory: a share of what is available, or bytes where that is unknown."""


class _TooMuchMemoryError(Exception):
    pass


def key_gradients(
    module: PreTrainedModel, embeddings: Tensor, tail: int, objectives: Sequence[LogitsObjective], span_of: SpanOf
) -> Tensor | None:
    """Gradients with respect to a number that is added to all scores of each key, float32 [objectives, T].

    The number is the same in all layers and heads and for all queries, and 0. So its gradient is what all of them lose
    to first order if a little less is seen of the token. There is one forward pass, and a backward pass for each
    objective.

    Args:
        embeddings: of one sequence, float32 [1, T, size].
        tail: how many last positions each of `objectives` is given.
        span_of: what the layers see.

    Returns:
        None where it would take too much memory.
    """
    available = available_bytes(module.device)
    limit = _UNKNOWN if available is None else _SHARE * available
    with suppress(_TooMuchMemoryError), torch.enable_grad(), _bounded(module, limit):
        embeddings = embeddings.detach().to(module.device, module.dtype)
        biases = torch.zeros(embeddings.shape[1], device=module.device, dtype=module.dtype, requires_grad=True)
        logits = _BiasedForward(embeddings, tail, span_of, biases).forward(module)
        values = [objective(logits.float()).sum() for objective in objectives]
        found = [torch.autograd.grad(value, biases, retain_graph=value is not values[-1])[0] for value in values]
        return torch.stack(found).float()
    return None


class _BiasedForward(DenseForward):
    """One sequence, with a bias of each key.

    The bias is one more dimension of the keys, where queries have the reciprocal of the scale. So its gradient comes
    out of any kernel of attention, and none has to keep the scores.
    """

    def __init__(self, embeddings: Tensor, tail: int, span_of: SpanOf, biases: Tensor) -> None:
        super().__init__(embeddings, tail, (), span_of)
        self._biases = biases

    def attend_rows(self, call: LayerCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `TrimmedForward.attend`."""
        size = value.shape[3]
        query = torch.cat([query, _one(query.new_full(query.shape[:3], 1 / call.scale))], dim=3)
        if not self.picked:  # else the keys of all tokens are known
            key = torch.cat([key, _one(self._biases.expand(key.shape[:3]))], dim=3)
            value = F.pad(value, (0, _ADDED))
        return super().attend_rows(call, query, key, value)[..., :size]


def _one(dimension: Tensor) -> Tensor:
    """A last dimension of `_ADDED` numbers: these, and zeros."""
    return F.pad(dimension.unsqueeze(-1), (0, _ADDED - 1))


@contextmanager
def _bounded(module: nn.Module, max_bytes: float) -> Iterator[None]:
    """Raise once what is kept for a backward pass takes more than `max_bytes`, the weights of `module` left out."""
    known = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            kept += storage.nbytes()
            if kept > max_bytes:
                raise _TooMuchMemoryError
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        yield
