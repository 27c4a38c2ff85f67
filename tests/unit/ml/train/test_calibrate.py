"""A temperature and a share of log-frequencies folded into an LSTM's weights change its logits so, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ml.kernels.onednn_linear import PackedLinear
from ml.kernels.processors import Rule
from ml.models.loading import load
from ml.models.lstm.files import load_module, save_lstm
from ml.models.lstm.model import LstmModel
from ml.models.lstm.network import LstmConfig, WordLSTM
from ml.models.words import wikitext_tokenizer
from ml.train import calibrate as command
from ml.train.calibrate import TEMPERATURES, TILTS, Text, calibrate, main
from ml.train.perplexity import lstm_nats

LINE = " the river was old \n"


def build(tied: bool = True) -> WordLSTM:
    """A module whose head has a bias that matters."""
    torch.manual_seed(0)
    module = WordLSTM(LstmConfig(20, 8, 8, 2, tied)).eval()
    torch.nn.init.normal_(module.head.bias)
    return module


@torch.inference_mode()
def logits(module: WordLSTM, ids: torch.Tensor) -> torch.Tensor:
    """[time, vocabulary]."""
    return module.head(module(ids[None], module.initial_state(1))[0][0])


def texts(folder: Path, line: str = LINE) -> Path:
    """A data folder."""
    folder.mkdir()
    for split in ("train", "valid"):
        (folder / f"{split}.txt").write_text(line * 40)
    return folder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_logits_are_divided_and_log_frequencies_added(tied: bool, bias: bool) -> None:
    module = build(tied)
    if not bias:
        torch.nn.init.zeros_(module.head.bias)
    log_frequencies = torch.log_softmax(torch.randn(20), 0)
    ids = torch.randint(0, 20, (60,))
    before = logits(module, ids)
    temperature, strength = calibrate(Text(module, ids, 0), log_frequencies)
    assert temperature != 1
    found = logits(module, ids)
    torch.testing.assert_close(found, before / temperature + strength * log_frequencies, atol=1e-5, rtol=0)


def test_what_makes_a_text_likeliest_is_found_and_folded() -> None:
    module = build()
    counts = torch.tensor([50.0] * 4 + [1.0] * 16)
    ids = torch.multinomial(counts, 400, replacement=True)  # frequencies are all there is to know of it
    text = Text(module, ids, 0)
    before = text.perplexity()
    temperature, strength = calibrate(text, torch.log(counts / counts.sum()))
    assert (temperature, strength) == (max(TEMPERATURES), max(TILTS))
    assert text.perplexity() < before


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_packed_when_it_is_served(tied: bool, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("ml.kernels.onednn_linear.rule_for", lambda numel: Rule(None, 1, packed=True))
    torch.manual_seed(0)
    words = ["<unk>", "<eos>", "the", "river", "was", "old", *(f"w{i}" for i in range(10_000))]
    module = WordLSTM(LstmConfig(len(words), 650, 650, 1, tied)).eval()
    torch.nn.init.normal_(module.head.bias)
    folder = tmp_path / "lstm"
    save_lstm(module, wikitext_tokenizer(words), folder, torch.float32)
    assert main([str(folder), "--data", str(texts(tmp_path / "data")), "--words", "40"]) == 0
    printed = capsys.readouterr().out
    temperature, strength = float(printed.split()[1]), float(printed.split()[3])

    counts = torch.full((len(words),), 0.5)
    counts[1:6] += 40
    served = load(str(folder), device="cpu")
    assert isinstance(served, LstmModel)
    assert isinstance(served.module.head, PackedLinear) is not tied
    ids = torch.tensor([1, 2, 3, 4, 5, 6, 700, 0])
    expected = logits(module, ids) / temperature + strength * torch.log(counts / counts.sum())
    (found,) = served.logits([ids.tolist()], [len(ids)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    perplexity = sum(nats for nats, _ in lstm_nats(load_module(folder), torch.tensor([2, 3, 4, 5, 1] * 8), 1)) / 40
    assert f"perplexity {torch.tensor(perplexity).exp():.2f} per token" in printed


@pytest.fixture
def folder(tiny_lstm: Path, tmp_path: Path) -> Path:
    """A trained LSTM's folder that may be written into."""
    copy = tmp_path / "lstm"
    copy.mkdir()
    for file in tiny_lstm.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def test_the_weights_are_written_anew_and_nothing_else(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert main([str(folder), "--data", str(texts(tmp_path / "data"))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1, "it does not wrap"
    assert "into the weights" in lines[0]
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert {name for name in before | after if before.get(name) != after.get(name)} == {"model.safetensors"}
    assert len(after["model.safetensors"]) == len(before["model.safetensors"]), "in the type they were stored in"


def test_weights_that_do_not_load_again_are_dropped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "model.safetensors").read_bytes()

    def half(module: WordLSTM, into: Path, dtype: torch.dtype) -> None:
        (into / "model.safetensors").write_bytes(before[: len(before) // 2])

    monkeypatch.setattr(command, "save_weights", half)
    assert main([str(folder), "--data", str(texts(tmp_path / "data"))]) == 2
    assert "does not hold a word-level LSTM" in capsys.readouterr().err
    assert (folder / "model.safetensors").read_bytes() == before
    assert not (folder / ".partial").exists()


@pytest.mark.parametrize("words", [200, 20])
def test_whenever_a_process_is_killed_its_folder_holds_a_whole_model_or_none(
    words: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill would leave: the folder as it is before and after each change of a name in it."""
    sizes = []

    def look() -> None:
        there = {path.name for path in folder.iterdir()}
        if "config.json" in there:
            copy = shutil.copytree(folder, tmp_path / f"{len(sizes)}")
            sizes.append(load(str(copy), device="cpu").info.vocabulary_size)

    for name in ("replace", "unlink"):
        change = getattr(Path, name)

        def seen(path: Path, *arguments: Any, change: Any = change, **options: Any) -> None:
            look()
            change(path, *arguments, **options)
            look()

        monkeypatch.setattr(Path, name, seen)
    before = load_module(folder).config.vocabulary_size
    torch.manual_seed(0)
    vocabulary = ["<unk>", "<eos>", *(f"w{i}" for i in range(words - 2))]
    save_lstm(WordLSTM(LstmConfig(words, 8, 8)), wikitext_tokenizer(vocabulary), folder)
    assert sizes[0] == before
    assert sizes[-1] == words
    assert sizes == sorted(sizes, key=lambda size: size == words), "the earlier one until the new one is there"
    assert not (folder / ".partial").exists()


def test_mistakes_are_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(texts(tmp_path / "data"))
    for arguments, message in (
        ([str(tmp_path / "nowhere"), "--data", data], "there is no folder"),
        ([str(tmp_path), "--data", data], "lacks config.json"),
        ([str(folder), "--data", str(tmp_path)], "has neither valid.txt"),
        ([str(folder), "--data", data, "--words", "0"], "--words"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("\n") == 1
