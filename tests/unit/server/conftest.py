"""Models that tests of the engine share."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml.models.base import LanguageModel
from ml.models.loading import load
from tests.fixtures.zoo import save


@pytest.fixture(scope="module", params=["lstm", "llama", "phi3, longrope", "openai-gpt", "mamba"])
def model(request: pytest.FixtureRequest, tiny_lstm: Path, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """One of each way to compute: a recurrence, ragged, ragged up to a length, padded, with its own cache."""
    if request.param == "lstm":
        return load(str(tiny_lstm), device="cpu")
    return load(str(save(request.param, tmp_path_factory.mktemp("models") / "model")), device="cpu")


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> LanguageModel:
    return load(str(tiny_llama), device="cpu")
