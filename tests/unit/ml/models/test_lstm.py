"""The word-level LSTM: its logits, its folder, its tokenizer's text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ml.errors import ModelLoadError, NoAttentionError
from ml.models.lstm.files import save_lstm
from ml.models.lstm.model import LstmModel, load_lstm
from ml.models.lstm.network import LstmConfig, WordLSTM
from ml.models.words import wikitext_tokenizer

WORDS = ["<unk>", "<eos>", *(f"w{i}" for i in range(40))]


def build(folder: Path, *, tied: bool = True, dtype: torch.dtype = torch.float32) -> tuple[WordLSTM, LstmModel]:
    torch.manual_seed(1)
    module = WordLSTM(LstmConfig(len(WORDS), 16, 16, 2, tied=tied)).eval()
    save_lstm(module, wikitext_tokenizer(WORDS), folder, dtype)
    return module, load_lstm(folder, "cpu", "tiny", "digest")


@pytest.mark.parametrize("tied", [True, False])
def test_logits_of_a_mixed_batch_are_those_of_each_alone(tmp_path: Path, tied: bool) -> None:
    _, model = build(tmp_path, tied=tied)
    sequences, logit_counts = [[1, 2, 3, 4, 5], [1, 2, 9], [1, 2, 3, 7, 7, 8, 9], [6]], [2, 1, 7, 1]
    together = model.logits(sequences, logit_counts)
    for ids, tail, found in zip(sequences, logit_counts, together, strict=True):
        (alone,) = model.logits([ids], [tail])
        assert found.shape == (tail, len(WORDS))
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-6)


def test_a_shared_prefix_is_read_once_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, model = build(tmp_path)
    sequences = [[1, 2, 3, 4, 5, last] for last in range(6, 12)]
    read = []
    forward = WordLSTM.forward

    def counted(self: WordLSTM, ids: torch.Tensor, state: list) -> tuple:
        read.append(ids.numel())
        return forward(self, ids, state)

    monkeypatch.setattr(WordLSTM, "forward", counted)
    found = torch.cat(model.logits(sequences))
    assert sum(read) == 5 + len(sequences)
    with torch.inference_mode():
        hidden, _ = forward(module, torch.tensor(sequences), module.initial_state(len(sequences)))
        torch.testing.assert_close(found, module.head(hidden[:, -1]), rtol=0, atol=1e-6)


def test_reading_on_from_a_state_is_reading_it_all(tmp_path: Path) -> None:
    module, _ = build(tmp_path)
    ids = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    whole, _ = module(ids, module.initial_state(1))
    _, state = module(ids[:, :3], module.initial_state(1))
    rest, _ = module(ids[:, 3:], state)
    torch.testing.assert_close(rest, whole[:, 3:])


@pytest.mark.parametrize("tied", [True, False])
def test_half_precision_on_disk_is_computed_in_float32(tmp_path: Path, tied: bool) -> None:
    module, model = build(tmp_path, tied=tied, dtype=torch.float16)
    (logits,) = model.logits([[1, 2, 3]])
    assert logits.dtype == torch.float32
    hidden, _ = module(torch.tensor([[1, 2, 3]]), module.initial_state(1))
    torch.testing.assert_close(logits, module.head(hidden[:, -1]), rtol=0, atol=2e-3)
    assert model.info.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert model.info.heads == 0


def test_it_has_no_attention(tmp_path: Path) -> None:
    _, model = build(tmp_path)
    with pytest.raises(NoAttentionError, match="tiny"):
        model.attention([1, 2], [0], [1], lambda layer, weights: None)


@pytest.mark.parametrize("option", ["embedding_dropout", "weight_dropout", "variational"])
def test_dropouts_act_in_training_and_rest_in_evaluation(option: str) -> None:
    torch.manual_seed(0)
    switches = {"variational": True, "dropout": 0.5} if option == "variational" else {option: 0.5, "dropout": 0.0}
    module = WordLSTM(LstmConfig(len(WORDS), 16, 16, 2, **switches))
    ids = torch.randint(len(WORDS), (3, 8))
    first, _ = module(ids, module.initial_state(3))
    second, _ = module(ids, module.initial_state(3))
    assert not torch.equal(first, second)
    if option == "variational":
        dropped = first == 0
        assert dropped.any()
        assert torch.equal(dropped, dropped[:, :1].expand_as(dropped)), "one mask for all time steps"
    first.sum().backward()
    assert all(parameter.grad is not None for parameter in module.layers.parameters())
    module.eval()
    assert torch.equal(module(ids, module.initial_state(3))[0], module(ids, module.initial_state(3))[0])


def test_tied_weights_need_equal_widths() -> None:
    with pytest.raises(ValueError, match="tied"):
        LstmConfig(10, embedding_size=8, hidden_size=16)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    build(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(ModelLoadError, match=missing.replace(".", r"\.")):
        load_lstm(tmp_path, "cpu", "tiny", "digest")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    build(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "layers": 3}))
    with pytest.raises(ModelLoadError, match="does not hold a word-level LSTM"):
        load_lstm(tmp_path, "cpu", "tiny", "digest")
