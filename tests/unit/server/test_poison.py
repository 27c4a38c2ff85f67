"""A model whose forward fails at a certain token: who asks about it gets the error, and everybody else an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml import attention, spec
from ml.attention import AttentionSpec
from ml.explain.run import Run
from ml.models.base import Chunk, LanguageModel, StepResult
from ml.models.loading import load
from ml.runtime.model_runner import ModelRunner
from server.errors import ModelFailedError
from server.sequences import CHUNK_TOKENS
from server.tasks import AttentionTask, NextTokenTask, ScoreTask, Task
from tests.fixtures.zoo import save
from tests.unit.server.test_generation import Bench, all_of, engine_of, ids_of

KINDS = ("llama", "phi3, longrope", "openai-gpt", "rwkv", "mamba")
"""One of each way: ragged, ragged up to a length, with attention inside its layers, padded, its own cache."""
POISON = 77
GOOD = ([5, 6, 7], [11, 12, 13, 14, 15], [3] * 9)
BAD = [20, POISON, 21]
FAILS = "failed: RuntimeError"


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("models") / request.param.replace(", ", "-")
    return load(str(save(request.param, folder)), device="cpu")


@contextmanager
def poisoned(model: Any, token: int = POISON) -> Iterator[None]:
    """Within, `model` fails wherever it reads `token`."""

    def check(_: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if bool((arguments[0] == token).any()):
            raise RuntimeError("poison")

    module = model.module
    embedding = module.embedding if hasattr(module, "embedding") else module.get_input_embeddings()
    hook = embedding.register_forward_pre_hook(check)
    try:
        yield
    finally:
        hook.remove()


def next_token(_: LanguageModel, ids: Sequence[int]) -> Task:
    return NextTokenTask(tuple(ids), top_k=3)


def score(_: LanguageModel, ids: Sequence[int]) -> Task:
    return ScoreTask((*ids[:1],), tuple(ids[1:]))


def attend(model: LanguageModel, ids: Sequence[int]) -> Task:
    return AttentionTask(tuple(ids), attention.resolve(AttentionSpec(), model.info, len(ids)))


VERBS: tuple[Callable[[LanguageModel, Sequence[int]], Task], ...] = (next_token, score, attend)


def numbers_of(value: Any) -> np.ndarray:
    """The numbers of an answer."""
    found = next(getattr(value, name) for name in ("log_probabilities", "weights", "logprobs") if hasattr(value, name))
    return np.asarray(found, dtype=np.float64)


@pytest.mark.parametrize("verb", VERBS)
def test_a_call_that_fails_fails_alone(model: LanguageModel, verb: Callable[..., Task]) -> None:
    if verb is attend and not model.info.heads:
        pytest.skip("it has no attention")

    async def scenario() -> None:
        async with engine_of(model) as bench:

            async def ask(ids: Sequence[int]) -> Any:
                return (await bench.engine.submit(model.info.name, [verb(model, ids)], caller=tuple(ids))).values[0]

            before = [numbers_of(await ask(ids)) for ids in GOOD]
            with poisoned(model):
                *found, failed = await asyncio.gather(*map(ask, (*GOOD, BAD)), return_exceptions=True)
            with pytest.raises(ModelFailedError if verb is not attend else Exception, match="RuntimeError"):
                raise failed
            for one, other in zip(found, before, strict=True):
                np.testing.assert_allclose(numbers_of(one), other, atol=1e-4)
            assert np.isfinite(numbers_of(await ask(BAD))).all()

    asyncio.run(scenario())


def test_a_text_that_meets_it_on_its_way_ends_alone(model: LanguageModel) -> None:
    async def scenario() -> None:
        async with engine_of(model) as bench:
            texts = [ids_of(await all_of(bench.begin(ids, max_tokens=12))) for ids in GOOD]
            # What one of them says in its midst, and no other reads.
            culprit, place, token = next(
                (which, place, token)
                for which, text in enumerate(texts)
                for place, token in enumerate(text[:-1])
                if place >= 2
                and token not in (*text[:place], *GOOD[which])
                and all(token not in (*prompt, *texts[i]) for i, prompt in enumerate(GOOD) if i != which)
            )
            with poisoned(model, token):
                streams = [bench.begin(ids, max_tokens=12) for ids in GOOD]
                found = await asyncio.gather(*map(read, streams))
            for which, (ids, error) in enumerate(found):
                if which == culprit:
                    assert ids == texts[which][: place + 1]
                    assert FAILS in str(error)
                else:
                    assert (ids, error) == (texts[which], None)
            assert ids_of(await all_of(bench.begin(GOOD[culprit], max_tokens=12))) == texts[culprit]
            assert (bench.gauge("running"), bench.gauge("waiting")) == (0, 0)

    async def read(stream: Any) -> tuple[list[int], Exception | None]:
        ids: list[int] = []
        try:
            async for step in stream:
                ids.append(step.token_id)
        except ModelFailedError as error:
            return ids, error
        return ids, None

    asyncio.run(scenario())


def test_a_prompt_that_fails_leaves_texts_in_the_making_alone(model: LanguageModel) -> None:
    async def scenario() -> None:
        async with engine_of(model) as bench:
            expected = [ids_of(await all_of(bench.begin(ids, max_tokens=8))) for ids in GOOD]
            unread = next(token for token in range(30, 400) if all(token not in text for text in expected))
            with poisoned(model, unread):
                streams = [bench.begin(ids, max_tokens=8) for ids in (GOOD[0], [20, unread], *GOOD[1:])]
                found = await asyncio.gather(*map(all_of, streams), return_exceptions=True)
            assert FAILS in str(found.pop(1))
            assert [ids_of(steps) for steps in found] == expected

    asyncio.run(scenario())


METHODS = (spec.Occlusion(), spec.Lime(), spec.KernelShap(), spec.ShapleyPermutation(), spec.InputTimesGradient())


@pytest.mark.parametrize("method", METHODS)
def test_an_explanation_that_fails_leaves_the_model_as_it_was(model: LanguageModel, method: spec.Method) -> None:
    def explain() -> list[float]:
        budget = spec.Budget(max_evaluations=40)
        text = "The capital of Italy is Rome, and"
        quality = spec.Quality(faithfulness=False)
        *_, last = Run(model, spec.ExplanationSpec(spec.Prompt(text=text), method, budget=budget, quality=quality))
        assert last.result is not None
        return [each.attribution for each in last.result.attributions]

    before = explain()
    [token, *_] = model.tokenizer.encode(spec.Prompt(text=" Rome")).ids[-1:]
    with poisoned(model, token), pytest.raises(Exception, match="poison"):
        explain()
    assert explain() == pytest.approx(before, abs=1e-4)


def test_texts_that_fail_together_only_end_all_the_same(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read anew one by one, and grow by a token each time."""
    llama = load(str(tiny_llama), device="cpu")
    step = ModelRunner.step

    def alone(self: ModelRunner, chunks: Sequence[Chunk]) -> StepResult:
        if len(chunks) > 1:
            raise MemoryError
        return step(self, chunks)

    async def scenario() -> None:
        async with engine_of(llama) as bench:
            expected = [ids_of(await all_of(bench.begin(ids, max_tokens=6))) for ids in GOOD]
            monkeypatch.setattr(ModelRunner, "step", alone)
            found = await asyncio.gather(*(all_of(bench.begin(ids, max_tokens=6)) for ids in GOOD))
            assert [ids_of(steps) for steps in found] == expected

    asyncio.run(scenario())


