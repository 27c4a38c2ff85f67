"""The hierarchy of a text: the tree of its sections, paragraphs, sentences and features.

A part is a run of neighbouring features. Levels at which a part would have a single child are skipped. Many children
are put into groups of neighbours, so that coarse-to-fine works on a text without paragraphs too.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from ml import spec
from ml.encoding import Encoding
from ml.explain.estimator import BoolArray
from ml.explain.features import Feature, first_visible
from ml.explain.text.blocks import Block, blocks
from ml.explain.text.units import sentences
from ml.result import NodeLevel
from ml.spec import Span, Unit

MAX_CHILDREN = 4
"""Few children per part take the fewest evaluations; see `benchmarks.hierarchical`."""

_RANKS = range(1, 7)
_BLANK_LINE = re.compile(r"(?:\r\n|\r|\n)[^\S\r\n]*(?:\r\n|\r|\n)\s*\Z")
_LEAVES = {Unit.TOKEN: NodeLevel.TOKEN, Unit.WORD: NodeLevel.WORD, Unit.SENTENCE: NodeLevel.SENTENCE}


@dataclass(frozen=True, eq=False)
class Node:
    """A part of a text: the features from `start` up to `stop`, its span in the text, and its own parts, if any.

    Nodes are equal if they are the same object.
    """

    level: NodeLevel
    start: int
    stop: int
    span: Span
    children: tuple[Node, ...] = ()

    def __len__(self) -> int:
        """The number of features."""
        return self.stop - self.start

    def __iter__(self) -> Iterator[Node]:
        """The node and all parts in it, in the order of the text, each part before its own parts."""
        yield self
        for child in self.children:
            yield from child

    def members(self, features: int) -> BoolArray:
        """Its features, bool [features]."""
        indices = np.arange(features)
        return (self.start <= indices) & (indices < self.stop)


def hierarchy(encoding: Encoding, features: Sequence[Feature], asked: spec.Features) -> Node:
    """The tree over the features of a prompt."""
    anchors = [first_visible(encoding.text, feature.span) for feature in features]
    levels = [(level, [bisect_right(starts, anchor) for anchor in anchors]) for level, starts in _levels(encoding)]
    leaf = NodeLevel.SPAN if asked.spans else _LEAVES[asked.unit or Unit.WORD]
    return tree(levels, [feature.span for feature in features], leaf)


def tree(levels: Sequence[tuple[NodeLevel, Sequence[int]]], spans: Sequence[Span], leaf: NodeLevel) -> Node:
    """The tree over features at `spans`.

    Args:
        levels: from coarse to fine, each with the number of each feature's part; the parts of a finer level are within
            those of the coarser ones.
        leaf: the level of the features themselves.
    """
    leaves = [Node(leaf, at, at + 1, span) for at, span in enumerate(spans)]

    def grow(level: NodeLevel, start: int, stop: int, depth: int) -> Node:
        if stop - start == 1:
            return leaves[start]
        for below, (name, parts) in enumerate(levels[depth:], depth + 1):
            cuts = [at for at in range(start + 1, stop) if parts[at] != parts[at - 1]]
            if cuts:
                return _grouped(level, [grow(name, *part, below) for part in pairwise([start, *cuts, stop])])
        return _grouped(level, leaves[start:stop])

    return grow(NodeLevel.TEXT, 0, len(spans), 0)


def _grouped(level: NodeLevel, children: Sequence[Node]) -> Node:
    """A node with these children, or with groups of them if there are many."""
    depth = 1
    while MAX_CHILDREN**depth < len(children):
        depth += 1
    if depth == 1:
        return _above(level, children)
    width = next(width for width in range(2, MAX_CHILDREN + 1) if width**depth >= len(children))
    sizes = [(len(children) + place) // width for place in range(width)]
    parts = [children[start:stop] for start, stop in pairwise([0, *accumulate(sizes)])]
    groups = [part[0] if len(part) == 1 else _grouped(NodeLevel.GROUP, part) for part in parts]
    return _above(level, groups)


def _above(level: NodeLevel, children: Sequence[Node]) -> Node:
    first, last = children[0], children[-1]
    return Node(level, first.start, last.stop, (first.span[0], last.span[1]), tuple(children))


def _levels(encoding: Encoding) -> Iterator[tuple[NodeLevel, list[int]]]:
    """The starts of each level's parts, ascending, from coarse to fine; a level includes those of the levels above."""
    text, found = encoding.text, {start for start, _ in encoding.editable}
    yield NodeLevel.MESSAGE, sorted(found)
    cut = [_moved(block, start) for start, end in encoding.editable for block in blocks(text[start:end])]
    for rank in _RANKS:
        found |= {block.span[0] for block in cut if block.rank == rank}
        yield NodeLevel.SECTION, sorted(found)
    found |= {
        after.span[0] for before, after in pairwise(cut) if before.rank or _BLANK_LINE.search(text[slice(*before.span)])
    }
    yield NodeLevel.PARAGRAPH, sorted(found)
    found |= {start + first for start, end in encoding.editable for first, _ in sentences(text[start:end])}
    yield NodeLevel.SENTENCE, sorted(found)


def _moved(block: Block, by: int) -> Block:
    return Block((block.span[0] + by, block.span[1] + by), block.is_unit, block.rank)
