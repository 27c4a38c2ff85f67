"""Faster layers compute what those of torch and transformers do, and gradients still flow."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN, NewGELUActivation
from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel
from transformers.models.llama import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaMLP
from transformers.pytorch_utils import Conv1D

from ml.kernels.onednn_linear import FastGatedMLP, FastLinear, PackedLinear, pointwise, use_fast_layers
from ml.kernels.processors import OWN_WAY, Rule, table

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
PACKED = Rule(None, 1, packed=True)
MIXED = Rule(None, 16)
RULES = [OWN_WAY, Rule(None, 1), MIXED, PACKED]


@pytest.fixture(params=RULES, ids=["torch", "oneDNN", "mixed", "packed"])
def rule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rule:
    """The rule that holds for every weight."""
    return use(request.param, monkeypatch)


def use(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> Rule:
    monkeypatch.setattr("ml.kernels.onednn_linear.rule_for", lambda numel: rule)
    return rule


@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("layer", [nn.Linear(8, 24), nn.Linear(8, 5, bias=False), Conv1D(24, 8), NewGELUActivation()])
def test_the_same_numbers(layer: nn.Module, rows: int, rule: Rule) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(copy.deepcopy(layer)).requires_grad_(False)  # as models are loaded
    x = torch.randn(2, rows, 8)
    expected = model(x)
    parameters = list(model.parameters())
    use_fast_layers(model)
    assert (type(model[0]) is type(layer)) == (rule is OWN_WAY and not isinstance(layer, NewGELUActivation))
    with torch.inference_mode():
        torch.testing.assert_close(model(x), expected)
    if rule is not PACKED:
        assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    x.requires_grad_()
    model(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("rule", RULES[1:], indirect=True)
def test_an_embedding_shares_its_weight_as_it_was(rule: Rule) -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(6, 4), "head": nn.Linear(4, 6, bias=False)})
    model["head"].weight = model["embedding"].weight
    use_fast_layers(model)
    assert isinstance(model["head"], FastLinear)
    assert model["head"].weight is model["embedding"].weight
    assert model["embedding"].weight.is_contiguous()


def test_half_precision_is_left_alone(rule: Rule) -> None:
    model = nn.Sequential(nn.Linear(4, 4).to(torch.bfloat16))
    use_fast_layers(model)
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("layer", [nn.Linear(1024, 1100), nn.Linear(1024, 1100, bias=False), Conv1D(1100, 1024)])
def test_a_packed_weight(layer: nn.Module, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use(PACKED, monkeypatch)
    torch.manual_seed(0)
    model = nn.Sequential(copy.deepcopy(layer))
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


@pytest.mark.parametrize("layer", [nn.Linear(1024, 1100), Conv1D(1100, 1024)])
def test_rows_decide_where_the_table_mixes_both_ways(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    use(MIXED, monkeypatch)
    model = nn.Sequential(copy.deepcopy(layer)).requires_grad_(False)
    use_fast_layers(model)
    multiplied = []

    def counted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        multiplied.append(len(x))
        return pointwise(x, weight, bias)

    monkeypatch.setattr("ml.kernels.onednn_linear.pointwise", counted)
    with torch.inference_mode():
        for rows in (1, 15, 16, 17):
            x = torch.randn(rows, 1024)
            torch.testing.assert_close(model(x), layer(x), **TOLERANCE)
    assert multiplied == [16, 17]


@pytest.mark.parametrize("kind", [*table(), "FutureVendor AVX4096"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_models_on_any_processor(architecture: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml.kernels.processors.processor_kind", lambda: kind)
    torch.manual_seed(0)
    if architecture == "llama":
        config = LlamaConfig(
            vocab_size=40, hidden_size=768, intermediate_size=2800, num_hidden_layers=1, num_attention_heads=2
        )
        model = LlamaForCausalLM(config).eval()
    else:
        config = GPT2Config(vocab_size=40, n_embd=768, n_layer=1, n_head=2, activation_function="gelu_pytorch_tanh")
        model = GPT2LMHeadModel(config).eval()
    fast = copy.deepcopy(model).requires_grad_(False)
    use_fast_layers(fast)
    for tokens in (1, 7, 40):
        ids = torch.arange(tokens)[None] % 40
        with torch.inference_mode():
            expected, found, again = model(ids).logits, fast(ids).logits, fast(ids).logits
        torch.testing.assert_close(found, expected, **TOLERANCE)
        assert torch.equal(found, again)
        assert kind in table() or torch.equal(found, expected)


def test_a_packed_layer_is_not_saved_without_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    use(PACKED, monkeypatch)
    model = nn.Sequential(nn.Linear(1024, 1100))
    use_fast_layers(model)
    with pytest.raises(RuntimeError, match=r"0\.weight is packed"):
        model.state_dict()


@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize("rule", [*RULES[1:], Rule(None, 80), Rule(None, 200)], indirect=True)
@pytest.mark.parametrize("size", [16, 600])
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_pytorch_tanh"])
def test_a_gated_network(size: int, rows: int, activation: str, rule: Rule) -> None:
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
def test_a_network_with_another_gate_is_left_alone(activation: str, rule: Rule) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 2}
    model = nn.Sequential(LlamaMLP(LlamaConfig(**sizes, hidden_act=activation)))
    use_fast_layers(model)
    assert isinstance(model[0], LlamaMLP)
