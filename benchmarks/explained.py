"""What an explanation by Gloss finds, in this process."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ml.explain import start
from ml.explain.values.cache import ValueCache
from ml.models.protocol import ExplainableModel
from ml.result import ExplanationResult
from ml.spec import ExplanationSpec


def explained(model: ExplainableModel, spec: ExplanationSpec, cache: ValueCache | None = None) -> ExplanationResult:
    """The result of `spec`."""
    *_, last = start(model, spec, cache=cache)
    if not isinstance(last.result, ExplanationResult):
        raise AssertionError("the last update holds the result")
    return last.result


def attributions(result: ExplanationResult) -> npt.NDArray[np.float64]:
    """What each feature contributes, [features]."""
    return np.array([each.attribution for each in result.attributions])
