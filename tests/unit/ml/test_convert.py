"""`python -m ml.convert`: what it writes is served, and says what the model says that it was made from."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ml.models.loading
from ml import spec
from ml.convert import convert, main
from ml.errors import ModelLoadError
from ml.models.base import LanguageModel

IDS = [1, 5, 9, 200, 17]


def write_gguf(folder: Path, path: Path, *, architecture: str = "llama", leave_out: str = "") -> None:
    """The Llama of `folder` as a GGUF file, as llama.cpp has them."""
    gguf = pytest.importorskip("gguf")
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())["model"]
    heads, key_heads, layers = (
        config[name] for name in ("num_attention_heads", "num_key_value_heads", "num_hidden_layers")
    )
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].__getitem__)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<") and token.endswith(">") else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    for name, weight in load_file(folder / "model.safetensors").items():
        if re.search("[qk]_proj", name):  # their rotary pairs stand side by side there
            count = heads if "q_proj" in name else key_heads
            weight = weight.view(count, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)  # noqa: PLW2901
        if name != leave_out:
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pickle(folder: Path, target: Path) -> None:
    """The model of `folder` as older versions of transformers wrote it."""
    target.mkdir()
    for path in folder.glob("*.json"):
        (target / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(folder / "model.safetensors"), target / "pytorch_model.bin")


@pytest.mark.parametrize("write", [write_gguf, pickle])
def test_the_command_of_the_refusal_makes_what_is_served(
    write: Callable[[Path, Path], None],
    tiny_llama: Path,
    tmp_path: Path,
    load_model: Callable[[Path], LanguageModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = tmp_path / ("a.gguf" if write is write_gguf else "a")
    write(tiny_llama, source)
    with pytest.raises(ModelLoadError) as caught:
        ml.models.loading.load(str(source), device="cpu")
    command = shlex.split(str(caught.value).rpartition(": ")[2])
    assert command[:3] == ["python", "-m", "ml.convert"]
    monkeypatch.setattr(sys, "argv", command[2:])
    monkeypatch.chdir(tmp_path)
    assert main() == 0
    model, original = ml.models.loading.load(str(tmp_path / command[-1]), device="cpu"), load_model(tiny_llama)
    torch.testing.assert_close(model.logits([IDS])[0], original.logits([IDS])[0])
    prompt = spec.Prompt(text="The capital of Italy is")
    assert model.tokenizer.encode(prompt).ids[-5:] == original.tokenizer.encode(prompt).ids[-5:]


def test_a_file_that_lacks_weights_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    write_gguf(tiny_llama, tmp_path / "a.gguf", leave_out="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(ModelLoadError, match=r"lacks 1 of its weights, such as model\.layers\.1\.mlp\.up_proj\.weight"):
        convert(str(tmp_path / "a.gguf"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_architecture_that_is_not_known(tiny_llama: Path, tmp_path: Path) -> None:
    write_gguf(tiny_llama, tmp_path / "a.gguf", architecture="plamo")
    with pytest.raises(ModelLoadError, match=r"a\.gguf cannot be converted: .*plamo"):
        convert(str(tmp_path / "a.gguf"), tmp_path / "new")


def test_a_folder_with_something_in_it_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(ModelLoadError, match="holds something already; name a new folder"):
        convert("a.gguf", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_pickle_that_would_run_code_does_not(tiny_llama: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    pickle(tiny_llama, tmp_path / "a")
    torch.save({"lm_head.weight": Evil()}, tmp_path / "a" / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="cannot be converted"):
        convert(str(tmp_path / "a"), tmp_path / "new")
    assert not (tmp_path / "ran").exists()
