"""Whatever the architecture, each way to ask gives what the model's own plain forward gives, or it is refused."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import ml.models.loading
from ml.errors import ModelLoadError
from ml.models.base import Chunk, LanguageModel
from ml.models.loading import huggingface
from ml.models.verification import verify
from tests.fixtures.runners import Texts
from tests.fixtures.zoo import CONTEXT, ZOO, make, save
from tests.unit.ml.models.test_sharing import random_ids

QUICK = (
    "mistral, window 4",
    "gemma3",
    "llama4, chunks",
    "phi3, longrope",
    "deepseek-v3.2",
    "mamba",
    "bamba",
    "roberta, decoder",
    "gpt-neo",
)
"""One of each kind of trouble; the others are of the slow suite."""
REFUSED = {"bert", "roberta", "electra"}

LENGTHS = (1, 5, 15, 16, 17, 24, 25, 40, 100)
"""On both sides of every window, chunk and the like of the zoo."""
LONG = random_ids(110, 7)
UNLIKE = [random_ids(length, length) for length in LENGTHS]
SHARING = [[*LONG[:length], *random_ids(more, more)] for length in (14, 22, 64) for more in (1, 4, 9)]


def folder_of(name: str, tmp_path: Path) -> Path:
    return save(name, tmp_path / "model")


class Reference:
    """The plain forward of a copy that nothing else has touched, one prompt at a time."""

    def __init__(self, name: str) -> None:
        self._module = make(name)
        self._known: dict[tuple[int, ...], Tensor] = {}

    @torch.inference_mode()
    def __call__(self, ids: Sequence[int]) -> Tensor:
        """Logits after each token, [tokens, vocabulary]."""
        key = tuple(ids)
        if key not in self._known:
            self._known[key] = self._module(input_ids=torch.tensor([key]), use_cache=False).logits[0].float()
        return self._known[key]

    def check(self, found: Tensor, ids: Sequence[int]) -> None:
        expected = self(ids)[-len(found) :]
        assert float((found - expected).abs().max()) <= 1e-4 * max(1.0, float(expected.abs().max())), len(ids)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ZOO if name not in REFUSED],
)
def test_every_way_gives_what_the_plain_forward_gives(name: str, tmp_path: Path) -> None:
    model = ml.models.loading.load(str(folder_of(name, tmp_path)), device="cpu")
    reference = Reference(name)
    check_logits(model, reference)
    check_prompts(model, reference)
    check_streams(model, reference)
    check_texts(model, reference)
    assert model.sequence_bytes >= 0


def check_logits(model: LanguageModel, reference: Reference) -> None:
    logit_counts = [min(3, len(ids)) for ids in UNLIKE]
    for ids, together, tail in zip(UNLIKE, model.logits(UNLIKE, logit_counts), logit_counts, strict=True):
        reference.check(together, ids)
        reference.check(model.logits([ids], [tail])[0], ids)


def check_prompts(model: LanguageModel, reference: Reference) -> None:
    """Prompts that begin as earlier ones did, in each other's company and alone."""
    runner = model.runner(1 << 22)
    for sequences in (UNLIKE[:4], SHARING[:3], SHARING, UNLIKE, *([ids] for ids in SHARING)):
        result = runner.step([Chunk(ids) for ids in sequences])
        runner.insert_prefixes()
        for ids, found in zip(sequences, result.logits, strict=True):
            reference.check(found, ids)


def check_streams(model: LanguageModel, reference: Reference) -> None:
    """An explanation's sequences, behind a prefix that was read before, and behind none."""
    for length in (12, 20, 60):
        sequences = [[*LONG[:length], *ids[:9]] for ids in UNLIKE]
        for prefix in (None, model.read_prefix(LONG[:length])):
            limits = {"max_tokens": 128, "max_logits": 64}
            for batch in model.stream_logits(sequences, [1] * len(sequences), prefix=prefix, **limits):
                for index, found in zip(batch.indices, batch.logits, strict=True):
                    reference.check(found, sequences[index])


def check_texts(model: LanguageModel, reference: Reference) -> None:
    """Texts that grow beyond every bound, that join and that leave."""
    decoder = Texts(model.runner(1 << 22))
    texts = [random_ids(length, length) for length in (3, 14, 22)]
    for text in texts:
        reference.check(decoder.start(text).unsqueeze(0), text)
    for step in range(6):
        if step == 3:
            decoder.leave(0)
            texts[0] = texts.pop()
            texts.append(LONG[:30])
            reference.check(decoder.start(texts[-1]).unsqueeze(0), texts[-1])
        for place, text in enumerate(texts):
            text.append(3 + 7 * place + step)
        for text, found in zip(texts, decoder.step([text[-1] for text in texts]), strict=True):
            reference.check(found.unsqueeze(0), text)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_causal_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="is not causal: a later token changes") as caught:
        ml.models.loading.load(str(folder_of(name, tmp_path)), device="cpu")
    assert "\n" not in str(caught.value)


