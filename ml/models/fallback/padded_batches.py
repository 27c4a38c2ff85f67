"""Sequences as padded batches: `logits`, and `stream_logits` of models that cannot share prefixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.models.base import Batch
from ml.runtime.device import to_device
from ml.runtime.embedding import inputs

Logits = Callable[[Sequence[Sequence[int]], Sequence[int]], list[Tensor]]


def batch_logits(
    module: PreTrainedModel, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int], *, spread: bool = False
) -> list[Tensor]:
    """Logits after the last `logit_counts[i]` positions of sequence i, each float32 [logit_counts[i], vocabulary].

    Padding stands on the right, where no position of a causal model sees it: so there is no mask, SDPA takes its
    causal fast path whatever the lengths, and every position has the number that it has alone.

    Args:
        spread: whether the layers of `module` lie on several devices.
    """
    ids = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    wanted = torch.zeros_like(ids, dtype=torch.bool)
    for row, sequence, tail in zip(range(len(sequences)), sequences, logit_counts, strict=True):
        ids[row, : len(sequence)] = torch.as_tensor(sequence)
        wanted[row, len(sequence) - tail : len(sequence)] = True
    # A mask on the CPU picks from a tensor on whichever GPU, and the last layer's need not be the first's.
    wanted = wanted if spread else to_device(wanted, module.device)
    # The mask picks the hidden states before the head: the result is [sum of logit_counts, vocabulary], row by row.
    out = module(**inputs(module, ids), use_cache=False, logits_to_keep=wanted).logits
    return list(kept(out, wanted).float().split(list(logit_counts)))


def kept(logits: Tensor, wanted: Tensor) -> Tensor:
    """The `logits` of the positions that are `wanted`, bool [n, T], as [positions, vocabulary].

    Some models give those of all positions, [n, T, vocabulary], whatever they are asked for.
    """
    return logits[wanted.to(logits.device)] if logits.dim() == 3 and logits.shape[:2] == wanted.shape else logits


def padded_batches(
    logits: Logits, sequences: Sequence[Sequence[int]], logit_counts: Sequence[int], *, max_tokens: int, max_logits: int
) -> Iterator[Batch]:
    """Batches of sequences of similar length; see `LanguageModel.stream_logits`.

    Args:
        logits: the model's own `logits`.
    """
    for indices in _grouped([len(sequence) for sequence in sequences], logit_counts, max_tokens, max_logits):
        batch = [sequences[i] for i in indices]
        yield Batch(indices, logits(batch, [logit_counts[i] for i in indices]), sum(map(len, batch)), 0)


def _grouped(
    lengths: Sequence[int], logit_counts: Sequence[int], max_tokens: int, max_logits: int
) -> Iterator[list[int]]:
    group: list[int] = []
    logit_positions = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Ascending: the newest sequence is the longest, and what the others are padded to.
        if group and (
            (len(group) + 1) * lengths[index] > max_tokens or logit_positions + logit_counts[index] > max_logits
        ):
            yield group
            group, logit_positions = [], 0
        group.append(index)
        logit_positions += logit_counts[index]
    if group:
        yield group
