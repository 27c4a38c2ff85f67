"""How one prompt is explained: a dataclass for each method, with its parameters' defaults and ranges."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from ml.errors import InputError
from ml.spec.checks import Checked, Range

__all__ = [
    "DEFAULT_DEPTH",
    "MAX_STEPS",
    "AttentionRollout",
    "ContextAttribution",
    "Estimator",
    "Hierarchical",
    "InputTimesGradient",
    "IntegratedGradients",
    "Interactions",
    "KernelShap",
    "Lime",
    "Method",
    "NodeValue",
    "Occlusion",
    "ShapleyPermutation",
    "SurrogateKind",
    "ValueZeroing",
]

PENALTY = Range(0, 1e9)
"""Of a surrogate: at most by far enough to leave nothing of any coefficient."""
DEPTH = Range(1, 8)
DEFAULT_DEPTH = 3
"""Of a decision tree."""
MAX_STEPS = 1000
"""Points of an integral."""


class Estimator(Enum):
    """How LIME and KernelSHAP sample and make attributions of it; see `ml.explain.control_variates`."""

    CONTROL_VARIATES = "control variates"
    TEXTBOOK = "textbook"


class NodeValue(Enum):
    """What the value of a part of the text is; see `ml.explain.explainers.hierarchical`."""

    REMOVAL = "removal"
    OWEN = "Owen"


class SurrogateKind(Enum):
    """Interpretable models."""

    RIDGE = "ridge"
    LASSO = "lasso"
    DECISION_TREE = "decision tree"


@dataclass(frozen=True)
class Occlusion(Checked):
    """Leave windows of features out."""

    window: Annotated[int, Range(1)] = 1
    stride: Annotated[int, Range(1)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride > self.window:
            raise InputError("stride", f"must be between 1 and the window ({self.window}), not {self.stride}")


def check_depth(surrogate: SurrogateKind, max_depth: int | None) -> None:
    """Raise `InputError` where a depth is given and what it is the depth of is no tree."""
    if max_depth is not None and surrogate is not SurrogateKind.DECISION_TREE:
        raise InputError("max_depth", f"a {surrogate.value} has no depth; leave it unset, or choose a decision tree")


@dataclass(frozen=True)
class Lime(Checked):
    """A surrogate fitted around the prompt.

    `alpha` None is 1 for the ridge and 0.01 for the lasso, `max_depth` None is `DEFAULT_DEPTH` for the tree.
    """

    surrogate: SurrogateKind = SurrogateKind.RIDGE
    alpha: Annotated[float | None, PENALTY] = None
    # In hundredths of the cosine distance, which is at most 100: beyond this range all samples weigh alike, or none.
    kernel_width: Annotated[float, Range(0.01, 1e6)] = 25.0
    max_depth: Annotated[int | None, DEPTH] = None
    estimator: Estimator = Estimator.CONTROL_VARIATES

    def __post_init__(self) -> None:
        super().__post_init__()
        check_depth(self.surrogate, self.max_depth)


@dataclass(frozen=True)
class KernelShap:
    """Shapley values by weighted regression."""

    estimator: Estimator = Estimator.CONTROL_VARIATES


@dataclass(frozen=True)
class ShapleyPermutation:
    """Shapley values by antithetic permutations."""


@dataclass(frozen=True)
class InputTimesGradient:
    """Gradient of the value times the embedding."""


@dataclass(frozen=True)
class IntegratedGradients(Checked):
    """Gradients integrated from the removed prompt to the whole one, at `steps` points; None is as many as it takes."""

    steps: Annotated[int | None, Range(1, MAX_STEPS)] = None


@dataclass(frozen=True)
class AttentionRollout:
    """Attention, multiplied over the layers."""


@dataclass(frozen=True)
class ValueZeroing:
    """What a layer's output loses with a token's value vectors, multiplied over the layers."""


@dataclass(frozen=True)
class ContextAttribution(Checked):
    """A lasso on the logit of the target's probability over random halves of the features."""

    alpha: Annotated[float, PENALTY] = 0.01


@dataclass(frozen=True)
class Interactions:
    """What pairs of features do together."""


@dataclass(frozen=True)
class Hierarchical(Checked):
    """Parts of the text first, and what is in those whose value is at least `threshold` times the largest left."""

    node_value: NodeValue = NodeValue.REMOVAL
    threshold: Annotated[float, Range(0, 1)] = 0.05


Method = (
    Occlusion
    | Lime
    | KernelShap
    | ShapleyPermutation
    | InputTimesGradient
    | IntegratedGradients
    | AttentionRollout
    | ValueZeroing
    | ContextAttribution
    | Interactions
    | Hierarchical
)
