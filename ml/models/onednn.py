"""Linear layers through oneDNN where it multiplies faster than the BLAS behind `F.linear`.

torch hands float32 products to MKL, which on processors of other makers than its own leaves half of their speed unused
(AVX2 where they have AVX-512). oneDNN, which torch brings along, does not; numbers differ in the last digits only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_WORTH = 1.2
"""Times faster that oneDNN has to be in the trial: less may be chance."""
_TURNS = 30


class OneDnnLinear(nn.Linear):
    """A linear layer that multiplies through oneDNN where no gradient is wanted, which oneDNN's operation has not."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if torch.is_grad_enabled():
            return F.linear(input, self.weight, self.bias)
        return _product(input, self.weight, self.bias)


class OneDnnConv1D(Conv1D):
    """GPT-2's linear layer, which stores its weight the other way round, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if torch.is_grad_enabled():
            return F.linear(x, self.weight.T, self.bias)
        return _product(x, self.weight.T, self.bias)


def use_onednn(module: nn.Module) -> bool:
    """Let the float32 linear layers of `module` multiply through oneDNN where that is faster; whether it is.

    The layers keep their parameters and their place. Layers of other kinds stay as they are.
    """
    layers = [layer for layer in module.modules() if type(layer) in _TWINS and _is_plain(layer.weight)]
    if not layers or not is_faster():
        return False
    for layer in layers:
        layer.__class__ = _TWINS[type(layer)]
    return True


@cache
def is_faster() -> bool:
    """Whether oneDNN multiplies faster on this machine: tried out once, in milliseconds."""
    if not _AVAILABLE:
        return False
    rows, weight = torch.ones(64, 256), torch.ones(1024, 256)
    ways: list[Callable[[], Tensor]] = [lambda: F.linear(rows, weight), lambda: _product(rows, weight, None)]
    best = [float("inf")] * len(ways)
    with torch.inference_mode():
        for _ in range(_TURNS):  # in turns, and the best of many: others may be busy on this machine just now
            for way, product in enumerate(ways):
                began = time.perf_counter()
                product()
                best[way] = min(best[way], time.perf_counter() - began)
    return best[1] * _WORTH < best[0]


_TWINS: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: OneDnnLinear, Conv1D: OneDnnConv1D}


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _is_plain(weight: object) -> bool:
    """Whether a weight is an ordinary float32 matrix in this machine's memory, and no share of one."""
    return type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype == torch.float32
