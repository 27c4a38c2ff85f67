"""Layers of a model replaced by faster ones that compute the same function, for models in float32 on a CPU.

Linear layers multiply through oneDNN. `F.linear` in float32 goes to MKL, which leaves half of an AMD processor's vector
units idle and is slow anywhere for a few rows; oneDNN, which torch ships as well, has neither fault (2.3 times the
products a second on Zen 5, the same on Intel from some dozens of rows on). The numbers are float32 products either way,
and which library multiplies depends on shapes alone, never on a clock: equal calls give equal bits.

GPT-2's activation is written in transformers as seven passes over memory, and is one here.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_LARGE = 2**20
"""Numbers of a weight from which on oneDNN is faster for one row too: MKL reads the weight with one thread."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x · weightᵀ + bias, [..., in] to [..., out], by the faster of the two libraries. oneDNN's has no gradient."""
    if (
        _AVAILABLE
        and x.dtype is torch.float32
        and x.device.type == "cpu"
        and (x.numel() > x.shape[-1] or weight.numel() >= _LARGE)
        and not torch.is_grad_enabled()
    ):
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))
    return F.linear(x, weight, bias)


class FastLinear(nn.Linear):
    """A linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return linear(input, self.weight, self.bias)


class FastConv1D(Conv1D):
    """GPT-2's linear layer, which stores its weight the other way round."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return linear(x, self.weight.T, self.bias)


def use_fast_layers(module: nn.Module) -> None:
    """Replace what is slow in `module` where its weights are float32 on the CPU. Parameters stay the module's own.

    A linear layer's weight that belongs to it alone is laid out input by input, as oneDNN likes it best for few rows:
    the same numbers in the same shape, with other strides.
    """
    # An embedding's weight may be the head's too, and is read row by row.
    embeddings = {id(child.weight) for child in module.modules() if isinstance(child, nn.Embedding)}
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is NewGELUActivation:
                setattr(parent, name, GELUTanh())
            elif type(child) is nn.Linear and _is_plain(child.weight):
                child.__class__ = FastLinear
                if id(child.weight) not in embeddings:
                    child.weight.data = child.weight.data.T.contiguous().T
            elif type(child) is Conv1D and _is_plain(child.weight):
                child.__class__ = FastConv1D


def _is_plain(weight: object) -> bool:
    """Whether a weight is an ordinary float32 matrix in this machine's memory, and no share of one."""
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype == torch.float32
