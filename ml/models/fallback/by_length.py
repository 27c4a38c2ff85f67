"""Short sequences in the fast way, longer ones in the way that is right for all.

Some models are ordinary ones up to a length only, and which way a sequence goes is decided by its own length: nobody's
long prompt makes another's wait, or changes what it is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ml.models.base import Decoder, Reader, Reading


class ReaderByLength:
    """Reads prompts of up to `limit` tokens with one reader and longer ones with another; see `Reader`."""

    pads = False

    def __init__(self, short: Reader, long: Reader, limit: float) -> None:
        self.short, self._long, self._limit = short, long, limit

    @property
    def bytes(self) -> int:
        """Memory of cached prefixes."""
        return self.short.bytes + self._long.bytes

    def read(self, sequences: Sequence[Sequence[int]], tails: Sequence[int]) -> Reading:
        """See `Reader.read`."""
        logits: dict[int, Tensor] = {}
        recalled: dict[int, int] = {}
        computed = padding = 0
        for reader, chosen in zip((self.short, self._long), self._apart(sequences), strict=True):
            if not chosen:
                continue
            reading = reader.read([sequences[i] for i in chosen], [tails[i] for i in chosen])
            logits.update(zip(chosen, reading.logits, strict=True))
            recalled.update(zip(chosen, reading.recalled, strict=True))
            computed += reading.tokens_computed
            padding += reading.tokens_padding
        every = range(len(sequences))
        return Reading([logits[i] for i in every], computed, padding, [recalled[i] for i in every])

    def settle(self) -> None:
        """See `Reader.settle`."""
        self.short.settle()
        self._long.settle()

    def _apart(self, sequences: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
        short = [i for i, ids in enumerate(sequences) if len(ids) <= self._limit]
        return short, [i for i, ids in enumerate(sequences) if len(ids) > self._limit]


class DecoderByLength:
    """Decodes sequences of up to `limit` tokens with one decoder, and goes on with another; see `Decoder`.

    A sequence that outgrows the limit is read anew by the other decoder, once.
    """

    def __init__(self, short: Decoder, long: Callable[[], Decoder], limit: float) -> None:
        """`long`: makes the other decoder when a sequence first needs it."""
        self._short, self._make_long, self._limit = short, long, limit
        self._long: Decoder | None = None
        self.recalled = 0
        self._ids: list[list[int]] = []
        self._where: list[tuple[bool, int]] = []  # of each sequence: whether it is short, and its index in its decoder

    def start(self, ids: Sequence[int]) -> Tensor:
        """See `Decoder.start`."""
        short = len(ids) <= self._limit
        decoder = self._decoder(short)
        logits = decoder.start(ids)
        self.recalled = decoder.recalled
        self._where.append((short, self._count(short)))
        self._ids.append(list(ids))
        return logits

    def step(self, tokens: Sequence[int], indices: Sequence[int] | None = None) -> Tensor:
        """See `Decoder.step`."""
        chosen = list(range(len(self._ids)) if indices is None else indices)
        found: dict[int, Tensor] = {}
        for index, token in zip(chosen, tokens, strict=True):
            self._ids[index].append(token)
            if self._where[index][0] and len(self._ids[index]) > self._limit:
                self._leave(index)
                found[index] = self._decoder(short=False).start(self._ids[index])
                self._where[index] = False, self._count(short=False)
        for short in (True, False):
            going = [i for i in chosen if i not in found and self._where[i][0] is short]
            going.sort(key=lambda i: self._where[i][1])
            if going:
                logits = self._decoder(short).step(
                    [self._ids[i][-1] for i in going], [self._where[i][1] for i in going]
                )
                found.update(zip(going, logits, strict=True))
        return torch.stack([found[i] for i in chosen])

    def leave(self, index: int) -> None:
        """See `Decoder.leave`."""
        self._leave(index)
        self._ids[index], self._where[index] = self._ids[-1], self._where[-1]
        self._ids.pop()
        self._where.pop()

    def _decoder(self, short: bool) -> Decoder:
        if short:
            return self._short
        self._long = self._long or self._make_long()
        return self._long

    def _count(self, short: bool) -> int:
        """How many sequences a decoder has."""
        return sum(each is short for each, place in self._where if place >= 0)

    def _leave(self, index: int) -> None:
        """Take a sequence out of its decoder, in which the last one takes its place."""
        short, place = self._where[index]
        self._decoder(short).leave(place)
        last = self._count(short) - 1
        self._where[index] = short, -1
        self._where = [(kind, place if kind is short and at == last else at) for kind, at in self._where]
