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
        # Every prompt's logits, [positions, vocabulary] each, are held until its chunk ends.
        self._most_prompts = max(1, _MAX_LOGITS // (readout.positions * model.info.vocabulary_size))

    def __call__(self, prompts: Sequence[Ids]) -> Iterator[Chunk]:
        """Values of `prompts`, a chunk at a time and in whatever order suits the work.

        Raises:
            GlossError: the model answers with something that is not a number.
        """
        appended = list(self._readout.appended)
        for chunk in self._chunks([len(prompt) + len(appended) for prompt in prompts]):
            sequences = [[*prompts[index].tolist(), *appended] for index in chunk]
            logits = self._model.logits(sequences, [self._readout.positions] * len(chunk))
            values = torch.stack([self._readout.value(rows) for rows in logits])
            if not bool(values.isfinite().all()):
                raise GlossError(
                    f"model {self._model.info.name!r} gives no finite probability; its weights may be damaged"
                )
            yield Chunk(list(zip(chunk, values.tolist(), strict=True)), sum(map(len, sequences)))

    def _chunks(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indexes of prompts of similar length, whose padded size stays within the budget; at least one a chunk."""
        chunk: list[int] = []
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            # Ascending: the newest prompt is the longest, and what the others are padded to.
            if chunk and (len(chunk) == self._most_prompts or (len(chunk) + 1) * lengths[index] > self._budget):
                yield chunk
                chunk = []
            chunk.append(index)
        if chunk:
            yield chunk
