"""From token sequences to target values: the only place of the explainers that runs the model.

Whatever makes that cheaper belongs here, and only here: the value function above sees token sequences go in and values
come out, chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ml.errors import GlossError
from ml.explain.removal import Ids
from ml.explain.target import Readout
from ml.language_model import LanguageModel, ModelInfo

_CPU_OPERATIONS = 1e11
_DEVICE_OPERATIONS = 1e13
_MAX_LOGITS = 1 << 25
"""Logits of one chunk: every prompt's, [positions, vocabulary] each, are held until it ends."""


def chunk_tokens(info: ModelInfo) -> int:
    """Tokens of one chunk, padding included: about a second of work, so that progress and cancellation come through.

    Made from the model's size and device and never from a clock: a matrix product's last bits depend on its shape, so
    the same run could not give the same bits twice if its chunks followed the machine's mood.
    """
    operations, least, most = (
        (_CPU_OPERATIONS, 256, 4096) if info.device.startswith("cpu") else (_DEVICE_OPERATIONS, 2048, 65536)
    )
    return int(min(max(operations / (2 * max(info.parameters, 1)), least), most))


@dataclass(frozen=True)
class Chunk:
    """What one step of the model gave: (index of the prompt, value) for some of the prompts, and its cost in tokens."""

    values: list[tuple[int, float]]
    tokens_computed: int
    tokens_saved: int = 0


class Evaluator:
    """Reads a target's value off a model for many prompts."""

    def __init__(self, model: LanguageModel, readout: Readout, *, tokens_per_chunk: int | None = None) -> None:
        self._model = model
        self._readout = readout
        self._budget = tokens_per_chunk or chunk_tokens(model.info)

    def __call__(self, prompts: Sequence[Ids]) -> Iterator[Chunk]:
        """Values of `prompts`, a chunk at a time and in whatever order suits the work.

        Raises:
            GlossError: the model answers with something that is not a number.
        """
        appended = list(self._readout.appended)
        positions = self._readout.positions
        batches = self._model.stream_logits(
            [[*prompt.tolist(), *appended] for prompt in prompts],
            [positions] * len(prompts),
            max_tokens=self._budget,
            max_readout=max(positions, _MAX_LOGITS // self._model.info.vocabulary_size),
        )
        for batch in batches:
            values = torch.stack([self._readout.value(rows) for rows in batch.logits])
            if not bool(values.isfinite().all()):
                raise GlossError(
                    f"model {self._model.info.name!r} gives no finite probability; its weights may be damaged"
                )
            found = list(zip(batch.indices, values.tolist(), strict=True))
            yield Chunk(found, batch.tokens_computed, batch.tokens_saved)
