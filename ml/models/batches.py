"""Sequences as padded batches: `stream_logits` and `reader` of models that cannot share prefixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from ml.language_model import Batch, Reading

Logits = Callable[[Sequence[Sequence[int]], Sequence[int]], list[Tensor]]


def padded_batches(
    logits: Logits, sequences: Sequence[Sequence[int]], tails: Sequence[int], *, max_tokens: int, max_readout: int
) -> Iterator[Batch]:
    """Batches of sequences of similar length; see `LanguageModel.stream_logits`.

    Args:
        logits: the model's own `logits`.
    """
    for indices in _grouped([len(sequence) for sequence in sequences], tails, max_tokens, max_readout):
        batch = [sequences[i] for i in indices]
        yield Batch(indices, logits(batch, [tails[i] for i in indices]), sum(map(len, batch)), 0)


class PaddedReader:
    """Reads prompts as one padded batch and remembers nothing; see `ml.language_model.Reader`."""

    pads = True

    def __init__(self, logits: Logits) -> None:
        """Read by the model's own `logits`."""
        self._logits = logits

    @property
    def bytes(self) -> int:
        """Nothing is remembered."""
        return 0

    def read(self, sequences: Sequence[Sequence[int]], tails: Sequence[int]) -> Reading:
        """One batch; see `Reader.read`."""
        useful = sum(map(len, sequences))
        padding = len(sequences) * max(map(len, sequences)) - useful
        return Reading(self._logits(sequences, tails), useful, padding, [0] * len(sequences))

    def settle(self) -> None:
        """Nothing waits."""


def _grouped(lengths: Sequence[int], tails: Sequence[int], max_tokens: int, max_readout: int) -> Iterator[list[int]]:
    group: list[int] = []
    readout = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Ascending: the newest sequence is the longest, and what the others are padded to.
        if group and ((len(group) + 1) * lengths[index] > max_tokens or readout + tails[index] > max_readout):
            yield group
            group, readout = [], 0
        group.append(index)
        readout += tails[index]
    if group:
        yield group
