"""Sharing prefixes changes how long an answer takes, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ml.models.base import LanguageModel, Prefix
from ml.models.huggingface import HuggingFaceModel
from ml.models.internals.attention_capture import prepare
from ml.models.loading import load
from ml.models.verification.verify import Ways, verify


def random_ids(count: int, seed: int) -> list[int]:
    return torch.randint(2, 390, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


ORIGINAL = random_ids(40, 1)
OCCLUDED = [ORIGINAL, *([*ORIGINAL[:i], 1, *ORIGINAL[i + 1 :]] for i in range(40))]
SHORTENED = [ORIGINAL, *([*ORIGINAL[:i], *ORIGINAL[i + 1 :]] for i in range(40))]
LATE = [[*random_ids(90, 2), *ids[:12]] for ids in OCCLUDED[:13]]
UNLIKE = [random_ids(n, n) for n in (1, 2, 7, 30, 31)]
ALIKE = [ORIGINAL[:5]] * 3


def streamed(
    model: LanguageModel,
    sequences: Sequence[Sequence[int]],
    logit_counts: Sequence[int],
    max_tokens: int = 300,
    prefix: Prefix | None = None,
) -> tuple[list[torch.Tensor], int, int]:
    found: dict[int, torch.Tensor] = {}
    computed = saved = 0
    for batch in model.stream_logits(sequences, logit_counts, max_tokens=max_tokens, max_logits=50, prefix=prefix):
        assert not found.keys() & set(batch.indices)
        found.update(zip(batch.indices, batch.logits, strict=True))
        computed += batch.tokens_computed
        saved += batch.tokens_saved
    assert computed + saved == sum(map(len, sequences))
    return [found[i] for i in range(len(sequences))], computed, saved


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2", "tiny_lstm"])
@pytest.mark.parametrize("max_tokens", [1, 60, 10_000])
@pytest.mark.parametrize("sequences", [OCCLUDED, SHORTENED, LATE, UNLIKE, ALIKE], ids=lambda s: str(len(s)))
def test_streamed_equals_alone(request, load_model, folder, max_tokens, sequences) -> None:
    model = load_model(request.getfixturevalue(folder))
    sequences = [[token % model.info.vocabulary_size for token in ids] for ids in sequences]
    logit_counts = [min(1 + i % 3, len(ids)) for i, ids in enumerate(sequences)]
    found, _, _ = streamed(model, sequences, logit_counts, max_tokens)
    for ids, tail, logits in zip(sequences, logit_counts, found, strict=True):
        torch.testing.assert_close(logits, model.logits([ids], [tail])[0], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2", "tiny_lstm"])
@pytest.mark.parametrize("max_tokens", [1, 10_000])
@pytest.mark.parametrize("known", [1, 20, 89])
def test_a_beginning_is_read_once_for_several_requests(request, load_model, folder, max_tokens, known) -> None:
    model = load_model(request.getfixturevalue(folder))
    sequences = [[token % model.info.vocabulary_size for token in ids] for ids in LATE]
    prefix = model.read_prefix(sequences[0][:known])
    for chosen in (sequences, sequences[:1], sequences[3:7]):
        found, computed, _ = streamed(model, chosen, [1] * len(chosen), max_tokens, prefix)
        assert computed <= sum(len(ids) - known for ids in chosen)
        for ids, logits in zip(chosen, found, strict=True):
            torch.testing.assert_close(logits, model.logits([ids])[0], atol=2e-5, rtol=1e-5)


def test_an_lstm_reads_what_is_shared_once(load_model, tiny_lstm) -> None:
    model = load_model(tiny_lstm)
    sequences = [[token % model.info.vocabulary_size for token in ids] for ids in LATE]
    _, computed, saved = streamed(model, sequences, [1] * len(sequences), 10_000)
    assert computed < 90 + 12 * len(sequences) + 10
    assert saved > 0.8 * (computed + saved)


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2"])
def test_a_transformer_computes_each_prefix_once(request, load_model, folder) -> None:
    model = load_model(request.getfixturevalue(folder))
    _, computed, saved = streamed(model, OCCLUDED, [1] * 41)
    assert computed == 40 + sum(range(1, 41))
    assert saved == 41 * 40 - computed


def test_the_same_call_gives_the_same_bits(load_model: Callable[[Path], LanguageModel], tiny_llama: Path) -> None:
    model = load_model(tiny_llama)
    first, second = (streamed(model, OCCLUDED, [1] * 41)[0] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_model_with_an_attention_of_its_own_falls_back_to_plain_batches(
    load_model: Callable[[Path], LanguageModel], tiny_llama: Path
) -> None:
    model = load_model(tiny_llama)
    assert isinstance(model, HuggingFaceModel)
    assert model.ways.ragged
    eager = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation="eager").eval()
    assert not verify(eager, 128, "model").ragged
    alone = HuggingFaceModel(eager, model.tokenizer, model.info, prepare(eager), ways=Ways(padded=128))
    found, computed, saved = streamed(alone, OCCLUDED, [1] * 41)
    assert (computed, saved) == (41 * 40, 0)
    expected, _, _ = streamed(model, OCCLUDED, [1] * 41)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=2e-5, rtol=1e-5)


def test_prompts_beyond_a_sliding_window_see_what_it_holds(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mistral"
    folder.mkdir()
    for file in tiny_llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 8}
    (folder / "config.json").write_text(json.dumps(config))
    model = load(str(folder), device="cpu")
    for length in (8, 20):
        sequences = [ids[:length] for ids in OCCLUDED[: length + 1]]
        found, _, saved = streamed(model, sequences, [1] * len(sequences))
        assert saved
        for ids, logits in zip(sequences, found, strict=True):
            torch.testing.assert_close(logits, model.logits([ids])[0], atol=2e-5, rtol=1e-5)
