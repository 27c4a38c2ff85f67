"""One pass of a model over rows of several kinds: decode rows, prefill chunks, whole prompts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ml.runtime.decoding import DecodingStep
from ml.runtime.forward import RaggedForward, run_rows
from ml.runtime.last_layer import KeysKnownError, LayerCall, TrimmedForward

Part = DecodingStep | RaggedForward


class MixedStep(TrimmedForward):
    """Parts on their way through a model together. Each attends as it does alone, to slots of its own."""

    def __init__(self, parts: Sequence[Part]) -> None:
        """Prepare to run the rows of `parts`, one part behind the other."""
        super().__init__()
        self._parts = parts
        self._rows = _slices([len(part.ids) for part in parts])
        self._kept_rows: list[slice] = []

    def run(self, module: PreTrainedModel) -> Tensor:
        """Logits of the rows that the parts ask for, part by part, [rows, vocabulary]."""
        for part in self._parts:
            part.lay_out(part.ids, part.positions, part.logit_rows, module.device)
        self._kept_rows = _slices([len(part.rows_kept) for part in self._parts])
        pairs = list(zip(self._parts, self._rows, strict=True))
        return run_rows(
            self,
            module,
            np.concatenate([part.ids for part in self._parts]),
            np.concatenate([part.positions for part in self._parts]),
            np.concatenate([part.logit_rows + rows.start for part, rows in pairs]),
        )

    def attend_rows(self, call: LayerCall, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `TrimmedForward.attend`."""
        found = []
        for part, rows in zip(self._parts, self._kept_rows if self.picked else self._rows, strict=True):
            part.picked, part.collecting = self.picked, self.collecting
            if rows.start < rows.stop:
                with suppress(KeysKnownError):
                    found.append(part.attend_rows(call, query[:, :, rows], key[:, :, rows], value[:, :, rows]))
        if self.collecting:
            raise KeysKnownError
        return torch.cat(found, dim=1)


def run_parts(module: PreTrainedModel, parts: Sequence[Part]) -> Tensor:
    """Logits of the rows that the parts ask for, part by part, [rows, vocabulary], by one pass of `module`."""
    return parts[0].run(module) if len(parts) == 1 else MixedStep(parts).run(module)


def _slices(counts: Sequence[int]) -> list[slice]:
    ends = np.concatenate([[0], np.cumsum(counts)]).tolist()
    return [slice(start, stop) for start, stop in pairwise(ends)]
