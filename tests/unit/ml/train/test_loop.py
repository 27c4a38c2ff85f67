"""The loop with both real models on a small text: what a user sees of it, and what interruptions leave."""

from __future__ import annotations

import errno
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from ml.models.loading import load
from ml.train import loop
from ml.train.checkpoint import load_checkpoint, save_checkpoint
from ml.train.corpus import read_corpus
from ml.train.display import Display
from ml.train.errors import DivergedError, InterruptedRunError, ResumeError, StorageError
from ml.train.loop import Training
from ml.train.lstm import LstmSettings, LstmTask
from ml.train.run import RunSettings
from ml.train.schedule import Shape
from ml.train.task import Task
from ml.train.transformer import TransformerSettings, TransformerTask

LSTM = LstmSettings(embedding_size=16, hidden_size=16, batch=4, window=20, rate=0.01, weight_dropout=0.1)
TRANSFORMER = TransformerSettings(
    vocabulary_size=300, hidden_size=16, layers=2, heads=2, feed_forward=32, context_length=32, batch=8
)
RUN = RunSettings(epochs=2, warmup=4, validations=2, average=0.9)


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the curve after each validation would take half of these tests' time; one of them undoes this."""
    monkeypatch.setattr("ml.train.folder.plot_history", lambda lines, path: path.write_bytes(b""))


def build(kind: str, data: Path, out: Path, run: RunSettings = RUN, **changes: Any) -> Training:
    torch.manual_seed(run.seed)
    corpus = read_corpus(data)
    task: Task = (
        LstmTask(corpus, LstmSettings(**{**vars(LSTM), **changes}), run.seed)
        if kind == "lstm"
        else TransformerTask(corpus, TransformerSettings(**{**vars(TRANSFORMER), **changes}), run.seed)
    )
    return Training(task, run, out, Display(Console(file=io.StringIO())))


