"""The tree of a text's parts, as the terminal and the page show it."""

from __future__ import annotations

from dataclasses import dataclass

from gloss import v1
from gloss.render import words
from gloss.values import enum_names

_LONG = 60
"""Characters of a part that are shown."""
_SMALL = 0.05
"""A part whose value is a smaller share of the largest is counted, and not drawn."""


@dataclass(frozen=True)
class Branch:
    """A part: its text, its level and what it did, in words.

    Attributes:
        note: what it may hide; empty where it was looked into.
        smaller: how many of its children are not drawn.
    """

    text: str
    level: str
    value: float
    figures: str
    note: str
    children: tuple[Branch, ...]
    smaller: int


def branches(result: v1.ExplanationResult) -> Branch | None:
    """The whole text with its parts; None where a result has none."""
    nodes = result.hierarchy.nodes
    if len(nodes) < 2:
        return None
    digits_shown = words.digits(result)
    least = _SMALL * max(abs(node.value) for node in nodes[1:])
    names = {number: name for name, number in enum_names(v1.NodeLevel.DESCRIPTOR).items()}

    def grow(node: v1.HierarchyNode) -> Branch:
        children = [nodes[child] for child in node.children]
        drawn = [child for child in children if abs(child.value) >= least or child.looked_into]
        error = words.uncertainty(node, digits_shown)
        return Branch(
            _shortened(result.text[node.span.start : node.span.end]),
            names.get(node.level, ""),
            node.value,
            words.signed(node.value, digits_shown) + ("" if error == "exact" else f" {error}"),
            f"not looked into, may hide up to {words.number(node.hidden, digits_shown)}"
            if node.HasField("hidden")
            else "",
            tuple(map(grow, drawn)),
            len(children) - len(drawn),
        )

    return grow(nodes[0])


def rest_line(result: v1.ExplanationResult) -> str:
    """What all that seems to carry little carries together; empty where that was not asked."""
    found = result.hierarchy
    if not found.HasField("rest_value"):
        return ""
    rest = [node for node in found.nodes if node.in_rest]
    count = sum(node.feature_count for node in rest)
    digits_shown = words.digits(result)
    alone = words.signed(sum(node.value for node in rest), digits_shown)
    together = words.signed(found.rest_value, digits_shown)
    return (
        f"The {count:,} that carry little, or were not looked into: {together} when left out together; their parts,"
        f" each left out alone, {alone} in all."
    )


def _shortened(text: str) -> str:
    shown = " ".join(words.visible(" ".join(text.split())).split())
    return shown if len(shown) <= _LONG else f"{shown[: _LONG - 1]}…"
