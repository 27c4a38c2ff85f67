"""From token sequences to target values: the only place of the explainers that runs the model.

Whatever makes that cheaper belongs here, and only here: the value function above sees token sequences go in and values
come out, chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ml.errors import GlossError
from ml.explain.removal import Ids
from ml.explain.target import Readout
from ml.models.base import LanguageModel, ModelInfo, Prefix
from ml.result import Precision

_CPU_OPERATIONS = 2e11
_DEVICE_OPERATIONS = 1e13
_TRIAL = 8
"""Prompts that a trial of a faster model computes twice."""
_SMALL_TRIAL = 4
"""The same where a job has few prompts."""
_TIMES_THE_BEGINNING = 4
"""Tokens of prompts, shared ones counted as often as they come, for each token of the beginning to make up for it."""
_LAST = 2
"""Prompts at the end that are part of every trial."""
WORTH_READING = 16
"""Tokens that all prompts begin with from which on they are read apart, once for all requests."""
_MAX_LOGITS = 1 << 25
"""Logits of one chunk: every prompt's, [positions, vocabulary] each, are held until it ends."""


def chunk_tokens(info: ModelInfo) -> int:
    """Tokens of one chunk, padding included: about a second of work, so that progress and cancellation come through.

    Made from the model's size and device and never from a clock: a matrix product's last bits depend on its shape, so
    the same run could not give the same bits twice if its chunks followed the machine's mood.
    """
    operations, least, most = (
        (_CPU_OPERATIONS, 256, 2048) if info.device.startswith("cpu") else (_DEVICE_OPERATIONS, 2048, 65536)
    )
    return int(min(max(operations / (2 * max(info.parameters, 1)), least), most))


def rough_seconds(info: ModelInfo, tokens: int) -> float:
    """How long reading `tokens` tokens may take, from the model's size and the kind of device alone: within a factor of
    about three of the truth on a server's processor, and meant for "seconds or hours?".
    """
    rate = _CPU_OPERATIONS if info.device.startswith("cpu") else _DEVICE_OPERATIONS
    return tokens * 2 * info.parameters / rate


@dataclass(frozen=True)
class Chunk:
    """What one step of the model gave: (index of the prompt, value) for some of the prompts, and its cost in tokens."""

    values: list[tuple[int, float]]
    tokens_computed: int
    tokens_saved: int = 0


