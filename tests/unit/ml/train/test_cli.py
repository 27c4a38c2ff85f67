"""The training command in its own process: its options, its errors, and what a signal leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ml.train.cli import main

SMALL = ("--embedding-size=16", "--hidden-size=16", "--batch=4", "--window=20")


def test_bad_data_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lstm", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: there is no data folder")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_every_setting_is_an_option_with_its_default(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([model, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--resume", "--epochs", "--clip", "--shape", "--seed", "--dropout", "--patience", "--average"):
        assert option in shown


def test_a_termination_leaves_a_checkpoint_to_resume_from(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ml.train", "lstm", f"--data={data}", f"--out={out}", *SMALL]
    with subprocess.Popen([*command, "--epochs=100000"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("validation perplexity" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait() == 130
    assert "go on with --resume" in rest
    assert (out / "training" / "checkpoint.safetensors").exists()
    assert (out / "model.safetensors").exists()
    # Fewer epochs than are done: nothing is left to do.
    assert main([*command[3:], "--resume", "--epochs=1"]) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_two_minutes_of_training_beat_counting_words(model: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / model
    options = {
        "lstm": [*SMALL, "--rate=0.01", "--dropout=0.1"],
        "transformer": ["--vocabulary-size=300", "--hidden-size=32", "--layers=2", "--heads=2", "--feed-forward=64"],
    }[model]
    if model == "transformer":
        options += ["--context-length=64", "--batch=4", "--dropout=0.0"]
    assert main([model, f"--data={data}", f"--out={out}", "--epochs=20", "--warmup=10", *options]) == 0

    history = json.loads((out / "training" / "history.json").read_text())
    # The text's words alone have a perplexity near 25; its rule leaves less than 8.
    assert min(line["valid_perplexity"] for line in history) < 8


@pytest.mark.skipif("GLOSS_WIKITEXT" not in os.environ, reason="GLOSS_WIKITEXT names no folder with WikiText-2")
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_a_slice_of_wikitext(model: str, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / model
    data.mkdir()
    for split, lines in (("train", 2000), ("valid", 200), ("test", 200)):
        text = (Path(os.environ["GLOSS_WIKITEXT"]) / f"{split}.txt").read_text(encoding="utf-8")
        (data / f"{split}.txt").write_text("\n".join(text.split("\n")[:lines]) + "\n", encoding="utf-8")
    options = {
        "lstm": ["--epochs=2", "--dropout=0.2", "--rate=0.005"],
        "transformer": ["--epochs=2", "--vocabulary-size=2048", "--hidden-size=64", "--layers=2", "--heads=2"],
    }[model]
    assert main([model, f"--data={data}", f"--out={out}", *options]) == 0
    history = json.loads((out / "training" / "history.json").read_text())
    # Per word. A guess has thousands, or, of a transformer whose words are spelled in tokens, hundreds of thousands.
    assert history[-1]["valid_perplexity"] < {"lstm": 1000, "transformer": 20_000}[model]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
