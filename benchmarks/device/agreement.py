"""Whether every verb and method gives on a device what it gives on the CPU in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM

from benchmarks.explained import explained
from benchmarks.subjects import TEXT
from ml.attention import AttentionSpec, Reduction, resolve
from ml.explain import StudyRun
from ml.models.base import Chunk, LanguageModel
from ml.models.huggingface import HuggingFaceModel
from ml.models.internals.attention_maps import attend
from ml.models.loading import load
from ml.result import ExplanationResult, GlobalSurrogateResult, StudyResult
from ml.spec import (
    AttentionRollout,
    BiasProbe,
    Budget,
    ContextAttribution,
    Continuation,
    ContrastTarget,
    ExplanationSpec,
    Features,
    GlobalSurrogate,
    Hierarchical,
    InputTimesGradient,
    IntegratedGradients,
    Interactions,
    KernelShap,
    Lime,
    Method,
    NextTokenTarget,
    Occlusion,
    Prompt,
    Quality,
    Removal,
    RemovalKind,
    ShapleyPermutation,
    StudyMethod,
    StudySpec,
    SurrogateKind,
    SwapSet,
    Target,
    Unit,
    ValueZeroing,
)

Numbers = npt.NDArray[np.float64]

WORDS = 12
NOISES = 6
"""How many times the noise of one log-probability a number may differ: most are differences of two."""
EXACT_NATS, EXACT_SHARE = 2e-3, 1e-4
"""Allowed in float32. Gradients differ by more than values do, and are compared by their size."""
ROUNDED_SHARE = 0.05
SAMPLED = ("LIME", "KernelSHAP", "Shapley", "context", "interactions", "surrogate")


@dataclass(frozen=True)
class Agreement:
    """One comparison: the largest difference from the CPU, and what is allowed."""

    model: str
    what: str
    dtype: str
    difference: float
    allowed: float
    note: str = ""

    @property
    def holds(self) -> bool:
        """Not a number never agrees."""
        return self.difference <= self.allowed


class Comparison:
    """One model on two devices."""

    def __init__(self, folder: Path, device: str, dtype: str) -> None:
        """Load `folder` on the CPU in float32 and on `device` in `dtype`."""
        self._reference = load(str(folder), device="cpu", dtype="float32")
        self._model = load(str(folder), device=device, dtype=dtype)
        self._folder = folder
        self.dtype = self._model.info.dtype
        words = TEXT.split()
        self._ids = [self._reference.tokenizer.ids(" ".join(words[i : i + n])) for i, n in ((0, 60), (9, 14), (30, 5))]
        self._text = " ".join(words[:WORDS])
        prompt = self._reference.tokenizer.encode(Prompt(text=self._text)).ids
        order = self._reference.logits([prompt])[0][-1].argsort(descending=True).tolist()
        self._first, self._second = order[0], order[1]
        self.noise = self._noise()

    def __iter__(self) -> Iterator[Agreement]:
        """Compare everything, one thing at a time."""
        name = self._model.info.name
        if isinstance(self._model, HuggingFaceModel):
            # Everything else would agree all the same, and be slow.
            yield Agreement(
                name, "ragged batches are used", self.dtype, 0.0 if self._model.ways.ragged else math.nan, 0.0
            )
        for what, unit, way in (*self._verbs(), *self._methods(), *self._studies()):
            try:
                ours, theirs = way(self._model), way(self._reference)
            except Exception as error:  # noqa: BLE001 - a table of what works shows what does not
                yield Agreement(name, what, self.dtype, float("nan"), 0.0, f"{type(error).__name__}: {error}"[:120])
                continue
            size = max(1.0, float(np.abs(theirs).max())) if unit == "gradient" else 1.0
            difference = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("nan")
            yield Agreement(name, what, self.dtype, difference, size * self._allowed(what, unit))

    def _allowed(self, what: str, unit: str) -> float:
        if self.dtype == "float32":
            return {"nats": EXACT_NATS, "share": EXACT_SHARE, "gradient": EXACT_NATS}[unit]
        if unit == "share":
            return ROUNDED_SHARE
        # A regression over many rounded values rounds no more than they do, but its kernel may be chosen otherwise.
        return NOISES * self.noise * (2 if what.startswith(SAMPLED) or unit == "gradient" else 1)

    @torch.inference_mode()
    def _noise(self) -> float:
        """What transformers' own forward pass on the device differs by, in nats, among the likeliest 50 tokens."""
        if self.dtype == "float32" or not hasattr(self._model, "module"):
            return EXACT_NATS
        module = AutoModelForCausalLM.from_pretrained(self._folder, dtype=getattr(torch, self.dtype)).eval()
        module = module.to(self._model.info.device)
        largest = 0.0
        for ids in self._ids:
            plain = module(input_ids=torch.tensor([ids], device=module.device)).logits[0].double().log_softmax(-1).cpu()
            exact = self._reference.logits([ids], [len(ids)])[0].double().log_softmax(-1)
            likeliest = exact.topk(min(50, exact.shape[-1])).indices
            largest = max(largest, float((plain - exact).gather(-1, likeliest).abs().max()))
        return largest

    def _verbs(self) -> Iterator[tuple[str, str, Callable[[LanguageModel], Numbers]]]:
        yield "next token, alone", "nats", lambda model: _likeliest(model, model.logits([self._ids[1]])[0])
        yield "next token, three together", "nats", lambda model: self._read(model, [1, 1, 1], 0)
        yield "the same, for the third time", "nats", lambda model: self._read(model, [1, 1, 1], 0, times=3)
        yield "next token, prefix known", "nats", lambda model: self._read(model, [1, 1, 1], 1 << 26, times=2)
        yield "score of 8 tokens", "nats", lambda model: self._read(model, [8, 8, 5], 0)
        yield "generate: two streams", "nats", self._generate
        yield "decode rows, a chunk and a prompt in one step", "nats", self._mixed
        if self._reference.info.heads:
            yield "attention", "share", lambda model: self._attention(model, Reduction.RAW)
            yield "attention rollout", "share", lambda model: self._attention(model, Reduction.ROLLOUT)

    def _read(self, model: LanguageModel, logit_counts: Sequence[int], max_bytes: int, times: int = 1) -> Numbers:
        runner = model.runner(max_bytes)
        for _ in range(times):
            logits = runner.step([Chunk(ids, tail) for ids, tail in zip(self._ids, logit_counts, strict=True)]).logits
        return np.concatenate([_likeliest(model, each) for each in logits])

    def _generate(self, model: LanguageModel) -> Numbers:
        """Log-probabilities of given tokens, as decoding has them: of a second stream from its eighth step on.

        A step is recorded after some like it, where there are recorded ones.
        """
        runner = model.runner()
        first, second = runner.begin(), runner.begin()
        given = self._ids[0][40:56]
        found = list(runner.step([Chunk(self._ids[0][:40], 1, first)]).logits)
        for number, token in enumerate(given):
            chunks = [Chunk([token], 1, first)]
            if number >= 7:
                chunks.append(Chunk(self._ids[1] if number == 7 else [given[0]], 1, second))
            found += runner.step(chunks).logits
        return _likeliest(model, torch.cat(found))

    def _mixed(self, model: LanguageModel) -> Numbers:
        """What a text's next token, the second half of another's prompt, and a whole prompt give in one step."""
        runner = model.runner(1 << 26)
        decoded, prefilled = runner.begin(), runner.begin()
        runner.step([Chunk(self._ids[0][:40], 1, decoded), Chunk(self._ids[1][:7], 0, prefilled)])
        mixed = [
            Chunk(self._ids[0][40:41], 1, decoded),
            Chunk(self._ids[1][7:], 1, prefilled),
            Chunk(self._ids[0][:48], 1),
        ]
        return _likeliest(model, torch.cat(list(runner.step(mixed).logits)))

    def _attention(self, model: LanguageModel, reduction: Reduction) -> Numbers:
        plan = resolve(AttentionSpec(queries=(0, 5, -1), reduction=reduction), model.info, len(self._ids[0]))
        return attend(model, self._ids[0], plan).weights.astype(np.float64)

    def _methods(self) -> Iterator[tuple[str, str, Callable[[LanguageModel], Numbers]]]:
        few, some = Budget(max_evaluations=200), Budget(max_evaluations=60)
        methods: list[tuple[str, str, Method, dict[str, object]]] = [
            ("occlusion", "nats", Occlusion(), {"features": Features(Unit.TOKEN)}),
            ("occlusion by the mean embedding", "nats", Occlusion(), {"removal": Removal(RemovalKind.MEAN_EMBEDDING)}),
            ("occlusion by deletion", "nats", Occlusion(), {"removal": Removal(RemovalKind.DELETE)}),
            ("LIME, ridge", "nats", Lime(), {"budget": few}),
            ("LIME, lasso", "nats", Lime(SurrogateKind.LASSO), {"budget": few}),
            ("LIME, tree", "nats", Lime(SurrogateKind.DECISION_TREE), {"budget": few}),
            ("KernelSHAP", "nats", KernelShap(), {"budget": few}),
            ("Shapley permutations", "nats", ShapleyPermutation(), {"budget": few}),
            ("context attribution", "gradient", ContextAttribution(), {"budget": few}),
            ("interactions", "nats", Interactions(), {"budget": few}),
            ("hierarchical", "nats", Hierarchical(threshold=0.0), {}),
            ("continuation", "nats", Occlusion(), {"target": Target(Continuation(" in the rain"))}),
            (
                "contrast",
                "nats",
                Occlusion(),
                {"target": Target(ContrastTarget(_token(self._first), _token(self._second)))},
            ),
            ("input × gradient", "gradient", InputTimesGradient(), {}),
            ("integrated gradients", "gradient", IntegratedGradients(16), {"budget": some}),
        ]
        if self._reference.info.heads:
            methods.append(("rollout as explanation", "share", AttentionRollout(), {}))
            methods.append(("value zeroing", "share", ValueZeroing(), {}))
        for what, unit, method, more in methods:
            first = Target(NextTokenTarget(id=self._first))
            given = {"prompt": Prompt(text=self._text), "target": first, "quality": Quality(faithfulness=False), **more}
            spec = ExplanationSpec(method=method, **given)  # type: ignore[arg-type]
            yield what, unit, lambda model, spec=spec: _numbers(explained(model, spec))  # type: ignore[misc]

    def _studies(self) -> Iterator[tuple[str, str, Callable[[LanguageModel], Numbers]]]:
        swaps = (SwapSet("first", ("he", "man")), SwapSet("second", ("she", "woman")))
        prompts = tuple(Prompt(" ".join(TEXT.split()[i : i + 8])) for i in range(41))
        studies: list[tuple[str, StudyMethod]] = [
            ("surrogate over 41 prompts", GlobalSurrogate(prompts)),
            ("bias probe", BiasProbe(("The old {} walked over the bridge and",), swaps)),
        ]
        for what, method in studies:
            spec = StudySpec(method, target=Target(NextTokenTarget(id=self._first)))
            yield what, "nats", lambda model, spec=spec: _study_numbers(studied(model, spec))  # type: ignore[misc]


