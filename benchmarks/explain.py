"""Seconds of an explanation: Gloss beside captum, `lime`, `shap` and a plain loop, in one run on one machine.

    python -m benchmarks.explain [--model transformer | gpt2-small | FOLDER] [--only WORK ...] [--part 0.2] [--alone]
        [--json FILE]

All answer the same question about the same prompt with the same removal, on the same weights and threads: Gloss on the
model as it loads it, the others on transformers' own. LIME and Shapley values are the textbook's, from as many
evaluations as the peers'; a row with control variates shows what a third of them takes. The plain loop is transformers
as a good engineer would call it (SDPA, logits of the last position only) at its best batch size. The floor is what the
arithmetic alone would take, were every distinct prefix computed once at the best measured rate of matrix products.
Ratios hold; seconds drift with the machine.

inseq (`pip install inseq`) is asked for occlusion where it is installed. `gpt2-small` is GPT-2's 124M model with
random weights: its explanations mean nothing, their cost does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from captum.attr import KernelShap as CaptumKernelShap
from captum.attr import Lime as CaptumLime
from captum.attr import ShapleyValueSampling
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.explained import attributions, explained
from benchmarks.explaining.figures import Measurement, Values, correlation, show, taking_turns, timed, write
from benchmarks.explaining.floor import floor_seconds
from benchmarks.explaining.peers import CAPTUM_TOKENS, MAX_CAPTUM_TOKENS, Peers
from benchmarks.subjects import TEXT, folder_of
from ml.memory import expect_to_stay, keep_freed_memory
from ml.models.huggingface import HuggingFaceModel
from ml.models.loading import load
from ml.result import ExplanationResult
from ml.spec import (
    Budget,
    Estimator,
    ExplanationSpec,
    Features,
    IntegratedGradients,
    KernelShap,
    Lime,
    Method,
    NextTokenTarget,
    Occlusion,
    PrecisionPolicy,
    Prompt,
    Quality,
    Removal,
    RemovalKind,
    ShapleyPermutation,
    Target,
    Unit,
)


class Bench:
    """One model and the ways to explain it."""

    def __init__(self, model: HuggingFaceModel, folder: Path, repeats: int, share: float, alone: bool) -> None:
        self.model = model
        model.in_bfloat16()  # made once, and timed in no job
        self._alone = alone
        self._clock = time.process_time if alone else time.perf_counter
        self._module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._peers = Peers(self._module, model.tokenizer, AutoTokenizer.from_pretrained(folder))
        self._repeats = repeats
        self._share = share

    def occlusion(self, tokens: int, last: int) -> list[Measurement]:
        """Leave out each of the last `last` of `tokens` tokens."""
        ids = self.model.tokenizer.ids(TEXT * 8)[:tokens]
        target = self._likeliest(ids)
        spec = ExplanationSpec(
            Prompt(token_ids=ids),
            Occlusion(),
            target=Target(NextTokenTarget(id=target)),
            features=Features(Unit.TOKEN, within=self._within(ids, last)),
            quality=Quality(faithfulness=False),
        )
        work = f"occlusion of {last} of {tokens} tokens"
        found, ours = self._ours(work, spec)
        if self._alone:
            return found

        mask = self._peers.mask_id
        variants = [list(ids)] + [[*ids[:i], mask, *ids[i + 1 :]] for i in range(tokens - last, tokens)]
        batch = self._peers.best_batch(variants, target)

        def plain() -> Values:
            values = self._peers.plain(variants, target, batch)
            differences: Values = values[0] - values[1:]
            return differences

        who = f"plain loop, batches of {batch}"
        seconds, theirs = timed(who, plain, self._repeats)
        found.append(Measurement(work, who, seconds, float(np.abs(theirs - ours[-last:]).max())))
        others = {"captum FeatureAblation": self._peers.captum_occlusion(ids, last, target)}
        if last == tokens and (inseq := self._peers.inseq_occlusion(ids, target)):
            others["inseq occlusion"] = inseq
        return [*found, *(Measurement(work, who, timed(who, way, self._repeats)[0]) for who, way in others.items())]

    def lime(self, words: int, samples: int) -> list[Measurement]:
        """LIME with `samples` evaluations of a prompt of `words` words."""
        text, target = self._words(words)
        spec = self._word_spec(text, target, Lime(estimator=Estimator.TEXTBOOK), samples)
        work = f"LIME, {samples} samples of {words} words"
        found, ours = self._ours(work, spec)
        if self._alone:
            return found
        found.append(self._third(work, spec, Lime(), samples))
        who = "lime, batched predict"
        seconds, theirs = timed(who, self._peers.lime(text, target, samples), self._repeats)
        found.append(Measurement(work, who, seconds, correlation=correlation(ours, theirs)))
        return [*found, self._captum(work, CaptumLime, text, target, samples)]

    def shapley(self, words: int, samples: int) -> list[Measurement]:
        """Shapley values with `samples` evaluations of a prompt of `words` words."""
        text, target = self._words(words)
        work = f"Shapley values, {samples} evaluations of {words} words"
        spec = self._word_spec(text, target, KernelShap(Estimator.TEXTBOOK), samples)
        found, ours = self._ours(work, spec)
        if self._alone:
            return found
        found.append(self._third(work, spec, KernelShap(), samples))
        permutations = self._word_spec(text, target, ShapleyPermutation(), samples)
        ways = {
            "gloss, permutations": lambda: self._gloss(permutations)[0],
            "shap KernelExplainer, batched": self._peers.shap(text, target, samples),
        }
        for who, way in ways.items():
            seconds, theirs = timed(who, way, self._repeats)
            found.append(Measurement(work, who, seconds, correlation=correlation(ours, theirs)))
        found.append(self._captum(work, CaptumKernelShap, text, target, samples))
        # One permutation walks through all words.
        found.append(self._captum(work, ShapleyValueSampling, text, target, samples // words))
        return found

    def gradients(self, tokens: int, last: int, steps: int) -> list[Measurement]:
        """Integrated gradients of the last `last` of `tokens` tokens from the mean embedding, at `steps` points."""
        ids = self.model.tokenizer.ids(TEXT * 8)[:tokens]
        target = self._likeliest(ids)
        spec = ExplanationSpec(
            Prompt(token_ids=ids),
            IntegratedGradients(steps),
            target=Target(NextTokenTarget(id=target)),
            features=Features(Unit.TOKEN, within=self._within(ids, last)),
            removal=Removal(RemovalKind.MEAN_EMBEDDING),
            quality=Quality(faithfulness=False),
        )
        work = f"integrated gradients, {steps} steps, of {last} of {tokens} tokens"
        _tell_of(self.model.info.name, work)
        seconds, ours = timed("gloss, float32", lambda: self._gloss(spec)[0], self._repeats)
        found = [Measurement(work, "gloss, float32", seconds)]
        for batch in sorted({max(1, CAPTUM_TOKENS // tokens), min(steps, MAX_CAPTUM_TOKENS // tokens)}):
            who = f"captum IntegratedGradients, batches of {batch}"
            way = self._peers.captum_integrated(ids, last, target, steps, batch)
            seconds, theirs = timed(who, way, self._repeats)
            found.append(Measurement(work, who, seconds, float(np.abs(theirs[-last:] - ours[-last:]).max())))
        return found

    def _within(self, ids: Sequence[int], last: int) -> tuple[int, int] | None:
        """The characters of the last `last` tokens; None for all of them."""
        tokenizer = self.model.tokenizer
        first = None if last == len(ids) else tokenizer.encode(Prompt(token_ids=tuple(ids))).spans[-last]
        return (first[0], len(tokenizer.decode(ids))) if first else None

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
            quality=Quality(faithfulness=False),
        )

    def _ours(self, work: str, spec: ExplanationSpec) -> tuple[list[Measurement], Values]:
        """Gloss in float32 and in what `auto` chooses, and the floor of the same work."""
        _tell_of(self.model.info.name, work)
        found: list[Measurement] = []
        results: dict[str, ExplanationResult] = {}

        def way(who: str, policy: PrecisionPolicy) -> Values:
            values, results[who] = self._gloss(replace(spec, precision=policy))
            return values

        policies = {f"gloss, {policy.value}": policy for policy in PrecisionPolicy}
        taken = taking_turns(
            {who: partial(way, who, policy) for who, policy in policies.items()}, self._repeats, self._clock
        )
        _, reference = taken["gloss, float32"]
        for who, policy in policies.items():
            (seconds, values), result = taken[who], results[who]
            difference, agreement = float(np.abs(values - reference).max()), correlation(values, reference)
            found.append(Measurement(work, who, seconds, difference, agreement, result.precision.dtype))
            if policy is PrecisionPolicy.FLOAT32:
                found.append(Measurement(work, "floor", floor_seconds(self._module, result.cost)))
        return found, reference

    def _third(self, work: str, spec: ExplanationSpec, method: Lime | KernelShap, samples: int) -> Measurement:
        """Gloss with control variates, from a third of the evaluations."""
        fewer = replace(spec, method=method, budget=Budget(max_evaluations=samples // 3))
        who = f"gloss, {samples // 3} evaluations, control variates"
        return Measurement(work, who, timed(who, lambda: self._gloss(fewer)[0], self._repeats)[0])

    def _gloss(self, spec: ExplanationSpec) -> tuple[Values, ExplanationResult]:
        found = explained(self.model, spec)
        return attributions(found), found

    def _captum(self, work: str, method: type, text: str, target: int, samples: int) -> Measurement:
        """One of captum's sampling methods, once, on a share of the samples and scaled to all of them."""
        some = max(1, round(samples * self._share))
        who = f"captum {method.__name__}" + ("" if some == samples else f" ({some}, scaled to {samples})")
        seconds, _ = timed(who, self._peers.captum_samples(method, text, target, some), 1)
        return Measurement(work, who, seconds * samples / some)


