"""What a model remembers of the prompts it has read, so that a beginning that comes again is not computed again.

A radix tree over blocks of tokens: each node stands for a run of whole blocks, holds what the model made of them given
all that lies above, and has one child for each way that prompts went on. Blocks are compared token by token, so no
prompt can pass for another. Memory is bounded, and what was used longest ago goes first; a node is always as recent as
everything below it, so that is a leaf.

This module knows no torch and no model: what is remembered is anything that can be cut in parts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, Self, TypeVar

BLOCK = 32
"""Tokens of a block. Beginnings shorter than one are not worth the bookkeeping."""


class Part(Protocol):
    """What a model made of a run of tokens."""

    def part(self, start: int, stop: int) -> Self:
        """What it made of tokens `start` to `stop` - 1 of the run, both multiples of `BLOCK`, in memory of its own."""
        ...


P = TypeVar("P", bound=Part)


@dataclass(frozen=True, eq=False)
class Piece(Generic[P]):
    """The first `tokens` tokens of a run that a model remembers."""

    kept: P
    tokens: int


@dataclass(eq=False)
class _Node(Generic[P]):
    parent: _Node[P] | None
    ids: tuple[int, ...]
    kept: P | None  # None at the root
    children: dict[tuple[int, ...], _Node[P]] = field(default_factory=dict)  # by their first block


class PrefixTree(Generic[P]):
    """Beginnings of prompts, the most recently used ones, in `max_bytes` of memory at most."""

    def __init__(self, max_bytes: int, token_bytes: int) -> None:
        """Remember nothing yet. `token_bytes` is what each remembered token takes."""
        self._max_bytes = max_bytes
        self._token_bytes = token_bytes
        self._root: _Node[P] = _Node(None, (), None)
        self._recency: OrderedDict[_Node[P], None] = OrderedDict()  # the least recently used node first
        self.bytes = 0
        """Memory of all that is remembered."""

    def recall(self, ids: Sequence[int], most: int) -> list[Piece[P]]:
        """What is remembered of the beginning of `ids`, up to `most` tokens, from the first token on."""
        path = self._path(ids)
        self._touch([node for node, _ in path])
        pieces: list[Piece[P]] = []
        for node, matched in path:
            tokens = min(matched, most)
            if tokens == 0 or node.kept is None:
                break
            pieces.append(Piece(node.kept, tokens))
            most -= tokens
        return pieces

    def remember(self, ids: Sequence[int], make: Callable[[int, int], P], first: int = 0) -> None:
        """Keep the whole blocks of `ids` that are not remembered yet.

        Args:
            first: the position from which `make` can answer. Nothing is kept where what lies before it is forgotten.
            make: what the model made of positions `start` to `stop` - 1, in memory of its own. It is called at most
                once, for what is missing, and not where there is no room.
        """
        path = self._path(ids)
        start = sum(matched for _, matched in path)
        stop = len(ids) - len(ids) % BLOCK
        if not first <= start < stop:
            return
        nodes = [node for node, _ in path]
        if path and path[-1][1] < len(path[-1][0].ids):
            nodes[-1] = self._split(*path[-1])
        self._touch(nodes)
        size = (stop - start) * self._token_bytes
        if not self._make_room(size, set(nodes)):
            return
        parent = nodes[-1] if nodes else self._root
        node = _Node(parent, tuple(ids[start:stop]), make(start, stop))
        parent.children[node.ids[:BLOCK]] = node
        self.bytes += size
        self._recency[node] = None
        self._touch(nodes)

    def _path(self, ids: Sequence[int]) -> list[tuple[_Node[P], int]]:
        """The nodes along `ids` from the top, each with how many of its tokens agree: all but the last one's do."""
        path: list[tuple[_Node[P], int]] = []
        node, position = self._root, 0
        while child := node.children.get(tuple(ids[position : position + BLOCK])):
            matched = BLOCK
            while matched < len(child.ids) and child.ids[matched : matched + BLOCK] == tuple(
                ids[position + matched : position + matched + BLOCK]
            ):
                matched += BLOCK
            path.append((child, matched))
            if matched < len(child.ids):
                break
            node, position = child, position + matched
        return path

    def _touch(self, path: Sequence[_Node[P]]) -> None:
        """Make the nodes the most recent ones, each more so than those below it."""
        for node in reversed(path):
            self._recency.move_to_end(node)

    def _split(self, node: _Node[P], tokens: int) -> _Node[P]:
        """Cut `node` in two after `tokens`; the upper part, which is new."""
        if node.parent is None or node.kept is None:
            raise AssertionError("the root has nothing to cut")
        upper = _Node(node.parent, node.ids[:tokens], node.kept.part(0, tokens))
        node.parent.children[upper.ids[:BLOCK]] = upper
        node.kept = node.kept.part(tokens, len(node.ids))
        node.parent, node.ids = upper, node.ids[tokens:]
        upper.children[node.ids[:BLOCK]] = node
        self._recency[upper] = None
        return upper

    def _make_room(self, size: int, kept: set[_Node[P]]) -> bool:
        """Forget what was used longest ago, until `size` more bytes fit; false where that would cost one of `kept`."""
        while self.bytes + size > self._max_bytes:
            oldest = next(iter(self._recency), None)
            if oldest is None or oldest in kept or oldest.parent is None:
                return False
            del self._recency[oldest]
            del oldest.parent.children[oldest.ids[:BLOCK]]
            self.bytes -= len(oldest.ids) * self._token_bytes
        return True
