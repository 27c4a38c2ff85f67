"""The folder that a word-level LSTM is kept in: config.json, model.safetensors and the tokenizer's files."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from ml.errors import ModelLoadError
from ml.models.loading.files import replacing
from ml.models.lstm.network import LstmConfig, WordLSTM

MODEL_TYPE = "gloss_lstm"


def save_lstm(
    module: WordLSTM, tokenizer: PreTrainedTokenizerFast, folder: str | Path, dtype: torch.dtype = torch.float16
) -> None:
    """Write the model's folder, with weights in `dtype`.

    A model that lies there already is replaced whole or not at all; see `ml.models.loading.files.replacing`.
    """
    with replacing(Path(folder)) as scratch:
        config = {"model_type": MODEL_TYPE, "architectures": ["WordLSTM"], **asdict(module.config)}
        (scratch / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_weights(module, scratch, dtype)
        tokenizer.save_pretrained(scratch)


def save_weights(module: WordLSTM, folder: Path, dtype: torch.dtype) -> None:
    """Write the folder's model.safetensors. `module` is a plain one: without fast layers, which cannot be saved."""
    weights = {name: tensor.detach().to(dtype).contiguous() for name, tensor in module.state_dict().items()}
    if module.config.tied:
        del weights["head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load_module(folder: str | Path) -> WordLSTM:
    """The module of a folder that `save_lstm` wrote, in float32 on the CPU and in evaluation mode.

    Raises:
        ModelLoadError: a file is missing or does not hold what it should.
    """
    folder = Path(folder)
    try:
        stored = json.loads((folder / "config.json").read_text())
        config = LstmConfig(**{part.name: stored[part.name] for part in fields(LstmConfig) if part.name in stored})
        weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
        if config.tied:
            weights["head.weight"] = weights["embedding.weight"]
        module = WordLSTM(config)
        module.load_state_dict(weights)
    except FileNotFoundError as error:
        raise ModelLoadError(f"{folder} lacks {Path(str(error.filename or 'model.safetensors')).name}") from error
    except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(f"{folder} does not hold a word-level LSTM: {error}") from error
    return module.eval()
