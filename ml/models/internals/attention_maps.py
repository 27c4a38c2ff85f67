"""Maps of attention weights as a plan asks for them, collected layer by layer: no more is held than the reply and one
layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ml.attention import AttentionMap, AttentionPlan, Reduction
from ml.errors import LayersError, MixedLayersError
from ml.models.base import AttentionSink
from ml.models.protocol import ModelInfo


class AttendingModel(Protocol):
    """As much of a language model as is asked here."""

    info: ModelInfo

    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        """See `ml.models.base.LanguageModel.attention`."""
        ...


def attend(model: AttendingModel, ids: Sequence[int], plan: AttentionPlan) -> AttentionMap:
    """Run the model up to the highest layer asked for and collect what the plan asks for."""
    collected = np.zeros(plan.shape, dtype="<f2" if plan.half else "<f4")
    keys = None if plan.top_n is None else np.full(plan.shape, -1, dtype="<i4")

    def put(place: int, weights: Tensor) -> None:
        """Store one layer of the reply: `weights` [heads, queries, keys]."""
        if keys is None or plan.top_n is None:
            collected[place] = weights.cpu().numpy()
            return
        # Keys behind the query must lose to every other, also to those whose weight is so small that it is 0.
        unseen = torch.arange(plan.keys) > torch.tensor(plan.queries)[:, None]
        top = weights.masked_fill(unseen.to(weights.device), -1.0).topk(plan.top_n, dim=-1)
        collected[place] = top.values.clamp(min=0.0).cpu().numpy()
        keys[place] = top.indices.masked_fill(top.values < 0, -1).cpu().numpy()

    if plan.reduction is Reduction.ROLLOUT:
        put(0, _rollout(model, ids, plan))
    else:
        place_of = {layer: place for place, layer in enumerate(plan.layers)}
        chosen = list(plan.chosen_heads)

        def sink(layer: int, weights: Tensor) -> None:
            weights = weights[chosen]
            put(place_of[layer], weights.mean(0, keepdim=True) if plan.reduction is Reduction.HEAD_MEAN else weights)

        model.attention(ids, sorted(plan.layers), plan.queries, sink)
    return AttentionMap(collected, keys)


def _rollout(model: AttendingModel, ids: Sequence[int], plan: AttentionPlan) -> Tensor:
    """Rows `plan.queries` of the product of 0.5 A + 0.5 I over the layers, A the mean over heads. [1, queries, keys].

    Layers come from the lowest up and are multiplied in as they come: one product [keys, keys] is held, and not a
    matrix a layer. Each row of each factor sums to 1, and so does each of the product.
    """
    product = torch.eye(plan.keys, device=model.info.device)

    def sink(_: int, weights: Tensor) -> None:
        nonlocal product
        mixed = 0.5 * weights.mean(0).to(product.device)  # the layers may lie on several
        mixed.diagonal().add_(0.5)
        product = mixed @ product

    try:
        model.attention(ids, range(plan.layers[0] + 1), range(plan.keys), sink)
    except LayersError as error:  # none of these can be left out
        raise MixedLayersError(model.info.name, error.layers) from None
    return product[list(plan.queries)].unsqueeze(0)