@contextmanager
def damaged(model: Any) -> Iterator[None]:
    """Within, `model` reads numbers that are none where it reads `POISON`."""

    def damage(_: torch.nn.Module, arguments: tuple[torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        return torch.where((arguments[0] == POISON)[..., None], float("nan"), rows)

    hook = model.module.get_input_embeddings().register_forward_hook(damage)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize("chunk", [4, 128])
def test_numbers_that_are_none_are_nobody_elses(
    model: LanguageModel, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short prompts of a step share matmuls, prefixes outlast it, and a prompt's first chunk has no logits."""
    monkeypatch.setitem(CHUNK_TOKENS, "cpu", chunk)
    prompts = [*GOOD, [4] * 40, [8] * 70]
    bad = [POISON] * 40
    name = model.info.name

    async def texts(bench: Bench, *asked: Sequence[int]) -> list[Any]:
        streams = [bench.begin(ids, max_tokens=4, caller=str(i)) for i, ids in enumerate(asked)]
        return await asyncio.gather(*map(all_of, streams), return_exceptions=True)

    async def main() -> None:
        async with engine_of(model, prefix_bytes=1 << 22) as bench:
            expected = [ids_of((await texts(bench, ids))[0]) for ids in prompts]
        assert not any(POISON in ids for ids in expected)
        async with engine_of(model, prefix_bytes=1 << 22) as bench:
            with damaged(model):
                for _ in range(2):
                    calls = [bench.engine.submit(name, [NextTokenTask(tuple(ids))]) for ids in (bad, *prompts)]
                    answers: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
                    assert "not a number" in str(answers[0])
                    for ids, answer in zip(prompts, answers[1:], strict=True):
                        assert np.isfinite(numbers_of(answer.values[0])).all(), ids
                    found = await texts(bench, bad, *prompts)
                    assert "not a number" in str(found[0])
                    assert [ids_of(steps) for steps in found[1:]] == expected

    asyncio.run(main())
