"""Many sequences through an LSTM, with each distinct prefix read once.

Sorted sequences are read side by side, a few words at a time. Before each such stage, the sequences that agree on
everything so far and on the stage's words are one: a stage computes distinct prefixes only, each on from the hidden
state of the shorter prefix that it extends. Words in a stage that only some share are computed once for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ml.models.base import MEAN, Batch
from ml.models.lstm.network import State, WordLSTM

STAGE = 8
"""Words of a stage: fewer share more, and cost more calls."""

_NONE = MEAN - 1  # neither a word nor what stands for one


@dataclass(frozen=True)
class LstmPrefix:
    """The hidden state after a prefix that was read once; see `ml.models.base.Prefix`."""

    length: int
    state: State


def stream(
    module: WordLSTM,
    sequences: Sequence[Sequence[int]],
    logit_counts: Sequence[int],
    *,
    max_tokens: int,
    max_logits: int,
    prefix: LstmPrefix,
) -> Iterator[Batch]:
    """Logits of many sequences; see `ml.models.base.LanguageModel.stream_logits`."""
    order = sorted(range(len(sequences)), key=lambda i: tuple(sequences[i]))
    chosen: list[int] = []
    tokens = logit_positions = 0
    for index in order:
        length = len(sequences[index]) - prefix.length
        if chosen and (tokens + length > max_tokens or logit_positions + logit_counts[index] > max_logits):
            yield _read(module, sequences, logit_counts, chosen, prefix)
            chosen, tokens, logit_positions = [], 0, 0
        chosen.append(index)
        tokens, logit_positions = tokens + length, logit_positions + logit_counts[index]
    if chosen:
        yield _read(module, sequences, logit_counts, chosen, prefix)


def _read(
    module: WordLSTM,
    sequences: Sequence[Sequence[int]],
    logit_counts: Sequence[int],
    chosen: Sequence[int],
    prefix: LstmPrefix,
) -> Batch:
    """One batch: the `chosen` sequences, stage by stage."""
    lengths = np.array([len(sequences[i]) for i in chosen])
    firsts = lengths - np.array([logit_counts[i] for i in chosen])  # the first position that is read out
    ids = np.full((len(chosen), int(lengths.max())), _NONE)
    for line, i in zip(ids, chosen, strict=True):
        line[: len(sequences[i])] = sequences[i]
    wanted: list[list[Tensor]] = [[] for _ in chosen]
    parents, state = np.zeros(len(chosen), dtype=np.int64), prefix.state
    computed = 0
    for begin in range(prefix.length, ids.shape[1], STAGE):
        active = np.flatnonzero(lengths > begin)
        words = ids[active, begin : begin + STAGE]
        distinct, place = np.unique(np.column_stack([parents[active], words]), axis=0, return_inverse=True)
        place = place.reshape(-1)
        hidden, state = _stage(module, distinct, state)
        computed += int((distinct[:, 1:] != _NONE).sum())
        for row, at in zip(active.tolist(), place.tolist(), strict=True):
            first, end = max(0, int(firsts[row]) - begin), min(STAGE, int(lengths[row]) - begin)
            if first < end:
                wanted[row].append(hidden[at, first:end])
        parents[active] = place
    logits = module.head(torch.cat([part for parts in wanted for part in parts])).float()
    saved = int(lengths.sum()) - computed
    return Batch(chosen, logits.split([logit_counts[i] for i in chosen]), computed, saved)


def _stage(module: WordLSTM, distinct: npt.NDArray[np.int64], state: State) -> tuple[Tensor, State]:
    """Read the words `distinct[:, 1:]`, each row on from the state numbered `distinct[:, 0]`."""
    device = module.embedding.weight.device
    rows = torch.from_numpy(distinct).to(device)
    before = [(h[:, rows[:, 0]], c[:, rows[:, 0]]) for h, c in state]
    # Padding on the right is never seen: the model reads from left to right.
    hidden, after = module(rows[:, 1:].clamp(min=MEAN), before)
    return hidden, after
