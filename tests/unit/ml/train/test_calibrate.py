"""A temperature folded into an LSTM's weights divides its logits, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ml.models.lstm import LstmConfig, WordLSTM
from ml.train.calibrate import TEMPERATURES, TILTS, Text, calibrate, fold, main


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_divided(tied: bool) -> None:
    torch.manual_seed(0)
    module = WordLSTM(LstmConfig(20, 8, 8, 2, tied)).eval()
    ids = torch.randint(0, 20, (1, 12))

    def logits() -> torch.Tensor:
        with torch.inference_mode():
            return module.head(module(ids, module.initial_state(1))[0])

    before = logits()
    fold(module, 1.25)
    torch.testing.assert_close(logits(), before / 1.25)


def test_what_makes_a_text_likeliest_is_found_and_folded() -> None:
    torch.manual_seed(0)
    module = WordLSTM(LstmConfig(20, 8, 8)).eval()
    counts = torch.tensor([50.0] * 4 + [1.0] * 16)
    ids = torch.multinomial(counts, 400, replacement=True)  # frequencies are all there is to know of it
    text = Text(module, ids, 0)
    before = text.perplexity()
    temperature, strength = calibrate(text, torch.log(counts / counts.sum()))
    assert (temperature, strength) == (max(TEMPERATURES), max(TILTS))
    assert text.perplexity() < before


def test_the_folder_is_written_anew(tiny_lstm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data = tmp_path / "lstm", tmp_path / "data"
    folder.mkdir()
    data.mkdir()
    for file in tiny_lstm.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for split in ("train", "valid"):
        (data / f"{split}.txt").write_text(" the river was old \n" * 40)
    before = (folder / "model.safetensors").read_bytes()
    assert main([str(folder), "--data", str(data)]) == 0
    assert "into the weights" in capsys.readouterr().out
    assert (folder / "model.safetensors").read_bytes() != before


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--data", str(tmp_path)]) == 1
    assert "error" in capsys.readouterr().err
