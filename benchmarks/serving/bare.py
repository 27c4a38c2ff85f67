"""The model without a server: transformers as it comes, and Gloss's own model object."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.serving.figures import Figure, percentiles
from ml.models.base import Chunk, LanguageModel

BATCHES = (1, 2, 4, 8, 16, 32)
BARE, OWN = "transformers, bare", "gloss, no server"


def load_bare(folder: Path) -> PreTrainedModel:
    """The model as transformers loads it: SDPA, float32."""
    module: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return module


@torch.inference_mode()
def logits(module: PreTrainedModel, texts: Sequence[Sequence[int]]) -> Tensor:
    """Next-token logits of a batch: padded on the right, no mask, the head at the last positions only."""
    ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long)
    last = torch.zeros_like(ids, dtype=torch.bool)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        last[row, len(text) - 1] = True
    found: Tensor = module(input_ids=ids, use_cache=False, logits_to_keep=last).logits
    return found.log_softmax(-1).topk(10).values


def calls(module: PreTrainedModel, model: LanguageModel, texts: list[list[int]], seconds: float) -> list[Figure]:
    """One prompt at a time, and sorted by length at the best batch size."""
    runner = model.runner()
    found = []
    ways: dict[str, Callable[[Sequence[list[int]]], object]] = {
        BARE: lambda batch: logits(module, batch),
        OWN: lambda batch: runner.step([Chunk(text) for text in batch]).logits,
    }
    for who, way in ways.items():
        times: list[float] = []
        for text in texts[:5]:
            way([text])
        end = time.perf_counter() + seconds
        for text in cycle(texts):
            began = time.perf_counter()
            way([text])
            times.append(time.perf_counter() - began)
            if time.perf_counter() > end:
                break
        found.append(Figure("next token, one at a time", who, len(times) / sum(times), *percentiles(times)))
        rates = {batch: _rate(way, sorted(texts, key=len), batch) for batch in BATCHES}
        best = max(rates, key=lambda batch: rates[batch])
        found.append(Figure("next token, best batch", who, rates[best], note=f"batches of {best}"))
    return found


def _rate(way: Callable[[Sequence[list[int]]], object], ordered: list[list[int]], batch: int) -> float:
    began = time.perf_counter()
    for at in range(0, len(ordered), batch):
        way(ordered[at : at + batch])
    return len(ordered) / (time.perf_counter() - began)


def attention(module: PreTrainedModel, model: LanguageModel, repeats: int) -> list[Figure]:
    """The last query's attention over 256 tokens, against the plain forward of the same prompt."""
    ids = np.random.default_rng(3).integers(2, model.info.vocabulary_size, 256).tolist()
    middle, layers = model.info.layers // 2, range(model.info.layers)
    ways: dict[str, Callable[[], object]] = {
        "plain forward": lambda: logits(module, [ids]),
        "gloss's forward": lambda: model.logits([ids]),
        "one middle layer": lambda: model.attention(ids, [middle], [255], lambda *_: None),
        "all layers": lambda: model.attention(ids, layers, [255], lambda *_: None),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():  # side by side, so that what disturbs one disturbs all
            began = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - began)
    plain = float(np.median(times["plain forward"]))
    return [
        Figure(
            name if "forward" in name else f"attention, {name}, last query, 256 tokens",
            BARE if name == "plain forward" else OWN,
            None,
            *percentiles(taken),
            ratio=float(np.median(taken)) / plain,
            note="of the plain forward",
        )
        for name, taken in times.items()
    ]
