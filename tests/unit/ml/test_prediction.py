"""What may be asked about tokens to come, by model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ml.errors import InputError, OutOfReachError
from ml.models.protocol import ModelInfo
from ml.prediction import check_temperature, check_top_k, max_top_k

LOADED = ModelInfo(
    name="here",
    digest="d" * 64,
    architecture="toy",
    parameters=1,
    layers=1,
    heads=1,
    hidden_size=1,
    vocabulary_size=50,
    context_length=8,
    device="cpu",
    dtype="float32",
)
SERVED = replace(LOADED, name="there", engine="vllm 0.32.0", max_top_k=20)


@pytest.mark.parametrize(
    ("info", "limit"),
    [
        (LOADED, 50),
        (replace(LOADED, vocabulary_size=128_000), 1000),
        (SERVED, 20),
        (replace(SERVED, max_top_k=None), 50),
        (replace(SERVED, max_top_k=10**6, vocabulary_size=10**6), 1000),
    ],
)
def test_top_k_bounds(info: ModelInfo, limit: int) -> None:
    assert max_top_k(info) == limit
    check_top_k(1, info)
    check_top_k(limit, info)
    check_top_k(0, info, least=0)
    for top_k in (0, -1, limit + 1, 2**31 - 1):
        with pytest.raises(InputError, match=f"between 1 and {limit}, not {top_k}") as caught:
            check_top_k(top_k, info)
        assert caught.value.field == "top_k"


def test_an_engine_that_names_tokens_by_their_texts_lists_none() -> None:
    info = replace(SERVED, max_top_k=0)
    check_top_k(0, info, least=0)
    with pytest.raises(OutOfReachError, match="by their texts"):
        check_top_k(5, info)


@pytest.mark.parametrize("temperature", [0.0, -1.0, 100.1, math.inf, math.nan])
@pytest.mark.parametrize("info", [LOADED, SERVED])
def test_temperature_bounds(info: ModelInfo, temperature: float) -> None:
    with pytest.raises(InputError) as caught:
        check_temperature(temperature, info)
    assert caught.value.field == "temperature"


def test_a_served_model_has_one_temperature() -> None:
    check_temperature(0.5, LOADED)
    check_temperature(1.0, SERVED)
    with pytest.raises(OutOfReachError, match="ask at temperature 1"):
        check_temperature(0.5, SERVED)
