"""Layers of a model replaced by faster ones that compute the same function, for models in float32 on a CPU.

Linear layers multiply through oneDNN where that is faster. `F.linear` in float32 goes to MKL, which leaves half of an
AMD processor's vector units idle (2.3 times the products a second by oneDNN on Zen 5) and is the faster one of many
shapes on Intel's. The table in `ml.kernels.processors` says which, by the weight's size and a call's rows. A layer that
the table leaves to torch is not replaced.

Each weight is stored once. If the number of rows decides which library multiplies, the weight is stored input by input,
which both can read. If oneDNN multiplies any number of rows and gains by it, the weight is stored in the blocks that
oneDNN multiplies. The plain weight is then deleted, and computed again when it is asked for.

The products are float32 in either library. Which one multiplies depends only on the processor and on shapes, never on a
clock: equal calls give equal bits.

GPT-2's activation is written in transformers as seven passes over memory, and is one here. In a gated feed-forward
network (SwiGLU, GEGLU: Shazeer 2020) the activation and the gate's product are part of the two products before them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from ml.kernels.processors import Rule, rule_for

_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_WIDE = "AVX512" in torch.backends.cpu.get_cpu_capability()
_ROWS = 1024
"""Rows for which weights are packed: a batch's. oneDNN takes other blocks for fewer than eight only."""
_MIN_GATED = 64
"""Rows from which on the fused gate is faster."""


def use_onednn(weight: Tensor) -> bool:
    """Whether torch can hand products with `weight` to oneDNN, be it faster or not."""
    return _AVAILABLE and weight.device.type == "cpu"


@dataclass(frozen=True)
class Activation:
    """A function of single numbers, and what oneDNN calls it and the way to compute it."""

    function: Callable[[Tensor], Tensor]
    name: str
    algorithm: str = ""


_ACTIVATIONS = (
    Activation(F.silu, "swish"),
    Activation(functools.partial(F.gelu, approximate="tanh"), "gelu", "tanh"),
    Activation(F.gelu, "gelu", "none"),
)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, activation: Activation | None = None) -> Tensor:
    """activation(x · weightᵀ + bias) by oneDNN, without a gradient."""
    name, algorithm = (activation.name, activation.algorithm) if activation else ("none", "")
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm))


class FastLinear(nn.Linear):
    """A linear layer. oneDNN multiplies from `min_rows` rows on."""

    min_rows: int

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return _linear(input, self.weight, self.bias, self.min_rows)

    @property
    def operand(self) -> Tensor:
        """The weight as oneDNN gets it."""
        return self.weight


class FastConv1D(Conv1D):
    """GPT-2's linear layer, which stores its weight the other way round. oneDNN multiplies from `min_rows` rows on."""

    min_rows: int

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        return _linear(x, self.weight.T, self.bias, self.min_rows)


class PackedLinear(nn.Module):
    """A linear layer whose weight is laid out as oneDNN multiplies it. Gradients reach its input, and nothing else."""

    operand: Tensor
    min_rows = 1

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Lay out `weight` [out, in]; `bias` [out]."""
        super().__init__()
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
        self.register_buffer("operand", packed, persistent=False)
        self.bias = bias

    @property
    def weight(self) -> Tensor:
        """[out, in], a copy: what is written into it changes nothing."""
        return self.operand.to_dense()

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Refuse: without its weight, which torch does not know of, what is saved would never load again."""
        raise RuntimeError(f"{prefix}weight is packed for reading; save a module loaded without fast layers")

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if x.dtype is not torch.float32:
            return F.linear(x, self.weight, self.bias)
        return _differentiable(x, self.operand, self.bias, lambda: self.weight) if x.requires_grad else self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """As `forward`, without a gradient."""
        return pointwise(x, self.operand, self.bias)


class _Product(torch.autograd.Function):
    """x · weightᵀ + bias by oneDNN, with a gradient for x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operand: Tensor, bias: Tensor | None, weight: Callable[[], Tensor]) -> Tensor:
        ctx.weight = weight
        return pointwise(x, operand, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return pointwise(gradient.contiguous(), ctx.weight().T, None), None, None, None


def _differentiable(x: Tensor, operand: Tensor, bias: Tensor | None, weight: Callable[[], Tensor]) -> Tensor:
    """`operand`: the weight as oneDNN gets it; `weight` gives it plain, [out, in]."""
    # oneDNN gives a view of the product of rows, and autograd lets nobody write into a view that a function gave it.
    rows = _Product.apply(x.reshape(-1, x.shape[-1]), operand, bias, weight)  # type: ignore[no-untyped-call]
    return cast(Tensor, rows.view(*x.shape[:-1], -1))


class FastGatedMLP(nn.Module):
    """down(activation(gate(x)) · up(x)), in place of whatever class a model has for it; see `_activation_of`."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    activation: Activation
    min_rows: int

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to [..., size]."""
        gate, up = self.gate_proj, self.up_proj
        few = x.numel() < self.min_rows * x.shape[-1]
        inner = None if few or x.requires_grad else gated(x, gate, up, self.activation)
        return cast(Tensor, self.down_proj(self.activation.function(gate(x)) * up(x) if inner is None else inner))


def gated(x: Tensor, gate: nn.Module, up: nn.Module, activation: Activation) -> Tensor | None:
    """activation(gate(x)) · up(x) by oneDNN, without a gradient; None where the layers are not this module's."""
    if not (isinstance(gate, FastLinear | PackedLinear) and isinstance(up, FastLinear | PackedLinear)):
        return None
    opened = pointwise(x, gate.operand, gate.bias, activation)
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise.binary(x, opened, up.operand, up.bias, "mul"))


