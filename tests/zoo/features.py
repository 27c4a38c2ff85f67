"""Each verb and method on one architecture of the zoo, compared with what transformers alone gives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig

import ml.models.loading
from ml import spec
from ml.errors import GlossError
from ml.explain.run import Run
from ml.models.base import Chunk
from ml.models.huggingface import HuggingFaceModel
from tests.fixtures.models import byte_level
from tests.fixtures.runners import Texts, preempt
from tests.fixtures.zoo import CONTEXT
from tests.zoo.configurations import UNMADE, make
from tests.zoo.plain import Missing, Plain
from tests.zoo.table import DEVICE

OK = "ok"
TOLERANCE = 1e-4
"""Of the largest logit; ten times what transformers' own eager and SDPA differ by where that is more."""
GRADIENTS = 1e-3
"""Of the largest gradient."""
SHARES = 1e-3
TEXT = "The capital of Italy is Rome, and the capital of Spain is Madrid. The book was"
NEW = 12

Feature = Callable[["Case"], None]


class RefusedError(AssertionError):
    """Gloss refuses what transformers can give."""


class WrongError(AssertionError):
    """Something else than what transformers gives."""


def random_ids(count: int, seed: int) -> list[int]:
    return [int(each) for each in np.random.default_rng(seed).integers(1, 400, count)]


class Case:
    """One architecture, loaded by Gloss, and the plain copy of it."""

    def __init__(self, name: str, folder: Path) -> None:
        make(name).save_pretrained(folder)
        byte_level(unknown="<unk>").save_pretrained(folder)
        self.name = name
        self.model = ml.models.loading.load(str(folder), device=DEVICE, dtype="float32")
        assert isinstance(self.model, HuggingFaceModel)
        self.plain = Plain(name, self.model.info, self.model.tokenizer)
        self.note = ""
        if DEVICE != "cpu":
            here = Plain(name, self.model.info, self.model.tokenizer, DEVICE)
            rows = [(here.row(ids, len(ids)), self.plain.row(ids, len(ids))) for ids in UNLIKE]
            apart = max(float((one - other).abs().max()) for one, other in rows)
            if apart > TOLERANCE * max(float(other.abs().max()) for _, other in rows):
                self.plain = here
                self.note = f"transformers' own forward there differs from that on the CPU by {apart:.2g}"
        self.tolerance = max(TOLERANCE, min(1e-3, 10 * self.plain.noise))

    @property
    def way(self) -> str:
        """Which way prompts go, and up to which length."""
        ways, context = self.model.ways, self.model.info.context_length
        reason = []
        for label, limit in (("ragged", ways.served), ("cached batches", ways.cached), ("padded", ways.padded)):
            if limit and not any(each.endswith("all") for each in reason):
                reason.append(f"{label}: {'all' if limit >= context else f'up to {limit:.0f}'}")
        if not any(each.endswith("all") for each in reason):
            reason.append("one by one")
        decoding = "cache" if ways.decoded >= context else f"cache up to {ways.decoded:.0f}" if ways.decoded else "none"
        return "; ".join(reason) + ("" if ways.served >= context else f"; decoding: {decoding}")


