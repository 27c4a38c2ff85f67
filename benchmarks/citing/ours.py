"""Gloss on the same sources, questions and answers, with the masks of its peer where they are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from unittest import mock

import numpy as np

from benchmarks.explained import explained
from ml.explain.estimator import BoolArray, FloatArray
from ml.explain.values.cache import ValueCache
from ml.models.base import LanguageModel
from ml.result import ExplanationResult
from ml.spec import (
    Budget,
    ContextAttribution,
    Continuation,
    ExplanationSpec,
    Features,
    Method,
    PrecisionPolicy,
    Prompt,
    Quality,
    Removal,
    RemovalKind,
    Rows,
    Span,
    Target,
    Unit,
)


def asked(
    sentences: Sequence[str],
    prompt: str,
    answer: str,
    *,
    method: Method | None = None,
    evaluations: int = 64,
    precision: PrecisionPolicy = PrecisionPolicy.FLOAT32,
) -> ExplanationSpec:
    """What attributes each sentence of an answer to the sentences of a prompt, which are left out."""
    return ExplanationSpec(
        Prompt(text=prompt),
        method or ContextAttribution(),
        target=Target(Continuation(text=answer)),
        features=Features(spans=tuple(_spans(prompt, sentences))),
        removal=Removal(RemovalKind.DELETE),
        budget=Budget(max_evaluations=evaluations),
        quality=Quality(faithfulness=False),
        precision=precision,
        rows=Rows(Unit.SENTENCE),
    )


def _spans(prompt: str, sentences: Sequence[str]) -> Iterator[Span]:
    end = 0
    for sentence in sentences:
        start = prompt.index(sentence, end)
        end = start + len(sentence)
        yield start, end


def explained_by(
    model: LanguageModel, spec: ExplanationSpec, masks: BoolArray | None = None, cache: ValueCache | None = None
) -> ExplanationResult:
    """The result; `masks` [ablations, sources] take the place of context attribution's own draws."""
    draw = "ml.explain.explainers.context.draw"
    with nullcontext() if masks is None else mock.patch(draw, return_value=iter(masks)):
        return explained(model, spec, cache)


def scores(model: LanguageModel, sentences: Sequence[str], prompt: str, answer: str, masks: BoolArray) -> FloatArray:
    """The scores of each row by given masks, [rows, sources].

    Each row has the penalty of `context-cite`, which grows with its tokens.
    """
    cache = ValueCache()

    def asked_with(alpha: float) -> ExplanationResult:
        method = ContextAttribution(alpha)
        spec = asked(sentences, prompt, answer, method=method, evaluations=len(masks))
        return explained_by(model, spec, masks, cache)

    tokens = [len(row.positions) for row in asked_with(0.01).rows]
    return np.array([asked_with(0.01 * count).rows[index].attributions for index, count in enumerate(tokens)])
