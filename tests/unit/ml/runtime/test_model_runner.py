"""Any mix of decode rows, prefill chunks and whole prompts gives what separate plain forwards give."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml.models.base import Chunk, Runner
from ml.models.fallback.by_length import RunnerByLength
from ml.models.fallback.cache_runner import CacheRunner
from ml.models.fallback.padded_batches import batch_logits
from ml.models.lstm import LstmConfig, LstmModel, LstmRunner, WordLSTM
from ml.runtime.model_runner import ModelRunner
from ml.runtime.prefix_cache import BLOCK
from ml.runtime.spans import spans_of
from tests.unit.ml.runtime.test_forward import KINDS, check, models

few_examples = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
tokens = st.integers(1, 3)  # few, so that sequences begin alike
namespaces = st.sampled_from(["", "a", "b"])
SHARED = random.Random(7).choices([1, 2, 3], k=70)
prompts = st.builds(
    lambda cut, seed, length: [*SHARED[:cut], *random.Random(seed).choices([1, 2, 3], k=length)],
    st.sampled_from([0, 5, 33, 70]),
    st.integers(0, 3),
    st.integers(1, 12),
)

Plain = Callable[[Sequence[int], torch.Tensor], None]
"""Compares logits of the last tokens of a sequence with those that the model gives when it is asked for them alone."""


class Growing:
    """A sequence, and how much of its prompt it has."""

    def __init__(self, number: int, prompt: Sequence[int], namespace: str) -> None:
        self.number, self.prompt, self.namespace = number, list(prompt), namespace
        self.ids: list[int] = []

    def chunk(self, data: st.DataObject) -> Chunk:
        """More of the prompt, or one more token."""
        left = self.prompt[len(self.ids) :] or [data.draw(tokens)]
        ids = left[: data.draw(st.sampled_from([1, 2, 7, 31, 40, len(left)]))]
        logits = data.draw(st.integers(0, len(ids))) if len(ids) < len(left) else 1
        self.ids += ids
        return Chunk(ids, logits, self.number, self.namespace)


def run_any_mix(runner: Runner, compare: Plain, data: st.DataObject) -> None:
    growing: list[Growing] = []
    seen: set[tuple[str, tuple[int, ...]]] = set()  # prefixes of whole blocks that a namespace had
    for _ in range(data.draw(st.integers(1, 8))):
        if len(growing) == 4 or (growing and data.draw(st.integers(0, 3)) == 0):
            runner.drop(growing.pop(data.draw(st.integers(0, len(growing) - 1))).number)
        if data.draw(st.booleans()):
            growing.append(Growing(runner.begin(), data.draw(prompts), data.draw(namespaces)))
        asked: list[tuple[list[int], Chunk]] = []
        for each in growing:
            if data.draw(st.booleans()):
                chunk = each.chunk(data)
                asked.append((list(each.ids), chunk))
        for ids in data.draw(st.lists(prompts, max_size=3)):
            asked.append((ids, Chunk(ids, data.draw(st.integers(1, len(ids))), None, data.draw(namespaces))))
        if not asked:
            continue
        asked = data.draw(st.permutations(asked))
        result = runner.step([chunk for _, chunk in asked])
        for (ids, chunk), logits, cached in zip(asked, result.logits, result.cached_tokens, strict=True):
            assert len(logits) == chunk.logits
            if chunk.logits:
                compare(ids, logits)
            known = len(ids) - len(chunk.ids) + cached
            blocks = ids[: -(-known // BLOCK) * BLOCK]
            assert not cached or any(
                namespace == chunk.namespace and list(prefix[:known]) == blocks[:known] for namespace, prefix in seen
            )
        seen |= {(chunk.namespace, tuple(ids)) for ids, chunk in asked}
        if data.draw(st.booleans()):
            runner.insert_prefixes()
    for each in growing:
        runner.drop(each.number)


def plain_of(kind: str) -> Plain:
    return lambda ids, logits: check(models(kind)[1], ids, logits)


@pytest.mark.parametrize("kind", KINDS)
@few_examples
@given(st.data())
def test_any_mix_in_one_pass(kind: str, data: st.DataObject) -> None:
    module, _ = models(kind)
    max_bytes = data.draw(st.sampled_from([0, 20_000, 1 << 20]))
    run_any_mix(ModelRunner(module, spans_of(module), max_bytes), plain_of(kind), data)


def cache_runner(kind: str, longest: float) -> CacheRunner:
    module, _ = models(kind)
    return CacheRunner(module, lambda *asked: batch_logits(module, *asked), longest)


@pytest.mark.parametrize("longest", [0, 20, 1000])
@pytest.mark.parametrize("kind", ["llama", "gemma3"])
@few_examples
@given(st.data())
def test_any_mix_part_by_part(kind: str, longest: int, data: st.DataObject) -> None:
    with torch.inference_mode():
        run_any_mix(cache_runner(kind, longest), plain_of(kind), data)


@few_examples
@given(st.data())
def test_any_mix_by_length(data: st.DataObject) -> None:
    module, _ = models("llama")
    short = ModelRunner(module, spans_of(module), 1 << 20)
    with torch.inference_mode():
        run_any_mix(RunnerByLength(short, cache_runner("llama", 60), 40), plain_of("llama"), data)


@cache
def lstm() -> LstmModel:
    torch.manual_seed(0)
    return LstmModel(WordLSTM(LstmConfig(20, 8, 8)), None, None)  # type: ignore[arg-type]


@few_examples
@given(st.data())
def test_any_mix_of_a_recurrent_model(data: st.DataObject) -> None:
    def compare(ids: Sequence[int], logits: torch.Tensor) -> None:
        torch.testing.assert_close(logits, lstm().logits([ids], [len(logits)])[0], atol=1e-5, rtol=0)

    run_any_mix(LstmRunner(lstm()), compare, data)
