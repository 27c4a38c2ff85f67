"""Seconds of an explanation: Gloss beside captum, `lime` and a plain loop, in one run on one machine.

    python -m benchmarks.explain [--model transformer | gpt2-small | FOLDER] [--repeats 3] [--json FILE]

All answer the same question about the same prompt with the same removal, on the same model object and threads. The
plain loop is transformers as a good engineer would call it (SDPA, logits of the last position only) at its best batch
size. The floor is what the arithmetic alone would take, were every distinct prefix computed once at the measured
rate of matrix products. Ratios hold; seconds drift with the machine.

`gpt2-small` is GPT-2's 124M configuration with random weights: its explanations mean nothing, their cost does.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import FeatureAblation, LLMAttribution, TextTokenInput
from lime.lime_text import LimeTextExplainer
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from ml.explain import Run
from ml.models import load
from ml.models.files import PRETRAINED
from ml.models.huggingface import HuggingFaceModel
from ml.packing import Packing
from ml.spec import Budget, ExplanationSpec, Features, Lime, NextTokenTarget, Occlusion, Prompt, Target, Unit

TEXT = (
    "The bridge was built in 1932 by the city engineers , and it was the longest of its kind in the country until"
    " the second world war . After the war , the river changed its course , and the old road was closed to all "
    "traffic . In the spring of 1954 a new company bought the land on both sides of the river and began to build "
    "houses for the workers of the steel works . The houses were small , but each had a garden , and by the end "
    "of the decade more than two thousand people lived there . The bridge was opened again in 1961 , when the "
    "mayor and the minister of transport walked over it in the rain , and a band played on the northern side . "
)
PLAIN_BATCHES = (8, 16, 32, 64)
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """One way to one explanation: the median of its seconds, and how far its numbers are from Gloss's."""

    work: str
    who: str
    seconds: float
    difference: float | None = None


class Bench:
    """One model and the ways to explain it."""

    def __init__(self, model: HuggingFaceModel, folder: Path, repeats: int) -> None:
        self.model = model
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        mask = model.tokenizer.mask_token
        if mask is None:
            raise SystemExit("the peers replace removed tokens by the mask or unknown token, and this model has none")
        self.mask_id, self.mask_text = mask
        self.repeats = repeats

    def occlusion(self, tokens: int, last: int) -> list[Measurement]:
        """Leave out each of the last `last` of `tokens` tokens."""
        ids = self.model.tokenizer.ids(TEXT * 8)[:tokens]
        text = self.model.tokenizer.decode(ids)
        target = int(self.model.logits([ids])[0][-1].argmax())
        within = self.model.tokenizer.encode(Prompt(token_ids=ids)).spans[tokens - last]
        start = within[0] if within else 0
        spec = ExplanationSpec(
            Prompt(token_ids=ids),
            Occlusion(),
            target=Target(NextTokenTarget(id=target)),
            features=Features(Unit.TOKEN, within=None if last == tokens else (start, len(text))),
            faithfulness=False,
        )
        work = f"occlusion of {last} of {tokens} tokens"
        variants = [list(ids)] + [[*ids[:i], self.mask_id, *ids[i + 1 :]] for i in range(tokens - last, tokens)]

        def plain(batch: int) -> Values:
            values = self._plain(variants, target, batch)
            return values[0] - values[1:]

        seconds, ours = self._timed(lambda: self._gloss(spec))
        found = [Measurement(work, "gloss", seconds), Measurement(work, "floor", self._floor(variants))]
        ours = ours[-last:]
        for name, way in self._plain_ways(plain):
            seconds, theirs = self._timed(way)
            found.append(Measurement(work, name, seconds, float(np.abs(theirs - ours).max())))
        if last == tokens:
            attribution = LLMAttribution(FeatureAblation(self.model.module), self.tokenizer)
            prompt = TextTokenInput(text, self.tokenizer, baselines=self.mask_id)
            continuation = self.model.tokenizer.token_text(target)
            seconds, _ = self._timed(lambda: attribution.attribute(prompt, target=continuation))
            found.append(Measurement(work, "captum", seconds))
        return found

    def lime(self, words: int, samples: int) -> list[Measurement]:
        """LIME with `samples` evaluations of a prompt of `words` words."""
        text = " ".join(TEXT.split()[:words])
        ids = self.model.tokenizer.encode(Prompt(text=text)).ids
        target = int(self.model.logits([ids])[0][-1].argmax())
        spec = ExplanationSpec(
            Prompt(text=text),
            Lime(),
            target=Target(NextTokenTarget(id=target)),
            budget=Budget(max_evaluations=samples),
            faithfulness=False,
        )
        work = f"LIME, {samples} samples of {words} words"
        seconds, _ = self._timed(lambda: self._gloss(spec))
        found = [Measurement(work, "gloss", seconds)]

        def predict(texts: Sequence[str]) -> Values:
            sequences = [list(self.model.tokenizer.encode(Prompt(text=variant)).ids) for variant in texts]
            log_p = self._plain(sequences, target, 32)
            return np.stack([log_p, -log_p], axis=1)

        def peer() -> Values:
            explainer = LimeTextExplainer(
                bow=False, split_expression=str.split, mask_string=self.mask_text, random_state=0
            )
            explained = explainer.explain_instance(text, predict, labels=(0,), num_features=words, num_samples=samples)
            return np.array([weight for _, weight in explained.as_list(label=0)])

        seconds, _ = self._timed(peer)
        return [*found, Measurement(work, "lime", seconds)]

    def _gloss(self, spec: ExplanationSpec) -> Values:
        *_, last = Run(self.model, spec)
        if last.result is None:
            raise AssertionError("the last update holds the result")
        return np.array([attribution.value for attribution in last.result.attributions])

    @torch.inference_mode()
    def _plain(self, sequences: Sequence[Sequence[int]], target: int, batch: int) -> Values:
        """Log-probability of `target` after each sequence, by batches of similar length, padded on the left."""
        values = np.empty(len(sequences))
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            longest = len(sequences[chosen[-1]])
            ids = torch.full((len(chosen), longest), self.mask_id)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(chosen):
                ids[row, longest - len(sequences[i]) :] = torch.tensor(sequences[i])
                mask[row, longest - len(sequences[i]) :] = 1
            extra = {} if bool(mask.all()) else {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp_(0)}
            out = self.model.module(input_ids=ids, use_cache=False, logits_to_keep=1, **extra)
            values[chosen] = torch.log_softmax(out.logits[:, -1].double(), dim=-1)[:, target].numpy()
        return values

    def _plain_ways(self, plain: Callable[[int], Values]) -> list[tuple[str, Callable[[], Values]]]:
        """The plain loop at its best batch size, found by one trial of each."""
        seconds = {}
        for batch in PLAIN_BATCHES:
            begin = time.perf_counter()
            plain(batch)
            seconds[batch] = time.perf_counter() - begin
        best = min(seconds, key=lambda batch: seconds[batch])
        return [(f"plain loop, batches of {best}", lambda: plain(best))]

    def _timed(self, way: Callable[[], Values]) -> tuple[float, Values]:
        times = []
        for _ in range(self.repeats):
            begin = time.perf_counter()
            values = way()
            times.append(time.perf_counter() - begin)
        return float(np.median(times)), values

    def _floor(self, variants: Sequence[Sequence[int]]) -> float:
        """Seconds of the matrix products, each distinct prefix computed once and the head once a variant."""
        rows = Packing(variants, [1] * len(variants)).rows
        module = self.model.module
        embedding = module.get_input_embeddings().weight.numel()
        head = module.get_output_embeddings().weight.numel()
        body = sum(p.numel() for p in module.parameters() if p.dim() == 2) - embedding
        body -= 0 if module.config.tie_word_embeddings else head
        return 2 * (rows * body + len(variants) * head) / matmul_rate(module.config.hidden_size)


