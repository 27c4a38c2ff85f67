"""Where a model's weights lie: on one device, spread over several GPUs, or split between the processes of a group."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ml.errors import ModelLoadError
from ml.models.loading.memory import available_bytes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What weights may be kept and computed in, by the names that settings have for them."""

BALANCED = "balanced"
"""The name for: layers spread over all GPUs, each computing in its turn."""


@dataclass(frozen=True)
class Placement:
    """Where weights lie.

    Attributes:
        device: takes the inputs and, unless `spread`, holds everything.
        spread: the layers lie on all GPUs, one run of layers each; the CPU where there is no GPU.
        ranks: processes that hold a part of each layer and compute together. 1 is no such group.
        chosen_dtype: what transformers compute in, where somebody chose it.
    """

    device: torch.device
    spread: bool = False
    ranks: int = 1
    chosen_dtype: torch.dtype | None = None

    @property
    def dtype(self) -> torch.dtype:
        """What transformers compute in. Unless chosen: bfloat16 on a GPU, float32 on a CPU."""
        return self.chosen_dtype or (torch.bfloat16 if self.device.type == "cuda" else torch.float32)

    @property
    def where(self) -> str:
        """In words."""
        if self.device.type == "cuda" and (self.spread or self.ranks > 1):
            return f"on {self._gpus()} GPUs"
        return f"on {self.device}"

    def available_bytes(self) -> int | None:
        """Memory for weights that is left there; None where it is unknown."""
        if self.device.type != "cuda" or not (self.spread or self.ranks > 1):
            return available_bytes(self.device)
        free = [available_bytes(torch.device("cuda", number)) or 0 for number in range(self._gpus())]
        # Ranks hold equal parts, so the fullest GPU decides.
        return sum(free) if self.spread else len(free) * min(free)

    def _gpus(self) -> int:
        return torch.cuda.device_count() if self.spread else self.ranks


def place(device: str, ranks: int = 1, dtype: str = "auto") -> Placement:
    """The placement that settings name.

    Args:
        device: "auto" (the first GPU, else the CPU), "balanced", or what torch calls it: "cpu", "cuda:1".
        ranks: processes that share each layer.
        dtype: "auto", "float32" or "bfloat16"; see `Placement.dtype`.

    Raises:
        ModelLoadError: there is no such device or dtype, or there are too few devices.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise ModelLoadError(f"dtype {dtype!r} is none of auto, {', '.join(DTYPES)}")
    if device in {"auto", BALANCED}:
        chosen = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    else:
        chosen = _checked(device)
    if ranks > 1:
        if device == BALANCED:
            raise ModelLoadError("a model is either spread over GPUs (device balanced) or tensor parallel, not both")
        if (chosen.type == "cuda") != torch.cuda.is_available():
            raise ModelLoadError("tensor parallelism uses the GPUs where there are any; set device to auto")
        if chosen.type == "cuda" and (chosen.index or 0) != 0:
            raise ModelLoadError(
                "tensor parallelism takes the first GPUs; set device to auto and hide those it may not use"
            )
        if chosen.type == "cuda" and torch.cuda.device_count() < ranks:
            raise ModelLoadError(f"{ranks} processes need a GPU each, and there are {torch.cuda.device_count()}")
    return Placement(chosen, spread=device == BALANCED, ranks=ranks, chosen_dtype=DTYPES.get(dtype))


def _checked(device: str) -> torch.device:
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).partition("\n")[0]
        why = (
            "" if reason.startswith("Expected one of") else f" ({reason})"
        )  # a list of all that torch was ever built for
        message = f"device {device!r} is not usable here{why}; use auto, cpu, cuda:0 or balanced"
        raise ModelLoadError(message) from error
    return chosen