def interrupt_at(training: Training, last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run, as far as an interruption during step `last` lets it."""
    loss, steps = training.task.loss, 0

    def interrupted(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == last:
            training.stop()
        return loss(inputs, targets)

    monkeypatch.setattr(training.task, "loss", interrupted)
    with pytest.raises(InterruptedRunError, match=f"after step {last}"):
        training.run()


def numbers(training: Training) -> list[dict[str, Any]]:
    return [{**vars(record), "seconds": None} for record in training.history]


@pytest.mark.parametrize(("kind", "shape"), [("lstm", Shape.PLATEAU), ("transformer", Shape.TRAPEZOID)])
def test_a_resumed_run_has_the_numbers_of_an_undisturbed_one(
    kind: str, shape: Shape, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunSettings(**{**vars(RUN), "shape": shape})
    whole = build(kind, data, tmp_path / "whole", run)
    whole.run()

    first = build(kind, data, tmp_path / "parts", run)
    # In the middle of the second epoch, between two validations.
    interrupt_at(first, first.task.steps_per_epoch + 3, monkeypatch)
    torch.manual_seed(12345)
    second = build(kind, data, tmp_path / "parts", run)
    second.resume()
    second.run()

    assert numbers(second) == numbers(whole)
    for name, weight in whole.task.module.state_dict().items():
        assert torch.equal(weight, second.task.module.state_dict()[name]), name
    assert (tmp_path / "parts" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_it_learns_and_leaves_a_model_that_loads(
    kind: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    out = tmp_path / f"my-{kind}"
    training = build(kind, data, out, RunSettings(epochs=4, warmup=4), dropout=0.0)
    training.run()
    losses = [record.valid_loss_per_token for record in training.history]
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 0.2
    history = json.loads((out / "training" / "history.json").read_text())
    assert [line["valid_loss_per_token"] for line in history] == losses
    assert (out / "training" / "loss.png").read_bytes().startswith(b"\x89PNG")
    model = load(str(out), device="cpu")
    assert model.info.name == f"my-{kind}"
    mask = model.tokenizer.mask_token
    assert mask is not None
    assert mask[1].strip() == "<unk>"
    assert mask[0] not in model.tokenizer.special.ends


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(data: Path, tmp_path: Path) -> None:
    training = build("lstm", data, tmp_path)
    steps = training.task.steps_per_epoch
    loss = training.task.loss

    def poisoned(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return loss(inputs, targets) * (float("nan") if len(training.history) == 2 else 1)

    training.task.loss = poisoned  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match=f"step {steps + 1} is nan"):
        training.run()
    again = build("lstm", data, tmp_path)
    again.resume()
    assert len(again.history) == 2
    assert all(weight.isfinite().all() for weight in again.task.module.state_dict().values())


def test_a_full_disk_keeps_the_checkpoint_before(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = build("lstm", data, tmp_path)
    from ml.train import checkpoint

    save_file, calls = checkpoint.save_file, 0

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        nonlocal calls
        calls += 1
        save_file(tensors, path, metadata)
        if calls == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StorageError, match="No space left on device"):
        training.run()
    assert [path.name for path in (tmp_path / "training").glob("checkpoint*")] == ["checkpoint.safetensors"]
    again = build("lstm", data, tmp_path)
    again.resume()
    assert len(again.history) == 1


def test_it_stops_when_nothing_improves(data: Path, tmp_path: Path) -> None:
    run = RunSettings(epochs=50, patience=2)
    training = build("lstm", data, tmp_path, run, rate=0.0)
    training.run()
    assert len(training.history) == 3


def test_the_mean_of_the_weights_begins_when_progress_stalls(data: Path, tmp_path: Path) -> None:
    run = RunSettings(epochs=3, average=1.0, stall=1)
    training = build("lstm", data, tmp_path, run, rate=0.0)
    training.run()
    assert training._averaging
    assert training._average is not None
    assert training._average.steps == training.task.steps_per_epoch


def test_the_history_tells_learning_rates(data: Path, tmp_path: Path) -> None:
    training = build("transformer", data, tmp_path, RunSettings(epochs=2, decay=0.5, validations=2))
    training.run()
    half, whole = training.history[1], training.history[2]
    assert half.learning_rates == {"matrix_rate": 0.02, "embedding_rate": 0.003}
    factor = whole.learning_rate_factor
    assert 0 < factor < 1
    assert whole.learning_rates == {"matrix_rate": 0.02 * factor, "embedding_rate": 0.003 * factor}
    words, tokens = training.task._valid_words, len(training.task._valid_ids)  # type: ignore[attr-defined]
    nats = whole.valid_loss_per_token * tokens
    assert whole.valid_perplexity_per_word == pytest.approx(math.exp(nats / words))


def test_a_plateau_divides_the_rate(data: Path, tmp_path: Path) -> None:
    training = build("lstm", data, tmp_path, RunSettings(epochs=3, shape=Shape.PLATEAU), rate=0.0)
    training.run()
    assert [record.learning_rate_factor for record in training.history] == [1.0, 1.0, 0.25]


def test_resuming_needs_a_checkpoint_of_this_model_and_text(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ResumeError, match="there is no checkpoint"):
        build("lstm", data, out).resume()
    begun = build("lstm", data, out)
    begun.begin()
    with pytest.raises(ResumeError, match=r"--layers 3 \(was 2\), --batch 8 \(was 4\)"):
        build("lstm", data, out, layers=3, batch=8).resume()
    with pytest.raises(ResumeError, match="another model"):
        build("transformer", data, out).resume()
    other = tmp_path / "other"
    shutil.copytree(data, other)
    (other / "valid.txt").write_text("another text \n")
    with pytest.raises(ResumeError, match="the text in --data is another"):
        build("lstm", other, out).resume()
    state = load_checkpoint(begun.folder.checkpoint)
    save_checkpoint({**state, "settings": None}, begun.folder.checkpoint)
    with pytest.raises(ResumeError, match="earlier version"):
        build("lstm", data, out).resume()
    begun.folder.checkpoint.write_bytes(b"rubbish")
    with pytest.raises(ResumeError, match="is no checkpoint"):
        build("lstm", data, out).resume()


def test_what_a_resumed_run_may_change_is_told_and_acts(data: Path, tmp_path: Path) -> None:
    build("lstm", data, tmp_path, RunSettings(epochs=1)).run()
    again = build("lstm", data, tmp_path, RunSettings(epochs=2), rate=0.0, dropout=0.25)
    log = io.StringIO()
    again.display = Display(Console(file=log, width=200))
    again.resume()
    assert [line.partition(": ")[2] for line in log.getvalue().splitlines()] == [
        "--dropout 0.25 (was 0.5)",
        "--rate 0.0 (was 0.01)",
        "--epochs 2 (was 1)",
    ]
    before = {name: weight.clone() for name, weight in again.task.module.state_dict().items()}
    again.run()
    assert all(torch.equal(weight, before[name]) for name, weight in again.task.module.state_dict().items())
    assert again.history[-1].learning_rates == {"rate": 0.0}


def test_a_run_that_was_killed_before_its_first_validation_goes_on(data: Path, tmp_path: Path) -> None:
    run = RunSettings(epochs=1)
    whole = build("lstm", data, tmp_path / "whole", run)
    whole.run()
    build("lstm", data, tmp_path / "parts", run).begin()
    torch.manual_seed(99)
    again = build("lstm", data, tmp_path / "parts", run)
    again.resume()
    again.run()
    assert numbers(again) == numbers(whole)


def test_the_log_tells_loss_perplexity_speed_and_time_left(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml.train.display._LOG_SECONDS", 0.0)
    log = io.StringIO()
    training = build("lstm", data, tmp_path, RunSettings(epochs=1))
    training.display = Display(Console(file=log, width=200))
    training.run()
    assert "validation perplexity" in log.getvalue()
    for figure in ("loss", "perplexity", "tokens/s", "min left"):
        assert figure in log.getvalue()


def test_clipping_bounds_the_gradient(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    clip = loop.clip_grad_norm_

    def observed(parameters: Any, limit: float) -> torch.Tensor:
        kept = list(parameters)
        before = clip(kept, limit)
        norms.append(sum(float(weight.grad.norm()) ** 2 for weight in kept) ** 0.5)
        return before

    monkeypatch.setattr(loop, "clip_grad_norm_", observed)
    build("lstm", data, tmp_path, RunSettings(epochs=1, clip=0.01)).run()
    assert max(norms) <= 0.0101
