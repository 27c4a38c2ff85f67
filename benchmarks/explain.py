"""Seconds of an explanation: Gloss beside captum, `lime` and a plain loop, in one run on one machine.

    python -m benchmarks.explain [--model transformer | gpt2-small | FOLDER] [--only WORK ...] [--json FILE]

All answer the same question about the same prompt with the same removal, on the same weights and threads: Gloss on the
model as it loads it, the others on transformers' own. LIME and Shapley values are the textbook's, from as many
evaluations as the peers'; a row with control variates tells what a third of them takes. The plain loop is transformers
as a good engineer would call it (SDPA, logits of the last position only) at its best batch size. The floor is what the
arithmetic alone would take, were every distinct prefix computed once at the best measured rate of matrix products.
Ratios hold; seconds drift with the machine.

inseq (`pip install inseq`) is asked for occlusion where it is installed. `gpt2-small` is GPT-2's 124M model with
random weights: its explanations mean nothing, their cost does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shap
import torch
from captum.attr import FeatureAblation, LLMAttribution, ShapleyValueSampling, TextTemplateInput
from captum.attr import KernelShap as CaptumKernelShap
from captum.attr import Lime as CaptumLime
from lime.lime_text import LimeTextExplainer
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from benchmarks.machine import processor
from ml.explain import Run
from ml.memory import keep_freed_memory
from ml.models import load
from ml.models.fast_layers import linear
from ml.models.files import PRETRAINED
from ml.models.huggingface import HuggingFaceModel
from ml.result import Cost, ExplanationResult
from ml.spec import (
    Budget,
    Estimator,
    ExplanationSpec,
    Features,
    KernelShap,
    Lime,
    Method,
    NextTokenTarget,
    Occlusion,
    PrecisionPolicy,
    Prompt,
    ShapleyPermutation,
    Target,
    Unit,
)

TEXT = (
    "The bridge was built in 1932 by the city engineers , and it was the longest of its kind in the country until"
    " the second world war . After the war , the river changed its course , and the old road was closed to all "
    "traffic . In the spring of 1954 a new company bought the land on both sides of the river and began to build "
    "houses for the workers of the steel works . The houses were small , but each had a garden , and by the end "
    "of the decade more than two thousand people lived there . The bridge was opened again in 1961 , when the "
    "mayor and the minister of transport walked over it in the rain , and a band played on the northern side . "
)
_WARM_SECONDS = 2
"""A first round that takes less is not counted: libraries prepare themselves for shapes that they have not seen."""
PLAIN_BATCHES = (4, 8, 16, 32)
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """One way to one explanation: the median of its seconds, and how its numbers agree with Gloss's in float32."""

    work: str
    who: str
    seconds: float
    difference: float | None = None
    """Largest absolute one, where both compute the same numbers."""
    correlation: float | None = None
    """Pearson's, where both estimate the same numbers."""
    precision: str = "float32"


