"""Layers of a model replaced by faster ones that compute the same function, for models in float32 on a CPU.

Linear layers multiply through oneDNN. `F.linear` in float32 goes to MKL, which leaves half of an AMD processor's vector
units idle and is slow anywhere for a few rows; oneDNN, which torch ships as well, has neither fault (2.3 times the
products a second on Zen 5, the same on Intel from some dozens of rows on). The numbers are float32 products either way,
and which library multiplies depends on shapes alone, never on a clock: equal calls give equal bits.

GPT-2's activation is written in transformers as seven passes over memory, and is one here. In a gated feed-forward
network (SwiGLU: Shazeer 2020) the activation and the gate's product are part of the two products before them.
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
_FEWEST_GATED = 64
"""Rows from which on the fused gate is faster."""


def use_onednn(weight: Tensor) -> bool:
    """Whether torch can hand products with `weight` to oneDNN."""
    return _AVAILABLE and weight.device.type == "cpu"


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """activation(x · weightᵀ + bias) by oneDNN, without a gradient."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], ""))


def times(x: Tensor, weight: Tensor, bias: Tensor | None, factor: Tensor) -> Tensor:
    """factor · (x · weightᵀ + bias), number by number, by oneDNN, without a gradient."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise.binary(x, factor, weight, bias, "mul"))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x · weightᵀ + bias, [..., in] to [..., out], by the faster of the two libraries. oneDNN's has no gradient."""
    if (
        use_onednn(weight)
        and x.dtype is torch.float32
        and (x.numel() > x.shape[-1] or weight.numel() >= _LARGE)
        and not torch.is_grad_enabled()
    ):
        return pointwise(x, weight, bias)
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


class FastGatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x)), in place of whatever class a model has for it; see `_is_gated`."""

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to [..., size]."""
        gate, up = self.gate_proj, self.up_proj
        plain = type(gate) is FastLinear and type(up) is FastLinear  # a twin in lower precision has others
        if not plain or torch.is_grad_enabled() or x.numel() < _FEWEST_GATED * x.shape[-1]:
            return cast(Tensor, self.down_proj(F.silu(gate(x)) * up(x)))
        opened = pointwise(x, gate.weight, gate.bias, "swish")
        return cast(Tensor, self.down_proj(times(x, up.weight, up.bias, opened)))


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
    for child in module.modules():
        if _is_gated(child):
            child.__class__ = FastGatedMLP


@torch.inference_mode()
def _is_gated(module: nn.Module) -> bool:
    """Whether `FastGatedMLP` computes what `module` does: by its parts, and by trying it out."""
    parts = dict(module.named_children())
    linears = [parts.get(name) for name in ("gate_proj", "up_proj", "down_proj")]
    if len(parts) != len(linears) + 1 or not all(isinstance(part, FastLinear) for part in linears):
        return False
    size = linears[0].in_features if isinstance(linears[0], FastLinear) else 0
    x = torch.linspace(-1, 1, _FEWEST_GATED * size).view(_FEWEST_GATED, size)
    try:
        return torch.allclose(module(x), FastGatedMLP.forward(cast(FastGatedMLP, module), x), atol=1e-5)
    except Exception:  # noqa: BLE001 -- another architecture's module, which takes something else
        return False


def _is_plain(weight: object) -> bool:
    """Whether a weight is an ordinary float32 matrix in this machine's memory, and no share of one."""
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype == torch.float32