def test_what_is_not_used_is_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ml.models"):
        ml.models.loading.load(str(folder_of("phi3, longrope", tmp_path)), device="cpu")
    [line] = [record.getMessage() for record in caplog.records if record.name == "ml.models.loading.huggingface"]
    assert "padded batches beyond 24 tokens (differs by" in line
    assert "ragged batches beyond 24 tokens" in line


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jamba", r"ragged batches \(layers without a call of the attention function: 0, 2\)"),
        ("rwkv", r"ragged batches \(its code takes no attention function from outside\)"),
        ("deepseek-v3.2", r"ragged batches \(rows of a ragged batch cannot have attention with .*indices\)"),
        ("mamba", r"ragged batches \(its code fails on rows of several prompts\)"),
    ],
)
def test_why_a_way_is_not_used_is_told(name: str, said: str, tmp_path: Path) -> None:
    unused = ml.models.loading.load(str(folder_of(name, tmp_path)), device="cpu").info.unused
    assert re.search(said, unused), unused


@pytest.mark.parametrize("name", ["llama", "gpt2", "openai-gpt", "gpt-neo", "bloom"])
def test_plain_architectures_use_every_fast_way(name: str, tmp_path: Path) -> None:
    ways = ml.models.loading.load(str(folder_of(name, tmp_path)), device="cpu").ways
    assert min(ways.padded, ways.ragged, ways.served, ways.differentiated, ways.decoded, ways.captured) > CONTEXT


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "gpt-oss", "llama4, chunks", "mistral, window 4"])
def test_windows_chunks_caps_and_sinks_go_every_fast_way(name: str, tmp_path: Path) -> None:
    ways = ml.models.loading.load(str(folder_of(name, tmp_path)), device="cpu").ways
    assert min(ways.padded, ways.ragged, ways.served, ways.differentiated, ways.decoded) > CONTEXT


@pytest.mark.parametrize("bound", [1500, 1024])
@pytest.mark.parametrize("shrinks", [True, False])
def test_bounds_that_are_too_far_are_crossed_by_a_small_model(bound: int, shrinks: bool, tmp_path: Path, monkeypatch):
    """They are longer than a trial, or too expensive for one."""
    if bound <= 1024:
        monkeypatch.setattr(verify, "_WORK", 2e8)
    if not shrinks:
        monkeypatch.setattr(verify, "shrunken", lambda _: None)
    config = {"sliding_window": bound, "max_position_embeddings": 4096 + shrinks}
    monkeypatch.setitem(ZOO, "far", ("mistral", config))
    ways = ml.models.loading.load(str(folder_of("far", tmp_path)), device="cpu").ways
    assert (ways.ragged, ways.served, ways.cached) == ((math.inf,) * 3 if shrinks else (bound,) * 3)
    assert min(ways.padded, ways.decoded) > 4096, "the model's own code knows its window"


def test_a_small_model_does_not_vouch_for_what_fails_beyond_a_far_bound(tmp_path: Path, monkeypatch):
    kind, config = ZOO["phi3, longrope"]
    far = {"original_max_position_embeddings": 1500}
    config = config | far | {"rope_parameters": config["rope_parameters"] | far, "max_position_embeddings": 4096}
    monkeypatch.setitem(ZOO, "far", (kind, config))
    ways = ml.models.loading.load(str(folder_of("far", tmp_path)), device="cpu").ways
    assert (ways.ragged, ways.served, ways.padded) == (1500, 1500, 1500)


def test_a_restarted_process_does_not_verify_again(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(ZOO, "kept", ("mistral", {"sliding_window": 20}))
    folder = str(folder_of("kept", tmp_path))
    first = ml.models.loading.load(folder, device="cpu")
    monkeypatch.setattr(huggingface, "verify", lambda *_, **__: 1 / 0)
    again = ml.models.loading.load(folder, device="cpu")
    assert again.ways == first.ways
    ids = list(range(5, 90))
    torch.testing.assert_close(
        again.runner().step([Chunk(ids)]).logits[0], first.logits([ids])[0], atol=2e-5, rtol=1e-5
    )
    for kept in Path(os.environ["XDG_CACHE_HOME"]).rglob("*.json"):
        kept.write_text('{"ragged": "much"}')
    monkeypatch.undo()
    monkeypatch.setitem(ZOO, "kept", ("mistral", {"sliding_window": 20}))
    assert ml.models.loading.load(folder, device="cpu").ways == first.ways


def test_a_model_that_cannot_compute_is_refused_in_one_line(tmp_path: Path, monkeypatch) -> None:
    from transformers import LlamaForCausalLM

    folder = folder_of("llama", tmp_path)
    monkeypatch.setattr(LlamaForCausalLM, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ModelLoadError, match="cannot compute a prompt here: ZeroDivisionError") as caught:
        ml.models.loading.load(str(folder), device="cpu")
    assert "\n" not in str(caught.value)


def test_whatever_fails_while_loading_is_told_in_one_line(tmp_path: Path, monkeypatch) -> None:
    folder = folder_of("llama", tmp_path)
    monkeypatch.setattr(huggingface, "prepare", lambda _: {}["missing\nkey"])
    with pytest.raises(ModelLoadError, match="cannot be served: KeyError") as caught:
        ml.models.loading.load(str(folder), device="cpu")
    assert "\n" not in str(caught.value)
