"""Faster layers compute what those of torch and transformers do, and gradients still flow."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN, NewGELUActivation
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaMLP
from transformers.pytorch_utils import Conv1D

from ml.kernels.onednn_linear import FastGatedMLP, FastLinear, PackedLinear, use_fast_layers

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("layer", [nn.Linear(8, 24), nn.Linear(8, 5, bias=False), Conv1D(24, 8), NewGELUActivation()])
def test_the_same_numbers(layer: nn.Module, rows: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer)
    x = torch.randn(2, rows, 8)
    expected = model(x)
    parameters = list(model.parameters())
    use_fast_layers(model)
    assert type(model[0]) is not type(layer) or isinstance(model[0], (FastLinear, Conv1D))
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    x.requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None


def test_an_embedding_shares_its_weight_as_it_was() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(6, 4), "head": nn.Linear(4, 6, bias=False)})
    model["head"].weight = model["embedding"].weight
    use_fast_layers(model)
    assert isinstance(model["head"], FastLinear)
    assert model["head"].weight is model["embedding"].weight
    assert model["embedding"].weight.is_contiguous()


def test_half_precision_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4).to(torch.bfloat16))
    use_fast_layers(model)
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("layer", [nn.Linear(1024, 1100), nn.Linear(1024, 1100, bias=False), Conv1D(1100, 1024)])
def test_a_large_weight(layer: nn.Module, rows: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer)
    x = torch.randn(1, rows, 1024, requires_grad=True)
    expected = model(x)
    (gradient,) = torch.autograd.grad(expected.square().sum(), x)
    weight = model[0].weight.T if isinstance(layer, Conv1D) else model[0].weight
    use_fast_layers(model)
    assert isinstance(model[0], PackedLinear)
    assert torch.equal(model[0].weight, weight)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected, **TOLERANCE)
    (found,) = torch.autograd.grad(model(x).square().sum(), x)
    torch.testing.assert_close(found, gradient, atol=1e-2, rtol=1e-4)  # of sums of a thousand squares


def test_a_packed_layer_is_not_saved_without_its_weight() -> None:
    model = nn.Sequential(nn.Linear(1024, 1100))
    use_fast_layers(model)
    with pytest.raises(RuntimeError, match=r"0\.weight is packed"):
        model.state_dict()


@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("size", [16, 600])  # the larger one's weights are packed
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_pytorch_tanh"])
def test_a_gated_network(size: int, rows: int, activation: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": size, "intermediate_size": 900, "num_attention_heads": 2}
    model = nn.Sequential(LlamaMLP(LlamaConfig(**sizes, hidden_act=activation)))
    x = 5 * torch.randn(1, rows, size)  # so far from 0 the activations differ
    expected = model(x)
    use_fast_layers(model)
    assert isinstance(model[0], FastGatedMLP)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected, **TOLERANCE)
    assert model(x.requires_grad_()).requires_grad
    model[0].up_proj = nn.Linear(size, 900)  # as a copy in another precision replaces it
    with torch.inference_mode():
        torch.testing.assert_close(model(x), _glu(model[0], x, ACT2FN[activation]), **TOLERANCE)


def _glu(part: nn.Module, x: torch.Tensor, activation: nn.Module) -> torch.Tensor:
    return part.down_proj(activation(part.gate_proj(x)) * part.up_proj(x))


@pytest.mark.parametrize("activation", ["relu", "quick_gelu"])
def test_a_network_with_another_gate_is_left_alone(activation: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 2}
    model = nn.Sequential(LlamaMLP(LlamaConfig(**sizes, hidden_act=activation)))
    use_fast_layers(model)
    assert isinstance(model[0], LlamaMLP)
