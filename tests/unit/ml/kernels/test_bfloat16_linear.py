"""Weights in bfloat16 are packed on processors that were measured, and left as torch has them on others."""

from __future__ import annotations

import pytest
from torch import nn
from transformers.models.llama import LlamaConfig, LlamaForCausalLM

from ml.kernels.bfloat16_linear import Bfloat16Linear, PackedBfloat16Linear, bfloat16_copy
from ml.kernels.onednn_linear import use_fast_layers
from ml.kernels.processors import table


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("kind", [*table(), "FutureVendor AVX4096"])
def test_layers_by_processor(kind: str, packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml.kernels.processors.processor_kind", lambda: kind)
    monkeypatch.setattr("ml.kernels.bfloat16_linear._packs", lambda: packs)
    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 40}
    config = LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    use_fast_layers(model)
    copied = bfloat16_copy(model)
    layers = [type(part) for part in copied.model.modules() if isinstance(part, Bfloat16Linear | PackedBfloat16Linear)]
    assert layers == 7 * [PackedBfloat16Linear if packs and kind in table() else Bfloat16Linear]
    assert not any(isinstance(part, nn.Linear) for part in copied.model.modules())
