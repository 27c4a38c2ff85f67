"""Which tokens are most like a word, by their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ml.models.protocol import NearestTokens

_ROWS = 1 << 15  # of an embedding that are looked at at once
_WORDS = 64


@dataclass(frozen=True)
class _Table:
    """What all questions about an embedding share: its rows' mean, float32 [size], and lengths from there [tokens]."""

    mean: Tensor
    lengths: Tensor


_tables: WeakKeyDictionary[nn.Module, _Table] = WeakKeyDictionary()


@torch.inference_mode()
def nearest_tokens(embedding: nn.Module, words: Sequence[Sequence[int]], count: int) -> NearestTokens:
    """See `ml.models.protocol.ModelInternals.nearest_tokens`.

    Embeddings are compared by their cosine as seen from the mean of all, which is far from the origin: from there most
    tokens lie in the same direction.
    """
    weight: Tensor = embedding.weight  # type: ignore[assignment]
    table = _tables.get(embedding)
    if table is None:
        table = _tables[embedding] = _measure(weight)
    count = min(count, len(weight))
    ids, nearness = np.empty((len(words), count), dtype=np.int64), np.empty((len(words), count))
    for start in range(0, len(words), _WORDS):
        some = words[start : start + _WORDS]
        directions = torch.stack([_direction(weight[list(ids)].float() - table.mean) for ids in some])
        cosines = torch.cat(
            [
                (rows.float() - table.mean) @ directions.T / lengths[:, None]
                for rows, lengths in zip(weight.split(_ROWS), table.lengths.split(_ROWS), strict=True)
            ]
        )
        top = cosines.T.topk(count)
        ids[start : start + len(some)] = top.indices.cpu().numpy()
        nearness[start : start + len(some)] = top.values.cpu().numpy()
    return NearestTokens(ids, nearness.clip(max=1.0))


def _direction(tokens: Tensor) -> Tensor:
    """Where a word of some tokens [tokens, size] lies: [size]."""
    return normalize(normalize(tokens, dim=1).mean(0), dim=0)


def _measure(weight: Tensor) -> _Table:
    total = torch.zeros(weight.shape[1], dtype=torch.float64, device=weight.device)
    for rows in weight.split(_ROWS):
        total += rows.sum(0, dtype=torch.float64)
    mean = (total / len(weight)).float()
    lengths = [(rows.float() - mean).norm(dim=1) for rows in weight.split(_ROWS)]
    return _Table(mean, torch.cat(lengths).clamp_(min=torch.finfo(torch.float32).tiny))