def matmul_rate(width: int) -> float:
    """Floating-point operations a second of [1024, width] x [width, 4 width] in float32, the best of some."""
    a, b = torch.randn(1024, width), torch.randn(width, 4 * width)
    best = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        torch.matmul(a, b)
        best = min(best, time.perf_counter() - begin)
    return 2 * a.numel() * b.shape[1] / best


def gpt2_small(folder: Path) -> Path:
    """GPT-2's smallest configuration with random weights, and the shipped transformer's tokenizer."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(PRETRAINED / "transformer").save_pretrained(folder)
    return folder


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transformer", help="shipped name, folder, or gpt2-small")
    parser.add_argument("--repeats", type=int, default=3, help="each figure is the median of so many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as temporary:
        shipped = PRETRAINED / options.model
        folder = shipped if shipped.is_dir() else Path(options.model)
        if options.model == "gpt2-small":
            folder = gpt2_small(Path(temporary) / "gpt2-small")
        model = load(str(folder), device="cpu", threads=options.threads)
        if not isinstance(model, HuggingFaceModel):
            raise SystemExit("the peers explain models of transformers only")
        bench = Bench(model, folder, options.repeats)
        longest = min(512, model.info.context_length)
        found = bench.occlusion(64, 64) + bench.occlusion(longest, 32) + bench.lime(32, 1000)

    table = Table("work", "who", "seconds", "of gloss's", "largest difference", title=f"{model.info.name}, float32")
    ours = {one.work: one.seconds for one in found if one.who == "gloss"}
    for one in found:
        difference = "" if one.difference is None else f"{one.difference:.1e}"
        table.add_row(one.work, one.who, f"{one.seconds:.2f}", f"{one.seconds / ours[one.work]:.2f}", difference)
    console.print(table)
    if options.json:
        machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads}
        figures = {"model": model.info.name, "torch": torch.__version__, **machine, "found": [asdict(m) for m in found]}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
