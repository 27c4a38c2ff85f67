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
from ml.models.lstm.model import LstmModel, LstmRunner
from ml.models.lstm.network import LstmConfig, WordLSTM
from ml.runtime.kv_cache import KvCache
from ml.runtime.model_runner import ModelRunner
from ml.runtime.prefix_cache import BLOCK
from ml.runtime.spans import spans_of
from tests.fixtures.runners import preempt
from tests.unit.ml.runtime.test_forward import KINDS, check, models

few_examples = settings(max_examples=12, suppress_health_check=list(HealthCheck))
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
        if runner.is_preemptible and all(chunk.sequence is None for _, chunk in asked):
            preempt(runner, [chunk for _, chunk in asked], data.draw(st.integers(0, 1)))
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


@pytest.fixture
def runner() -> ModelRunner:
    module, _ = models("llama")
    return ModelRunner(module, spans_of(module), 1 << 20)


def test_a_step_is_one_pass_of_the_model(runner: ModelRunner) -> None:
    module, plain = models("llama")
    decoded, prefilled = runner.begin(), runner.begin()
    runner.step([Chunk([1, 2, 3], 1, decoded), Chunk([1])])
    passes: list[int] = []
    hook = module.register_forward_pre_hook(lambda *_: passes.append(1))
    chunks = [Chunk([5, 6], 1, prefilled), Chunk([4], 1, decoded), Chunk([7, 8, 9], 2)]
    result = runner.step(chunks)
    hook.remove()
    assert len(passes) == 1
    assert result.tokens_computed == 6
    for ids, logits in zip(([5, 6], [1, 2, 3, 4], [7, 8, 9]), result.logits, strict=True):
        check(plain, ids, logits)


def test_a_prompt_that_is_cached_so_far_takes_no_pass(runner: ModelRunner) -> None:
    _, plain = models("llama")
    ids = [n % 7 + 1 for n in range(2 * BLOCK + 5)]
    runner.step([Chunk(ids)])
    runner.insert_prefixes()
    number = runner.begin()
    first = runner.step([Chunk(ids[:BLOCK], 0, number)])
    assert (first.tokens_computed, first.cached_tokens, len(first.logits[0])) == (0, [BLOCK], 0)
    second = runner.step([Chunk(ids[BLOCK:], 1, number)])
    assert (second.tokens_computed, second.cached_tokens) == (5, [BLOCK])
    check(plain, ids, second.logits[0])


def test_prompts_of_one_step_share_what_they_begin_with_in_a_namespace_only(runner: ModelRunner) -> None:
    ids = [n % 7 + 1 for n in range(2 * BLOCK)]
    chunks = [Chunk([*ids, last], namespace=namespace) for namespace in "ab" for last in (1, 2)]
    assert runner.step(chunks).tokens_computed == 2 * (len(ids) + 2)


def test_numbers_that_are_none_stay_with_their_sequence(runner: ModelRunner) -> None:
    """As an overflow in half precision gives them, for one prompt."""
    _, plain = models("llama")
    long, damaged = runner.begin(), runner.begin()
    runner.step([Chunk([1, 2, 3] * 9, 1, long), Chunk([9] * 30, 1, damaged)])
    slots = torch.from_numpy(runner._sequences.slots(runner._sequences[damaged], 0, 40))
    with torch.inference_mode():
        for keys, values in runner._sequences.cache._layers.values():
            keys[slots] = values[slots] = float("nan")
    runner.drop(damaged)
    fresh = runner.begin()
    check(plain, [4, 5], runner.step([Chunk([4, 5], 1, fresh)]).logits[0])
    result = runner.step([Chunk([6], 1, fresh), Chunk([1], 1, long)])
    check(plain, [4, 5, 6], result.logits[0])
    check(plain, [*[1, 2, 3] * 9, 1], result.logits[1])


def test_sequences_without_memory_are_lost_and_no_others_are_found(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain = models("llama")
    lost = runner.begin()
    runner.step([Chunk([1, 2, 3], 1, lost)])
    with monkeypatch.context() as patched:
        patched.setattr(KvCache, "stretch", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runner.step([Chunk([4] * 100, 1, lost)])
    fresh = runner.begin()
    check(plain, [4, 5], runner.step([Chunk([4, 5], 1, fresh)]).logits[0])
    with pytest.raises(KeyError):
        runner.step([Chunk([4], 1, lost)])
    runner.drop(lost)
    check(plain, [4, 5, 6], runner.step([Chunk([6], 1, fresh)]).logits[0])


def test_a_sequence_is_dropped_even_where_its_prompt_cannot_be_cached(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain = models("llama")
    number = runner.begin()
    runner.step([Chunk([1] * 40, 1, number)])
    with monkeypatch.context() as patched:
        patched.setattr(KvCache, "copy_from", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runner.drop(number)
    assert not runner._sequences.cache.slots
    result = runner.step([Chunk([1] * 40)])
    assert result.cached_tokens == [0]  # nothing names the slots that were not written
    check(plain, [1] * 40, result.logits[0])


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("behind_cached", [False, True])
def test_nothing_is_cached_of_a_step_that_failed(runner: ModelRunner, layer: int, behind_cached: bool) -> None:
    module, plain = models("llama")
    ids = [n % 7 + 1 for n in range(2 * BLOCK + 5)]
    runner.step([Chunk(ids[: BLOCK + 1] if behind_cached else [9] * BLOCK)])
    hook = module.get_submodule(f"model.layers.{layer}").register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runner.step([Chunk(ids), Chunk(ids, 1, runner.begin())])
    hook.remove()
    result = runner.step([Chunk(ids)])
    assert result.cached_tokens == [BLOCK if behind_cached else 0]
    check(plain, ids, result.logits[0])


@pytest.mark.parametrize("layer", [0, 1])
def test_nothing_is_cached_of_a_step_that_was_preempted(runner: ModelRunner, layer: int) -> None:
    ids = [n % 7 + 1 for n in range(2 * BLOCK + 5)]
    assert preempt(runner, [Chunk(ids)], layer)
    runner.insert_prefixes()
    assert runner.step([Chunk(ids)]).cached_tokens == [0]


@pytest.mark.parametrize("grows", [False, True])
@pytest.mark.parametrize("behind_cached", [False, True])
def test_numbers_that_are_none_are_not_cached(runner: ModelRunner, grows: bool, behind_cached: bool) -> None:
    """Short prompts of a step are computed in one matmul with others, and these may get them too."""
    module, plain = models("llama")
    rest = [n % 7 + 1 for n in range(BLOCK + 5)]
    ids = [[first] * BLOCK + rest for first in (1, 2, 3)]
    damaged = [9] * BLOCK + [77] * 40
    if behind_cached:
        for each in (*ids, damaged):
            runner.step([Chunk(each[:BLOCK])])
    embeddings = module.get_input_embeddings()

    def damage(_: torch.nn.Module, arguments: tuple[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return torch.where((arguments[0] == 77)[..., None], float("nan"), rows)

    hook = embeddings.register_forward_hook(damage)
    result = runner.step([Chunk(each, 1, runner.begin() if grows else None) for each in (damaged, *ids)])
    hook.remove()
    assert result.logits[0].isnan().all()
    for each in (*ids, damaged):
        result = runner.step([Chunk(each)])
        check(plain, each, result.logits[0])
