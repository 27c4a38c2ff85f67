"""A fitted surrogate in words: how well it fits, and its tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gloss import v1
from gloss.render import features, figures

_NAMES = {
    v1.SURROGATE_RIDGE: "ridge regression",
    v1.SURROGATE_LASSO: "lasso regression",
    v1.SURROGATE_DECISION_TREE: "decision tree",
}


@dataclass(frozen=True)
class Fitted:
    """A surrogate around one prompt, or over many.

    Attributes:
        sentence: how well it fits.
        nodes: of a tree, the root first; none for a linear surrogate.
        names: by a node's `feature`, what it asks about.
        absent: the label of the branch without it.
        digits_shown: decimals of the predicted values.
    """

    sentence: str
    nodes: Sequence[v1.TreeNode]
    names: Sequence[str]
    absent: str
    digits_shown: int


def around(result: v1.ExplanationResult) -> Fitted | None:
    """The surrogate around a prompt, if the method fits one."""
    if not result.HasField("surrogate"):
        return None
    fit = result.surrogate
    return Fitted(
        f"{_explains(fit, fit.r_squared)} around this prompt (R² {figures.number(fit.r_squared)}).",
        fit.nodes,
        [part.text for part in result.attributions],
        "removed: ",
        features.digits(result),
    )


def over_many(found: v1.GlobalSurrogateResult) -> Fitted:
    """The surrogate over many prompts."""
    fit, share = found.surrogate, found.held_out_r_squared
    return Fitted(
        f"{_explains(fit, share)} over {found.held_out_prompts:,} prompts held out (R² {figures.number(share)};"
        f" {figures.number(fit.r_squared)} over the {found.fitted_prompts:,} that it was fitted to).",
        fit.nodes,
        [word.word for word in found.coefficients],
        "absent: ",
        figures.decimals(max((abs(node.value) for node in fit.nodes), default=0.0)),
    )


def _explains(fit: v1.SurrogateFit, share: float) -> str:
    name = _NAMES.get(fit.kind, "surrogate")
    return f"The {name} explains {100 * max(share, 0.0):.0f}% of the value's variance"
