"""Loading: what is wrong with a model is said in one line that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ml.models.loading
from ml.errors import ModelLoadError, NoAttentionError
from ml.models.base import LanguageModel
from ml.models.loading import files
from ml.models.loading.context_length import context_length
from ml.runtime.implementation import eager
from tests.fixtures import zoo
from tests.fixtures.zoo import CONTEXT
from tests.zoo.configurations import make


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy of a good folder, to be damaged."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10_000])


def drop_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def wrong_shape(folder: Path) -> None:
    edit(folder / "config.json", intermediate_size=48)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json; name the folder"),
        (lambda folder: (folder / "config.json").write_text("{"), "does not name a model_type"),
        (lambda folder: edit(folder / "config.json", model_type="gpt9"), "'gpt9', no causal language model"),
        (lambda folder: edit(folder / "config.json", model_type="t5"), "'t5', no causal language model"),
        (lambda folder: edit(folder / "config.json", hidden_size="wide"), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").unlink(), "its weights are missing"),
        (truncate, "damaged .*; fetch them again"),
        (drop_a_weight, "lacks 1 of its weights, such as lm_head.weight"),
        (wrong_shape, "mlp.down_proj.weight .* has another shape than config.json says"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer of .* cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
    ],
)
def test_damaged_folders(folder: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(folder)
    with pytest.raises(ModelLoadError, match=said) as caught:
        ml.models.loading.load(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


def test_code_that_comes_with_a_model_never_runs(folder: Path) -> None:
    (folder / "modeling_evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"}, model_type="evil")
    with pytest.raises(ModelLoadError):
        ml.models.loading.load(str(folder), device="cpu")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "a/b/c"])
def test_an_unknown_name_lists_the_shipped_ones(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "house-model").mkdir()
    (tmp_path / "house-model" / "config.json").write_text("{}")
    monkeypatch.setattr(files, "PRETRAINED", tmp_path)
    with pytest.raises(ModelLoadError, match="house-model"):
        ml.models.loading.load(name)


def test_a_shipped_name(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(files, "PRETRAINED", folder.parent)
    assert ml.models.loading.load("copy", device="cpu").info.name == "copy"


@pytest.mark.parametrize("device", ["cuda:99", "warp"])
def test_a_device_that_is_not_there(tiny_llama: Path, device: str) -> None:
    with pytest.raises(ModelLoadError, match="use auto, cpu"):
        ml.models.loading.load(str(tiny_llama), device=device)


def test_the_digest_is_of_contents(folder: Path, tiny_llama: Path) -> None:
    assert files.digest(folder) == files.digest(tiny_llama)
    (folder / "README.md").write_text("no part of the model")
    assert files.digest(folder) == files.digest(tiny_llama)
    seen = {files.digest(folder)}
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        with (folder / name).open("ab") as file:
            file.write(b" ")
        seen.add(files.digest(folder))
    assert len(seen) == 5


def test_threads(tiny_gpt2: Path) -> None:
    before = torch.get_num_threads()
    try:
        ml.models.loading.load(str(tiny_gpt2), device="cpu", threads=3)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_the_lstm_is_loaded_by_its_own_code(tiny_lstm: Path, load_model: Callable[[Path], LanguageModel]) -> None:
    model = load_model(tiny_lstm)
    assert (model.info.name, model.info.heads, model.info.context_length) == ("tiny-lstm", 0, 128)
    assert model.logits([[1, 2, 3]])[0].shape == (1, model.info.vocabulary_size)
    with pytest.raises(NoAttentionError):
        model.attention([1], [0], [0], lambda *_: None)


@pytest.mark.parametrize(
    ("name", "length"),
    [
        ("gpt2", CONTEXT),
        ("roberta, decoder", CONTEXT - 2),
        ("opt", CONTEXT),
        ("biogpt", CONTEXT),
        ("whisper", CONTEXT),
        ("prophetnet", CONTEXT - 2),
    ],
)
def test_the_longest_prompt_has_a_row_in_every_table_of_positions(name: str, length: int, tmp_path: Path) -> None:
    module = zoo.make(name) if name in zoo.ZOO else make(name)
    assert context_length(module) == length
    with torch.inference_mode():
        module(input_ids=torch.full((1, length), 3), use_cache=False)


def test_loading_leaves_no_hooks_of_transformers(tiny_llama: Path) -> None:
    module = ml.models.loading.load(str(tiny_llama), device="cpu").module
    hooks = [hook for part in module.modules() for hook in part._forward_hooks.values()]
    assert all(hook.__module__.startswith("ml.") for hook in hooks)
    with eager(module):
        assert len(module(input_ids=torch.tensor([[1, 2]]), output_attentions=True).attentions) == 2
        assert len(module(input_ids=torch.tensor([[1, 2]]), output_attentions=True).attentions) == 2
    assert [hook for part in module.modules() for hook in part._forward_hooks.values()] == hooks
