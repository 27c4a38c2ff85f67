"""Hugging Face models: a batch gives what each sequence gives alone, and captured attention is eager attention."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    MambaConfig,
    MistralConfig,
    PreTrainedModel,
    StableLmConfig,
)

from ml.errors import CapabilityError, NoAttentionError
from ml.models.base import LanguageModel
from ml.models.huggingface import HuggingFaceModel
from ml.models.internals.attention_capture import capture, prepare

Load = Callable[[Path], LanguageModel]

SEQUENCES = [[5, 60, 7], [3], [8, 9, 10, 11, 12, 13, 14, 15], [40, 41, 42, 43, 44]]
LOGIT_COUNTS = [2, 1, 8, 3]

_SHAPE = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_BLOOM = {"vocab_size": 100, "hidden_size": 32, "n_layer": 3, "n_head": 4, "initializer_range": 0.3}

KINDS = {
    "sliding window": (MistralConfig(**_SHAPE, num_key_value_heads=2, sliding_window=4), capture),
    "capped scores": (Gemma2Config(**_SHAPE, num_key_value_heads=2, head_dim=8, sliding_window=4), capture),
    "keyword arguments not handed on": (StableLmConfig(**_SHAPE, num_key_value_heads=4), capture),
    "attention inside its layers": (BloomConfig(**_BLOOM), capture),
}


def of_unknown_code(module: PreTrainedModel) -> PreTrainedModel:
    """`module` with attention that is computed inside its layers, and that no method of ours stands in for."""
    for part in module.modules():
        kind = type(part)
        if kind.__name__.endswith("Attention"):
            own = getattr(kind.forward, "gloss_plain", kind.forward)
            part.__class__ = type("UnknownAttention", (kind,), {"forward": own})
    return module


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def model(request: pytest.FixtureRequest, load_model: Load) -> LanguageModel:
    return load_model(request.getfixturevalue(request.param))


def eager(folder_or_module: LanguageModel, ids: list[int]) -> tuple[torch.Tensor, ...]:
    """All layers' weights, [heads, queries, keys] each, by transformers' own eager attention."""
    module = folder_or_module.module
    copied = AutoModelForCausalLM.from_config(
        type(module.config)(**module.config.to_dict()), attn_implementation="eager"
    )
    copied.load_state_dict(module.state_dict())
    with torch.no_grad():
        weights = copied.eval()(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    return tuple(layer[0] for layer in weights)


def test_a_batch_equals_its_sequences_alone(model: LanguageModel) -> None:
    batch = model.logits(SEQUENCES, LOGIT_COUNTS)
    for rows, sequence, tail in zip(batch, SEQUENCES, LOGIT_COUNTS, strict=True):
        assert rows.shape == (tail, model.info.vocabulary_size)
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows, model.logits([sequence], [tail])[0], atol=1e-5, rtol=0)
        whole = model.module(input_ids=torch.tensor([sequence])).logits[0, -tail:]
        torch.testing.assert_close(rows, whole.detach(), atol=1e-5, rtol=0)


def test_one_row_each_unless_told_otherwise(model: LanguageModel) -> None:
    for rows, whole in zip(model.logits(SEQUENCES), model.logits(SEQUENCES, LOGIT_COUNTS), strict=True):
        torch.testing.assert_close(rows, whole[-1:], atol=1e-5, rtol=0)


def test_info(tiny_llama: Path, tiny_gpt2: Path, load_model: Load) -> None:
    llama, gpt2 = load_model(tiny_llama).info, load_model(tiny_gpt2).info
    assert (llama.name, llama.architecture, llama.layers, llama.heads, llama.hidden_size) == (
        "tiny-llama", "llama", 2, 4, 32,
    )  # fmt: skip
    assert (llama.vocabulary_size, llama.context_length, llama.device, llama.dtype) == (400, 128, "cpu", "float32")
    assert (gpt2.name, gpt2.architecture, gpt2.layers, gpt2.heads) == ("tiny-gpt2", "gpt2", 3, 4)
    assert gpt2.parameters == 400 * 32 + 128 * 32 + 3 * 12_704 + 64, "the tied embedding is counted once"


def test_attention_equals_eager(model: LanguageModel) -> None:
    ids = [3, 14, 15, 92, 65, 35, 89, 79]
    queries = [7, 0, 3]
    found: dict[int, torch.Tensor] = {}
    model.attention(ids, range(model.info.layers), queries, found.__setitem__)
    assert list(found) == list(range(model.info.layers))
    for layer, weights in enumerate(eager(model, ids)):
        torch.testing.assert_close(found[layer], weights[:, queries], atol=1e-5, rtol=0)
        assert found[layer].amax() > 0.5, "weights far from uniform, or equality shows little"


def test_nothing_runs_above_the_highest_layer(model: LanguageModel) -> None:
    runs: list[str] = []
    blocks = [m for name, m in model.module.named_modules() if name.endswith(".mlp")]
    hooks = [block.register_forward_hook(lambda *_: runs.append("mlp")) for block in blocks]
    hooks.append(model.module.lm_head.register_forward_hook(lambda *_: runs.append("head")))
    try:
        model.attention([1, 2, 3], [0], [2], lambda *_: runs.append("sink"))
        assert runs == ["sink"]
        runs.clear()
        model.attention([1, 2, 3], [1], [2], lambda *_: runs.append("sink"))
        assert runs == ["mlp", "sink"]
    finally:
        for hook in hooks:
            hook.remove()


def test_attention_leaves_nothing_behind(model: LanguageModel) -> None:
    before = model.logits(SEQUENCES, LOGIT_COUNTS)
    model.attention([1, 2, 3], [0], [2], lambda *_: None)
    with pytest.raises(ZeroDivisionError):
        model.attention([1, 2, 3], [0], [2], lambda *_: 1 / 0)
    for rows, same in zip(before, model.logits(SEQUENCES, LOGIT_COUNTS), strict=True):
        assert torch.equal(rows, same)


@pytest.mark.parametrize("kind", KINDS)
def test_other_architectures(kind: str) -> None:
    config, reader = KINDS[kind]
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        alone = [
            module(input_ids=torch.tensor([ids])).logits[0, -tail:]
            for ids, tail in zip(SEQUENCES, LOGIT_COUNTS, strict=True)
        ]
    read = prepare(module)
    assert read is reader
    model = HuggingFaceModel(module, None, None, read)
    for rows, expected in zip(model.logits(SEQUENCES, LOGIT_COUNTS), alone, strict=True):
        torch.testing.assert_close(rows, expected, atol=2e-5, rtol=0)
    ids = SEQUENCES[2]
    found: dict[int, torch.Tensor] = {}
    model.attention(ids, [0, 2], [7, 5], found.__setitem__)
    whole = eager(model, ids)
    for layer in (0, 2):
        torch.testing.assert_close(found[layer], whole[layer][:, [7, 5]], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        (MambaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2), NoAttentionError, "has no attention"),
        # Its eager attention adds its biases twice, and so are its weights others than those that it computes with.
        (
            FalconConfig(
                vocab_size=100,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                alibi=True,
                initializer_range=0.3,
            ),
            CapabilityError,
            "gives no attention weights .*with weights to give, it says something else",
        ),
    ],
    ids=["none at all", "wrong weights"],
)
def test_attention_that_cannot_be_read(
    config: MambaConfig | FalconConfig, error: type[Exception], said: str, load_model: Load, tiny_llama: Path
) -> None:
    module = of_unknown_code(AutoModelForCausalLM.from_config(config).eval())
    model = HuggingFaceModel(module, None, load_model(tiny_llama).info, prepare(module))
    with pytest.raises(error, match=said):
        model.attention([1, 2], [0], [1], lambda *_: None)
