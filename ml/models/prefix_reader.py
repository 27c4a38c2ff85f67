"""Reads prompts with a Hugging Face model that can pack rows, and remembers their beginnings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.forest import Forest, Indices
from ml.language_model import Reading
from ml.models.forest_attention import ForestRun, Store
from ml.prefixes import PrefixTree


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
        tree, store = self._known or (None, None)
        recalled = [
            [] if tree is None else tree.recall(ids, len(ids) - tail)
            for ids, tail in zip(sequences, tails, strict=True)
        ]
        forest = Forest(sequences, tails, recalled)
        run = ForestRun(forest, store)
        logits = run.forward(self._module).float()
        if self._max_bytes:
            self._fresh = (run, forest, sequences)
        return Reading(list(logits.split(list(tails))), forest.rows, 0, forest.recalled)

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
