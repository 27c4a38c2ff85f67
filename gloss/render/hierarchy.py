"""The tree of a text's parts, for the terminal and the page."""

from __future__ import annotations

from dataclasses import dataclass

from gloss import v1
from gloss.render import features, figures
from gloss.render.escaping import visible
from gloss.values import enum_names

_LONG = 60
"""Characters of a part that are shown."""
_SMALL = 0.05
"""Parts whose value is a smaller share of the largest are counted, not drawn."""


@dataclass(frozen=True)
class Branch:
    """A part of the text, with its level and its value in words.

    Attributes:
        note: what it may hide; empty if it was looked into.
        smaller: the number of children that are not drawn.
    """

    text: str
    level: str
    value: float
    figures: str
    note: str
    children: tuple[Branch, ...]
    smaller: int


def branches(result: v1.ExplanationResult) -> Branch | None:
    """The whole text with its parts; None for a result without a hierarchy."""
    nodes = result.hierarchy.nodes
    if len(nodes) < 2:
        return None
    digits_shown = features.digits(result)
    least = _SMALL * max(abs(node.value) for node in nodes[1:])
    names = {number: name for name, number in enum_names(v1.NodeLevel.DESCRIPTOR).items()}

    def grow(node: v1.HierarchyNode) -> Branch:
        children = [nodes[child] for child in node.children]
        drawn = [child for child in children if abs(child.value) >= least or child.looked_into]
        error = figures.uncertainty(node, digits_shown)
        return Branch(
            _shortened(result.text[node.span.start : node.span.end]),
            names.get(node.level, ""),
            node.value,
            figures.signed(node.value, digits_shown) + ("" if error == "exact" else f" {error}"),
            _note(node, digits_shown),
            tuple(map(grow, drawn)),
            len(children) - len(drawn),
        )

    return grow(nodes[0])


def rest_line(result: v1.ExplanationResult) -> str:
    """What the parts that seem to carry little carry together; empty if that was not measured."""
    found = result.hierarchy
    if not found.HasField("rest_value"):
        return ""
    rest = [node for node in found.nodes if node.in_rest]
    known = [found.nodes[child] for node in rest for child in node.children]  # they are counted for themselves
    count = sum(node.feature_count for node in rest) - len(known)
    digits_shown = features.digits(result)
    alone = figures.signed(sum(node.value for node in rest) - sum(node.value for node in known), digits_shown)
    together = figures.signed(found.rest_value, digits_shown)
    return (
        f"The {count:,} that carry little or were not looked into: {together} if left out together, and {alone} in all"
        " if each part is left out alone."
    )


def _note(node: v1.HierarchyNode, digits_shown: int) -> str:
    if not node.HasField("hidden"):
        return ""
    rest = "the rest " if node.children else ""
    return f"{rest}not looked into, may hide up to {figures.number(node.hidden, digits_shown)}"


def _shortened(text: str) -> str:
    shown = " ".join(visible(" ".join(text.split())).split())
    return shown if len(shown) <= _LONG else f"{shown[: _LONG - 1]}…"
