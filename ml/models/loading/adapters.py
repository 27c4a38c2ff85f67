"""Adapters: small weights, of LoRA or the like, that change a base model. They are merged into it, by `peft`.

An adapter is a folder of its own that names its base, or its files lie in the base model's folder or in one within.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel

from ml.errors import ModelLoadError

CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


def adapter_in(folder: Path) -> Path | None:
    """The folder with the files of an adapter: `folder` itself or one in it; None where there is none.

    Raises:
        ModelLoadError: there are several.
    """
    if (folder / CONFIG).is_file():
        return folder
    folders = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    if len(folders) > 1:
        names = ", ".join(path.name for path in folders)
        raise ModelLoadError(
            f"{folder} holds several adapters ({names}); name the folder of the one to serve, or move them away to "
            "serve the base model alone"
        )
    return folders[0] if folders else None


def has_base(folder: Path) -> bool:
    """Whether a folder has weights beside those of an adapter."""
    return any(not path.name.startswith("adapter_") for path in folder.glob("*.safetensors"))


def base_name(adapter: Path) -> str:
    """The folder or Hub name of the base model that an adapter names.

    Raises:
        ModelLoadError: it names none.
    """
    try:
        name = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))["base_model_name_or_path"]
        if not isinstance(name, str) or not name:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        message = f"{adapter / CONFIG} names no base model (base_model_name_or_path); put the adapter into its folder"
        raise ModelLoadError(message) from None
    # Training may have seen the base elsewhere, or from another working directory.
    for folder in (Path(name), adapter / name, adapter.parent / Path(name).name):
        if folder != adapter and (folder / "config.json").is_file():
            return str(folder)
    return name


def check_usable(adapter: Path) -> None:
    """Raise `ModelLoadError` where an adapter cannot be merged here."""
    if importlib.util.find_spec("peft") is None:
        raise ModelLoadError(
            f"{adapter} is an adapter, which takes the package peft: install it (pip install peft) to serve the "
            "adapter merged into its base model, or move it out of the base model's folder to serve that alone"
        )
    if not (adapter / _WEIGHTS).is_file():
        raise ModelLoadError(f"{adapter} has no {_WEIGHTS}; pickled weights are refused: save it as safetensors")


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """A folder with the files of `folder` except those of an adapter: transformers would load it without merging it."""
    if not (folder / CONFIG).is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                (Path(name) / path.name).symlink_to(path.resolve())
        yield Path(name)


def merge(module: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """`module` with an adapter merged into its weights.

    Raises:
        ModelLoadError: it is none of this model, or of a kind that cannot be merged.
    """
    from peft import PeftModel  # noqa: PLC0415 - optional

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message=".*missing adapter keys")
            merged: PreTrainedModel = PeftModel.from_pretrained(module, str(adapter)).merge_and_unload()
    except Exception as error:  # adapters differ in how they fail
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(f"the adapter {adapter} cannot be merged into its base model: {reason}") from error
    merged.eval()
    return merged
