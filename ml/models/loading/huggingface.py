"""Loads a Hugging Face model's folder, and says in one line what is wrong with one that cannot be loaded."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    __version__,
)
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging
from transformers.utils.import_utils import is_accelerate_available

from ml.errors import GlossError, ModelLoadError
from ml.kernels.onednn_linear import use_fast_layers
from ml.models.base import ModelInfo
from ml.models.huggingface import HuggingFaceModel
from ml.models.internals.attention_capture import prepare
from ml.models.loading.adapters import merge, without_adapter
from ml.models.loading.context_length import context_length
from ml.models.loading.formats import SERVED, headless, other_task, quantized
from ml.models.loading.placement import BALANCED, Placement
from ml.models.loading.progress import logged_progress
from ml.models.verification.stored import load_or_verify
from ml.models.verification.verify import Ways, verify
from ml.runtime.last_layer import keep_last_layer_trimmed
from ml.tokens import Tokenizer

_log = logging.getLogger(__name__)

_ORIGINAL = "serve the model that it was quantized from"


def load_huggingface(
    folder: Path,
    placement: Placement,
    name: str,
    digest: str,
    model_type: str,
    *,
    read_in: Callable[[], None] = lambda: None,
    adapter: Path | None = None,
) -> HuggingFaceModel:
    """Load a model's folder: safetensors only, no code of the model's own, float32 on a CPU and bfloat16 on a GPU.

    Args:
        read_in: called once the weights are there, before the model computes for the first time.
        adapter: a folder with the files of an adapter, to be merged into the model.

    Raises:
        ModelLoadError: the files are incomplete, corrupt or of a kind that transformers does not know, or what they
            hold is no causal language model.
    """
    try:
        return _load(folder, placement, name, digest, model_type, read_in=read_in, adapter=adapter)
    except GlossError:
        raise
    except Exception as error:  # architectures differ in what their configurations lack, and in how they fail
        _log.debug("model=%s cannot be loaded", name, exc_info=error)
        message = f"{folder} (model_type {model_type!r}) cannot be served: {type(error).__name__}: {_reason(error)}"
        raise ModelLoadError(message) from error


def _load(
    folder: Path,
    placement: Placement,
    name: str,
    digest: str,
    model_type: str,
    *,
    read_in: Callable[[], None],
    adapter: Path | None,
) -> HuggingFaceModel:
    _check_kind(folder, model_type)
    _quieten(transformers_logging)
    # An adapter may bring tokens of its own.
    fast = _tokenizer(adapter if adapter and (adapter / "tokenizer.json").is_file() else folder)
    with logged_progress(_log, name), without_adapter(folder) as plain:
        module = _module(folder, plain, placement)
    if adapter:
        module = merge(module, adapter)
        _log.info("model=%s merged the adapter %s", name, adapter)
    module.requires_grad_(False)  # gradients are asked for at the embeddings, and nothing is kept for others
    parameters = module.num_parameters()
    use_fast_layers(module)
    read_in()
    config = module.config.get_text_config()
    longest = context_length(module)
    read = prepare(module)
    ways = _ways(module, longest, placement, name, digest)
    info = ModelInfo(
        name=name,
        digest=digest,
        architecture=model_type,
        parameters=parameters,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads if read else 0,
        hidden_size=config.hidden_size,
        vocabulary_size=config.vocab_size,
        context_length=longest,
        device=str(module.device),
        dtype=str(placement.dtype).removeprefix("torch."),
        capabilities=ways.capabilities(longest),
        unused=ways.unused,
    )
    tokenizer = Tokenizer(
        fast, info.context_length, vocabulary_size=info.vocabulary_size, end_ids=_end_ids(module), model=name
    )
    return HuggingFaceModel(module, tokenizer, info, read, ways=ways, placement=placement)


def _ways(module: PreTrainedModel, longest: int, placement: Placement, name: str, digest: str) -> Ways:
    """The fast ways that verification finds correct, or found when the same model was loaded before."""
    began = time.monotonic()

    def verified() -> Ways:
        return verify(module, longest, name, spread=placement.spread)

    # Ranks of one model must take the same steps, and a file could be there for some of them only.
    if placement.ranks == 1 and digest:
        ways = load_or_verify(f"{digest} {placement.spread}", module.device, module.dtype, verified)
    else:
        ways = verified()
    if ways.trims:
        keep_last_layer_trimmed(module)
    _log.info("model=%s verified in %.2f s", name, time.monotonic() - began)
    if ways.unused:
        _log.warning("model=%s uses its own forward pass, which takes longer, instead of: %s", name, ways.unused)
    return ways


def _check_kind(folder: Path, model_type: str) -> None:
    """Raise `ModelLoadError` where a configuration is of another kind of model than those that are served."""
    if other := other_task(_config(folder), _causal(model_type)):
        raise ModelLoadError(f"{folder} is a {other}; {SERVED}")
    if not _causal(model_type):
        raise ModelLoadError(
            f"{folder} is of model_type {model_type!r}, no causal language model that transformers {__version__} "
            f"knows; {SERVED}"
        )


def _causal(model_type: str) -> tuple[str, ...]:
    """The names of the classes that are causal language models of a type; none where transformers has no such type."""
    names: str | tuple[str, ...] = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type, ())
    return (names,) if isinstance(names, str) else names


def _config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a damaged tokenizer file makes of several parsers
        if not (folder / "tokenizer.json").is_file():
            raise ModelLoadError(f"{folder} has no tokenizer.json, and none can be made of its other files") from error
        raise ModelLoadError(f"the tokenizer of {folder} cannot be loaded: {_reason(error)}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelLoadError(f"{folder} has no fast tokenizer (tokenizer.json), which alone gives tokens their places")
    return tokenizer


def _module(folder: Path, plain: Path, placement: Placement) -> PreTrainedModel:
    """The module of a folder, of which `plain` holds the same without an adapter."""
    auto: Any = AutoModelForCausalLM  # its annotations know neither loading info nor `to`
    where: dict[str, Any] = {}
    if placement.spread:
        where["device_map"] = BALANCED
    if placement.ranks > 1:
        where["distributed_config"] = DistributedConfig(tp_size=placement.ranks)
    if placement.device.type == "cuda" and not where and is_accelerate_available():
        where["device_map"] = {"": placement.device}  # straight there, and not through the machine's own memory
    if where and not is_accelerate_available():
        raise ModelLoadError("transformers places a model on several devices by the package accelerate; install it")
    try:
        module, report = auto.from_pretrained(
            plain,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=placement.dtype,
            ignore_mismatched_sizes=True,  # they are reported, and refused below with their names
            output_loading_info=True,
            **where,
        )
    except SafetensorError as error:
        raise ModelLoadError(f"the weights of {folder} are damaged ({_reason(error)}); fetch them again") from error
    except Exception as error:  # each architecture has its own ways to stumble over a configuration
        if how := quantized(_config(folder)):
            message = f"{folder} is {how}, which cannot be read here ({_reason(error)}); {_ORIGINAL}"
            raise ModelLoadError(message) from error
        raise ModelLoadError(f"{folder} cannot be loaded: {_reason(error)}") from error
    _check_complete(folder, report)
    if placement.device.type == "cuda" and {"cpu", "disk"} & set(
        map(str, getattr(module, "hf_device_map", {}).values())
    ):
        # It would serve, and fetch the rest of its weights again for every token.
        raise ModelLoadError(f"{folder} does not fit into the memory of the GPUs")
    try:
        loaded: PreTrainedModel = (module if where else module.to(placement.device)).eval()
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(f"{folder} does not fit into the memory of {placement.device}") from error
    return loaded


def _check_complete(folder: Path, report: Mapping[str, Any]) -> None:
    """Raise `ModelLoadError` where transformers has put random numbers: a weight is missing or has another shape."""
    if missing := sorted(report["missing_keys"]):
        config = _config(folder)
        if bare := headless(config, _causal(config["model_type"])):
            raise ModelLoadError(f"{folder} is a {bare}; {SERVED}")
        if how := quantized(config):
            raise ModelLoadError(f"{folder} is {how}, which is not read here; {_ORIGINAL}")
        raise ModelLoadError(f"{folder} lacks {len(missing)} of its weights, such as {missing[0]}; fetch it again")
    if mismatched := sorted(str(key[0]) for key in report["mismatched_keys"]):
        raise ModelLoadError(f"{mismatched[0]} in {folder} has another shape than config.json says; fetch it again")


def _quieten(logs: Any) -> None:
    """Keep progress bars and advice for authors of training scripts out of a server's log."""
    logs.disable_progress_bar()
    logs.set_verbosity_error()


def _end_ids(module: PreTrainedModel) -> list[int]:
    """The tokens at which the model's own generation settings stop; chat models have several."""
    settings = getattr(module, "generation_config", None)
    ends = getattr(settings, "eos_token_id", None)
    return [ends] if isinstance(ends, int) else list(ends or ())


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
