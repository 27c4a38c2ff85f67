"""What is said of tokens to come: the most likely ones, and how likely given ones are. No model in here."""

from __future__ import annotations

from dataclasses import dataclass

from ml.errors import InputError, OutOfReachError
from ml.models.protocol import ModelInfo

MAX_TOP_K = 1000
"""The most tokens listed for one position."""


@dataclass(frozen=True)
class Prediction:
    """The most likely tokens, most likely first, with natural log-probabilities.

    `entropy` is that of all tokens, in nats; None where an external engine gives the most likely ones alone.
    """

    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    entropy: float | None


@dataclass(frozen=True)
class Score:
    """How likely each token of a continuation is.

    Attributes:
        log_probabilities: natural, one for each token.
        ranks: of each token among all tokens by probability; 1 is the most likely, None is not known.
        predictions: the most likely tokens at each token's position; none where none were asked for.
    """

    log_probabilities: tuple[float, ...]
    ranks: tuple[int | None, ...]
    predictions: tuple[Prediction, ...] = ()


def max_top_k(info: ModelInfo) -> int:
    """The most tokens that a model lists for one position."""
    own = info.vocabulary_size if info.max_top_k is None else min(info.vocabulary_size, info.max_top_k)
    return min(MAX_TOP_K, own)


def check_top_k(top_k: int, info: ModelInfo, *, least: int = 1) -> None:
    """Make sure that a model can list `top_k` tokens, `least` or more.

    Raises:
        InputError: it lists fewer, or more are needed.
        OutOfReachError: it lists none, as its engine names tokens by their texts.
    """
    limit = max_top_k(info)
    if top_k:
        check_names_tokens(info)
    if not least <= top_k <= limit:
        raise InputError("top_k", f"must be between {least} and {limit}, not {top_k}")


def check_names_tokens(info: ModelInfo) -> None:
    """Make sure that it can be computed which tokens a model finds most likely, or generates.

    Raises:
        OutOfReachError: its engine names tokens by their texts.
    """
    if info.engine and not max_top_k(info):
        what = "names tokens by their texts, which may be those of several"
        instead = "score or explain a continuation that you give, or serve the model by vLLM"
        raise OutOfReachError(info.name, info.engine, what, instead)


def check_temperature(temperature: float, info: ModelInfo) -> None:
    """Make sure that a model predicts at `temperature`.

    Raises:
        InputError: no logits can be divided by it.
        OutOfReachError: it is not 1, and an external engine gives no whole distribution to be changed.
    """
    if not 0 < temperature <= 100:
        raise InputError("temperature", f"must be above 0 and at most 100, not {temperature}")
    if info.engine and temperature != 1:
        what = f"gives log-probabilities at temperature 1, not {temperature:g}, and of no whole distribution"
        raise OutOfReachError(info.name, info.engine, what, "ask at temperature 1")
