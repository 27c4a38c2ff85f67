"""Gloss's own ways to rank the words of a prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.answering.pairs import Pair
from benchmarks.explained import attributions, explained
from ml.errors import CapabilityError, InputError
from ml.explain import Problem, prepare
from ml.explain.values.cache import ValueCache
from ml.models.base import LanguageModel
from ml.spec import (
    NEUTRAL,
    AttentionRollout,
    ContextAttribution,
    ExplanationSpec,
    InputTimesGradient,
    IntegratedGradients,
    Interactions,
    KernelShap,
    Lime,
    Method,
    Occlusion,
    Prompt,
    Quality,
    Removal,
    RemovalKind,
    ShapleyPermutation,
    SurrogateKind,
    ValueZeroing,
)

Values = npt.NDArray[np.float64]

_GAMES: dict[str, Method] = {
    "occlusion": Occlusion(),
    "LIME": Lime(),
    "LIME, lasso": Lime(SurrogateKind.LASSO),
    "LIME, tree": Lime(SurrogateKind.DECISION_TREE),
    "KernelSHAP": KernelShap(),
    "permutations": ShapleyPermutation(),
    "interactions": Interactions(),
    "context attribution": ContextAttribution(),
}
_PATHS: dict[str, Method] = {"integrated gradients": IntegratedGradients()}
_OF_INTERNALS: dict[str, Method] = {
    "input × gradient": InputTimesGradient(),
    "attention rollout": AttentionRollout(),
    "value zeroing": ValueZeroing(),
}
_REMOVALS = {
    "mask": Removal(RemovalKind.MASK_TOKEN),
    "delete": Removal(RemovalKind.DELETE),
    "text": Removal(RemovalKind.TEXT, NEUTRAL),
    "text and delete": Removal(RemovalKind.TEXT_AND_DELETE),
    "similar words": Removal(RemovalKind.SIMILAR),
    "similar words, slopes": Removal(RemovalKind.SIMILAR_SLOPES),
    "mean embedding": Removal(RemovalKind.MEAN_EMBEDDING),
}
_KEEPING_POSITIONS = ("mask", "mean embedding")


@dataclass(frozen=True)
class Way:
    """A method with a removal; `name` is that of both."""

    name: str
    method: Method
    removal: Removal

    def spec(self, pair: Pair) -> ExplanationSpec:
        """The question why a pair's right word rather than its wrong one."""
        return ExplanationSpec(
            prompt=Prompt(text=pair.prefix),
            method=self.method,
            target=pair.target,
            removal=self.removal,
            quality=Quality(faithfulness=False),
        )

    def problem(self, model: LanguageModel, pair: Pair) -> Problem:
        """The question, checked against the model."""
        return prepare(model.tokenizer, model.info, self.spec(pair))

    def attributions(self, model: LanguageModel, pair: Pair, cache: ValueCache | None = None) -> Values:
        """What each word contributes, float64 [features]."""
        return attributions(explained(model, self.spec(pair), cache))


def ways(model: LanguageModel, pair: Pair) -> Iterator[Way]:
    """All that the model can be explained by, those first that share their values."""
    for name_of_removal, removal in _REMOVALS.items():
        for name, method in (_GAMES | _PATHS if name_of_removal in _KEEPING_POSITIONS else _GAMES).items():
            yield from _possible(model, pair, Way(f"{name}, {name_of_removal}", method, removal))
    for name, method in _OF_INTERNALS.items():
        yield from _possible(model, pair, Way(name, method, Removal()))


def _possible(model: LanguageModel, pair: Pair, way: Way) -> Iterator[Way]:
    try:
        way.problem(model, pair)
    except (CapabilityError, InputError):  # no attention, or no mask token
        return
    yield way
