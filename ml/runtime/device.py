"""What a GPU needs besides the model's own code: transfers without waiting, and priorities.

On a CPU nothing here does anything.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

import torch
from torch import Tensor

_HIGH_PRIORITY = -1
"""Of a stream: 0 is what every other one has, and lower numbers go first."""


def pinned(tensor: Tensor) -> Tensor:
    """`tensor` in memory that a GPU copies from by itself, while the program goes on. On a CPU as it is."""
    return tensor.pin_memory() if torch.cuda.is_available() else tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, without waiting for the copy on a GPU: what is computed there comes after it anyway."""
    if device.type != "cuda" or tensor.device.type != "cpu":  # only a CPU's memory can be pinned
        return tensor.to(device)
    return pinned(tensor).to(device, non_blocking=True)


def in_front(work: Callable[[], None]) -> Callable[[], None]:
    """`work`, whose kernels go before those of other streams of this GPU. For the thread that answers callers.

    Kernels of one process are ordered by their streams' priority; those of two processes that share a GPU by the
    multi-process service, where it runs, for which see `behind`.
    """

    @functools.wraps(work)
    def prioritized() -> None:
        if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
            work()
            return
        torch.cuda.synchronize()  # the weights were copied by another stream
        with torch.cuda.stream(torch.cuda.Stream(priority=_HIGH_PRIORITY)):
            work()

    return prioritized


def choose_attention_kernels() -> None:
    """Keep cuDNN's attention out of SDPA. Without a GPU this changes nothing.

    cuDNN builds a plan for every new shape, which takes milliseconds, and decoding has a new shape at every step: on an
    H200 a step of a small model took 40 ms with it, nearly all of them spent on plans.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def behind() -> None:
    """Let this process's kernels wait for those of others on the same GPU. For workers, before they touch the GPU.

    This is what CUDA's multi-process service (`nvidia-cuda-mps-control`) calls a client of lower priority. Without the
    service, processes take turns on the GPU, whatever their priority.
    """
    os.environ.setdefault("CUDA_MPS_CLIENT_PRIORITY", "1")
