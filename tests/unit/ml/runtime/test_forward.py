"""Any set of sequences, windows, prefixes and splits gives what separate plain forwards give."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedModel

from ml.models.internals.attention_capture import prepare
from ml.runtime import attention_plan
from ml.runtime.last_layer import keep_last_layer_trimmed
from ml.runtime.spans import spans_of
from ml.runtime.variants import Variants
from tests.fixtures.zoo import ZOO, make

KINDS = ["llama", "gpt2", "mistral, window 4", "gemma2", "gemma3", "gpt-oss", "llama4, chunks"]

tokens = st.integers(1, 4)  # few, so that sequences begin alike
few_examples = settings(max_examples=15, suppress_health_check=list(HealthCheck))


@cache
def models(kind: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A model as the runtime takes it, and transformers' own with eager attention."""
    module = make(kind)
    plain = AutoModelForCausalLM.from_config(copy.deepcopy(module.config)).eval()
    plain.load_state_dict(module.state_dict())
    plain.set_attn_implementation("eager")
    prepare(module)
    keep_last_layer_trimmed(module)
    return module, plain


def check(plain: PreTrainedModel, ids: Sequence[int], found: torch.Tensor) -> None:
    with torch.inference_mode():
        logits = plain(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, -len(found) :].float()
    torch.testing.assert_close(found, logits, atol=1e-4 * float(logits.abs().max()), rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@few_examples
@given(st.data())
def test_variants(kind: str, data: st.DataObject) -> None:
    module, plain = models(kind)
    shared = data.draw(st.lists(tokens, max_size=80))
    sequences = [
        [*shared, *rest] for rest in data.draw(st.lists(st.lists(tokens, min_size=1, max_size=40), min_size=1))
    ]
    logit_counts = [data.draw(st.integers(1, len(ids) - len(shared))) for ids in sequences]
    known = data.draw(st.integers(0, len(shared)))
    price = data.draw(st.sampled_from([0, 8000]))  # of a batch of blocks: for nothing, blocks come in many
    with torch.inference_mode(), mock.patch.object(attention_plan, "_PER_BATCH", price):
        prefix = Variants(module, spans_of(module)).read(shared[:known]) if known else None
        variants = Variants(module, spans_of(module), prefix)
        limits = {"max_tokens": data.draw(st.integers(1, 300)), "max_logits": data.draw(st.integers(1, 60))}
        found = dict[int, torch.Tensor]()
        for batch in variants.batches(sequences, logit_counts, **limits):
            found.update(zip(batch.indices, batch.logits, strict=True))
    for index, ids in enumerate(sequences):
        assert len(found[index]) == logit_counts[index]
        check(plain, ids, found[index])


@pytest.mark.parametrize("cap", [None, 1.0])
def test_rounded_matmuls_keep_a_cap_of_scores(cap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = f"gemma2, cap {cap}"
    monkeypatch.setitem(ZOO, kind, ("gemma2", {"attn_logit_softcapping": cap}))
    module, plain = models(kind)
    sequences = [[1, 2, 3, 4, 5, 6, 7, 8, 9, last] for last in range(20, 40)]
    variants = Variants(module, spans_of(module), matmul_dtype=torch.bfloat16)
    with torch.inference_mode():
        for batch in variants.batches(sequences, [1] * 20, max_tokens=100, max_logits=100):
            for index, found in zip(batch.indices, batch.logits, strict=True):
                logits = plain(input_ids=torch.tensor([sequences[index]])).logits[0, -1:]
                torch.testing.assert_close(found, logits, atol=0.05 * float(logits.abs().max()), rtol=0)
