"""A training run's whole state in one safetensors file, replaced in one step.

Numbers and lists go into the file's header as JSON, tensors into its body: no code can hide in it, and a run that is
killed at any moment leaves either the old file or the new one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ml.train.errors import ResumeError, StorageError

_TENSOR = "$tensor"
_PAIRS = "$pairs"


def save_checkpoint(state: Any, path: Path) -> None:
    """Write nested dicts (keys str or int) and lists of tensors and plain values.

    Raises:
        StorageError: the disk is full or refuses; an earlier checkpoint at `path` is unharmed.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_flatten(state, tensors))
    scratch = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, scratch, metadata={"state": skeleton})
        with scratch.open("rb") as written:
            os.fsync(written.fileno())
        scratch.replace(path)
    except (OSError, SafetensorError) as error:
        scratch.unlink(missing_ok=True)
        kept = "; the one before it is kept" if path.exists() else ""
        raise StorageError(f"the checkpoint {path} could not be written: {error}{kept}") from error


def load_checkpoint(path: Path, *, only: str | None = None) -> Any:
    """What `save_checkpoint` wrote. `only`: the value of this key alone, which holds no tensors.

    Raises:
        ResumeError: there is none, or it is no checkpoint.
    """
    if not path.exists():
        raise ResumeError(f"there is no checkpoint {path}; start without --resume")
    try:
        with safe_open(path, "pt") as file:
            skeleton = json.loads(file.metadata()["state"])
            if only is not None:
                return _restore(dict(skeleton[_PAIRS]).get(only), {})
            return _restore(skeleton, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ResumeError(f"{path} is no checkpoint: {error}") from error


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # A copy: two views of one storage, as tied weights are, cannot be saved as they stand.
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {_TENSOR: name}
    if isinstance(value, dict):
        # JSON's keys are strings, and optimizers number their parameters.
        return {_PAIRS: [[key, _flatten(part, tensors)] for key, part in value.items()]}
    if isinstance(value, list | tuple):
        return [_flatten(part, tensors) for part in value]
    return value


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        return {key: _restore(part, tensors) for key, part in value[_PAIRS]}
    if isinstance(value, list):
        return [_restore(part, tensors) for part in value]
    return value
