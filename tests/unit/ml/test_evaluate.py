"""Perplexity, against its definition computed one prediction at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ml.evaluate import evaluate, main
from ml.models.base import LanguageModel
from ml.train.corpus import count_words
from ml.train.natural import natural_text
from ml.train.perplexity import Perplexity, strided_nats, transformer_nats, windows
from tests.fixtures.models import SENTENCES

LINES = [" ", " = Heading = ", *(f" {sentence} " for sentence in SENTENCES)]


def surprise(model: LanguageModel, context: list[int], token: int) -> float:
    (logits,) = model.logits([context])
    return float(-torch.log_softmax(logits[-1].double(), -1)[token])


@pytest.mark.parametrize(("length", "size", "stride"), [(1, 8, 4), (8, 8, 4), (9, 8, 4), (30, 8, 8), (31, 8, 3)])
def test_windows_count_each_prediction_once_with_enough_context(length: int, size: int, stride: int) -> None:
    found = list(windows(length, size, stride))
    assert [at for window in found for at in range(window.first, window.end)] == list(range(length))
    for window in found:
        assert window.end - window.begin <= size
        assert window.begin == 0 or window.first - window.begin >= size - stride


def test_a_transformer_is_measured_in_overlapping_windows(
    tiny_llama: Path, load_model: Callable[[Path], LanguageModel]
) -> None:
    model = load_model(tiny_llama)
    ids = list(model.tokenizer.ids(natural_text(LINES)))
    size, stride = model.info.context_length, 48
    nats = sum(
        surprise(model, [0, *ids[window.begin : at]], ids[at])
        for window in windows(len(ids), size, stride)
        for at in range(window.first, window.end)
    )
    found = evaluate(model, LINES, stride=stride)
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert (found.tokens, found.words) == (len(ids), count_words(LINES))


def test_training_validates_in_windows_side_by_side(
    tiny_llama: Path, load_model: Callable[[Path], LanguageModel]
) -> None:
    model = load_model(tiny_llama)
    ids = torch.tensor(model.tokenizer.ids(natural_text(LINES)))
    size = 64
    parts = list(transformer_nats(model.module, ids, 0, size=size, batch=2))  # type: ignore[attr-defined]
    assert sum(tokens for _, tokens in parts) == len(ids)
    rest = len(ids) % size
    assert rest
    whole = strided_nats(model, ids[:-rest], 0, size=size, stride=size)
    last = strided_nats(model, ids[-rest:], 0, size=size, stride=size)
    expected = sum(nats for part in (whole, last) for nats, _ in part)
    assert sum(nats for nats, _ in parts) == pytest.approx(expected, rel=1e-5)


def test_an_lstm_is_measured_as_one_stream(tiny_lstm: Path, load_model: Callable[[Path], LanguageModel]) -> None:
    model = load_model(tiny_lstm)
    lines = LINES[:6]
    ids = [token for line in lines for token in model.tokenizer.ids(line + "\n")]
    nats = sum(surprise(model, [1, *ids[:at]], token) for at, token in enumerate(ids))
    found = evaluate(model, lines)
    assert found.nats == pytest.approx(nats, rel=1e-5)
    assert found.tokens == len(ids)


def test_per_word_divides_by_words() -> None:
    found = Perplexity(nats=math.log(8) * 6, tokens=6, words=3)
    assert found.per_token == pytest.approx(8)
    assert found.per_word == pytest.approx(64)
    assert Perplexity(1e9, 1, 1).per_word == math.inf


def test_the_command(tiny_lstm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--data", str(tmp_path / "[/]")], "no data folder"),
        (["--data", str(tmp_path), "--stride", "-1"], "--stride"),
        (["--data", str(tmp_path), "--threads", "0"], "--threads"),
    ):
        assert main([str(tiny_lstm), *arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
    for split in ("valid", "test"):
        (tmp_path / f"{split}.txt").write_text("".join(line + "\n" for line in LINES[:5]))
    assert main([str(tiny_lstm), "--data", str(tmp_path), "--device", "cpu", "--json"]) == 0
    valid, test = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert valid["split"] == "valid"
    assert {**valid, "split": "test"} == test
    assert valid["per_word"] == pytest.approx(math.exp(valid["nats"] / valid["words"]))
    assert main([str(tiny_lstm), "--data", str(tmp_path), "--split", "test"]) == 0
    assert "per word" in capsys.readouterr().out
