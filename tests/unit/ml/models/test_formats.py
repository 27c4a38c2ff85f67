"""What users try to serve and is not served: each is refused in one line that says what it is, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import ml.models.loading
from ml.errors import ModelLoadError
from ml.models.loading import files

_SIZES: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
_PAIRED = {
    "vocab_size": 400,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
}
_SERVED = "causal language models are served, which continue a text"


def holding(*names: str) -> Callable[[Path], None]:
    """In place of the weights, files of these names."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        for number, name in enumerate(names):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x" * number)

    return change


def alone(*names: str) -> Callable[[Path], None]:
    """Nothing but files of these names."""

    def change(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        for number, name in enumerate(names):
            (folder / name).write_bytes(b"x" * number)

    return change


def configured(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def quantized_for_mlx(folder: Path) -> None:
    configured(quantization={"group_size": 64, "bits": 4})(folder)
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith("proj.weight")]:
        weights[name.replace("proj.weight", "proj.scales")] = torch.ones(1)
        del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "mlx"})


def sharded(folder: Path) -> list[Path]:
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    module.save_pretrained(folder, max_shard_size="50KB")
    return sorted(folder.glob("model-*.safetensors"))


def of_class(name: str, **sizes: object) -> Callable[[Path], None]:
    """A model of one of transformers' classes."""

    def change(folder: Path) -> None:
        import transformers

        cls: Any = getattr(transformers, name)
        (folder / "config.json").unlink()
        cls(cls.config_class(**sizes)).save_pretrained(folder)

    return change


TABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "GGUF alone": (
        alone("a.Q4.gguf", "a.Q8.gguf"),
        r"holds GGUF, .*convert it: python -m ml\.convert \S+/a\.Q8\.gguf a\.Q8$",
    ),
    "GGUF with a vision tower": (alone("a.gguf", "mmproj-a.gguf"), r"python -m ml\.convert \S+/a\.gguf a$"),
    "GGUF beside a configuration": (holding("a.gguf"), r"holds GGUF"),
    "a pickled state": (
        holding("pytorch_model.bin"),
        r"no \*\.safetensors but pytorch_model\.bin, .*ml\.convert",
    ),
    "several of them": (holding("pytorch_model-00001-of-00002.bin"), r"pickled weights, which can run code"),
    "a pickle of Meta's": (
        alone("consolidated.00.pth", "params.json"),
        r"consolidated\.00\.pth, .* layout of their own",
    ),
    "a checkpoint of a training": (holding("last.ckpt"), r"last\.ckpt, pickled weights"),
    "ONNX": (holding("onnx/model.onnx"), r"onnx/model\.onnx, ONNX, a graph for another runtime"),
    "MLX, the old way": (alone("weights.npz"), r"weights\.npz, weights for MLX"),
    "MLX, quantized": (quantized_for_mlx, r"is quantized with MLX, .*serve the model that it was quantized from"),
    "TensorFlow": (holding("tf_model.h5"), r"tf_model\.h5, weights for TensorFlow or JAX"),
    "JAX": (holding("flax_model.msgpack"), r"flax_model\.msgpack, weights for TensorFlow or JAX"),
    **{
        method: (
            configured(quantization_config={"quant_method": method, "bits": 4, "group_size": 8, "load_in_4bit": True}),
            rf"is quantized with {method}, which cannot be read here .*serve the model that it was quantized from",
        )
        for method in ("awq", "gptq", "bitsandbytes", "compressed-tensors")
    },
    "a shard is missing": (
        lambda folder: sharded(folder)[1].unlink(),
        r"lacks model-00002-of-\d+\.safetensors, which model\.safetensors\.index\.json names; fetch it again",
    ),
    "the index is missing": (
        lambda folder: sharded(folder)[0].with_name("model.safetensors.index.json").unlink(),
        r"holds model-00001-of-\d+\.safetensors but no model\.safetensors\.index\.json",
    ),
    "the index is damaged": (
        lambda folder: sharded(folder)[0].with_name("model.safetensors.index.json").write_text("{"),
        r"model\.safetensors\.index\.json is damaged; fetch it again",
    ),
    "an encoder": (of_class("BertModel", **_SIZES), rf"BertModel, which gives hidden states and no logits.*{_SERVED}"),
    "an encoder that fills gaps": (
        of_class("BertForMaskedLM", **_SIZES),
        rf"BertForMaskedLM, .*fills gaps.*{_SERVED}",
    ),
    "a classifier": (
        of_class("BertForSequenceClassification", **_SIZES),
        rf"is a BertForSequenceClassification, no causal language model: it classifies texts; {_SERVED}",
    ),
    # Its weights would do: the output layer is that of the embeddings.
    "a classifier of a decoder's architecture": (
        of_class("GPT2ForSequenceClassification", vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=128),
        r"is a GPT2ForSequenceClassification, no causal language model",
    ),
    "a decoder without its output layer": (of_class("LlamaModel", **_SIZES), r"LlamaModel, which gives hidden states"),
    "BART": (
        of_class("BartForConditionalGeneration", **_PAIRED),
        rf"is a BartForConditionalGeneration, .*its decoder writes about what its encoder has read; {_SERVED}",
    ),
    "T5": (
        of_class("T5ForConditionalGeneration", vocab_size=400, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4),
        rf"is a T5ForConditionalGeneration, no causal language model: .*{_SERVED}",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_is_not_served_is_told_in_one_line(name: str, tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    change, said = TABLE[name]
    change(folder)
    with pytest.raises(ModelLoadError, match=said) as caught:
        ml.models.loading.load(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


def test_all_shards_are_served(tiny_llama: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    assert len(sharded(folder)) > 1
    assert ml.models.loading.load(str(folder), device="cpu").info.layers == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.Q8_0.gguf", r"a\.Q8_0\.gguf is GGUF, .*ml\.convert \S+/a\.Q8_0\.gguf a\.Q8_0$"),
        ("a file.gguf", r"ml\.convert '\S+/a file\.gguf' 'a file'$"),
        ("model.safetensors", r"is a file; name the folder that it lies in"),
    ],
)
def test_a_path_to_one_file(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelLoadError, match=said):
        ml.models.loading.load(str(tmp_path / name), device="cpu")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("README.md", "a.Q4.gguf", "a.Q8.gguf"), r"^someone/a holds GGUF, .*ml\.convert someone/a/a\.Q8\.gguf a\.Q8$"),
        (("config.json", "pytorch_model.bin"), r"^someone/a holds no \*\.safetensors but pytorch_model\.bin, pickled"),
        (("README.md",), r"has no config\.json"),
    ],
)
def test_a_repository_of_the_hub(
    names: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size) for size, name in enumerate(names)])
    monkeypatch.setattr(files, "snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(files, "model_info", lambda *_, **__: listed)
    with pytest.raises(ModelLoadError, match=said):
        ml.models.loading.load("someone/a", device="cpu")


def test_a_repository_that_is_kept_and_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(files, "snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr(files, "model_info", unreachable)
    with pytest.raises(ModelLoadError, match=r"has no config\.json"):
        ml.models.loading.load("someone/a", device="cpu")
