"""What a cache of shared prefixes changes is how many positions are computed, and nothing else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, FalconConfig, GPTJConfig, MambaConfig, PreTrainedModel

from ml.models.fallback.cached_batches import CachedPrefix, CachedRun, groups
from ml.models.huggingface import HuggingFaceModel
from ml.models.internals.attention_capture import prepare
from ml.models.verification.verify import Ways, verify
from tests.unit.ml.models.test_huggingface import KINDS
from tests.unit.ml.models.test_sharing import random_ids

OTHERS = {
    "rotary, of its own": GPTJConfig(vocab_size=100, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64),
    "distances in place of positions": FalconConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True
    ),
}
CONFIGS = {**{kind: config for kind, (config, _) in KINDS.items()}, **OTHERS}
PROMPT = [token % 100 for token in random_ids(40, 5)]
VARIANTS = [[*PROMPT[:i], 0, *PROMPT[i + 1 :]] for i in range(40)]
SEQUENCES = [PROMPT, *VARIANTS, PROMPT[:20], [1, 2, 3], PROMPT]
LOGIT_COUNTS = [1] * 41 + [3, 2, 4]


@pytest.fixture(params=CONFIGS)
def module(request: pytest.FixtureRequest) -> PreTrainedModel:
    return made(request.param)


def made(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    module = AutoModelForCausalLM.from_config(CONFIGS[kind]).eval()
    prepare(module)
    return module


@pytest.mark.parametrize("max_tokens", [64, 1000])
def test_as_alone(module: PreTrainedModel, max_tokens: int) -> None:
    model = HuggingFaceModel(module, None, None, None, ways=Ways(cached=64))
    found: dict[int, torch.Tensor] = {}
    computed = saved = 0
    for batch in model.stream_logits(SEQUENCES, LOGIT_COUNTS, max_tokens=max_tokens, max_logits=1000):
        found.update(zip(batch.indices, batch.logits, strict=True))
        computed, saved = computed + batch.tokens_computed, saved + batch.tokens_saved
    assert computed + saved == sum(map(len, SEQUENCES))
    assert saved > 300
    for index, (ids, tail) in enumerate(zip(SEQUENCES, LOGIT_COUNTS, strict=True)):
        [alone] = model.logits([ids], [tail])
        torch.testing.assert_close(found[index], alone, atol=2e-5, rtol=1e-5)


def test_a_beginning_is_read_once() -> None:
    model = HuggingFaceModel(made("attention inside its layers"), None, None, None, ways=Ways(cached=64))
    prefix = model.read_prefix(PROMPT[:30])
    assert isinstance(prefix, CachedPrefix)
    assert prefix.length == 30
    limits = {"max_tokens": 64, "max_logits": 100}
    sequences = [[*PROMPT[:30], i, 7] for i in range(20)]
    for _ in range(2):
        batches = list(model.stream_logits(sequences, [1] * 20, **limits, prefix=prefix))
        assert sum(batch.tokens_computed for batch in batches) == 2 * 20
    found = {i: rows for batch in batches for i, rows in zip(batch.indices, batch.logits, strict=True)}
    torch.testing.assert_close(found[3], model.logits([sequences[3]])[0], atol=2e-5, rtol=1e-5)


def test_a_model_with_states_of_another_kind_is_found_out() -> None:
    module = AutoModelForCausalLM.from_config(MambaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=2)).eval()
    assert not verify(module, 64, "model").cached
    model = HuggingFaceModel(module, None, None, None)
    assert model.read_prefix(PROMPT) is None


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=8), st.integers(1, 8)), max_size=30),
    st.integers(1, 40),
    st.integers(1, 10),
)
def test_groups_hold_all_within_their_bounds(drawn, max_tokens: int, max_logits: int) -> None:
    sequences = [ids for ids, _ in drawn]
    logit_counts = [min(tail, len(ids)) for ids, tail in drawn]
    found = list(groups(sequences, logit_counts, max_tokens=max_tokens, max_logits=max_logits))
    assert sorted(i for group in found for i in group.members) == list(range(len(drawn)))
    for group in found:
        some = [sequences[i] for i in group.members]
        assert {tuple(ids[: group.shared]) for ids in some} == {tuple(some[0][: group.shared])}
        assert all(group.shared + logit_counts[i] <= len(sequences[i]) for i in group.members)
        if len(some) > 1:
            assert len(some) * (max(map(len, some)) - group.shared) <= max_tokens
            assert sum(logit_counts[i] for i in group.members) <= max_logits


def test_what_was_read_is_carried_on_from_batch_to_batch() -> None:
    run = CachedRun(made("attention inside its layers"))
    run.read(PROMPT[:10])
    [batch] = run.batches([PROMPT[:12]], [1], max_tokens=64, max_logits=10)
    assert (batch.tokens_computed, batch.tokens_saved) == (2, 10)
