"""Doubts about a question: it may not be what was meant, or its method may not suit it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np

from ml.encoding import Encoding
from ml.explain.estimator import Estimate
from ml.explain.explainers.context import ContextExplainer
from ml.explain.explainers.interactions import MAX_FEATURES
from ml.explain.explainers.kernel_shap import MIN_FOR_CONTROL
from ml.explain.target import TargetTokens
from ml.explain.trust.verdict import Reason
from ml.result import StopReason, Verdict
from ml.spec import (
    AttentionRollout,
    ContextAttribution,
    Estimator,
    InputTimesGradient,
    Interactions,
    KernelShap,
    Lime,
    Method,
    Rows,
    ShapleyPermutation,
    SurrogateKind,
    ValueZeroing,
)
from ml.tokens import Tokenizer

_BY_CHANCE = {
    AttentionRollout: "attention rollout",
    ValueZeroing: "value zeroing",
    InputTimesGradient: "input × gradient",
}
"""Methods that did no better than chance in `benchmarks.known_answers`, on one model at least."""
_ENOUGH = 10
"""Evaluations for each feature, from which on standard errors are believed."""
_ENOUGH_FOR_SURROGATES = 2
"""Evaluations for each coefficient, from which on those of linear surrogates are: with fewer, a penalty keeps
coefficients near 0 for any game."""
_ENOUGH_FOR_RIDGE = 4
"""Evaluations for each feature, from which on those of LIME's ridge are: with fewer, products of five are missed."""
_SURPRISE = 4
"""Above it, errors were found up to 20 times too small. In prompts of models it hardly ever exceeds 3."""
_MATTERS = 0.002
"""The part of the largest attribution from which on errors matter that may be that many times too small."""
_MIN_MISSED_IN = 2.5
"""Samples. Below it, two in three of the games were found whose errors are too small without another doubt, and one in
sixteen of the others."""
_RARELY = 0.01
"""The part of a prompt's value below which what it adds to an error does not matter."""
_ERRORS_HOLD = (StopReason.COMPLETE, StopReason.RANKED)
"""Ends with an exact answer, and with errors that were widened because sampling chose its end."""


def of_method(method: Method, features: int) -> Iterator[Reason]:
    """Reasons to doubt the method, for a prompt of so many features."""
    if isinstance(method, Interactions) and features > MAX_FEATURES:
        yield (
            Verdict.CAUTION,
            f"With {features} features, not all pairs can be told apart: the list has only pairs that a half of the"
            " samples points to, and leaves out what more than three words do together. A pair that is not listed may"
            " still have a weaker interaction.",
        )
    if (name := _BY_CHANCE.get(type(method))) is not None:
        yield (
            Verdict.CAUTION,
            f"In tests with a known deciding word, {name} found it about as often as chance, or less; use KernelSHAP"
            " or occlusion to see which words matter.",
        )


def of_samples(method: Method, features: int, samples: int, found: Estimate) -> Iterator[Reason]:
    """Reasons to doubt the standard errors of an estimate `found` from so many coalitions."""
    if found.stop in _ERRORS_HOLD:
        return
    if samples < _ENOUGH * features and _is_optimistic(method, features, samples):
        yield (
            Verdict.CAUTION,
            f"{samples} evaluations are few for {features} features, and the standard errors may be too small; allow"
            f" {_ENOUGH * features}.",
        )
    largest = float(np.abs(found.attributions).max())
    if found.surprise > _SURPRISE and found.surprise * float(found.standard_errors.max()) > _MATTERS * largest:
        yield (
            Verdict.CAUTION,
            "The value of the whole prompt, or of the empty one, is far from what partial prompts suggest, and the"
            " standard errors may be too small; those of permutations and of the textbook estimator hold here too.",
        )
    error = _SURPRISE * float(found.standard_errors.max())
    if found.missed_in < _MIN_MISSED_IN and error > _MATTERS * largest:
        yield (
            Verdict.CAUTION,
            f"Nearly all that a fit misses is in one or two of {samples} evaluations. Others like them may be missing,"
            f" and the standard errors may be too small; allow {2 * samples}.",
        )


