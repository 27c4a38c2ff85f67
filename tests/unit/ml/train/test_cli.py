"""The training command in its own process: its options, its errors, and what a signal leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from ml.train.cli import RECIPES, main
from ml.train.errors import DivergedError
from ml.train.options import flag

SMALL = ("--embedding-size=16", "--hidden-size=16", "--batch=4", "--window=20")


def run(data: Path, out: Path, *options: str, model: str = "lstm") -> int:
    """The exit status of a small run of one epoch."""
    return main([model, f"--data={data}", f"--out={out}", *SMALL, "--epochs=1", *options])


def test_bad_data_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lstm", "--data", str(tmp_path / "[/]"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: there is no data folder {tmp_path}/[/]")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("lstm", "--embedding-size 100", "need them equal: give both the same, or --no-tied"),
        ("lstm", "--dropout 1.5", "--dropout is a number from 0 to below 1, not 1.5"),
        ("lstm", "--rate nan", "--rate is a number from 0 on, not nan"),
        ("lstm", "--epochs 0", "--epochs is a number from 1 on, not 0"),
        ("lstm", "--epochs some", "argument --epochs: invalid int value"),
        ("lstm", "--shape round", "(choose from 'constant', 'cosine', 'trapezoid', 'plateau')"),
        ("lstm", "--batch 5000", "one step takes 350,000: give more text, or a smaller --batch or --window"),
        ("lstm", "--seed -1", "--seed is a number from 0 to 4,294,967,295, not -1"),
        ("lstm", "--threads -1", "--threads"),
        ("lstm", "--stall 2", "--stall does nothing without --average"),
        ("lstm", "--frequent 10", "--frequent does nothing without --samples"),
        ("lstm", "--resume --overwrite", "not allowed with argument"),
        ("transformer", "--heads 3", "no multiple of twice --heads 3"),
        ("transformer", "--context-length 100000", "smaller --batch or --context-length"),
        ("transformer", "--vocabulary-size 100", "--vocabulary-size is a number from 258"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(  # noqa: PLR0917
    model: str, options: str, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main([model, f"--data={data}", f"--out={tmp_path / 'out'}", *options.split()])
    except SystemExit as ended:  # argparse's
        status = int(str(ended.code))
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_too_little_memory_is_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # More than any machine can address, and never touched.
    monkeypatch.setattr("ml.train.lstm.WordLSTM", lambda _: torch.empty(2**60, dtype=torch.uint8))
    assert run(data, tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith("error: there is too little memory: a smaller model")


def test_a_folder_that_cannot_be_written_is_found_before_the_first_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("ml.train.lstm.LstmTask.loss", None)  # no step is made
    for out in (tmp_path / "file", tmp_path / "file" / "out", Path("/proc/out")):
        assert run(data, out) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_run_is_replaced_only_by_those_who_say_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(data, out) == 0
    assert f"{out} holds the model of epoch 1.00" in capsys.readouterr().err
    (out / "notes.txt").write_text("the user's own")
    files = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run(data, out) == 2
    error = capsys.readouterr().err
    assert "--resume" in error
    assert "--overwrite" in error
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files
    # A replaced run that ends before its first validation leaves none of the earlier one's files beside its own.
    training = out / "training"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ml.train.loop.Training._train_on", interrupted)
        assert run(data, out, "--overwrite", "--layers=1") == 1
    assert sorted(path.name for path in out.iterdir()) == ["notes.txt", "training"]
    assert [path.name for path in training.iterdir()] == ["checkpoint.safetensors"]
    assert run(data, out, "--resume") == 0
    assert json.loads((out / "config.json").read_text())["layers"] == 1


def interrupted(*_: object) -> float:
    raise DivergedError("the loss is nan")


def test_a_model_of_another_origin_is_not_replaced_either(
    data: Path, tiny_lstm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tiny_lstm) == 2
    assert "holds a model already" in capsys.readouterr().err


def test_a_run_goes_on_with_its_own_options_and_says_what_changed(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, bare = tmp_path / "out", ["lstm", f"--data={data}", f"--out={tmp_path / 'out'}", "--resume"]
    assert run(data, out, "--window=30", "--vocabulary=wikitext", "--no-tied", "--method=sgd") == 0
    capsys.readouterr()
    assert main(bare) == 0
    assert capsys.readouterr().err.startswith("nothing to do: 1 epochs are done of 1 asked for")
    assert main([*bare, "--epochs=2", "--dropout=0.1"]) == 0
    logged = capsys.readouterr().err
    assert "changed from here on: --epochs 2 (was 1)" in logged
    assert "changed from here on: --dropout 0.1 (was 0.5)" in logged
    assert "epoch 2.00" in logged
    assert main([*bare, "--batch=8"]) == 2
    assert "cannot change --batch 8 (was 4)" in capsys.readouterr().err
    assert main(["transformer", *bare[1:]]) == 2
    assert "`python -m ml.train lstm` goes on with it" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_every_setting_is_an_option_that_is_explained(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([model, "--help"])
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for option in ("--resume", "--epochs", "--clip", "--shape", "--seed", "--dropout", "--patience", "--average"):
        assert option in shown
    recipe = RECIPES[model]
    for record in (recipe.settings, recipe.run):
        for part in fields(record):
            about = re.search(rf"{flag(part.name)}(?:,? \S+)? (?!\[)([^()]+\w.*?)\(default: (.*?)\)", shown)
            assert about, part.name


def test_what_is_missing_is_named() -> None:
    """As after `make demo`, which installs no training."""
    code = """
import runpy, sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name in ("matplotlib", "torchtext") else find(name, *rest)
runpy.run_module("ml.train", run_name="__main__")
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert ended.stderr == "error: training needs matplotlib and torchtext, which `make train-deps` installs\n"


@pytest.mark.processes
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
    assert min(line["valid_perplexity_per_word"] for line in history) < 8


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
    assert history[-1]["valid_perplexity_per_word"] < {"lstm": 1000, "transformer": 20_000}[model]
    assert history[-1]["train_loss_per_token"] < history[0]["train_loss_per_token"]