def studied(model: LanguageModel, spec: StudySpec) -> StudyResult:
    """The result of a study."""
    *_, last = StudyRun(model, spec)
    if not isinstance(last.result, StudyResult):
        raise AssertionError("the last update holds the result")
    return last.result


def _study_numbers(result: StudyResult) -> Numbers:
    """Everything that a study found, in one row."""
    if isinstance(result.finding, GlobalSurrogateResult):
        by_word = sorted(result.finding.coefficients, key=lambda each: each.word)
        return np.array([each.coefficient for each in by_word])
    return np.array([each.difference for each in result.finding.differences] if result.finding else [])


def _numbers(result: ExplanationResult) -> Numbers:
    """Everything that an explanation found, in one row."""
    found = [each.attribution for each in result.attributions] + [each.value for each in result.interactions]
    return np.array([*found, result.base_value, result.full_value])


def _likeliest(model: LanguageModel, logits: torch.Tensor) -> Numbers:
    """Log-probabilities of 50 fixed tokens, row by row: of those that are likely in text."""
    ids = torch.arange(10, 60, device=logits.device) % model.info.vocabulary_size
    return logits.double().log_softmax(-1)[:, ids].cpu().numpy()


def _token(token: int) -> Continuation:
    return Continuation(token_ids=(token,))
