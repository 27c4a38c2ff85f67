"""Token ids as embeddings, among them the one id that is no token: `MEAN`, the mean of all embeddings."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ml.models.base import MEAN
from ml.runtime.device import to_device

_ROWS = 4096  # of an embedding that are looked up at once
_means: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()


def lookup(embedding: nn.Module, ids: Tensor) -> Tensor:
    """The embeddings of `ids`, of any shape; returns [..., size]."""
    rows: Tensor = embedding(ids.clamp(min=0))
    where = ids == MEAN
    return torch.where(where.unsqueeze(-1), _mean(embedding), rows) if bool(where.any()) else rows


def inputs(module: PreTrainedModel, ids: Tensor) -> dict[str, Tensor]:
    """The arguments of a call of `module` that make it read `ids`, int64 [batch, time], wherever they are."""
    plain = not (ids.cpu().numpy() == MEAN).any()  # of a few numbers a fraction of the time that torch takes
    ids = to_device(ids, module.device)
    return {"input_ids": ids} if plain else {"inputs_embeds": lookup(module.get_input_embeddings(), ids)}


def _mean(embedding: nn.Module) -> Tensor:
    """Float32 sums of what the module gives, not of its weight: some models' embeddings scale it."""
    if embedding not in _means:
        weight: Tensor = embedding.weight  # type: ignore[assignment]
        total = torch.zeros(weight.shape[1], device=weight.device)
        for ids in torch.arange(len(weight), device=weight.device).split(_ROWS):
            total += embedding(ids).float().sum(0)
        _means[embedding] = (total / len(weight)).to(weight.dtype)
    return _means[embedding]
