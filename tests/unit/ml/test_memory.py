"""Memory of a tensor's own."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from ml.memory import pages


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_memory_like_any(dtype: torch.dtype) -> None:
    numbers = torch.arange(24.0).view(2, 3, 4).to(dtype)
    assert torch.equal(pages((2, 3, 4), dtype).copy_(numbers), numbers)


def test_nothing_takes_nothing() -> None:
    assert pages((2, 0), torch.float32).shape == (2, 0)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory in use from /proc")
def test_it_goes_back_to_the_system() -> None:
    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1])

    before = resident()
    kept = pages((2**24,), torch.float32).zero_()
    assert resident() > before + 8000  # pages, of at least 4 KiB
    del kept
    assert resident() < before + 8000
