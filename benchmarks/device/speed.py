"""How fast a device answers and explains."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks.explained import explained
from benchmarks.serving import processes, rows
from benchmarks.serving.figures import Figure, percentiles
from benchmarks.serving.load import closed_loop, requests
from benchmarks.subjects import TEXT
from gloss import Client
from ml.models.base import Chunk, LanguageModel, Runner
from ml.models.loading import load
from ml.spec import (
    Budget,
    Estimator,
    ExplanationSpec,
    Features,
    Lime,
    NextTokenTarget,
    Occlusion,
    Prompt,
    Quality,
    Target,
    Unit,
)

PROMPT_TOKENS = 64
CLIENTS = 64


def served(folder: Path, device: str, vocabulary: int, seconds: float) -> Iterator[Figure]:
    """Next tokens and generated text over loopback gRPC, from `python -m server` on `device`."""
    generator = np.random.default_rng(5)

    def fresh() -> Iterator[bytes]:
        while True:
            yield requests([generator.integers(2, vocabulary, PROMPT_TOKENS).tolist()])[0]

    with processes.gloss(folder, threads=2, GLOSS_DEVICE=device) as server:
        yield Figure("start of the server", "gloss", p50=1e3 * server.start_seconds, note="to its first answer")
        for clients in (1, CLIENTS):
            rate, times = asyncio.run(closed_loop(server.address, clients, fresh(), seconds))
            yield Figure(f"next token after {PROMPT_TOKENS}, {clients} clients", "gloss", rate, *percentiles(times))
        yield from asyncio.run(rows.generate(server.address, vocabulary, (1, 32), repeats=2))


def explanations(folder: Path, device: str, dtypes: tuple[str, ...], words: int, samples: int) -> Iterator[Figure]:
    """LIME and occlusion in this process, beside transformers' padded batches of as many prompts."""
    text = " ".join(TEXT.split()[:words])
    for dtype in dtypes:
        model = load(str(folder), device=device, dtype=dtype)
        ids = model.tokenizer.encode(Prompt(text=text)).ids
        target = int(model.logits([ids])[0][-1].argmax())
        spec = ExplanationSpec(
            Prompt(text=text),
            Lime(estimator=Estimator.TEXTBOOK),
            target=Target(NextTokenTarget(id=target)),
            budget=Budget(max_evaluations=samples),
            quality=Quality(faithfulness=False),
        )
        work = f"LIME, {samples} samples of {words} words"
        yield timed(work, f"gloss, {dtype}", lambda: explained(model, spec))  # noqa: B023 - called at once
        control = replace(spec, method=Lime())
        yield timed(f"{work}, control variates", f"gloss, {dtype}", lambda: explained(model, control))  # noqa: B023
        occlusion = replace(spec, method=Occlusion(), features=Features(Unit.TOKEN), budget=Budget())
        yield timed(f"occlusion of {len(ids)} tokens", f"gloss, {dtype}", lambda: explained(model, occlusion))  # noqa: B023
        yield timed(work, f"transformers, padded, {dtype}", _plain(folder, model, list(ids), samples))


def through_a_worker(folder: Path, device: str, words: int, samples: int) -> Iterator[Figure]:
    """The same LIME as a job: gRPC, Redis, and a worker on the device beside the server."""
    text = " ".join(TEXT.split()[:words])
    with (
        tempfile.TemporaryDirectory() as state,
        processes.worker(folder, 2, Path(state), GLOSS_DEVICE=device) as redis,
        processes.gloss(folder, 2, GLOSS_REDIS_URL=redis, GLOSS_DEVICE=device) as server,
        Client(server.address) as client,
    ):
        seeds = count()

        def ask() -> None:
            client.explain(
                text, method="lime", estimator="textbook", max_evaluations=samples, seed=next(seeds), faithfulness=False
            )

        yield timed(f"LIME, {samples} samples of {words} words", "a job, from request to result", ask)


@torch.inference_mode()
def _plain(folder: Path, model: LanguageModel, ids: list[int], samples: int) -> Callable[[], None]:
    """`samples` prompts of the same length as padded batches, read out at the last position only."""
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, model.info.dtype)).eval()
    module = module.to(model.info.device)
    batch = 250

    @torch.inference_mode()
    def run() -> None:
        for begin in range(0, samples, batch):
            inputs = torch.tensor([ids] * min(batch, samples - begin), device=module.device)
            module(input_ids=inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float().log_softmax(-1).cpu()

    return run


def stepped(work: str, who: str, runner: Runner, chunks: Sequence[Chunk], note: str = "") -> Figure:
    """Milliseconds of a step, once a pass for it is recorded if it can be."""

    def run() -> None:
        torch.cat(list(runner.step(chunks).logits)).cpu()

    for _ in range(5):
        run()
    return timed(work, who, run, note, repeats=20)


def timed(work: str, who: str, way: Callable[[], object], note: str = "", repeats: int = 5) -> Figure:
    """Milliseconds of the repeats after the first."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        way()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return Figure(work, who, None, *percentiles(times[1:]), note=note or f"first {1e3 * times[0]:.0f} ms")
