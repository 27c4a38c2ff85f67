"""What callers are told of the logits of prompts, and how much of it they may ask for. No torch in here."""

from __future__ import annotations

from dataclasses import dataclass

from ml.errors import InputError

MAX_TOP_K = 1000
"""The most tokens listed for one position."""


@dataclass(frozen=True)
class Prediction:
    """The most likely tokens, most likely first, with natural log-probabilities; entropy of all of them in nats."""

    ids: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    entropy: float


@dataclass(frozen=True)
class Score:
    """How likely each token of a continuation is.

    Attributes:
        log_probabilities: natural, one for each token.
        ranks: of each token among all tokens by probability; 1 is the most likely.
        predictions: the most likely tokens at each token's position; none where none were asked for.
    """

    log_probabilities: tuple[float, ...]
    ranks: tuple[int, ...]
    predictions: tuple[Prediction, ...] = ()


def check_top_k(top_k: int, vocabulary_size: int, *, least: int = 1) -> None:
    """Raise `InputError` unless `top_k` tokens, `least` or more, can be listed."""
    limit = min(MAX_TOP_K, vocabulary_size)
    if not least <= top_k <= limit:
        raise InputError("top_k", f"must be between {least} and {limit}, not {top_k}")


def check_temperature(temperature: float) -> None:
    """Raise `InputError` unless logits can be divided by `temperature`."""
    if not 0 < temperature <= 100:
        raise InputError("temperature", f"must be above 0 and at most 100, not {temperature}")
