"""Files of models that are not read here, by their names: what they are, and what to do, in one line.

Only safetensors are read, in the layout that transformers gives them. `ml.convert` makes that of some other formats.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ml.errors import ModelLoadError

CONVERT = "python -m ml.convert"
GGUF = ".gguf"
INDEX = "model.safetensors.index.json"

_PICKLED = "pickled weights, which can run code when they are read"
_NOT_READ: tuple[tuple[str, str], ...] = (
    # The first pattern that the name of a file fits counts.
    (r"pytorch_model.*\.bin", _PICKLED + "; if you trust who made them, convert them: {convert}"),
    (r".*\.(bin|pth?|ckpt|pkl)", _PICKLED + ", in a layout of their own; serve the model's version for transformers"),
    (r".*\.onnx", "ONNX, a graph for another runtime; serve the model that it was exported from"),
    (r".*\.npz", "weights for MLX; serve the model that they were made from"),
    (r".*\.(h5|msgpack)", "weights for TensorFlow or JAX; serve the model's version for PyTorch, as safetensors"),
)


def foreign(where: str, sizes: Mapping[str, int]) -> str:
    """What a folder or repository without safetensors holds instead, and what to do about it; "" where it is nothing.

    Args:
        where: the folder, or the repository's name.
        sizes: bytes of its files, by their paths in it.
    """
    models = [name for name in sizes if name.endswith(GGUF) and not PurePath(name).name.startswith("mmproj")]
    if models:
        return f"{where} holds {gguf(f'{where}/{max(models, key=sizes.__getitem__)}')}"
    for pattern, message in _NOT_READ:
        found = sorted(name for name in sizes if re.fullmatch(pattern, PurePath(name).name))
        if found:
            advice = message.format(convert=_command(where, f"{PurePath(where).name}-safetensors"))
            return f"{where} holds no *.safetensors but {found[0]}, {advice}"
    return ""


def gguf(path: str) -> str:
    """What to do about a GGUF file, at `path` or of that name on the Hub."""
    command = _command(path, PurePath(path).stem)
    return f"GGUF, which is not read here: serve the model that it was made from, or convert it: {command}"


def _command(source: str, target: str) -> str:
    return f"{CONVERT} {shlex.join([source, target])}"


def single_file(path: str) -> str:
    """What to do about a `path` to one file, where a folder is asked for."""
    if path.endswith(GGUF):
        return f"{path} is {gguf(path)}"
    return f"{path} is a file; name the folder that it lies in"


def check_shards(names: set[str], index: Mapping[str, str] | None, where: str) -> None:
    """Raise `ModelLoadError` where weights are of several files, and not all of these are there.

    Args:
        names: of the files that are there.
        index: the file of each weight; None where no index says so.
        where: the folder.
    """
    if index is not None:
        if missing := sorted(set(index.values()) - names):
            raise ModelLoadError(f"{where} lacks {missing[0]}, which {INDEX} names; fetch it again")
        return
    shards = sorted(name for name in names if re.fullmatch(r"model-\d+-of-\d+\.safetensors", name))
    if shards and "model.safetensors" not in names:
        raise ModelLoadError(f"{where} holds {shards[0]} but no {INDEX}, which says what is where; fetch it again")


SERVED = "causal language models are served, which continue a text (Llama, Qwen, GPT-2 and the like)"

_TASKS = {
    "ForSequenceClassification": "it classifies texts",
    "ForTokenClassification": "it classifies words",
    "ForMultipleChoice": "it chooses between answers",
    "ForQuestionAnswering": "it marks answers in a text",
    "ForNextSentencePrediction": "it predicts whether texts belong together",
    "ForMaskedLM": "it fills gaps in a text, which it reads in both directions",
    "EncoderModel": "it gives embeddings of texts",
}
"""What models are for that are no causal language models, by how the names of their classes end."""


def other_task(config: Mapping[str, Any], expected: Sequence[str]) -> str:
    """What a model is that its configuration says to be for something else; "" where it does not.

    Args:
        expected: the names of classes that are causal language models of its type.
    """
    name = _class(config)
    if not name or name in expected:
        return ""
    task = next((task for ending, task in _TASKS.items() if name.endswith(ending)), "")
    if not task and config.get("is_encoder_decoder") is True:
        task = "its decoder writes about what its encoder has read"
    return f"{name}, no causal language model: {task}" if task else ""


def headless(config: Mapping[str, Any], expected: Sequence[str]) -> str:
    """What a model is whose configuration says that it has no output layer; "" where it does not."""
    name = _class(config)
    bare = name.endswith("Model") and name not in expected
    return f"{name}, which gives hidden states and no logits: it lacks the output layer" if bare else ""


def quantized(config: Mapping[str, Any]) -> str:
    """How the weights of a model are quantized, in words; "" where they are not."""
    method = config.get("quantization_config", config.get("quantization"))
    if not isinstance(method, Mapping):
        return ""
    return f"quantized with {method.get('quant_method') or 'MLX'}"


def _class(config: Mapping[str, Any]) -> str:
    classes = config.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else ""
