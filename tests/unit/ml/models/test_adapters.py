"""An adapter is merged into its base model, or refused in one line; it is never silently left out."""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import ml.models.loading
from ml.errors import ModelLoadError

IDS = [3, 14, 15, 92, 65, 35]


@pytest.fixture(scope="module")
def lora(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the tiny Llama, and what the two say together."""
    peft = pytest.importorskip("peft")
    module = AutoModelForCausalLM.from_pretrained(tiny_llama)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers for what it will no longer have
        adapted = peft.get_peft_model(module, config).eval()
        adapted.save_pretrained(folder)
    with torch.inference_mode():
        torch.save(adapted(input_ids=torch.tensor([IDS])).logits[0, -1], folder.parent / "expected.pt")
    return folder


def edit(adapter: Path, **changes: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def alone(_: Path, lora: Path, there: Path) -> Path:
    return Path(shutil.copytree(lora, there / "lora"))


def beside(base: Path, lora: Path, there: Path) -> Path:
    """The adapter names a folder that is not here, but its base lies beside it."""
    shutil.copytree(base, there / "base")
    adapter = alone(base, lora, there)
    edit(adapter, base_model_name_or_path="/where/training/was/base")
    return adapter


def among(base: Path, lora: Path, there: Path) -> Path:
    folder = Path(shutil.copytree(base, there / "base"))
    for path in lora.iterdir():
        shutil.copy(path, folder)
    return folder


def within(base: Path, lora: Path, there: Path) -> Path:
    folder = Path(shutil.copytree(base, there / "base"))
    shutil.copytree(lora, folder / "adapter")
    return folder


@pytest.mark.parametrize("lay", [alone, beside, among, within])
def test_an_adapter_is_merged(lay: Callable[..., Path], tiny_llama: Path, lora: Path, tmp_path: Path) -> None:
    folder = lay(tiny_llama, lora, tmp_path)
    model = ml.models.loading.load(str(folder), device="cpu")
    expected = torch.load(lora.parent / "expected.pt")
    torch.testing.assert_close(model.logits([IDS])[0][-1], expected, atol=2e-5, rtol=1e-5)
    base = ml.models.loading.load(str(tiny_llama), device="cpu")
    assert (base.logits([IDS])[0][-1] - expected).abs().max() > 0.1, "the adapter changes nothing"
    assert model.info.name == folder.name
    assert model.info.digest != base.info.digest
    assert model.info.parameters == base.info.parameters


@pytest.mark.parametrize("lay", [alone, among, within])
def test_without_peft_it_is_refused(
    lay: Callable[..., Path], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "written"
    written.mkdir()
    (written / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny_llama)}))
    save_file({"weight": torch.zeros(1)}, written / "adapter_model.safetensors")
    folder = lay(tiny_llama, written, tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "peft" else find_spec(name, *more)
    )
    refused(folder, r"is an adapter, which takes the package peft: install it")


def another_shape(adapter: Path) -> None:
    edit(adapter, r=2)


def pickled(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda adapter: edit(adapter, base_model_name_or_path=None), "names no base model"),
        (lambda adapter: edit(adapter, base_model_name_or_path="/no/such/folder"), "there is no folder"),
        (lambda adapter: edit(adapter, target_modules=["nothing"]), "cannot be merged into its base model"),
        (another_shape, "cannot be merged into its base model"),
        (pickled, "has no adapter_model.safetensors; pickled weights are refused"),
    ],
)
def test_adapters_that_cannot_be_merged(
    damage: Callable[[Path], object], said: str, tiny_llama: Path, lora: Path, tmp_path: Path
) -> None:
    folder = alone(tiny_llama, lora, tmp_path)
    damage(folder)
    refused(folder, said)


def test_of_several_one_is_to_be_named(tiny_llama: Path, lora: Path, tmp_path: Path) -> None:
    folder = within(tiny_llama, lora, tmp_path)
    shutil.copytree(lora, folder / "another")
    refused(folder, "several adapters .adapter, another.; name the folder of the one to serve")
    assert ml.models.loading.load(str(folder / "another"), device="cpu").info.name == "another"


def refused(folder: Path, said: str) -> None:
    with pytest.raises(ModelLoadError, match=said) as caught:
        ml.models.loading.load(str(folder), device="cpu")
    assert "\n" not in str(caught.value)
