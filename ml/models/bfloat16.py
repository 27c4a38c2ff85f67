"""A twin of a model whose linear layers multiply in bfloat16, for processors that are several times faster at it.

Only the products are rounded, and in packed attention queries, keys and values: the residual stream, normalisation and
the language-model head stay float32. The twin shares every other tensor with its original, so it costs half the memory
of the linear layers' weights.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ml.models.fast_layers import FastGatedMLP, pointwise, times, use_onednn

_ROWS = 1024


class Bfloat16Linear(nn.Module):
    """x · weightᵀ + bias in bfloat16, float32 in and out."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Round `weight` [out, in] and `bias` [out]."""
        super().__init__()
        rounded = weight.detach().to(torch.bfloat16).contiguous()
        self.packed = use_onednn(rounded)
        # Laid out beforehand as oneDNN wants it, for about as many rows as a step has: a fifth faster.
        self.weight = torch.ops.mkldnn._reorder_linear_weight(rounded, _ROWS) if self.packed else rounded
        self.bias = None if bias is None else bias.detach().to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return self.product(x.to(torch.bfloat16)).to(x.dtype)

    def product(self, x: Tensor, activation: str = "none") -> Tensor:
        """[..., in] to [..., out], both bfloat16. `activation`: as oneDNN calls it, on packed weights only."""
        if self.packed:
            return pointwise(x, self.weight, self.bias, activation)
        return F.linear(x, self.weight, self.bias)


class Bfloat16GatedMLP(FastGatedMLP):
    """A gated feed-forward network whose inner numbers stay bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to [..., size]."""
        gate, up, down = (cast(Bfloat16Linear, each) for each in (self.gate_proj, self.up_proj, self.down_proj))
        rounded = x.to(torch.bfloat16)
        opened = gate.product(rounded, "swish")
        return down.product(times(rounded, up.weight, up.bias, opened)).to(x.dtype)


def bfloat16_twin(module: PreTrainedModel) -> PreTrainedModel:
    """`module`, in float32, with its linear layers' products in bfloat16, all but the language-model head's."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    twin = copy.deepcopy(module, shared)
    head = twin.get_output_embeddings()
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if child is head:
                continue
            if isinstance(child, nn.Linear):
                setattr(parent, name, Bfloat16Linear(child.weight, child.bias))
            elif isinstance(child, Conv1D):  # GPT-2's: a linear layer that stores its weight the other way round
                setattr(parent, name, Bfloat16Linear(child.weight.T, child.bias))
    for child in twin.modules():
        if type(child) is FastGatedMLP and cast(Bfloat16Linear, child.gate_proj).packed:
            child.__class__ = Bfloat16GatedMLP
    return twin
