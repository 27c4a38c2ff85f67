"""Tiny configurations of all causal architectures that transformers has, made by rules for the names of numbers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.fixtures.zoo import CONTEXT, LONGROPE, VOCABULARY, enlarge

if TYPE_CHECKING:  # torch and transformers take seconds to import
    from transformers import PreTrainedModel

_RULES: tuple[tuple[str, Any], ...] = (
    (r"vocab_size(_per_layer_input)?|unpadded_vocab_size", VOCABULARY),
    (
        r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_seq_length|seq_length|context_length"
        r"|max_target_positions|mem_len",
        CONTEXT,
    ),
    (r"hidden_size|d_model|n_embd|emb_dim|embedding_size|dim_model|backbone_hidden_size|attention_hidden_size", 32),
    (r"(in|out)put_embedding_size|lru_width", 32),
    (
        r"intermediate_size(_mlp)?|((en|de)coder_)?ffn_dim|d_inner|n_inner|dff|dim_ff|ffn_hidden_size"
        r"|dense_intermediate_size|feed_forward_size",
        64,
    ),
    (r".*(moe|expert|shared)\w*_(intermediate|hidden)_size", 16),
    (r"num_hidden_layers|n_layers?|num_layers|(num_)?(en|de)coder_layers", 2),
    (r"(num|(en|de)coder|swa_num|num_(en|de)coder)?_?attention_heads|n_heads?", 4),
    (r"(num|swa_num|global_num|num_global)_key_value_heads|num_kv_heads", 2),
    (r"(swa_|global_|qk_nope_|qk_rope_|v_|swa_v_|linear_key_|linear_value_|linear_)?head_dim", 8),
    (r"kv_channels|attention_head_size|dim_head|hidden_size_per_layer_input", 8),
    (r"(n|num)_(routed|local)_experts|(moe_)?num_experts", 4),
    (r"n_shared_experts", 1),
    (r"num_experts_per_tok(en)?|moe_top_?k|top_k_experts|moe_k", 2),
    (r"n_group|topk_group|first_k_dense_replace|num_dense_layers|mamba_n_groups|n_groups", 1),
    (r"(q|kv|o)_lora_rank", 16),
    (
        r"(attention_)?(sliding_window|window_size)(_size|_len|_pattern_size)?|local_attention(_window_len)?"
        r"|attention_chunk_size|keep_window_size|index_topk|rel_extent|(local|lsh)_attn_chunk_length",
        16,
    ),
    (r"index_(n|num)_heads", 2),
    (r"index_head_dim", 16),
    (r"(mamba_)?(n|num)_heads|mamba_n_heads|linear_num(_value)?_heads", 4),
    (r"linear_num_key_heads", 2),
    (r"mamba_(d_head|head_dim|headdim)", 16),
    (r"mamba_d_state|(ssm_)?state_size|mamba_dt_rank|(mamba_)?time_step_rank", 8),
    (r"(mamba_)?chunk_size|block_size", 16),
    (r"rotary_dim", 4),
    (r"(bos|eos|pad)_token_id", 0),
    (r"(image|video|audio|boi|eoi|boa|eoa|vision|cls|sep|mask|decoder_start)\w*_(token_id|token_index)", 5),
    (r"initializer_range|init_std", 0.3),
    (r"image_size", 32),
    (r"patch_size", 16),
)
"""Names of numbers in configurations, and what they are in the zoo; the first rule that fits counts."""

_LARGEST = 3_000_000

_QWEN4 = {
    "ple_embed_dim": 8,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "hc_lowrank": 8,
    "ngram_vocab_size_base": 100,
    "split_ngram_parts": 4,
    "make_ngram_vocab_size_divisible_by": 4,
}
_VISION = {"vision_config": {"model_type": "siglip_vision_model"}}

OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {"attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0}},
    "dots3_note": {"text_config": {"num_key_value_heads": 4}},
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64},
    "fuyu": {"text_config": {"model_type": "persimmon"}},
    "gemma3": {"text_config": {"num_hidden_layers": 6}, **_VISION},
    "gemma3n_text": {
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.0] * 6,
        "laurel_rank": 8,
        "pad_token_id": VOCABULARY - 1,  # whose embedding is zero, and divided by its length
    },
    "got_ocr2": {"text_config": {"model_type": "qwen2"}},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gpt_oss": {"layer_types": ["sliding_attention", "full_attention"]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"head_dim": 16},
    "minimax": {"layer_types": ["linear_attention", "full_attention"]},
    "phi3": {"sliding_window": None, "rope_parameters": LONGROPE, "original_max_position_embeddings": 24},
    "qwen4_exp": {
        "text_config": {"num_hidden_layers": 2, "layer_types": ["linear_attention", "indexed_attention"], **_QWEN4}
    },
    "qwen4_exp_text": _QWEN4,
    "recurrent_gemma": {"num_hidden_layers": 3},  # the first two have no attention
    "reformer": {
        "is_decoder": True,
        "axial_pos_shape": (8, 16),
        "axial_pos_embds_dim": (16, 16),
        "attn_layers": ["local", "lsh"],
    },
    "roc_bert": {
        "pronunciation_embed_dim": 8,
        "pronunciation_vocab_size": 400,
        "shape_embed_dim": 8,
        "shape_vocab_size": 400,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
    },
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["mamba", "hybrid", "mamba"]},
    "zaya": {"num_experts_per_tok": 1},
}
"""By a model's type: what the rules get wrong."""

