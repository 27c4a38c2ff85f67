"""Whether a processor's bfloat16 is worth using."""

from __future__ import annotations

import torch


def has_fast_bfloat16(device: torch.device | str = "cpu") -> bool:
    """Whether `device` multiplies matrices in bfloat16 by instructions of its own, several times as fast as in float32.

    On x86 these are AMX and AVX512-BF16; a processor without them emulates bfloat16 and is slower than in float32.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and any(
        getattr(torch.cpu, check, bool)() for check in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
