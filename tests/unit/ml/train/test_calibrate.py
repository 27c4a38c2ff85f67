"""A temperature folded into an LSTM's weights divides its logits, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ml.models.lstm import LstmConfig, WordLSTM
from ml.train.calibrate import fold, main, perplexities


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


def test_perplexities_leave_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    module = WordLSTM(LstmConfig(20, 8, 8)).eval()
    weight = module.head.weight.detach().clone()
    ids = torch.randint(0, 20, (300,))
    found = perplexities(module, ids, 0, [0.5, 1.0, 100.0])
    torch.testing.assert_close(module.head.weight.detach(), weight)
    assert found[2] == pytest.approx(20, rel=1e-2)  # nothing is said any more
    fold(module, 0.5)
    assert perplexities(module, ids, 0, [1.0])[0] == pytest.approx(found[0])


def test_the_folder_is_written_anew(tiny_lstm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data = tmp_path / "lstm", tmp_path / "data"
    folder.mkdir()
    data.mkdir()
    for file in tiny_lstm.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (data / "valid.txt").write_text(" the river was old \n" * 40)
    before = (folder / "model.safetensors").read_bytes()
    assert main([str(folder), "--data", str(data)]) == 0
    assert "into the weights" in capsys.readouterr().out
    assert (folder / "model.safetensors").read_bytes() != before


def test_a_folder_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--data", str(tmp_path)]) == 1
    assert "error" in capsys.readouterr().err
