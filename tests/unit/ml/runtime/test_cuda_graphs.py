"""What only a GPU needs. On a CPU it must do nothing; what it does on a GPU is tested where there is one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

import ml.models.loading
from ml.runtime import cuda_graphs, device

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.mark.parametrize(("length", "rounded"), [(1, 16), (16, 16), (17, 32), (256, 256), (257, None)])
def test_lengths_are_rounded_up(length: int, rounded: int | None) -> None:
    assert cuda_graphs.rounded_up(length, cuda_graphs.LENGTHS) == rounded


def test_on_a_cpu_nothing_is_different(tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ml.models.loading.load(str(tiny_gpt2), device="cpu")
    assert cuda_graphs.record(model.module, 128) is None
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


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
class TestOnAGpu:
    pytestmark = gpu

    def test_recorded_passes_give_what_the_model_gives(self, name: str, request: pytest.FixtureRequest) -> None:
        model = ml.models.loading.load(str(request.getfixturevalue(name)), device="cuda:0")
        assert model.info.dtype == "bfloat16"
        passes = cuda_graphs.record(model.module, model.info.context_length)
        assert passes is not None, "this model can be recorded"
        for length in (1, 15, 16, 17, 100, 128):
            ids = [(7 * i) % 400 for i in range(length)]
            replayed = passes.logits(ids)
            assert replayed is not None
            with torch.inference_mode():
                computed = model.module(input_ids=torch.tensor([ids]).cuda(), logits_to_keep=1).logits[0].float()
            torch.testing.assert_close(replayed, computed, atol=0.05 * float(computed.abs().max()), rtol=0)
        first, second = passes.logits([1, 2]), passes.logits([3, 4, 5])
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
