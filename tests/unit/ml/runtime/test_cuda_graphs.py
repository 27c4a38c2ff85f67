"""What only a GPU needs. On a CPU it must do nothing; what it does on a GPU is tested where there is one."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import ml.models.loading
from ml.models.base import Chunk
from ml.runtime import cuda_graphs, device, recorded_prompts
from ml.runtime.decoding import DecodingStep
from ml.runtime.recorded_decoding import FixedStep
from ml.runtime.recorded_prompts import PaddedPrompts
from ml.runtime.sequences import Sequences
from ml.runtime.spans import spans_of
from tests.fixtures import zoo

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.mark.parametrize(("length", "rounded"), [(1, 16), (16, 16), (17, 32), (256, 256), (257, None)])
def test_lengths_are_rounded_up(length: int, rounded: int | None) -> None:
    assert cuda_graphs.rounded_up(length, recorded_prompts.LENGTHS) == rounded


def test_on_a_cpu_nothing_is_different(tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ml.models.loading.load(str(tiny_gpt2), device="cpu")
    assert model.recorded is None
    assert recorded_prompts.record(model.module, spans_of(model.module), 128) is None
    tensor = torch.ones(3)
    assert device.to_device(tensor, torch.device("cpu")) is tensor
    done = []
    thread = threading.Thread(target=device.in_front(lambda: done.append(1)))
    thread.start()
    thread.join()
    assert done == [1]
    monkeypatch.delenv("CUDA_MPS_CLIENT_PRIORITY", raising=False)
    monkeypatch.setenv("CUDA_MPS_CLIENT_PRIORITY", "0")
    device.behind()
    assert device.os.environ["CUDA_MPS_CLIENT_PRIORITY"] == "0", "the operator's own choice stands"


MODELS = ["tiny_llama", "tiny_gpt2", "gemma2", "llama4, chunks", "gpt-oss", "bloom"]
"""Heads that share keys, windows and caps, chunks, sinks, biases by position."""


@pytest.fixture(params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param.startswith("tiny"):
        made: Path = request.getfixturevalue(request.param)
        return made
    return zoo.save(request.param, tmp_path / request.param)


@torch.inference_mode()
def test_padded_prompts_give_what_the_model_gives(folder: Path) -> None:
    model = ml.models.loading.load(str(folder), device="cpu")
    prompts = PaddedPrompts(model.module, spans_of(model.module), count=4, length=32)
    for lengths in ((32, 1, 9, 20), (5, 31)):
        sequences = [[(7 * i + length) % 300 + 1 for i in range(length)] for length in lengths]
        prompts.set(sequences)
        for found, ids in zip(prompts.run(), sequences, strict=False):
            torch.testing.assert_close(found, model.logits([ids])[0][0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_fixed_steps_give_what_other_steps_give(folder: Path) -> None:
    model = ml.models.loading.load(str(folder), device="cpu")
    runner = model.runner()
    texts = [[(5 * i + length) % 300 + 1 for i in range(length)] for length in (40, 3, 25)]
    numbers = [runner.begin() for _ in texts]
    runner.step([Chunk(ids, 1, number) for ids, number in zip(texts, numbers, strict=True)])
    sequences: Sequences = runner._sequences
    step = FixedStep(model.module, sequences, spans_of(model.module), rows=4, longest=64)
    for added in range(3):
        ids, positions = np.array([7 + added, 8, 9]), np.array([len(text) for text in texts])
        table_rows = np.arange(3)
        step.set(table_rows, ids, positions)
        found = step.pass_through()[:3]
        again = DecodingStep(sequences, spans_of(model.module), table_rows=table_rows, ids=ids, positions=positions)
        torch.testing.assert_close(found, again.run(model.module).float(), atol=3e-5, rtol=1e-5)
        for text, token in zip(texts, ids.tolist(), strict=True):
            text.append(token)
        for row, text in zip(found, texts, strict=True):
            torch.testing.assert_close(row, model.logits([text])[0][0], atol=1e-4, rtol=1e-4)


def test_a_table_that_is_kept_forgets_what_it_held(tiny_gpt2: Path) -> None:
    model = ml.models.loading.load(str(tiny_gpt2), device="cpu")
    runner = model.runner()
    runner._sequences = sequences = Sequences(keep=True)
    number = runner.begin()
    runner.step([Chunk([1, 2, 3], 1, number)])
    cache = sequences.cache
    runner.drop(number)
    assert sequences.cache is cache
    assert not any(kept.any() for layer in cache.layers for kept in cache[layer])
    number = runner.begin()
    [found] = runner.step([Chunk([4, 5], 1, number)]).logits
    torch.testing.assert_close(found, model.logits([[4, 5]])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
class TestOnAGpu:
    pytestmark = gpu

    def test_recorded_passes_give_what_the_model_gives(self, name: str, request: pytest.FixtureRequest) -> None:
        model = ml.models.loading.load(str(request.getfixturevalue(name)), device="cuda:0")
        assert model.info.dtype == "bfloat16"
        passes = recorded_prompts.record(model.module, spans_of(model.module), model.info.context_length)
        assert passes is not None, "this model can be recorded"
        for length in (1, 15, 16, 17, 100, 128):
            ids = [(7 * i) % 400 for i in range(length)]
            replayed = passes.logits([ids])
            assert replayed is not None
            with torch.inference_mode():
                computed = model.module(input_ids=torch.tensor([ids]).cuda(), logits_to_keep=1).logits[0].float()
            torch.testing.assert_close(replayed, computed, atol=0.05 * float(computed.abs().max()), rtol=0)
        first, second = passes.logits([[1, 2]]), passes.logits([[3, 4, 5]])
        assert first is not None
        assert second is not None
        assert not torch.equal(first, second), "an answer outlives the next pass"

    def test_one_prompt_is_answered_as_many_are(self, name: str, request: pytest.FixtureRequest) -> None:
        model = ml.models.loading.load(str(request.getfixturevalue(name)), device="cuda:0")
        [alone] = model.logits([[5, 6, 7]])
        among = model.logits([[5, 6, 7], [1, 2]])[0]
        torch.testing.assert_close(alone, among, atol=0.05 * float(among.abs().max()), rtol=0)

    def test_a_thread_in_front_computes_on_a_stream_of_high_priority(
        self, name: str, request: pytest.FixtureRequest
    ) -> None:
        model = ml.models.loading.load(str(request.getfixturevalue(name)), device="cuda:0")
        seen: list[int] = []

        def work() -> None:
            seen.append(torch.cuda.current_stream().priority)
            model.logits([[1, 2, 3]])[0].cpu()

        thread = threading.Thread(target=device.in_front(work))
        thread.start()
        thread.join()
        assert seen == [-1]