def _tell_of(model: str, work: str) -> None:
    print(f"{model}: {work}", file=sys.stderr)


def main() -> None:
    """Measure, print tables, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="transformer", help="shipped name, folder, or gpt2-small")
    parser.add_argument("--only", nargs="*", help="works: occlusion last lime shapley gradients 'last gradients'")
    parser.add_argument("--repeats", type=int, default=3, help="each figure is the median of so many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--share", type=float, default=0.1, help="of captum's samples that are run; the rest is scaled")
    parser.add_argument(
        "--part", type=float, default=1.0, help="of the samples of LIME and Shapley values that are taken"
    )
    parser.add_argument("--alone", action="store_true", help="measure Gloss's own ways only, by processor time")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with folder_of(options.model) as folder:
        keep_freed_memory()  # as the worker does
        model = load(str(folder), device="cpu", threads=options.threads)
        if not isinstance(model, HuggingFaceModel):
            raise SystemExit("the peers explain models of transformers only")
        bench = Bench(model, folder, options.repeats, options.share, options.alone)
        expect_to_stay()  # as the worker does
    longest = min(512, model.info.context_length)
    works: dict[str, Callable[[], list[Measurement]]] = {
        "occlusion": lambda: bench.occlusion(64, 64),
        "last": lambda: bench.occlusion(longest, 32),
        "lime": lambda: bench.lime(32, round(1000 * options.part)),
        "shapley": lambda: bench.shapley(32, round(500 * options.part)),
        "gradients": lambda: bench.gradients(64, 64, 50),
        "last gradients": lambda: bench.gradients(longest, 32, 50),
    }
    for name, work in works.items():
        if options.only and name not in options.only:
            continue
        found = work()
        show(model.info.name, found)
        if options.json:
            clock = "processor time" if options.alone else "wall clock"
            write(options.json, model.info.name, options.threads, clock, found)


if __name__ == "__main__":
    main()