class Bench:
    """One model and the ways to explain it."""

    def __init__(self, model: HuggingFaceModel, folder: Path, repeats: int, share: float) -> None:
        self.model = model
        self.peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        mask = model.tokenizer.mask_token
        if mask is None:
            raise SystemExit("the peers replace removed tokens by the mask or unknown token, and this model has none")
        self.mask_id, self.mask_text = mask
        self.repeats = repeats
        self.share = share

    def occlusion(self, tokens: int, last: int) -> list[Measurement]:
        """Leave out each of the last `last` of `tokens` tokens."""
        ids = self.model.tokenizer.ids(TEXT * 8)[:tokens]
        text = self.model.tokenizer.decode(ids)
        target = self._likeliest(ids)
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

        def plain(batch: int, among: int | None = None) -> Values:
            values = self._plain(variants[:among], target, batch)
            return values[0] - values[1:]

        found, ours = self._ours(work, spec)
        batch = self._best_batch(plain)
        seconds, theirs = self._timed(lambda: plain(batch))
        difference = float(np.abs(theirs - ours[-last:]).max())
        found.append(Measurement(work, f"plain loop, batches of {batch}", seconds, difference))

        # The features are the last tokens only. With a cache captum counts a GPT-2's positions twice.
        attribution = LLMAttribution(FeatureAblation(self.peer), self.tokenizer)
        kept, left = ids[: tokens - last], ids[tokens - last :]
        template = self.model.tokenizer.decode(kept).replace("{", "(").replace("}", ")") + "{}" * last
        values = [self.model.tokenizer.token_text(one) for one in left]
        prompt = TextTemplateInput(template, values, baselines=[self.mask_text] * last)
        continuation = self.model.tokenizer.token_text(target)
        seconds, _ = self._timed(lambda: attribution.attribute(prompt, target=continuation, use_cached_outputs=False))
        found.append(Measurement(work, "captum FeatureAblation", seconds))
        if last == tokens and (inseq := _inseq()) is not None:
            peer = inseq.load_model(self.peer, "occlusion", tokenizer=self.tokenizer)
            seconds, _ = self._timed(lambda: peer.attribute(text, text + continuation, show_progress=False))
            found.append(Measurement(work, "inseq occlusion", seconds))
        return found

    def lime(self, words: int, samples: int) -> list[Measurement]:
        """LIME with `samples` evaluations of a prompt of `words` words."""
        text, target = self._words(words)
        spec = self._word_spec(text, target, Lime(), samples)
        work = f"LIME, {samples} samples of {words} words"
        found, ours = self._ours(work, spec)
        found.append(self._third(work, spec, samples))

        def peer() -> Values:
            explainer = LimeTextExplainer(
                bow=False, split_expression=str.split, mask_string=self.mask_text, random_state=0
            )
            predict = self._predict(target)
            explained = explainer.explain_instance(text, predict, labels=(0,), num_features=words, num_samples=samples)
            weights = dict(explained.as_map()[0])
            return np.array([weights[i] for i in range(words)])

        seconds, theirs = self._timed(peer)
        found.append(Measurement(work, "lime, batched predict", seconds, correlation=_correlation(ours, theirs)))
        captum = CaptumLime(self.peer)
        return [*found, self._captum(work, "captum Lime", captum, text, target, samples)]

    def shapley(self, words: int, samples: int) -> list[Measurement]:
        """Shapley values with `samples` evaluations of a prompt of `words` words."""
        text, target = self._words(words)
        work = f"Shapley values, {samples} evaluations of {words} words"
        spec = self._word_spec(text, target, KernelShap(), samples)
        found, ours = self._ours(work, spec)
        found.append(self._third(work, spec, samples))
        spec = self._word_spec(text, target, ShapleyPermutation(), samples)
        seconds, theirs = self._timed(lambda: self._gloss(spec)[0])
        found.append(Measurement(work, "gloss, permutations", seconds, correlation=_correlation(ours, theirs)))
        pieces, predict = text.split(), self._predict(target)

        def game(masks: Values) -> Values:
            return predict(
                [" ".join(w if m else self.mask_text for w, m in zip(pieces, row, strict=True)) for row in masks]
            )[:, 0]

        def peer() -> Values:
            explainer = shap.KernelExplainer(game, np.zeros((1, words)), seed=0)
            values: Values = explainer.shap_values(np.ones(words), nsamples=samples, silent=True, l1_reg=False)
            return values

        seconds, theirs = self._timed(peer)
        found.append(
            Measurement(work, "shap KernelExplainer, batched", seconds, correlation=_correlation(ours, theirs))
        )
        found.append(self._captum(work, "captum KernelShap", CaptumKernelShap(self.peer), text, target, samples))
        # One permutation walks through all words.
        sampling = ShapleyValueSampling(self.peer)
        permutations = self._captum(work, "captum ShapleyValueSampling", sampling, text, target, samples // words)
        return [*found, permutations]

    def _words(self, words: int) -> tuple[str, int]:
        text = " ".join(TEXT.split()[:words])
        return text, self._likeliest(self.model.tokenizer.encode(Prompt(text=text)).ids)

    def _likeliest(self, ids: Sequence[int]) -> int:
        return int(self.model.logits([ids])[0][-1].argmax())

    def _word_spec(self, text: str, target: int, method: Method, samples: int) -> ExplanationSpec:
        return ExplanationSpec(
            Prompt(text=text),
            method,
            target=Target(NextTokenTarget(id=target)),
            budget=Budget(max_evaluations=samples),
            faithfulness=False,
            estimator=Estimator.TEXTBOOK,
        )

    def _third(self, work: str, spec: ExplanationSpec, samples: int) -> Measurement:
        """Gloss with control variates, from a third of the evaluations."""
        fewer = replace(spec, budget=Budget(max_evaluations=samples // 3), estimator=Estimator.CONTROL_VARIATES)
        seconds, _ = self._timed(lambda: self._gloss(fewer)[0])
        return Measurement(work, f"gloss, {samples // 3} evaluations, control variates", seconds)

    def _ours(self, work: str, spec: ExplanationSpec) -> tuple[list[Measurement], Values]:
        """Gloss in float32 and in what `auto` chooses, each with the floor of the same work."""
        found, reference = [], np.empty(0)
        for policy in PrecisionPolicy:
            chosen = replace(spec, precision=policy)
            seconds, values = self._timed(lambda chosen=chosen: self._gloss(chosen)[0])  # type: ignore[misc]
            _, result = self._gloss(chosen)
            reference = reference if len(reference) else values
            who, precision = f"gloss, {policy.value}", result.precision.dtype
            difference, correlation = float(np.abs(values - reference).max()), _correlation(values, reference)
            found.append(Measurement(work, who, seconds, difference, correlation, precision))
            if policy is PrecisionPolicy.FLOAT32:
                found.append(Measurement(work, "floor", self._floor(result.cost)))
        return found, reference

    def _gloss(self, spec: ExplanationSpec) -> tuple[Values, ExplanationResult]:
        *_, last = Run(self.model, spec)
        if last.result is None:
            raise AssertionError("the last update holds the result")
        return np.array([attribution.value for attribution in last.result.attributions]), last.result

    def _captum(  # noqa: PLR0917 - one way of captum's
        self, work: str, who: str, method: Any, text: str, target: int, samples: int
    ) -> Measurement:
        """One of captum's sampling methods, on a share of the samples, scaled to all of them."""
        pieces = text.split()
        blanks = [self.mask_text, *[f" {self.mask_text}"] * (len(pieces) - 1)]
        values = [pieces[0], *(f" {piece}" for piece in pieces[1:])]
        prompt = TextTemplateInput("{}" * len(pieces), values, baselines=blanks)
        attribution = LLMAttribution(method, self.tokenizer)
        continuation = self.model.tokenizer.token_text(target)
        some = max(1, round(samples * self.share))
        began = time.perf_counter()
        attribution.attribute(prompt, target=continuation, n_samples=some, use_cached_outputs=False)
        seconds = (time.perf_counter() - began) * samples / some
        return Measurement(work, who if some == samples else f"{who} ({some}, scaled to {samples})", seconds)

    def _predict(self, target: int) -> Callable[[Sequence[str]], Values]:
        """What `lime` and `shap` call: log-probabilities of texts, batched as well as the plain loop does it."""

        def predict(texts: Sequence[str]) -> Values:
            sequences = [list(self.model.tokenizer.encode(Prompt(text=variant)).ids) for variant in texts]
            log_p = self._plain(sequences, target, 32)
            return np.stack([log_p, -log_p], axis=1)

        return predict

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
            out = self.peer(input_ids=ids, use_cache=False, logits_to_keep=1, **extra)
            values[chosen] = torch.log_softmax(out.logits[:, -1].double(), dim=-1)[:, target].numpy()
        return values

    def _best_batch(self, plain: Callable[..., Values]) -> int:
        """The plain loop's best batch size, found by one trial of each on as many prompts as the largest holds."""
        seconds = {}
        for batch in PLAIN_BATCHES:
            begin = time.perf_counter()
            plain(batch, max(PLAIN_BATCHES))
            seconds[batch] = time.perf_counter() - begin
        return min(seconds, key=lambda batch: seconds[batch])

    def _timed(self, way: Callable[[], Values]) -> tuple[float, Values]:
        times: list[float] = []
        warm = False
        while len(times) < self.repeats:
            begin = time.perf_counter()
            values = way()
            seconds = time.perf_counter() - begin
            if warm or seconds > _WARM_SECONDS:
                times.append(seconds)
            warm = True
        return float(np.median(times)), values

    def _floor(self, cost: Cost) -> float:
        """Seconds of the matrix products alone, each distinct prefix computed once and the head once a prompt."""
        module = self.peer
        embedding = module.get_input_embeddings().weight.numel()
        head = module.get_output_embeddings().weight.numel()
        body = sum(p.numel() for p in module.parameters() if p.dim() == 2) - embedding
        body -= 0 if module.config.tie_word_embeddings else head
        operations = 2 * (cost.tokens_computed * body + cost.evaluations * head)
        return operations / matmul_rate(module.config.hidden_size)


def _correlation(one: Values, other: Values) -> float:
    return float(np.corrcoef(one, other)[0, 1])


@torch.inference_mode()
def matmul_rate(width: int) -> float:
    """Floating-point operations a second of [1024, width] x [width, 4 width] in float32, the best of some tries of MKL
    and of oneDNN."""
    a, b = torch.randn(1024, width), torch.randn(width, 4 * width)
    weight = b.T  # its rows lie apart, as `use_fast_layers` lays weights out
    best = float("inf")
    ways: list[Callable[[], object]] = [lambda: torch.matmul(a, b), lambda: linear(a, weight, None)]
    for way in ways * 20:
        begin = time.perf_counter()
        way()
        best = min(best, time.perf_counter() - begin)
    return 2 * a.numel() * b.shape[1] / best


def gpt2_small(folder: Path) -> Path:
    """GPT-2's smallest configuration with random weights, and the shipped transformer's tokenizer."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(PRETRAINED / "transformer").save_pretrained(folder)
    return folder


def _inseq() -> Any:
    """The package inseq where it is installed: too much hangs on it for a test's dependency."""
    try:
        return importlib.import_module("inseq")
    except ImportError:
        return None


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transformer", help="shipped name, folder, or gpt2-small")
    parser.add_argument("--only", nargs="*", help="works: occlusion last lime shapley")
    parser.add_argument("--repeats", type=int, default=3, help="each figure is the median of so many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.1, help="of captum's samples that are run; the rest is scaled")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        shipped = PRETRAINED / options.model
        folder = shipped if shipped.is_dir() else Path(options.model)
        if options.model == "gpt2-small":
            folder = gpt2_small(Path(temporary) / "gpt2-small")
        keep_freed_memory()  # as the worker does
        model = load(str(folder), device="cpu", threads=options.threads)
        if not isinstance(model, HuggingFaceModel):
            raise SystemExit("the peers explain models of transformers only")
        bench = Bench(model, folder, options.repeats, options.share)
        longest = min(512, model.info.context_length)
        works: dict[str, Callable[[], list[Measurement]]] = {
            "occlusion": lambda: bench.occlusion(64, 64),
            "last": lambda: bench.occlusion(longest, 32),
            "lime": lambda: bench.lime(32, 1000),
            "shapley": lambda: bench.shapley(32, 500),
        }
        for name, work in works.items():
            if options.only and name not in options.only:
                continue
            found = work()
            show(model.info.name, found)
            if options.json:
                write(options.json, model.info.name, options.threads, found)


def show(model: str, found: Sequence[Measurement]) -> None:
    """A table for each work: all ways to it, beside Gloss's in float32."""
    ours = {one.work: one.seconds for one in found if one.who == "gloss, float32"}
    for work, reference in ours.items():
        table = Table("who", "seconds", "÷ gloss's", "largest difference", "correlation", "precision")
        table.title = f"{model}: {work}"
        for one in (each for each in found if each.work == work):
            difference = "" if one.difference is None else f"{one.difference:.1e}"
            correlation = "" if one.correlation is None else f"{one.correlation:.5f}"
            ratio = f"{one.seconds / reference:.2f}"
            table.add_row(one.who, f"{one.seconds:.3f}", ratio, difference, correlation, one.precision)
        Console().print(table)


def write(file: Path, model: str, threads: int, found: Sequence[Measurement]) -> None:
    """The figures of a work on `model`, beside those of others that the file holds."""
    figures = json.loads(file.read_text()) if file.exists() else {}
    figures.setdefault(model, {})[found[0].work] = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": processor(),
        "threads": threads,
        "versions": {name: version(name) for name in ("torch", "transformers", "captum", "lime", "shap")},
        "found": [asdict(one) for one in found],
    }
    file.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
