"""A twin of a model whose linear layers multiply in bfloat16, for processors that are several times faster at it.

Only the products are rounded: the residual stream, normalisation, attention and the language-model head stay float32.
The twin shares every other tensor with its original, so it costs half the memory of the linear layers' weights.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


class Bfloat16Linear(nn.Module):
    """x · weightᵀ + bias in bfloat16, float32 in and out."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Round `weight` [out, in] and `bias` [out]."""
        super().__init__()
        self.weight = weight.detach().to(torch.bfloat16).contiguous()
        self.bias = None if bias is None else bias.detach().to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return F.linear(x.to(torch.bfloat16), self.weight, self.bias).to(x.dtype)


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
    return twin
