"""What the arithmetic alone would take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel

from ml.kernels.onednn_linear import PackedLinear
from ml.result import Cost


def floor_seconds(module: PreTrainedModel, cost: Cost) -> float:
    """Seconds of the matrix products alone, each distinct prefix computed once and the head once a prompt."""
    ends: list[Any] = [module.get_input_embeddings(), module.get_output_embeddings()]
    embedding, head = (int(end.weight.numel()) for end in ends)
    body = sum(p.numel() for p in module.parameters() if p.dim() == 2) - embedding
    body -= 0 if module.config.tie_word_embeddings else head
    operations = 2 * (cost.tokens_computed * body + cost.evaluations * head)
    return operations / matmul_rate(module.config.hidden_size)


@torch.inference_mode()
def matmul_rate(width: int) -> float:
    """Floating-point operations a second of [1024, width] x [width, 4 width] in float32, the best of some tries of MKL
    and of oneDNN with a weight that is laid out beforehand."""
    a, b = torch.randn(1024, width), torch.randn(width, 4 * width)
    packed = PackedLinear(b.T, None)
    best = float("inf")
    ways: list[Callable[[], object]] = [lambda: torch.matmul(a, b), lambda: packed(a)]
    for way in ways * 20:
        begin = time.perf_counter()
        way()
        best = min(best, time.perf_counter() - begin)
    return 2 * a.numel() * b.shape[1] / best
