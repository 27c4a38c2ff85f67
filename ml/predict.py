"""From logits to what callers ask of them: the most likely tokens, entropies, the scores of given tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """Natural log-probability and rank (1 is the most likely) of each token of a continuation."""

    log_probabilities: tuple[float, ...]
    ranks: tuple[int, ...]


def check_top_k(top_k: int, vocabulary_size: int) -> None:
    """Raise `InputError` unless `top_k` tokens can be listed."""
    most = min(MAX_TOP_K, vocabulary_size)
    if not 1 <= top_k <= most:
        raise InputError("top_k", f"must be between 1 and {most}, not {top_k}")


def check_temperature(temperature: float) -> None:
    """Raise `InputError` unless logits can be divided by `temperature`."""
    if not 0 < temperature <= 100:
        raise InputError("temperature", f"must be above 0 and at most 100, not {temperature}")


def next_token(logits: Tensor, top_k: Sequence[int], temperatures: Sequence[float]) -> list[Prediction]:
    """Predict what follows each of n prompts.

    Args:
        logits: float32 [n, vocabulary].
        top_k: how many tokens to list for each prompt.
        temperatures: what each prompt's logits are divided by.
    """
    scale = torch.tensor(temperatures, dtype=logits.dtype, device=logits.device).unsqueeze(1)
    log_probs = torch.log_softmax(logits / scale, dim=-1)
    probs = log_probs.exp()
    # A token of probability 0 adds nothing, and 0 x -inf is not a number.
    entropy = -torch.where(probs > 0, probs * log_probs, 0.0).sum(dim=-1)
    top = log_probs.topk(max(top_k), dim=-1)
    return [
        Prediction(tuple(ids[:k]), tuple(values[:k]), nats)
        for k, ids, values, nats in zip(top_k, top.indices.tolist(), top.values.tolist(), entropy.tolist(), strict=True)
    ]


def score(logits: Tensor, ids: Sequence[int]) -> Score:
    """Score the tokens of one continuation.

    Args:
        logits: float32 [n, vocabulary]; row i predicts ids[i].
        ids: n token ids.
    """
    wanted = torch.tensor(list(ids), device=logits.device).unsqueeze(1)
    chosen = logits.gather(1, wanted)
    log_probs = (chosen - torch.logsumexp(logits, dim=-1, keepdim=True)).squeeze(1)
    ranks = (logits > chosen).sum(dim=-1) + 1
    return Score(tuple(log_probs.tolist()), tuple(ranks.tolist()))