def use_fast_layers(module: nn.Module) -> None:
    """Replace what is slow on this processor in `module`, where its weights are float32 on the CPU.

    Weights that are not packed stay the module's parameters. One that belongs to its layer alone is laid out input by
    input, as oneDNN likes it best for few rows: the same numbers in the same shape, with other strides.
    """
    # An embedding's weight may be the head's too, and is read row by row.
    embeddings = {id(child.weight) for child in module.modules() if isinstance(child, nn.Embedding)}
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is NewGELUActivation:
                setattr(parent, name, GELUTanh())
            elif (type(child) is nn.Linear or type(child) is Conv1D) and _is_plain(child.weight):
                setattr(parent, name, _fast(child, rule_for(child.weight.numel()), id(child.weight) in embeddings))
    for child in module.modules():
        if activation := _activation_of(child):
            child.__class__ = FastGatedMLP
            fast = cast(FastGatedMLP, child)
            fast.activation = activation
            parts = cast(tuple[FastLinear | PackedLinear, ...], (fast.gate_proj, fast.up_proj))
            fast.min_rows = max(_MIN_GATED, *(part.min_rows for part in parts))


def _fast(layer: nn.Linear | Conv1D, rule: Rule, shared: bool) -> nn.Module:
    """A faster `layer`, which may be itself. `shared`: whether its weight is an embedding's too."""
    if rule.min_rows is None or not _AVAILABLE:
        return layer
    if rule.packed and not shared:
        return PackedLinear(layer.weight.T if isinstance(layer, Conv1D) else layer.weight, layer.bias)
    if isinstance(layer, Conv1D):
        layer.__class__ = FastConv1D
    else:
        layer.__class__ = FastLinear
        if not shared:
            layer.weight.data = layer.weight.data.T.contiguous().T
    cast(FastLinear | FastConv1D, layer).min_rows = rule.min_rows
    return layer


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, min_rows: int) -> Tensor:
    """x · weightᵀ + bias, [..., in] to [..., out], by the faster of two libraries. oneDNN's gradient is x's alone."""
    several = x.numel() >= min_rows * x.shape[-1]
    if not (several and use_onednn(weight) and x.dtype is torch.float32) or weight.requires_grad:
        return F.linear(x, weight, bias)
    if not x.requires_grad:
        return pointwise(x, weight, bias)
    # Gradients are asked for in batches, of which MKL makes the most it can where vectors are short.
    return _differentiable(x, weight, bias, lambda: weight) if _WIDE else F.linear(x, weight, bias)


@torch.inference_mode()
def _activation_of(module: nn.Module) -> Activation | None:
    """With which activation `FastGatedMLP` computes what `module` does: by its parts, and by trying them out."""
    parts = dict(module.named_children())
    gate, up, down = (parts.pop(name, None) for name in ("gate_proj", "up_proj", "down_proj"))
    if len(parts) != 1 or not all(isinstance(part, FastLinear | PackedLinear) for part in (gate, up, down)):
        return None
    [own] = parts.values()
    size = cast(FastLinear, gate).weight.shape[1]
    x, numbers = torch.linspace(-1, 1, _MIN_GATED * size).view(_MIN_GATED, size), torch.linspace(-8, 8, 1000)
    try:
        for activation in _ACTIVATIONS:
            # By itself: what small weights give it tells two of them hardly apart.
            if torch.allclose(own(numbers), activation.function(numbers), atol=1e-6):
                inner = gated(x, cast(nn.Module, gate), cast(nn.Module, up), activation)
                same = torch.allclose(module(x), cast(nn.Module, down)(inner), atol=1e-5)
                return activation if same else None
    except Exception:  # noqa: BLE001 -- another architecture's module, which takes something else
        return None
    return None


def _is_plain(weight: object) -> bool:
    """Whether a weight is an ordinary float32 matrix in this machine's memory, and no share of one."""
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype == torch.float32