_OTHER_SENSES = "it reads or writes images or sound, and its language model alone is of another type"
_DRAFTS = "it drafts tokens for another model, of which it reads the hidden states"
UNMADE: dict[str, str] = {
    "blt": "it reads bytes, in patches that another model of it cuts",
    "dots3_note": _OTHER_SENSES,
    "dots3_note_text": "only its full depth says what sizes its layers have",
    "gemma3n": _OTHER_SENSES,
    "gemma4_assistant": _DRAFTS,
    "gemma4_unified": _OTHER_SENSES,
    "gemma4_unified_assistant": _DRAFTS,
    "moshi": _OTHER_SENSES,
    "moss_transcribe_diarize": _OTHER_SENSES,
    "musicgen": _OTHER_SENSES,
    "musicgen_melody": _OTHER_SENSES,
    "phi4_multimodal": _OTHER_SENSES,
}
"""By a model's type: why there is no tiny model of it."""

_DECODERS = (
    "bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta"
    " roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod"
)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    # Some count positions from the number of their padding on, and read tokens of that number in another way than their
    # embeddings: the texts of the zoo have none.
    **{f"{kind}, decoder": (kind, {"is_decoder": True, "pad_token_id": 1}) for kind in _DECODERS.split()},
    "bert, decoder, relative": ("bert", {"is_decoder": True, "position_embedding_type": "relative_key"}),
    "deepseek_v3, full queries": ("deepseek_v3", {"q_lora_rank": None}),
    "falcon, new decoder": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gemma3_text, bidirectional": ("gemma3_text", {"use_bidirectional_attention": True}),
    "gpt2, scaled by layer": (
        "gpt2",
        {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True, "n_inner": 48},
    ),
    "gpt_bigcode, many key heads": ("gpt_bigcode", {"multi_query": False}),
    "gpt_neox, sequential": ("gpt_neox", {"use_parallel_residual": False, "rotary_pct": 0.5}),
    "llama, llama 3 rope": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
                "rope_theta": 10000.0,
            }
        },
    ),
    "llama, yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 32,
                "rope_theta": 10000.0,
            }
        },
    ),
    "opt, projected": ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "phi, normed queries": ("phi", {"qk_layernorm": True}),
    "qwen2, window above": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1, "num_hidden_layers": 3},
    ),
    "llama, dynamic rope": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}},
    ),
    "mistral, window 4": ("mistral", {"sliding_window": 4}),
    "phi3, window": ("phi3", {"sliding_window": 16}),
    "falcon, alibi": ("falcon", {"alibi": True}),
    "xlm, decoder": ("xlm", {"causal": True, "pad_token_id": 1, "pad_index": 1}),
}
"""Models that behave as another one of their type does not: that type, and what they have beside."""


def tiny(cls: type, special: dict[str, Any]) -> dict[str, Any]:
    """The arguments that make a tiny configuration of class `cls`; `special` ones come first."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    made: dict[str, Any] = {}
    for name in getattr(cls, "__dataclass_fields__", {}):
        value = next((value for rule, value in _RULES if re.fullmatch(rule, name)), None)
        if value is not None:
            made[name] = value
    if "kv_lora_rank" in made:
        made["num_key_value_heads"] = made["num_attention_heads"]  # latent attention has as many
    for name, sub in cls.sub_configs.items():  # type: ignore[attr-defined]
        if isinstance(sub, type) and issubclass(sub, PreTrainedConfig) and sub.__name__ != "AutoConfig":
            made[name] = tiny(sub, special.get(name, {}))
        elif isinstance(special.get(name), dict) and "model_type" in special[name]:
            kind = special[name]["model_type"]
            made[name] = {"model_type": kind, **tiny(CONFIG_MAPPING[kind], special[name])}
    made.update({name: value for name, value in special.items() if name not in made or not isinstance(value, dict)})
    return {name: value for name, value in made.items() if value is not ...}


def architectures() -> list[str]:
    """All that there are: types of models, and `VARIANTS` of them."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return [*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *VARIANTS]


def make(name: str, attention: str | None = None) -> PreTrainedModel:
    """A tiny random model of one of `architectures`, the same at every call.

    Args:
        attention: transformers' name of the attention function. Default: its own choice.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind, special = VARIANTS.get(name, (name, {}))
    cls = CONFIG_MAPPING[kind]
    arguments = tiny(cls, {**_every_kind_of_layer(cls), **OVERRIDES.get(kind, {}), **special})
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(cls(**arguments)).num_parameters()
    if size > _LARGEST:
        raise ValueError(f"{name} has {size} parameters, so a number of its configuration has no rule")
    torch.manual_seed(0)
    chosen = {} if attention is None else {"attn_implementation": attention}
    return enlarge(AutoModelForCausalLM.from_config(cls(**arguments), **chosen).eval())


def _every_kind_of_layer(cls: type) -> dict[str, Any]:
    """Layers of each kind that a model of the usual size has, where its configuration lists them."""
    text = getattr(cls, "sub_configs", {}).get("text_config")
    if isinstance(text, type) and hasattr(text, "__dataclass_fields__") and text.__name__ != "AutoConfig":
        return {"text_config": kinds} if (kinds := _every_kind_of_layer(text)) else {}
    if "layer_types" not in getattr(cls, "__dataclass_fields__", {}):
        return {}
    kinds = list(dict.fromkeys(getattr(cls(), "layer_types", None) or ()))
    return {"layer_types": kinds, "num_hidden_layers": len(kinds)} if len(kinds) > 1 else {}