def compare(found: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Raise `WrongError` where two tensors differ by more than a share of the largest number."""
    found = found.cpu()
    if found.shape != expected.shape:
        raise WrongError(f"{what}: shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    same = found == expected
    apart = float((found - expected).abs().masked_fill(same, 0.0).max()) if found.numel() else 0.0
    scale = float(expected.masked_fill(~expected.isfinite(), 0.0).abs().max()) if found.numel() else 1.0
    if not apart <= tolerance * max(scale, 1e-9):
        raise WrongError(f"{what}: {apart:.2g} of {scale:.2g}")


# Prompts of lengths on both sides of each window and chunk.
LENGTHS = (1, 7, 15, 16, 17, 24, 25, 40, 90)
UNLIKE = [random_ids(length, length) for length in LENGTHS]
LONG = random_ids(60, 99)
ALIKE = [[*LONG[:known], *random_ids(more, more)] for known in (14, 30, 56) for more in (1, 5)]


def next_token_alone(case: Case) -> None:
    whole = [random_ids(case.model.info.context_length, 7)] if case.model.info.context_length <= CONTEXT else []
    for ids in (*UNLIKE, *whole):
        compare(case.model.logits([ids])[0], case.plain.row(ids), f"{len(ids)} tokens", case.tolerance)


def next_token_in_company(case: Case) -> None:
    runner, layer = case.model.runner(1 << 20), 0
    while runner.is_preemptible and preempt(runner, [Chunk(ids) for ids in ALIKE], layer):
        layer += 1  # whatever it leaves in the model or in the runner shows in what follows
    result = runner.step([Chunk(ids) for ids in UNLIKE])
    for ids, found in zip(UNLIKE, result.logits, strict=True):
        compare(found, case.plain.row(ids), f"{len(ids)} tokens", case.tolerance)


def next_token_behind_a_prefix(case: Case) -> None:
    runner = case.model.runner(1 << 20)
    for _ in range(2):
        result = runner.step([Chunk(ids) for ids in ALIKE])
        for ids, found in zip(ALIKE, result.logits, strict=True):
            compare(
                found,
                case.plain.row(ids),
                f"{len(ids)} tokens, of which {result.cached_tokens} were cached",
                case.tolerance,
            )
    prefix = case.model.read_prefix(LONG[:20])
    many = [ids for ids in ALIKE if ids[:20] == LONG[:20]]
    for batch in case.model.stream_logits(many, [1] * len(many), max_tokens=100, max_logits=8, prefix=prefix):
        for index, found in zip(batch.indices, batch.logits, strict=True):
            compare(
                found, case.plain.row(many[index]), f"behind a read prefix, {len(many[index])} tokens", case.tolerance
            )


def score(case: Case) -> None:
    logit_counts = [min(9, len(ids)) for ids in UNLIKE]
    for ids, tail, found in zip(UNLIKE, logit_counts, case.model.logits(UNLIKE, logit_counts), strict=True):
        compare(found, case.plain.row(ids, tail), f"last {tail} of {len(ids)} tokens", case.tolerance)
    result = case.model.runner(1 << 20).step([Chunk(ids, 4) for ids in ALIKE])
    for ids, found in zip(ALIKE, result.logits, strict=True):
        compare(found, case.plain.row(ids, 4), f"last 4 of {len(ids)} tokens", case.tolerance)


def generate(case: Case) -> None:
    """Three texts that grow together, one of which joins later and one leaves."""
    prompts = [random_ids(9, 21), random_ids(20, 22), random_ids(30, 23)]
    decoder = Texts(case.model.runner(1 << 20))
    texts = [list(prompt) for prompt in prompts]
    texts[0].append(int(decoder.start(prompts[0]).argmax()))
    texts[0].append(int(decoder.step([texts[0][-1]])[0].argmax()))
    for text, prompt in zip(texts[1:], prompts[1:], strict=True):
        text.append(int(decoder.start(prompt).argmax()))
    for _ in range(NEW - 2):
        for text, row in zip(texts, decoder.step([text[-1] for text in texts]), strict=True):
            text.append(int(row.argmax()))
    decoder.leave(1)
    for index, row in zip((0, 2), decoder.step([texts[0][-1], texts[2][-1]]), strict=True):
        texts[index].append(int(row.argmax()))
    for prompt, text in zip(prompts, texts, strict=True):
        _check_greedy(case, prompt, text[len(prompt) :])


def _check_greedy(case: Case, prompt: Sequence[int], found: Sequence[int]) -> None:
    """By transformers' own `generate`, or its plain forward where that fails or says something else."""
    module = case.plain.module
    theirs: list[int] | None = None
    try:
        settings = {"do_sample": False, "max_new_tokens": len(found), "pad_token_id": 0, "eos_token_id": None}
        module.generation_config = GenerationConfig()  # without ends and the like that the model's own may force
        tensor = torch.tensor([list(prompt)], device=next(module.parameters()).device)
        with torch.inference_mode():
            out = module.generate(
                tensor, attention_mask=torch.ones_like(tensor), generation_config=GenerationConfig(**settings)
            )
        theirs = out[0, len(prompt) :].tolist()
    except Exception as error:  # noqa: BLE001 - each architecture fails in its own way
        case.note = (
            f"transformers' generate fails ({type(error).__name__}: {str(error)[:80]}); compared with its forward"
        )
    for place, token in enumerate(found):
        text = [*prompt, *found[:place]]
        if theirs is not None and token == theirs[place]:
            continue
        best = case.plain.row(text)[0].topk(2)
        if token != int(best.indices[0]):
            if float(best.values[0] - best.values[1]) < TOLERANCE:
                return
            raise WrongError(
                f"token {place} after {len(prompt)}: {token}, where the plain forward has {int(best.indices[0])}"
            )
        if theirs is not None:
            if float(best.values[0] - best.values[1]) < TOLERANCE:
                return
            case.note = "transformers' generate is not what its own forward gives; compared with its forward"
            theirs = None


def attention(case: Case) -> None:
    ids = random_ids(24, 31)
    found: dict[int, Tensor] = {}
    try:
        expected = case.plain.weights(ids)
    except Exception as error:
        case.model.attention(ids, range(case.model.info.layers), range(len(ids)), found.__setitem__)
        raise Missing(f"{type(error).__name__}: {str(error)[:100]}") from error
    _allowed(case.model.attention, ids, sorted(expected), range(len(ids)), found.__setitem__)
    for layer, weights in expected.items():
        compare(found[layer], weights, f"layer {layer}")
    found = {}
    case.model.attention(ids, [min(expected)], [3, 20], found.__setitem__)
    compare(found[min(expected)], expected[min(expected)][:, [3, 20]], f"layer {min(expected)} alone")


def _allowed(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of Gloss gives, which it may not refuse."""
    try:
        return function(*arguments)
    except GlossError as error:
        raise RefusedError(str(error)) from error


def _explained(
    method: spec.Method,
    tolerance: float,
    *,
    internals: bool = False,
    removal: spec.Removal | None = None,
    **budget: Any,
) -> Feature:
    def feature(case: Case) -> None:
        # Where the likeliest two are as likely, each would explain its own.
        likeliest = int(case.plain.row(case.model.tokenizer.encode(spec.Prompt(text=TEXT)).ids).argmax())
        task = spec.ExplanationSpec(
            spec.Prompt(text=TEXT),
            method,
            target=spec.Target(spec.NextTokenTarget(id=likeliest)),
            budget=spec.Budget(**budget),
            removal=removal or spec.Removal(),
            quality=spec.Quality(faithfulness=False),
        )
        expected = None
        try:
            expected = _attributions(case.plain, task)
        except Exception as error:  # each architecture fails in its own way
            if not internals:
                raise
            missing = Missing(f"{type(error).__name__}: {str(error)[:100]}")
        if expected is None:
            _attributions(case.model, task)
            raise missing
        found = _allowed(_attributions, case.model, task)
        # Values are log-probabilities, whose errors are those of logits.
        ids = case.model.tokenizer.encode(task.prompt).ids
        logit = float(case.plain.row(ids).abs().max())
        # Tiny ones are sums in which nearly all cancels, and are judged as ones of a thousandth of the largest logit.
        scale = logit if tolerance == TOLERANCE else max(float(np.abs(expected).max()), 1e-3 * logit)
        apart = float(np.abs(found - expected).max())
        if not apart <= max(tolerance, case.tolerance) * scale:
            raise WrongError(f"attributions differ by {apart:.2g}, the largest being {np.abs(expected).max():.2g}")

    return feature


def _attributions(model: Any, task: spec.ExplanationSpec) -> np.ndarray:
    *_, last = Run(model, task)
    assert last.result is not None
    return np.array([each.attribution for each in last.result.attributions])


FEATURES: dict[str, Feature] = {
    "next token alone": next_token_alone,
    "in company": next_token_in_company,
    "behind a prefix": next_token_behind_a_prefix,
    "score": score,
    "generate": generate,
    "attention": attention,
    "rollout": _explained(spec.AttentionRollout(), SHARES, internals=True),
    "value zeroing": _explained(spec.ValueZeroing(), SHARES, internals=True),
    "input×gradient": _explained(spec.InputTimesGradient(), GRADIENTS, internals=True),
    "integrated gradients": _explained(spec.IntegratedGradients(steps=4), GRADIENTS, internals=True),
    "occlusion": _explained(spec.Occlusion(), TOLERANCE),
    # Everything is looked into: which parts are, may else hang on a last digit.
    "hierarchical": _explained(spec.Hierarchical(threshold=0.0), TOLERANCE),
    "mean embedding": _explained(
        spec.Occlusion(), TOLERANCE, internals=True, removal=spec.Removal(spec.RemovalKind.MEAN_EMBEDDING)
    ),
    "LIME": _explained(spec.Lime(), TOLERANCE, max_evaluations=24),
    "KernelSHAP": _explained(spec.KernelShap(), TOLERANCE, max_evaluations=24),
    "permutations": _explained(spec.ShapleyPermutation(), TOLERANCE, max_evaluations=72),
}
INTERNALS = {"attention", "rollout", "value zeroing", "input×gradient", "integrated gradients", "mean embedding"}
"""What transformers' code of a model need not be able to give."""


def examine(name: str, folder: Path, chosen: Collection[str] = FEATURES) -> dict[str, Any]:
    """A row of the table, with the `chosen` features."""
    row: dict[str, Any] = {"architecture": name}
    if name in UNMADE:
        return row | {"excluded": UNMADE[name]}
    try:
        case = Case(name, folder)
    except GlossError as error:
        row["refused"] = str(error).replace(str(folder), "FOLDER")
        return row
    except Exception as error:  # noqa: BLE001
        row["crash"] = f"{type(error).__name__}: {str(error)[:200]}"
        return row
    row["way"] = case.way
    row["slow"] = case.model.info.unused
    row["features"] = {}
    row["notes"] = {}
    for label, feature in FEATURES.items():
        if label not in chosen:
            continue
        row["features"][label] = _outcome(feature, case, allowed=label in INTERNALS)
        if case.note:
            row["notes"][label], case.note = case.note, ""
    return row


def _outcome(feature: Feature, case: Case, *, allowed: bool) -> str:
    try:
        feature(case)
    except WrongError as error:
        return f"WRONG: {error}"
    except RefusedError as error:
        return f"REFUSED: {error}"
    except Missing as error:
        # It is there, and nothing is at hand to compare it with.
        return f"unchecked: {error}" if allowed else f"CRASH: {error}"
    except GlossError as error:
        return f"refused: {error}"
    except Exception as error:  # noqa: BLE001
        return f"CRASH: {type(error).__name__}: {str(error).strip()[:200]}"
    return OK
