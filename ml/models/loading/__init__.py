"""Load a model by name: one that ships with Gloss, a local folder, or one of the Hugging Face Hub."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from ml.errors import ModelLoadError
from ml.models.base import LanguageModel
from ml.models.loading.adapters import adapter_in, check_usable
from ml.models.loading.files import base_of, digest, find
from ml.models.loading.memory import check_capacity, weight_bytes
from ml.models.loading.placement import place
from ml.runtime.device import choose_attention_kernels
from ml.threads import give_threads_to_torch

LSTM = "gloss_lstm"
"""The `model_type` of our own word-level LSTM; every other one is left to transformers."""

_log = logging.getLogger(__name__)


def load(
    name_or_path: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    threads: int | None = None,
    max_bytes: int | None = None,
    tensor_parallel: int = 1,
) -> LanguageModel:
    """Load a model into memory, in evaluation mode.

    The model is named after its folder ("transformer", "tiny-llama"), and its digest covers weights, configuration and
    tokenizer. Only safetensors are read, and no code that comes with a model ever runs. A model that does not fit is
    refused before its weights are read.

    An adapter (of LoRA, say) in a model's folder, or in a folder of its own, is merged into its base model.

    Args:
        name_or_path: a name under ``ml/pretrained``, a local folder, or a name on the Hub, tried in this order.
        device: "auto" (the first GPU, else the CPU), what torch calls it ("cpu", "cuda:1"), or "balanced": layers
            spread over all GPUs.
        dtype: what a model of transformers is kept and computed in: "float32", "bfloat16", or "auto" (bfloat16 on a
            GPU, float32 on a CPU). An LSTM is always float32.
        threads: CPU threads of every operation of this process. Default: torch's own choice.
        max_bytes: the most memory that weights may take, where that is less than what is available.
        tensor_parallel: processes that compute each layer together, a GPU each. This one is the first, and starts the
            others; see `ml.models.tensor_parallel`.

    Raises:
        ModelLoadError: there is no such model, its files are incomplete, corrupt or not allowed, or it does not fit.
    """
    placement = place(device, tensor_parallel, dtype)
    choose_attention_kernels()
    give_threads_to_torch(threads)
    asked = find(name_or_path)
    name = asked.name if Path(name_or_path).is_dir() else name_or_path.rstrip("/").rpartition("/")[2]
    adapter = adapter_in(asked)
    folder = base_of(asked)
    if adapter:
        check_usable(adapter)
        if placement.spread or placement.ranks > 1:
            raise ModelLoadError(f"{adapter} is an adapter, which is merged on one device only; merge it beforehand")
    kind = _model_type(folder)
    kept_in = torch.float32 if kind == LSTM else placement.dtype
    available = placement.available_bytes()
    if max_bytes is not None:
        available = max_bytes if available is None else min(available, max_bytes)
    check_capacity(name, weight_bytes(folder, kept_in), kept_in, available, placement.where)
    _log.info("model=%s computing the digest of its files", name)
    checksum = digest(folder, *(each for each in (adapter, asked) if each and each != folder))
    if kind == LSTM:
        if placement.spread or placement.ranks > 1:
            raise ModelLoadError("a word-level LSTM lies on one device; set device to auto and tensor parallelism to 1")
        from ml.models.lstm.model import load_lstm  # noqa: PLC0415 - each kind of model imports only what it needs

        return load_lstm(folder, placement.device, name, checksum)
    if placement.ranks > 1:
        from ml.models.tensor_parallel import lead  # noqa: PLC0415

        return lead(folder, placement, name, checksum, kind)
    from ml.models.loading.huggingface import load_huggingface  # noqa: PLC0415

    return load_huggingface(folder, placement, name, checksum, kind, adapter=adapter)


def _model_type(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(config["model_type"])
    except (ValueError, KeyError, TypeError) as error:
        message = f"{folder / 'config.json'} does not name a model_type; it is no model's configuration"
        raise ModelLoadError(message) from error