class Evaluator:
    """Reads a target's value off a model for many prompts.

    With a `fast` model of lower precision, the first large request is a trial: some of its prompts are computed with
    both, and the fast one does the rest of the work if its error is small beside the values' own spread. That spread
    is what the effects and, where an explainer samples, its sampling error are made of, so a share of it of
    `TOLERANCE` leaves attributions that correlate with the exact ones by more than 0.999.

    Attributes:
        precision: what values are computed in from now on, and the largest error that the trial found.
    """

    TOLERANCE = 0.04
    """Largest root mean square of the fast values' errors, as a share of the values' standard deviation.

    Three quarters of it for a small sample: a few errors are small by luck more easily.
    """

    def __init__(
        self,
        model: LanguageModel,
        readout: Readout,
        *,
        fast: LanguageModel | None = None,
        beginning: Sequence[int] = (),
        planned: int = 1000,
        tokens_per_chunk: int | None = None,
    ) -> None:
        """Read `readout` off `model`.

        Args:
            beginning: tokens with which every prompt begins, none of which is read out.
            planned: about how many prompts will come in all: a trial is smaller where they are few.
        """
        self.precision = Precision(model.info.dtype)
        self._model = model
        self._candidate = fast
        self._readout = readout
        self._beginning = beginning if len(beginning) >= WORTH_READING else ()
        self._trial_size = _TRIAL if planned >= 16 * _TRIAL else _SMALL_TRIAL
        self._prefixes: dict[int, Prefix | None] = {}  # by the model's identity
        self._budget = tokens_per_chunk or chunk_tokens(model.info)

    def together(self, tokens: int) -> int:
        """How many prompts of `tokens` tokens to ask for at once: a chunk's on a GPU, which a few leave idle."""
        return 1 if self._model.info.device.startswith("cpu") else max(1, self._budget // max(1, tokens))

    def __call__(self, prompts: Sequence[Ids], exact: int = 0) -> Iterator[Chunk]:
        """Values of `prompts`, a chunk at a time and in whatever order suits the work.

        Args:
            exact: how many of the first prompts are not given to the fast model, should it be chosen for the others.

        Raises:
            GlossError: the model answers with something that is not a number.
        """
        rest = set(range(len(prompts)))
        others = len(prompts) - exact
        if self._candidate is not None and others >= 2 * _TRIAL and self._worth_a_trial(prompts):
            sample = {exact + i: weight for i, weight in _sample(others, self._trial_size).items()}
            yield from self._trial(self._candidate, prompts, range(exact), sample)
            rest -= {*range(exact), *sample}
        yield from self._chunks(self._model, prompts, sorted(rest))

    def _worth_a_trial(self, prompts: Sequence[Ids]) -> bool:
        """Whether the rest of `prompts` is more than the beginning, which either model reads for itself."""
        rest = sum(len(prompt) - len(self._beginning) for prompt in prompts)
        return rest >= _TIMES_THE_BEGINNING * len(self._beginning)

    def _trial(
        self, fast: LanguageModel, prompts: Sequence[Ids], exactly: Sequence[int], sample: Mapping[int, float]
    ) -> Iterator[Chunk]:
        """Compute `exactly`, and `sample` both ways, and choose the way to go on. See `_sample`."""
        exact, rough = dict[int, float](), dict[int, float]()
        for chunk in self._chunks(fast, prompts, list(sample)):
            rough.update(chunk.values)
            yield replace(chunk, values=[])
        for chunk in self._chunks(self._model, prompts, [*exactly, *sample]):
            exact.update(chunk.values)
            if len(exact) == len(exactly) + len(sample):
                self._candidate = None
                weights = np.array(list(sample.values())) / (len(prompts) - len(exactly))
                values = np.array([exact[i] for i in sample])
                errors = np.array([rough[i] for i in sample]) - values
                spread = np.sqrt(weights @ (values - weights @ values) ** 2)
                tolerance = self.TOLERANCE * (1 if self._trial_size >= _TRIAL else 0.75)
                if np.sqrt(weights @ errors**2) <= tolerance * spread:
                    self._model = fast
                    self.precision = Precision(fast.info.dtype, float(np.abs(errors).max()))
            yield chunk

    def _chunks(self, model: LanguageModel, prompts: Sequence[Ids], chosen: Sequence[int]) -> Iterator[Chunk]:
        """Values of the `chosen` prompts."""
        if self._beginning and id(model) not in self._prefixes:
            prefix = self._prefixes[id(model)] = model.read_prefix(self._beginning)
            yield Chunk([], prefix.length if prefix else 0)
        appended = list(self._readout.appended)
        positions = self._readout.positions
        batches = model.stream_logits(
            [[*prompts[i].tolist(), *appended] for i in chosen],
            [positions] * len(chosen),
            max_tokens=self._budget,
            max_readout=max(positions, _MAX_LOGITS // self._model.info.vocabulary_size),
            prefix=self._prefixes.get(id(model)),
        )
        for batch in batches:
            values = self._readout.values(torch.stack(list(batch.logits)))
            if not bool(values.isfinite().all()):
                raise GlossError(
                    f"model {self._model.info.name!r} gives no finite probability; its weights may be damaged"
                )
            found = list(zip([chosen[index] for index in batch.indices], values.tolist(), strict=True))
            yield Chunk(found, batch.tokens_computed, batch.tokens_saved)


def _sample(prompts: int, size: int) -> dict[int, float]:
    """Prompts for a trial, by index, and how many prompts each stands for: some of all, and the last ones.

    Where a feature after the other is left out, a next token depends most on the last: few prompts in which all of the
    spread may lie. The later, the cheaper.
    """
    others, size = prompts - _LAST, size - _LAST
    sample = {(i + 1) * others // size - 1: others / size for i in range(size)}
    return sample | dict.fromkeys(range(others, prompts), 1.0)
