"""Reads prompts with a Hugging Face model that can pack rows, and remembers their beginnings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.forest import Forest, Indices
from ml.language_model import Reading
from ml.models.forest_attention import ForestRun, Store
from ml.prefixes import Piece, PrefixTree


@dataclass(frozen=True)
class Beginning:
    """A prompt that was read in order to be continued.

    Attributes:
        logits: what comes next, float32 [vocabulary].
        states: by layer, keys and values of one run of positions after the other, each [key heads, positions, size].
        recalled: how many first positions were known from prompts before.
    """

    logits: Tensor
    states: Mapping[int, Sequence[tuple[Tensor, Tensor]]]
    recalled: int


class PrefixReader:
    """See `ml.language_model.Reader`."""

    pads = False

    def __init__(
        self, module: PreTrainedModel, max_bytes: int, alone: Callable[[Sequence[int]], Tensor | None] | None = None
    ) -> None:
        """Remember what fits into `max_bytes`; `alone` reads one short prompt faster than looking it up would be."""
        self._alone = alone
        self._module = module
        self._max_bytes = max_bytes
        self._known: tuple[PrefixTree, Store] | None = None  # once it is known what a token takes
        # What the last batch computed, until it is settled.
        self._fresh: tuple[ForestRun, Forest, Sequence[Sequence[int]]] | None = None

    @property
    def bytes(self) -> int:
        """Memory of what is remembered; see `Reader.bytes`."""
        return 0 if self._known is None else self._known[0].tokens * self._known[1].token_bytes

    @torch.inference_mode()
    def read(self, sequences: Sequence[Sequence[int]], tails: Sequence[int]) -> Reading:
        """Logits; see `Reader.read`."""
        self.settle()
        if self._alone and list(tails) == [1] and (logits := self._alone(sequences[0])) is not None:
            return Reading([logits], len(sequences[0]), 0, [0])
        logits, _, forest = self._run(sequences, tails, self._recall(sequences, tails))
        return Reading(list(logits.split(list(tails))), forest.rows, 0, forest.recalled)

    @torch.inference_mode()
    def begin(self, ids: Sequence[int]) -> Beginning:
        """Read a prompt, and keep what it takes to go on."""
        self.settle()
        pieces = self._recall([ids], [1])
        logits, run, forest = self._run([ids], [1], pieces)
        states = {
            layer: [*(self._remembered(layer, piece) for piece in pieces[0]), fresh]
            for layer, fresh in run.layers.items()
        }
        return Beginning(logits[0], states, forest.recalled[0])

    def _recall(self, sequences: Sequence[Sequence[int]], tails: Sequence[int]) -> list[list[Piece]]:
        """What is remembered of each prompt's beginning, without the positions that are read out."""
        if self._known is None:
            return [[] for _ in sequences]
        tree, _ = self._known
        return [tree.recall(ids, len(ids) - tail) for ids, tail in zip(sequences, tails, strict=True)]

    def _run(
        self, sequences: Sequence[Sequence[int]], tails: Sequence[int], pieces: Sequence[Sequence[Piece]]
    ) -> tuple[Tensor, ForestRun, Forest]:
        """Logits of the read-out rows, float32 [sum of tails, vocabulary], and how they came about."""
        forest = Forest(sequences, tails, pieces)
        run = ForestRun(forest, None if self._known is None else self._known[1])
        logits = run.forward(self._module).float()
        if self._max_bytes:
            self._fresh = (run, forest, sequences)
        return logits, run, forest

    def _remembered(self, layer: int, piece: Piece) -> tuple[Tensor, Tensor]:
        if self._known is None:
            raise AssertionError("nothing is remembered yet")
        return self._known[1][layer, piece.places]

    @torch.inference_mode()
    def settle(self) -> None:
        """Copy what the last batch computed into what is remembered; see `Reader.settle`."""
        if self._fresh is None:
            return
        run, forest, sequences = self._fresh
        self._fresh = None
        if self._known is None:
            store = Store(run, self._max_bytes)
            self._known = PrefixTree(store.places), store
        tree, store = self._known
        for index, ids in enumerate(sequences):
            rows, first = forest.path(index), forest.recalled[index]
            if fresh := tree.remember(ids, first):
                begin = fresh.start - first
                store.put(fresh.places, run, _rows(rows[begin : begin + len(fresh.places)]))


def _rows(rows: Indices) -> slice | Tensor:
    """The rows as a slice, which is copied faster, where they stand together."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else torch.from_numpy(rows)
