"""Attention: plans are checked and weighed before the model runs, and reductions follow their definitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml import attention
from ml.attention import AttentionSpec, Reduction
from ml.errors import InputError, NoAttentionError
from ml.models.base import AttentionSink, LanguageModel, ModelInfo
from ml.models.internals import attention_maps

TOKENS, LAYERS, HEADS = 6, 3, 4
IDS = (9, 8, 7, 6, 5, 4)


class FixedWeights:
    """A model whose weights are given: random rows that are causal and sum to 1."""

    def __init__(self) -> None:
        self.info = ModelInfo("fixed", "0", "fixed", 1, LAYERS, HEADS, 1, 10, 100, "cpu", "float32")
        scores = torch.randn(LAYERS, HEADS, TOKENS, TOKENS, generator=torch.Generator().manual_seed(0)) * 2
        future = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
        self.weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        self.asked: list[tuple[list[int], list[int]]] = []

    def attention(self, ids: Sequence[int], layers: Sequence[int], queries: Sequence[int], sink: AttentionSink) -> None:
        assert tuple(ids) == IDS
        self.asked.append((list(layers), list(queries)))
        for layer in layers:
            sink(layer, self.weights[layer][:, list(queries)].clone())


@pytest.fixture
def model() -> Any:
    return FixedWeights()


def attend(model: Any, **spec: Any) -> attention.AttentionMap:
    plan = attention.resolve(AttentionSpec(**spec), model.info, TOKENS)
    found = attention_maps.attend(model, IDS, plan)
    assert found.weights.shape == plan.shape
    assert plan.reply_bytes == found.weights.nbytes + (0 if found.keys is None else found.keys.nbytes)
    return found


def test_default_is_every_head_of_every_layer_at_the_last_position(model: FixedWeights) -> None:
    found = attend(model)
    np.testing.assert_array_equal(found.weights, model.weights[:, :, -1:].numpy())
    assert found.weights.dtype == "<f4"
    assert found.keys is None


def test_choices_come_in_the_order_asked_for(model: FixedWeights) -> None:
    found = attend(model, layers=(2, 0), heads=(3, 1), queries=(-1, 2))
    expected = model.weights[[2, 0]][:, [3, 1]][:, :, [5, 2]]
    np.testing.assert_array_equal(found.weights, expected.numpy())
    assert model.asked == [([0, 2], [5, 2])], "the lowest layer first, as a model computes them"


def test_head_mean_is_over_the_chosen_heads(model: FixedWeights) -> None:
    found = attend(model, heads=(0, 2), reduction=Reduction.HEAD_MEAN)
    np.testing.assert_allclose(found.weights, model.weights[:, [0, 2], -1:].mean(1, keepdim=True).numpy(), atol=1e-7)


def test_rollout(model: FixedWeights) -> None:
    """Abnar & Zuidema 2020, written out: R = (0.5 A_1 + 0.5 I)(0.5 A_0 + 0.5 I), A the mean over heads."""
    found = attend(model, layers=(1, 0), queries=(1, -1), reduction=Reduction.ROLLOUT)
    mixed = 0.5 * model.weights.double().mean(1) + 0.5 * torch.eye(TOKENS, dtype=torch.float64)
    expected = (mixed[1] @ mixed[0])[[1, 5]]
    np.testing.assert_allclose(found.weights[0, 0], expected.numpy(), atol=1e-7)
    np.testing.assert_allclose(found.weights.sum(-1), 1.0, atol=1e-6)
    assert model.asked[0][0] == [0, 1], "up to the highest layer chosen and no further"


def test_top_n(model: FixedWeights) -> None:
    found = attend(model, queries=(1, 5), top_n=4)
    assert found.keys is not None
    assert found.keys.dtype == "<i4"
    full = model.weights[:, :, [1, 5]].numpy()
    short_weights, short_keys = found.weights[:, :, 0], found.keys[:, :, 0]
    assert (short_keys[..., 2:] == -1).all(), "the second token has two keys"
    assert (short_weights[..., 2:] == 0).all()
    np.testing.assert_allclose(short_weights.sum(-1), 1.0, atol=1e-6)
    assert (np.diff(found.weights, axis=-1) <= 0).all(), "largest first"
    np.testing.assert_array_equal(found.weights[:, :, 1], -np.sort(-full[:, :, 1])[..., :4])
    np.testing.assert_array_equal(np.take_along_axis(full[:, :, 1], found.keys[:, :, 1], -1), found.weights[:, :, 1])


def test_top_n_prefers_a_key_of_weight_zero_to_one_behind_the_query(model: FixedWeights) -> None:
    model.weights[...] = 0.0
    model.weights[..., 0] = 1.0
    found = attend(model, queries=(2,), top_n=4)
    assert found.keys is not None
    assert all(sorted(row) == [-1, 0, 1, 2] for row in found.keys.reshape(-1, 4).tolist())
    assert (found.keys[..., 3] == -1).all()


def test_top_n_is_at_most_the_prompt(model: FixedWeights) -> None:
    assert attend(model, top_n=2**31 - 1).weights.shape[-1] == TOKENS


def test_half_precision(model: FixedWeights) -> None:
    found = attend(model, half=True)
    assert found.weights.dtype == "<f2"
    np.testing.assert_array_equal(found.weights, model.weights[:, :, -1:].half().numpy())


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"layers": (0, 3)}, "layers[1]"),
        ({"layers": (-1,)}, "layers[0]"),
        ({"layers": (1, 0, 1)}, "layers[2]"),
        ({"heads": (4,)}, "heads[0]"),
        ({"heads": (2, 2)}, "heads[1]"),
        ({"queries": (6,)}, "queries[0]"),
        ({"queries": (0, -7)}, "queries[1]"),
        ({"queries": (5, -1)}, "queries[1]"),
        ({"top_n": 0}, "top_n"),
        ({"reduction": Reduction.ROLLOUT, "heads": (0,)}, "heads"),
    ],
)
def test_bad_specs_name_their_field(model: FixedWeights, spec: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        attention.resolve(AttentionSpec(**spec), model.info, TOKENS)
    assert caught.value.field == field


def test_memory_is_bounded_however_small_the_reply(model: FixedWeights) -> None:
    """Rollout and top_n send little and hold much."""
    long = 20_000
    small = attention.resolve(AttentionSpec(top_n=1), model.info, long)
    assert small.reply_bytes == LAYERS * HEADS * 8
    for spec in (
        AttentionSpec(reduction=Reduction.ROLLOUT),
        AttentionSpec(queries=tuple(range(long)), top_n=1, layers=(0,)),
    ):
        with pytest.raises(InputError, match="bytes of memory"):
            attention.resolve(spec, model.info, long)


def test_a_model_without_attention(tiny_lstm: Path, load_model: Callable[[Path], LanguageModel]) -> None:
    with pytest.raises(NoAttentionError, match="tiny-lstm"):
        attention.resolve(AttentionSpec(), load_model(tiny_lstm).info, 3)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
def test_real_models(name: str, request: pytest.FixtureRequest, load_model: Callable[[Path], LanguageModel]) -> None:
    real = load_model(request.getfixturevalue(name))
    layers = real.info.layers

    def ask(**spec: Any) -> torch.Tensor:
        plan = attention.resolve(AttentionSpec(**spec), real.info, TOKENS)
        return torch.from_numpy(attention_maps.attend(real, IDS, plan).weights)

    raw = ask(queries=tuple(range(TOKENS)))
    torch.testing.assert_close(raw.sum(-1), torch.ones(raw.shape[:-1]))
    assert not raw.triu(1).any(), "no token sees what comes after it"
    mixed = 0.5 * raw.mean(1) + 0.5 * torch.eye(TOKENS)
    expected = torch.linalg.multi_dot(list(mixed.flip(0))) if layers > 1 else mixed[0]
    torch.testing.assert_close(ask(reduction=Reduction.ROLLOUT)[0, 0, 0], expected[-1], atol=1e-6, rtol=0)
