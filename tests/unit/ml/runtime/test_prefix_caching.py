"""The prefix cache changes how long an answer takes, and nothing else.

Tolerances are those of float32 sums in another order: keys that were cached are attended to apart from the rest and
merged, so logits of size about 10 may differ in their last two or three of seven digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ml.models.base import Chunk, LanguageModel, Runner, StepResult
from ml.models.internals.attention_capture import prepare
from ml.models.loading import load
from ml.models.verification.verify import Ways, verify
from ml.runtime.forward import RaggedForward
from ml.runtime.model_runner import ModelRunner
from ml.runtime.prefix_cache import BLOCK
from ml.runtime.spans import spans_of
from tests.unit.ml.models.test_sharing import random_ids

DOCUMENT = random_ids(100, 1)
GROWING = [DOCUMENT[:n] for n in (20, 40, 64, 70, 100)]
ASKED = [[*DOCUMENT[:64], *random_ids(n, n)] for n in (1, 5, 30, 60)]
UNLIKE = [random_ids(n, 1000 + n) for n in (1, 2, 9, 31, 33, 70, 110)]
TOLERANCE = {"atol": 2e-5, "rtol": 1e-5}


def check(model: LanguageModel, runner: Runner, sequences: Sequence[Sequence[int]], tail: int) -> list[int]:
    """Compare one batch with each of its prompts alone; how much of each was cached."""
    chunks = [Chunk(ids, min(tail, len(ids))) for ids in sequences]
    result = runner.step(chunks)
    for chunk, logits in zip(chunks, result.logits, strict=True):
        torch.testing.assert_close(logits, model.logits([chunk.ids], [chunk.logits])[0], **TOLERANCE)
    return list(result.cached_tokens)


def step(runner: Runner, *sequences: Sequence[int]) -> StepResult:
    return runner.step([Chunk(ids) for ids in sequences])


@pytest.fixture(params=["tiny_llama", "tiny_gpt2"])
def model(request: pytest.FixtureRequest, load_model: Callable[[Path], LanguageModel]) -> LanguageModel:
    return load_model(request.getfixturevalue(request.param))


@pytest.mark.parametrize("tail", [1, 3, 50])
@pytest.mark.parametrize("max_bytes", [0, 100_000, 1 << 24])
def test_on_equals_off(model: LanguageModel, max_bytes: int, tail: int) -> None:
    runner = model.runner(max_bytes)
    vocabulary = model.info.vocabulary_size
    for sequences in (UNLIKE, GROWING, ASKED, [*UNLIKE, *ASKED, *ASKED[:2]], UNLIKE, GROWING):
        check(model, runner, [[token % vocabulary for token in ids] for ids in sequences], tail)
        runner.insert_prefixes()
        assert runner.bytes <= max_bytes


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2"])
def test_a_prefix_is_computed_once(folder: str, request: pytest.FixtureRequest, load_model) -> None:
    model = load_model(request.getfixturevalue(folder))
    runner = model.runner(1 << 24)
    assert runner.bytes == 0
    first = step(runner, ASKED[0])
    assert (first.tokens_computed, first.cached_tokens) == (65, [0])
    mixed = step(runner, ASKED[1], UNLIKE[2], ASKED[2])
    assert (mixed.tokens_computed, mixed.tokens_padding, mixed.cached_tokens) == (5 + 9 + 30, 0, [64, 0, 64])
    assert runner.bytes > 0
    again = step(runner, ASKED[2])
    assert again.tokens_computed <= BLOCK


def test_prompts_of_one_batch_share_their_beginning_even_when_nothing_is_cached(tiny_llama, load_model) -> None:
    result = step(load_model(tiny_llama).runner(), *ASKED)
    assert result.tokens_computed == 64 + 1 + 5 + 30 + 60
    assert result.cached_tokens == [0] * 4


def test_off_caches_nothing(tiny_llama, load_model) -> None:
    runner = load_model(tiny_llama).runner()
    first, second = (step(runner, ASKED[3]) for _ in range(2))
    assert second.cached_tokens == [0]
    assert torch.equal(first.logits[0], second.logits[0])
    assert runner.bytes == 0


def test_a_model_that_goes_by_its_own_forward_pads_its_prompts(tiny_llama: Path) -> None:
    model: Any = load(str(tiny_llama), device="cpu")
    model.ways = Ways(padded=128)
    runner = model.runner(1 << 24)
    assert check(model, runner, UNLIKE, 1) == [0] * len(UNLIKE)
    assert step(runner, [1, 2, 3], [4]).tokens_padding == 2


def test_the_lstm_caches_nothing(tiny_lstm: Path, load_model: Callable[[Path], LanguageModel]) -> None:
    model = load_model(tiny_lstm)
    assert check(model, model.runner(1 << 24), [[1, 2, 3], [4]], 1) == [0, 0]


def test_other_kernels_give_the_same(tiny_llama: Path) -> None:
    """Where plain products in float32 are not the fastest, SDPA attends: on GPUs, and here in double precision."""
    module = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float64).eval()
    prepare(module)
    assert verify(module, 128, "model").served > 128
    runner = ModelRunner(module, spans_of(module), 1 << 24)
    for sequences in (UNLIKE, [*UNLIKE, *ASKED, *ASKED[:2]], GROWING):
        found = step(runner, *sequences).logits
        runner.insert_prefixes()
        with torch.inference_mode():
            for ids, logits in zip(sequences, found, strict=True):
                alone = module(input_ids=torch.tensor([ids])).logits[0, -1:].float()
                torch.testing.assert_close(logits, alone, **TOLERANCE)


def test_a_prompt_whose_slots_another_of_its_batch_takes_leaves_nothing_wrong(model: LanguageModel) -> None:
    """A prefix cache of two blocks, and batches of prompts of two blocks and more."""
    probe = model.runner(1 << 24)
    step(probe, DOCUMENT[:40])
    probe.insert_prefixes()
    runner = model.runner(2 * probe.bytes)
    prompts = [[seed % 5 + 2, *random_ids(70, seed)] for seed in range(6)]
    for _ in range(2):
        check(model, runner, prompts, 1)
        runner.insert_prefixes()
        for prompt in prompts:
            check(model, runner, [[*prompt[:64], 7, 8, 9]], 1)
            runner.insert_prefixes()


def test_what_cannot_be_kept_is_not_found_later(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = model.runner(1 << 24)
    step(runner, DOCUMENT)
    with monkeypatch.context() as patch:
        patch.setattr(RaggedForward, "copy_to", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runner.insert_prefixes()
    assert check(model, runner, [DOCUMENT], 1) == [0]
