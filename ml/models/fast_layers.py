"""Layers of a model replaced by faster ones that compute the same function, for models in float32 on a CPU.

Linear layers multiply through oneDNN. `F.linear` in float32 goes to MKL, which leaves half of an AMD processor's vector
units idle and is slow anywhere for a few rows; oneDNN, which torch ships as well, has neither fault (2.3 times the
products a second on Zen 5, the same on Intel from some dozens of rows on). The numbers are float32 products either way.

GPT-2's activation is written in transformers as seven passes over memory, and is one here.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_FEWEST_ROWS = 4
"""For less, the call into oneDNN costs more than it saves."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x · weightᵀ + bias, [..., in] to [..., out], by the faster of the two libraries. Without gradients in oneDNN."""
    if (
        _AVAILABLE
        and x.dtype is torch.float32
        and x.device.type == "cpu"
        and x.numel() >= _FEWEST_ROWS * x.shape[-1]
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
    ):
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))
    return F.linear(x, weight, bias)


class FastLinear(nn.Module):
    """A linear layer over the parameters of another one."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, *, transposed: bool = False) -> None:
        """Share `weight`, [out, in] or with `transposed` [in, out], and `bias` [out]."""
        super().__init__()
        self.weight = weight
        self.bias = bias
        self._transposed = transposed

    @property
    def matrix(self) -> Tensor:
        """The weight as [out, in]."""
        return self.weight.T if self._transposed else self.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return linear(x, self.matrix, self.bias)


def use_fast_layers(module: PreTrainedModel) -> None:
    """Replace what is slow in `module`, which lies on a CPU in float32. Parameters stay the module's own.

    A linear layer's weight that belongs to it alone is laid out input by input, as oneDNN likes it best for few rows:
    the same numbers in the same shape, with other strides.
    """
    shared = _shared(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            layer: Any = child
            if type(child) is NewGELUActivation:
                setattr(parent, name, GELUTanh())
            elif type(child) is nn.Linear:
                if id(layer.weight) not in shared:
                    layer.weight.data = layer.weight.data.T.contiguous().T
                setattr(parent, name, FastLinear(layer.weight, layer.bias))
            elif type(child) is Conv1D:  # GPT-2's: a linear layer that stores its weight the other way round
                setattr(parent, name, FastLinear(layer.weight, layer.bias, transposed=True))


def _shared(module: PreTrainedModel) -> set[int]:
    """Weights of the embeddings, which may be the head's too and are read row by row."""
    return {id(child.weight) for child in module.modules() if isinstance(child, nn.Embedding)}