def of_row_pairs(rows: Rows | None, found: Estimate) -> Iterator[Reason]:
    """Reasons to doubt the interactions of rows, whose kernel knows the sum of the rows alone."""
    if rows is not None and rows.pairs and found.interactions is not None and found.stop not in _ERRORS_HOLD:
        yield (
            Verdict.CAUTION,
            "The interactions of rows are fitted as those of the whole target. One that matters to a single row may be"
            " much larger than its standard error allows; to see it, explain that part of the target alone.",
        )


def of_ends(explainer: object, samples: int, found: Estimate, base_value: float, full_value: float) -> Iterator[Reason]:
    """Reasons to doubt the standard errors of an estimate `found` that no sample of the empty or whole prompt informs.

    Context attribution draws each of 2^d coalitions equally rarely, and its fit may not have seen these two. But their
    values are known: one that is off by r adds a variance of 4 r² / (n · 2^d) to each attribution from n samples.
    """
    if not isinstance(explainer, ContextExplainer) or found.stop in _ERRORS_HOLD or found.surrogate is None:
        return
    empty, full = explainer.link(np.array([base_value, full_value])).tolist()
    expected = found.surrogate.intercept or 0.0
    off = max(abs(empty - expected), abs(full - expected - math.fsum(found.attributions.tolist())))
    # The root, as 2^d itself is no float from 1,024 features on.
    added = 2 * off / math.sqrt(max(1, samples)) * 2.0 ** (-explainer.features / 2)
    if added > max(float(found.standard_errors.max()), _RARELY * off):
        yield (
            Verdict.CAUTION,
            "The value of the whole prompt, or of the empty one, is far from what partial prompts suggest, and the"
            f" standard errors may be too small; allow {2**explainer.features} evaluations, which are all partial"
            " prompts.",
        )


def _is_optimistic(method: Method, features: int, samples: int) -> bool:
    """Whether a method's errors were found too small in `benchmarks.calibration` where samples are few."""
    match method:
        case KernelShap(Estimator.CONTROL_VARIATES):
            # With fewer beside the two ends, nothing is fitted that could follow accidents.
            return samples - 2 >= MIN_FOR_CONTROL * features
        case Lime(SurrogateKind.DECISION_TREE) | Interactions() | ShapleyPermutation():
            return True
        case Lime() | ContextAttribution() if samples < _ENOUGH_FOR_SURROGATES * (features + 1):
            return True
        case Lime(SurrogateKind.RIDGE, estimator=Estimator.CONTROL_VARIATES):
            return samples < _ENOUGH_FOR_RIDGE * features
    return False


def of_question(tokenizer: Tokenizer, encoding: Encoding, target: TargetTokens) -> Iterator[Reason]:
    """Reasons to doubt a prompt and its target, where a space seems to be missing or superfluous."""
    if target.spaced:
        meant = " and ".join(json.dumps(tokenizer.token_text(each), ensure_ascii=False) for each in target.spaced)
        yield (
            Verdict.CAUTION,
            f"The target begins without a space, and the model finds {meant} more likely; write the target with its"
            " space if it is a word of its own.",
        )
    elif not target.apart and _ends_in_bare_space(tokenizer, encoding):
        yield (
            Verdict.CAUTION,
            "The prompt ends in a space, but for this model a space is part of the next word, so few words can"
            " follow; remove the space.",
        )


def _ends_in_bare_space(tokenizer: Tokenizer, encoding: Encoding) -> bool:
    """Whether the user's text ends in a token of spaces alone, where tokens of words begin with their space."""
    written = bool(encoding.editable) and encoding.editable[-1][1] == len(encoding.text)
    if not written or not encoding.text.endswith(" ") or tokenizer.token_text(encoding.ids[-1]).strip(" "):
        return False
    words = map(tokenizer.token_text, tokenizer.ids("It is of the first"))
    return any(word.startswith(" ") and word.strip() for word in words)
