"""A small random model of a large one's class and configuration, for trials that the large one is too large for.

Windows, chunks, the keys that a sparse attention picks and the length up to which one set of rotary factors holds are
shrunk with it. What a way of computing does beyond them depends on the model's code, not on its weights.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ml.models.verification.bounds import ROTARY, bound_names

_log = logging.getLogger(__name__)

CONTEXT = 128
_HEADS, _HEAD_DIM, _LAYERS = 4, 8, 6
_BOUND = 16
"""Of the smallest bound; each larger one gets as much more."""

_SIZES: dict[str, int] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size"), _HEADS * _HEAD_DIM),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "moe_intermediate_size"), 64),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads"), _HEADS),
    **dict.fromkeys(("head_dim", "global_head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), _HEAD_DIM),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "top_k_experts"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), CONTEXT),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 300),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0),
}


def shrunken(module: PreTrainedModel) -> PreTrainedModel | None:
    """A small float32 model on the CPU that computes as `module` does; None where none can be made."""
    try:
        config = _shrink(copy.deepcopy(module.config.get_text_config()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            small: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        return small.eval().requires_grad_(False)  # type: ignore[no-any-return]
    except Exception as error:  # noqa: BLE001 - architectures bind their sizes to each other in ways of their own
        _log.info("no small model of this architecture can be made: %s: %s", type(error).__name__, error)
        return None


def _shrink(config: PreTrainedConfig) -> PreTrainedConfig:
    layers = int(config.num_hidden_layers)
    kinds = list(getattr(config, "layer_types", None) or ())
    count = next((n for n in range(2, min(layers, _LAYERS) + 1) if set(kinds[:n]) == set(kinds)), min(layers, _LAYERS))
    grouped = getattr(config, "num_key_value_heads", None) not in {None, getattr(config, "num_attention_heads", None)}
    small: dict[str, Any] = {}
    for name, value in config.to_dict().items():
        if name in _SIZES and isinstance(value, int) and not isinstance(value, bool):
            small[name] = _SIZES[name]
        elif isinstance(value, list) and len(value) == layers:
            small[name] = value[:count]
    # Where that is an encoder's and a decoder's, its configuration wants the decoder's by name.
    small["num_decoder_layers" if hasattr(config, "num_decoder_layers") else "num_hidden_layers"] = count
    if hasattr(config, "num_key_value_heads"):
        small["num_key_value_heads"] = _HEADS // 2 if grouped else _HEADS
    if hasattr(config, "initializer_range"):
        small["initializer_range"] = 0.3  # so that predictions are far from uniform, and an error shows
    lengths = sorted({value for _, value in bound_names(config.to_dict())})
    shorter = {length: _BOUND + 8 * place for place, length in enumerate(lengths)}
    for name, value in small.items():
        setattr(config, name, value)
    for name in list(config.to_dict()):
        value = getattr(config, name, None)
        if isinstance(value, Mapping):
            setattr(config, name, _shorter(value, shorter))
    for path, value in bound_names(config.to_dict()):
        if len(path) == 1 and value in shorter:
            setattr(config, path[0], shorter[value])
    if (original := getattr(config, ROTARY, None)) in shorter:  # some architectures name it here, too
        setattr(config, ROTARY, shorter[original])
    return config


def _shorter(values: Mapping[str, Any], shorter: Mapping[int, int]) -> dict[str, Any]:
    """Rotary parameters, which may be nested: bounds shrunk, and as many factors as pairs of a head's numbers."""
    named = {path[0]: value for path, value in bound_names(values) if len(path) == 1}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found[name] = _shorter(value, shorter)
        elif name in named:
            found[name] = shorter.get(named[name], value)
        elif isinstance(value, list) and name.endswith("_factor"):
            found[name] = value[: _HEAD_DIM // 2]
        else:
            found[name] = value
    return found
