"""What is generated, and what of it is said when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from ml.errors import InputError, PromptTooLongError
from ml.generation import FinishReason, Generation, GenerationSpec, Step, nucleus
from ml.models.base import Chunk, LanguageModel
from ml.models.fallback.cache_runner import CacheRunner
from ml.models.huggingface import HuggingFaceModel
from ml.models.loading import load
from tests.fixtures.runners import Texts
from tests.unit.ml.explain.toys import byte_tokenizer

BYTES = byte_tokenizer(unk=True)


def said(spec: GenerationSpec, ids: Sequence[int], prompt: Sequence[int] = ()) -> list[Step]:
    """The steps of a generation whose model insists on `ids`."""
    generation = Generation(spec, BYTES, prompt, len(ids))
    steps = []
    for token_id in ids:
        row = np.full(BYTES.vocabulary_size, -50.0)
        row[token_id] = 0.0
        steps.append(generation.advance(row))
        if steps[-1].finish:
            break
    return steps


def by_bytes(text: str) -> list[int]:
    """One token a byte, wherever the tokenizer has none for more."""
    return list(BYTES.ids(text))


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0\N{REPLACEMENT CHARACTER}"), min_size=1))
def test_no_character_is_cut(text: str):
    steps = said(GenerationSpec(), by_bytes(text), by_bytes("so"))
    assert all("\N{REPLACEMENT CHARACTER}" not in step.text for step in steps)
    assert "".join(step.text for step in steps) == text


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"temperature": 0.5, "top_p": 0.9}], ids=str)
def test_no_placeholder_is_generated_where_none_is_wanted(settings: dict[str, Any]):
    [unknown] = BYTES.special.placeholders
    [other] = by_bytes("a")
    likely = np.full(BYTES.vocabulary_size, -50.0)
    likely[[unknown, other]] = np.log(0.9), np.log(0.1)
    for wanted in (False, True):
        spec = GenerationSpec(top_k=2, no_placeholders=not wanted, **settings)
        generation = Generation(spec, BYTES, (), 50)
        steps = [generation.advance(likely.copy()) for _ in range(50)]
        assert (unknown in {step.token_id for step in steps}) == wanted
        assert {step.top[0][0] for step in steps} == {unknown}  # it is listed all the same
        if not wanted:
            assert {step.token_id for step in steps} == {other}
            assert all(step.log_probability == dict(step.top)[other] for step in steps)


def test_a_character_of_four_bytes_comes_with_its_last():
    assert [step.text for step in said(GenerationSpec(), by_bytes("a😀"))] == ["a", "", "", "", "😀"]


@given(st.text(alphabet="abc", max_size=20), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3))
def test_a_stop_text_ends_it_and_is_not_said(text: str, stops: list[str]):
    ids = [token_id for character in text + "c" for token_id in by_bytes(character)]
    steps = said(GenerationSpec(stop=tuple(stops)), ids)
    capacities = [place for stop in stops if (place := (text + "c").find(stop)) >= 0]
    # The first to be complete ends it, and several that are complete with one token by where they begin.
    whole = "".join(step.text for step in steps)
    assert (text + "c").startswith(whole)
    assert not any(stop in whole for stop in stops)
    assert (steps[-1].finish is FinishReason.STOP) == bool(capacities)
    if not capacities:
        assert whole == text + "c"


def test_what_may_become_a_stop_text_is_held_back():
    ids = [token_id for character in "xa\nby" for token_id in by_bytes(character)]
    assert [step.text for step in said(GenerationSpec(stop=("a\nb!",)), ids)] == ["x", "", "", "", "a\nby"]


def test_the_end_of_text_ends_it():
    end = next(iter(BYTES.special.ends))
    steps = said(GenerationSpec(stop=("ab",)), [*by_bytes("a"), end, *by_bytes("b")])
    assert [(step.text, step.finish) for step in steps] == [("", None), ("a", FinishReason.END_OF_TEXT)]


def test_draws_follow_the_distribution_and_the_seed():
    log_probabilities = np.log(np.array([0.5, 0.3, 0.15, 0.05]))

    def drawn(**settings: float) -> list[int]:
        generation = Generation(GenerationSpec(seed=7, **settings), BYTES, [], 4000)  # type: ignore[arg-type]
        return [generation.advance(log_probabilities).token_id for _ in range(2000)]

    shares = np.bincount(drawn(temperature=1.0), minlength=4) / 2000
    assert shares == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.04)
    assert set(drawn(temperature=1.0, top_p=0.8)) == {0, 1}
    assert set(drawn(temperature=1.0, top_p=1e-9)) == {0}
    assert set(drawn()) == {0}
    assert drawn(temperature=1.0) == drawn(temperature=1.0)
    cold = np.bincount(drawn(temperature=0.5), minlength=4) / 2000
    assert cold == pytest.approx(np.array([0.25, 0.09, 0.0225, 0.0025]) / 0.365, abs=0.04)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 2**31 - 1}, "top_k"),
        ({"stop": ("a", "")}, "stop[1]"),
    ],
)
def test_what_is_not_allowed_is_named(settings: dict[str, object], field: str):
    with pytest.raises(InputError) as caught:
        GenerationSpec(**settings)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_prompt_and_generation_fit_the_context():
    assert GenerationSpec().tokens(10, 128) == 64
    assert GenerationSpec().tokens(100, 128) == 28
    assert GenerationSpec(max_tokens=28).tokens(100, 128) == 28


@pytest.mark.parametrize(
    ("spec", "prompt", "field", "message"),
    [
        (GenerationSpec(max_tokens=29), 100, "max_tokens", "must be at most 28, not 29"),
        (GenerationSpec(max_tokens=10**9), 6, "max_tokens", "must be at most 122, not 1000000000"),
        (GenerationSpec(), 128, "prompt", "the prompt has 128 tokens"),
        (GenerationSpec(max_tokens=1), 128, "prompt", "the prompt has 128 tokens"),
    ],
)
def test_what_is_too_long_is_named(spec: GenerationSpec, prompt: int, field: str, message: str):
    with pytest.raises(PromptTooLongError, match=message) as caught:
        spec.tokens(prompt, 128)
    assert caught.value.field == field


PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12], [30, 20, 10] * 20, [7, 6]]


def grown(decoder: Texts, prompts: Sequence[Sequence[int]], tokens: int) -> dict[int, list[int]]:
    """Greedy texts of `prompts`: each joins a step after the one before, and leaves when it has `tokens` tokens."""
    texts: dict[int, list[int]] = {}
    present: list[int] = []
    pending = list(range(len(prompts)))
    while pending or present:
        if present:
            logits = decoder.step([texts[i][-1] for i in present])
            for i, row in zip(present, logits, strict=True):
                texts[i].append(int(row.argmax()))
        if pending:
            i = pending.pop(0)
            texts[i] = [int(decoder.start(prompts[i]).argmax())]
            present.append(i)
        for place in reversed(range(len(present))):
            if len(texts[present[place]]) == tokens:
                decoder.leave(place)
                present[place] = present[-1]
                present.pop()
    return texts


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2", "tiny_lstm"])
def test_texts_that_join_and_leave_are_what_they_are_alone(folder: str, request: pytest.FixtureRequest):
    model = load(str(request.getfixturevalue(folder)), device="cpu")
    prompts = [[i % model.info.vocabulary_size for i in prompt] for prompt in PROMPTS]
    texts = Texts(model.runner())
    assert grown(texts, prompts, 12) == {i: alone(model, prompt, 12) for i, prompt in enumerate(prompts)}


def alone(model: LanguageModel, prompt: list[int], tokens: int) -> list[int]:
    said: list[int] = []
    for _ in range(tokens):
        said.append(int(model.logits([prompt + said])[0][-1].argmax()))
    return said


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2"])
def test_greedy_texts_are_those_of_transformers(folder: str, request: pytest.FixtureRequest):
    path: Path = request.getfixturevalue(folder)
    model = load(str(path), device="cpu")
    assert isinstance(model, HuggingFaceModel)
    reference = AutoModelForCausalLM.from_pretrained(path)
    for runner in (model.runner(), *(CacheRunner(model.module, model.logits, longest) for longest in (128, 0))):
        found = grown(Texts(runner), PROMPTS, 8)
        for i, prompt in enumerate(PROMPTS):
            with torch.inference_mode():
                out = reference.generate(
                    torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0
                )
            assert found[i] == out[0, len(prompt) :].tolist()


def test_a_runner_without_sequences_holds_no_memory_for_them(tiny_llama: Path):
    runner: Any = load(str(tiny_llama), device="cpu").runner()
    texts = Texts(runner)
    texts.start([1, 2, 3])
    texts.start([4])
    texts.leave(0)
    assert runner._sequences.cache.slots
    texts.leave(0)
    assert not runner._sequences.cache.slots


@given(st.integers(1, 3000), st.floats(0.01, 0.999), st.integers(0, 2**32 - 1))
def test_the_nucleus_is_the_smallest_set(tokens: int, top_p: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.full(tokens, random.choice([0.01, 0.3, 10.0])))
    found = nucleus(probabilities, top_p)
    assert probabilities[found].sum() >= top_p * (1 - 1e-9)
    assert probabilities[found[:-1]].sum() < top_p * (1 + 1e-9)
    assert (np.diff(probabilities[found]) <= 0).all()
    assert probabilities[found].min() >= np.delete(probabilities, found).max(initial=0.0)


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2"])
@pytest.mark.parametrize("max_bytes", [0, 1 << 24])
def test_a_text_whose_beginning_is_known_is_what_it_would_be(
    folder: str, max_bytes: int, request: pytest.FixtureRequest
):
    model = load(str(request.getfixturevalue(folder)), device="cpu")
    decoder = Texts(model.runner(max_bytes))
    known = [(7 * i) % model.info.vocabulary_size for i in range(70)]
    prompts = [known, [*known, 3], [*known[:40], 5, 6], known[:64]]
    cached = []
    for prompt in prompts:
        torch.testing.assert_close(decoder.start(prompt), model.logits([prompt])[0][-1], atol=2e-5, rtol=1e-5)
        cached.append(decoder.cached_tokens)
    assert cached == ([0, 64, 32, 63] if max_bytes else [0] * 4)
    said = [[*prompt, 9] for prompt in prompts]
    for row, prompt in zip(decoder.step([9] * 4), said, strict=True):
        torch.testing.assert_close(row, model.logits([prompt])[0][-1], atol=2e-5, rtol=1e-5)
    assert decoder.runner.step([Chunk(prompts[1])]).cached_tokens == ([64] if max_bytes else [0])


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2", "tiny_lstm"])
def test_texts_that_pause_stay_as_they_are(folder: str, request: pytest.FixtureRequest):
    model = load(str(request.getfixturevalue(folder)), device="cpu")
    decoders = [Texts(model.runner())]
    if isinstance(model, HuggingFaceModel):
        decoders.append(Texts(CacheRunner(model.module, model.logits, 128)))
    for decoder in decoders:
        texts = [[int(decoder.start(prompt).argmax())] for prompt in PROMPTS[:3]]
        for taking in ([1], [0, 2], [2], [0, 1], None, [0, 2], [1]):
            present = range(3) if taking is None else taking
            logits = decoder.step([texts[i][-1] for i in present], taking)
            for i, row in zip(present, logits, strict=True):
                texts[i].append(int(row.argmax()))
        assert texts == [alone(model, prompt, 5) for prompt in PROMPTS[:3]]
