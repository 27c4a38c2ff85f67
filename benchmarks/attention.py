"""Milliseconds of attention beside the model's own forward pass, in one run on one machine.

    python -m benchmarks.attention [--models transformer gpt2-small] [--tokens 256] [--rounds 31] [--json FILE]

The reference is transformers as a good engineer would call it for the next token: SDPA, no cache, logits of the last
position only. `output_attentions=True`, which runs eager attention, is how one gets the weights without Gloss. Every
way is measured once a round, in turn, so that what else the machine does meets all alike. Gloss's figures are of the
whole answer: weights reduced, and written down as the reply's bytes. Ratios hold; milliseconds drift with the machine.

`gpt2-small` is GPT-2's 124M configuration with random weights: its attention means nothing, its cost does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.machine import processor
from benchmarks.subjects import TEXT, folder_of
from gloss import v1 as pb
from ml.attention import AttentionSpec, Reduction, resolve
from ml.memory import keep_freed_memory
from ml.models.huggingface import HuggingFaceModel
from ml.models.internals.attention_maps import attend
from ml.models.loading import load
from server.services.wire import write_attention

FORWARD = "forward, SDPA"


@dataclass(frozen=True)
class Measurement:
    """One way: the median of its milliseconds, and of its ratios to the forward pass of the same round."""

    what: str
    milliseconds: float
    ratio: float


def ways(model: HuggingFaceModel, plain: dict[str, PreTrainedModel], tokens: int) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    ids = model.tokenizer.ids(TEXT * 8)[:tokens]
    tensor = torch.tensor([ids])

    def asked(spec: AttentionSpec) -> Callable[[], object]:
        plan = resolve(spec, model.info, len(ids))

        def answer() -> bytes:
            reply = pb.AttentionResponse()
            write_attention(reply, attend(model, ids, plan))
            return reply.SerializeToString()

        return answer

    @torch.inference_mode()
    def forward(**more: bool) -> object:
        module = plain["eager" if more else "sdpa"]
        return module(input_ids=tensor, use_cache=False, logits_to_keep=1, **more).logits

    middle, all_queries = model.info.layers // 2, tuple(range(len(ids)))
    return {
        FORWARD: forward,
        "one middle layer, last query": asked(AttentionSpec(layers=(middle,))),
        "one middle layer, all queries": asked(AttentionSpec(layers=(middle,), queries=all_queries)),
        "all layers and heads, last query": asked(AttentionSpec()),
        "all layers, head mean, last query": asked(AttentionSpec(reduction=Reduction.HEAD_MEAN)),
        "all layers and heads, all queries, top 8": asked(AttentionSpec(queries=all_queries, top_n=8)),
        "rollout over all layers, last query": asked(AttentionSpec(reduction=Reduction.ROLLOUT)),
        "transformers' output_attentions, eager": lambda: forward(output_attentions=True),
    }


def measure(folder: Path, tokens: int, rounds: int, threads: int) -> list[Measurement]:
    """All ways on one model."""
    model = load(str(folder), device="cpu", threads=threads)
    if not isinstance(model, HuggingFaceModel):
        raise SystemExit("this model has no attention")
    plain = {
        kind: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=kind).eval()
        for kind in ("sdpa", "eager")
    }
    measured = ways(model, plain, tokens)
    times: dict[str, list[float]] = {what: [] for what in measured}
    for number in range(-2, rounds):
        for what, way in measured.items():
            began = time.perf_counter()
            way()
            if number >= 0:
                times[what].append(time.perf_counter() - began)
    return [
        Measurement(
            what,
            1e3 * statistics.median(own),
            statistics.median(one / other for one, other in zip(own, times[FORWARD], strict=True)),
        )
        for what, own in times.items()
    ]


def main() -> None:
    """Measure, print tables, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["transformer", "gpt2-small"], help="shipped names, folders")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    keep_freed_memory()  # as the server does
    figures = {}
    for name in options.models:
        with folder_of(name) as folder:
            found = measure(folder, options.tokens, options.rounds, options.threads)
        table = Table("what", "ms", "÷ forward", title=f"{name}, {options.tokens} tokens")
        for one in found:
            table.add_row(one.what, f"{one.milliseconds:.2f}", f"{one.ratio:.2f}")
        Console().print(table)
        figures[name] = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "processor": processor(),
            "threads": options.threads,
            "tokens": options.tokens,
            "rounds": options.rounds,
            "versions": {name: version(name) for name in ("torch", "transformers")},
            "found": [asdict(one) for one in found],
        }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
