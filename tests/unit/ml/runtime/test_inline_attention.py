"""Architectures whose code computes attention inside its layers run rows of a ragged batch, in any type of numbers."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor
from transformers import BloomConfig, BloomForCausalLM, PreTrainedModel

from ml.models.base import Chunk
from ml.models.internals.attention_capture import prepare
from ml.models.verification.verify import verify
from ml.runtime.model_runner import ModelRunner
from ml.runtime.spans import spans_of
from tests.unit.ml.models.test_sharing import random_ids
from tests.zoo.configurations import make


@torch.inference_mode()
def apart(module: PreTrainedModel, ids: list[int]) -> float:
    """How far rows of `ids` are from the plain forward, as a share of the largest logit."""
    expected: Tensor = module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    found = ModelRunner(module, spans_of(module), 1 << 20).step([Chunk(ids)]).logits[0][-1]
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", ["codegen", "falcon, alibi", "gptj", "gpt_neo", "mpt"])
def test_in_half_precision(name: str) -> None:
    module = make(name).to(torch.bfloat16)
    prepare(module)
    assert math.isinf(verify(module, 128, name).ragged)


def test_a_copy_goes_by_its_own_weights() -> None:
    module = make("falcon")
    prepare(module)
    copied = copy.deepcopy(module)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.mul_(1.25)
    ids = random_ids(40, 1)
    assert apart(copied, ids) < 1e-4
    assert apart(module, ids) < 1e-4


def test_biases_by_position_are_right_far_from_the_start() -> None:
    torch.manual_seed(0)
    # Six heads: the slopes of some are no powers of two.
    module = BloomForCausalLM(BloomConfig(vocab_size=400, hidden_size=48, n_layer=2, n_head=6, initializer_range=0.3))
    prepare(module.eval())
    assert apart(module, random_ids(3000, 2)) < 1e-4
