"""Who may use the processor's cores: the model, and nobody beside it."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits


def give_threads_to_torch(threads: int | None = None) -> None:
    """Let torch use `threads` threads, its own choice by default, and numpy one.

    After a product, the threads of numpy's BLAS wait busily for the next one. An explainer that solves a small system
    between two batches would so take cores from the model: with two cores, half of its speed.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    threadpool_limits(1, user_api="blas")
