"""A copy of a model whose linear layers multiply in bfloat16, for processors that are several times faster at it.

Operands and what comes of a product are rounded; products are summed up in float32, and the residual stream,
normalisation and the language-model head stay float32. The copy shares every other tensor with its original, so it
costs half the memory of the linear layers' weights.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Collection
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ml.kernels.onednn_linear import FastGatedMLP, PackedLinear, gated, use_onednn
from ml.kernels.processors import is_known

_LINEAR = (nn.Linear, PackedLinear, Conv1D)


class Bfloat16Linear(nn.Module):
    """x · weightᵀ + bias in bfloat16, float32 in and out."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Round `weight` [out, in] and `bias` [out]."""
        super().__init__()
        self.weight = weight.detach().to(torch.bfloat16)
        self.bias = None if bias is None else bias.detach().to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return F.linear(x.to(torch.bfloat16), self.weight, self.bias).to(x.dtype)


class PackedBfloat16Linear(PackedLinear):
    """The same, with a weight laid out beforehand: a fifth faster."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Round `weight` [out, in] and `bias` [out]."""
        super().__init__(weight.detach().to(torch.bfloat16), None if bias is None else bias.detach().to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return self.product(x.to(torch.bfloat16)).to(x.dtype)


class Bfloat16GatedMLP(FastGatedMLP):
    """A gated feed-forward network of packed layers whose inner numbers stay bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to [..., size]."""
        down, inner = self.down_proj, gated(x.to(torch.bfloat16), self.gate_proj, self.up_proj, self.activation)
        return cast(PackedLinear, down).product(cast(Tensor, inner)).to(x.dtype)


class Bfloat16Copies:
    """Copies of one module, in float32, with linear layers' products in bfloat16. They share what they round."""

    def __init__(self, module: PreTrainedModel) -> None:
        """Prepare to copy `module`."""
        self._module = module
        self._rounded: dict[int, nn.Module] = {}  # by the original's identity

    def copy(self, exact: Collection[nn.Module] = ()) -> PreTrainedModel:
        """A copy in which all linear layers are rounded but the language-model head and those inside `exact` parts."""
        module = self._module
        shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        copied = copy.deepcopy(module, shared)
        kept = {id(inner) for part in exact for inner in part.modules()} | {id(module.get_output_embeddings())}
        for name, child in list(module.named_modules(remove_duplicate=False)):
            if isinstance(child, _LINEAR) and id(child) not in kept:
                copied.set_submodule(name, self._round(child))
        for child in copied.modules():
            if type(child) is FastGatedMLP and isinstance(child.gate_proj, PackedBfloat16Linear):
                child.__class__ = Bfloat16GatedMLP
        return copied

    def _round(self, layer: nn.Linear | PackedLinear | Conv1D) -> nn.Module:
        """`layer` in bfloat16.

        Torch hands these to oneDNN by itself, whatever their shape, so that a table of rows has nothing to say: weights
        are packed on any processor that was measured at all, and plain on others.
        """
        if id(layer) not in self._rounded:
            # GPT-2's linear layer stores its weight the other way round.
            weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
            kind = PackedBfloat16Linear if is_known() and use_onednn(weight) and _packs() else Bfloat16Linear
            self._rounded[id(layer)] = kind(weight, layer.bias)
        return self._rounded[id(layer)]


@functools.cache
def _packs() -> bool:
    """Whether oneDNN multiplies bfloat16 on this processor: not without AVX-512 or its like."""
    try:
        PackedBfloat16Linear(torch.zeros(16, 16), None)(torch.zeros(1, 16))
    except RuntimeError:
        return False
    return True
