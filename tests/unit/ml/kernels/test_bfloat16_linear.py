"""Weights in bfloat16 are packed on processors that were measured, and left as torch has them on others."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.llama import LlamaConfig, LlamaForCausalLM

from ml.kernels.bfloat16_linear import Bfloat16Copies, Bfloat16Linear, PackedBfloat16Linear
from ml.kernels.onednn_linear import use_fast_layers
from ml.kernels.processors import table


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("kind", [*table(), "FutureVendor AVX4096"])
def test_layers_by_processor(kind: str, packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml.kernels.processors.processor_kind", lambda: kind)
    monkeypatch.setattr("ml.kernels.bfloat16_linear._packs", lambda: packs)
    model = llama(layers=1)
    use_fast_layers(model)
    copied = Bfloat16Copies(model).copy()
    layers = [type(part) for part in copied.model.modules() if isinstance(part, Bfloat16Linear | PackedBfloat16Linear)]
    assert layers == 7 * [PackedBfloat16Linear if packs and kind in table() else Bfloat16Linear]
    assert not any(isinstance(part, nn.Linear) for part in copied.model.modules())


def test_exact_parts_are_the_original_s_and_the_rest_is_shared() -> None:
    model = llama(layers=3)
    copies = Bfloat16Copies(model)
    rough, careful = copies.copy(), copies.copy(exact=[model.model.layers[0]])
    weights = dict(model.model.layers[0].named_parameters())
    assert all(weight is weights[name] for name, weight in careful.model.layers[0].named_parameters())
    for one, other in zip(rough.model.layers[1:], careful.model.layers[1:], strict=True):
        assert one.mlp.down_proj is other.mlp.down_proj
        assert isinstance(one.mlp.down_proj, Bfloat16Linear | PackedBfloat16Linear)
    ids = torch.arange(30)[None]
    with torch.inference_mode():
        exact, one, other = (each(input_ids=ids).logits for each in (model, rough, careful))
    assert 0 < (other - exact).square().mean() < (one - exact).square().mean()


def llama(layers: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 40}
    config = LlamaConfig(**sizes, num_hidden_layers=layers, num_attention_heads=2)
    return LlamaForCausalLM(config).eval().requires_grad_(False)
