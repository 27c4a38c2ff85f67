"""What explainers that look inside the model work with: one prompt, its embeddings, gradients and attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ml import attention
from ml.attention import AttentionSpec, Reduction
from ml.explain.estimator import Estimating, FloatArray
from ml.explain.evaluation import WORTH_READING, chunk_tokens
from ml.explain.removal import Perturbation
from ml.explain.target import Readout
from ml.explain.value_function import ValueFunction
from ml.models.base import LanguageModel, Prefix, WhiteBox

_BACK_AND_FORTH = 3
"""What a gradient costs beside a value: the way back takes a product for each of the way there, and more memory."""


@runtime_checkable
class Inspector(Protocol):
    """An explainer that looks inside the model. Otherwise as `ml.explain.estimator.Explainer`."""

    @property
    def planned(self) -> int:
        """The most evaluations that it will take."""
        ...

    @property
    def fewest(self) -> int:
        """The fewest evaluations that it must be allowed to take."""
        ...

    @property
    def in_units(self) -> bool:
        """Whether attributions are in the value's unit; otherwise they are shares."""
        ...

    def inspect(self, inside: Inside) -> Estimating:
        """Estimate every feature's attribution."""
        ...


class Inside:
    """One prompt in a model.

    Attributes:
        game: the prompt's value function, which keeps the clock and the costs.
        features: how many there are.
    """

    def __init__(
        self, model: LanguageModel, box: WhiteBox, perturbation: Perturbation, readout: Readout, game: ValueFunction
    ) -> None:
        """Look into `box`, which is `model`."""
        self.game = game
        self.features = perturbation.features
        self._model = model
        self._box = box
        self._perturbation = perturbation
        self._readout = readout
        self._tokens = len(perturbation.ids) + len(readout.appended)

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return self.game.late

    @property
    def points(self) -> int:
        """How many sequences of embeddings to ask for the gradients of at once."""
        return max(1, chunk_tokens(self._model.info) // (_BACK_AND_FORTH * (self._tokens - self._known)))

    def embeddings(self, *, removed: bool = False) -> Tensor:
        """What the model reads behind the tokens that never change, float32 [T', size].

        `removed`: with every feature removed, in place of the whole prompt.
        """
        kept = np.full(self.features, not removed)
        ids = [*self._perturbation(kept).tolist(), *self._readout.appended]
        return self._box.embed(ids[self._known :])

    def gradients(self, points: Tensor) -> Tensor:
        """Gradients of the value at some embeddings, both float32 [n, T', size]."""
        values, gradients = self._box.gradients(points, self._readout.positions, self._readout.values, self._prefix)
        self.game.charge(len(values), points.shape[0] * points.shape[1], saved=len(values) * self._known)
        return gradients

    def rollout(self) -> FloatArray:
        """Attention rollout from the positions that are read out, their mean over all tokens, float64 [T]."""
        ids = self._sequence
        queries = tuple(range(self._tokens - self._readout.positions, self._tokens))
        asked = AttentionSpec(queries=queries, reduction=Reduction.ROLLOUT)
        found = attention.attend(self._model, ids, attention.resolve(asked, self._model.info, self._tokens))
        self.game.charge(1, self._tokens)
        shares: FloatArray = found.weights[0, 0].mean(axis=0, dtype=np.float64)
        return shares

    def value_zeroing(self) -> Iterator[FloatArray | None]:
        """Value zeroing's shares rolled out over the layers, as `rollout`; None after each batch before they are known.

        The shares count the residual stream in, so nothing is mixed into them (Mohebbi et al. 2023, section 3).
        """
        product = torch.eye(self._tokens, device=self._model.info.device)

        def mix(_: int, shares: Tensor) -> None:
            nonlocal product
            product = shares[0].to(product.device) @ product

        layers, done = self._model.info.layers, 0
        for positions in self._box.value_zeroing(self._sequence, chunk_tokens(self._model.info), mix):
            before, done = done, done + positions
            # A batch of positions goes through one layer, and a sequence counts once it went through all of them.
            sequences, tokens = (done // (layers * n) - before // (layers * n) for n in (self._tokens, 1))
            self.game.charge(sequences, tokens)
            yield None
        rolled: FloatArray = product[-self._readout.positions :].double().mean(0).cpu().numpy()
        yield rolled

    def by_feature(self, tokens: Sequence[float] | FloatArray) -> FloatArray:
        """Sums over the tokens of each feature, float64 [features], of numbers of all T tokens, or of the last T'."""
        owner = self._perturbation.owner[self._tokens - len(tokens) :]
        numbers = np.asarray(tokens, dtype=np.float64)[: len(owner)]
        mine = owner >= 0
        return np.bincount(owner[mine], weights=numbers[mine], minlength=self.features).astype(np.float64)

    @cached_property
    def _prefix(self) -> Prefix | None:
        """What the model makes of the tokens that never change, where reading them once pays."""
        beginning = self._perturbation.beginning
        if not self._perturbation.keeps_places or len(beginning) < WORTH_READING:
            return None
        prefix = self._model.read_prefix(beginning)
        if prefix is not None:
            self.game.charge(0, prefix.length)
        return prefix

    @property
    def _known(self) -> int:
        return self._prefix.length if self._prefix else 0

    @property
    def _sequence(self) -> list[int]:
        return [*self._perturbation.ids.tolist(), *self._readout.appended]
