"""From logits to what is said of tokens to come: the most likely ones, entropies, the scores of given tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ml.errors import GlossError
from ml.prediction import Prediction, Score

_ROWS = 64
"""Rows whose numbers in double precision are in memory at once. For all rows of a long text they would be a gigabyte,
and to get that much from the system takes several times as long as to compute them."""


def next_token(logits: Tensor, top_k: Sequence[int], temperatures: Sequence[float]) -> list[Prediction]:
    """Predict what follows each of n prompts, in double precision.

    Args:
        logits: float32 [n, vocabulary].
        top_k: how many tokens to list for each prompt.
        temperatures: what each prompt's logits are divided by.

    Raises:
        GlossError: a row is not a distribution.
    """
    scale = torch.tensor(temperatures, dtype=torch.float64, device=logits.device).unsqueeze(1)
    # The largest logit becomes 0, which stays 0 at any temperature; the others may only fall.
    logits = logits.double()
    shifted = (logits - logits.amax(dim=-1, keepdim=True)) / scale
    return _top_tokens(torch.log_softmax(shifted, dim=-1), top_k)


def score(logits: Tensor, ids: Sequence[int], top_k: int = 0) -> Score:
    """Score the tokens of one continuation, in double precision.

    Args:
        logits: float32 [n, vocabulary]; row i predicts ids[i].
        ids: n token ids.
        top_k: how many tokens to list for each position; 0 makes no predictions.

    Raises:
        GlossError: a row is not a distribution.
    """
    wanted = torch.tensor(list(ids), device=logits.device).unsqueeze(1)
    scores: list[Tensor] = []
    ranks: list[Tensor] = []
    predictions: list[Prediction] = []
    for rows, ids_of_rows in zip(logits.split(_ROWS), wanted.split(_ROWS), strict=True):
        log_probabilities = torch.log_softmax(rows.double(), dim=-1)
        scores.append(log_probabilities.gather(1, ids_of_rows).squeeze(1))
        ranks.append((rows > rows.gather(1, ids_of_rows)).sum(dim=-1) + 1)
        if top_k:
            predictions += _top_tokens(log_probabilities, [top_k] * len(rows))
    found = torch.cat(scores)
    _check_numbers(found)
    return Score(tuple(found.tolist()), tuple(torch.cat(ranks).tolist()), tuple(predictions))


def _top_tokens(log_probabilities: Tensor, top_k: Sequence[int]) -> list[Prediction]:
    """The `top_k[i]` most likely tokens of row i of `log_probabilities`, float64 [n, vocabulary], and its entropy."""
    entropies = torch.cat([torch.special.entr(rows.exp()).sum(dim=-1) for rows in log_probabilities.split(_ROWS)])
    _check_numbers(entropies)
    top = log_probabilities.topk(max(top_k), dim=-1)
    rows = zip(top_k, top.indices.tolist(), top.values.tolist(), entropies.tolist(), strict=True)
    return [Prediction(tuple(ids[:k]), tuple(values[:k]), nats) for k, ids, values, nats in rows]


def _check_numbers(values: Tensor) -> None:
    if bool(values.isnan().any()):
        raise GlossError("the model gives no probabilities (not a number); its weights may be damaged")
