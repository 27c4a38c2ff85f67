"""Load a model by name: one that ships with Gloss, a local folder, or one of the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ml.errors import ModelLoadError
from ml.language_model import LanguageModel
from ml.models.files import digest, find
from ml.threads import give_threads_to_torch

LSTM = "gloss_lstm"
"""The `model_type` of our own word-level LSTM; every other one is left to transformers."""


def load(name_or_path: str, *, device: str = "auto", threads: int | None = None) -> LanguageModel:
    """Load a model into memory, in evaluation mode.

    The model is named after its folder ("transformer", "tiny-llama"), and its digest covers weights, configuration and
    tokenizer. Only safetensors are read, and no code that comes with a model ever runs.

    Args:
        name_or_path: a name under ``ml/pretrained``, a local folder, or a name on the Hub, tried in this order.
        device: "auto" (the first GPU, else the CPU), or what torch calls it: "cpu", "cuda:1".
        threads: CPU threads of every operation of this process. Default: torch's own choice.

    Raises:
        ModelLoadError: there is no such model, or its files are incomplete, corrupt or not allowed.
    """
    chosen = _device(device)
    give_threads_to_torch(threads)
    folder = find(name_or_path)
    name = folder.name if Path(name_or_path).is_dir() else name_or_path.rstrip("/").rpartition("/")[2]
    checksum = digest(folder)
    kind = _model_type(folder)
    if kind == LSTM:
        from ml.models.lstm import load_lstm  # noqa: PLC0415 - each kind of model imports only what it needs

        return load_lstm(folder, chosen, name, checksum)
    from ml.models.huggingface import load_huggingface  # noqa: PLC0415

    return load_huggingface(folder, chosen, name, checksum, kind)


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).partition("\n")[0]
        raise ModelLoadError(f"device {device!r} is not usable here ({reason}); use auto, cpu or cuda:0") from error
    return chosen


def _model_type(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(config["model_type"])
    except (ValueError, KeyError, TypeError) as error:
        message = f"{folder / 'config.json'} does not name a model_type; it is no model's configuration"
        raise ModelLoadError(message) from error
