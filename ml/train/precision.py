"""In what precision training multiplies matrices."""

from __future__ import annotations

from enum import Enum

import torch

from ml.precision import has_fast_bfloat16


class Precision(Enum):
    """Of matrix products only: weights, gradients, optimizer, normalisation and sums are always float32."""

    AUTO = "auto"
    """bfloat16 where the processor has instructions for it."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"

    @property
    def dtype(self) -> torch.dtype:
        """The products' type on this machine."""
        fast = self is Precision.BFLOAT16 or (self is Precision.AUTO and has_fast_bfloat16())
        return torch.bfloat16 if fast else torch.float32
