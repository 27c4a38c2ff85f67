"""What a model remembers of the prompts it has read, so that a beginning that comes again is not computed again.

A radix tree over blocks of tokens: each node stands for a run of whole blocks, knows the places in a store where lies
what the model made of them given all that is above, and has one child for each way that prompts went on. Blocks are
compared token by token, so no prompt can pass for another. The store is bounded, and what was used longest ago goes
first; a node is always as recent as everything below it, so that is a leaf.

This module knows no torch and no model: it hands out places, one a token, and says what they stand for.
"""

from __future__ import annotations

from bisect import bisect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

BLOCK = 32
"""Tokens of a block. Beginnings shorter than one are not worth the bookkeeping."""


@dataclass(frozen=True)
class Piece:
    """A run of tokens that is remembered, at consecutive places of the store."""

    places: range


@dataclass(frozen=True)
class Fresh:
    """What is to be put into the store: the run of tokens that begins at position `start`, as long as `places`."""

    start: int
    places: range


@dataclass(eq=False)
class _Node:
    parent: _Node | None  # None at the root
    ids: tuple[int, ...]
    places: range
    children: dict[tuple[int, ...], _Node] = field(default_factory=dict)  # by their first block


class PrefixTree:
    """Beginnings of prompts, the most recently used ones, in a store of so many places."""

    def __init__(self, places: int) -> None:
        """Remember nothing yet."""
        self._free = _FreeRuns(places - places % BLOCK)
        self._root = _Node(None, (), range(0))
        self._recency: OrderedDict[_Node, None] = OrderedDict()  # the least recently used node first
        self.tokens = 0
        """Tokens that are remembered."""

    def recall(self, ids: Sequence[int], most: int) -> list[Piece]:
        """What is remembered of the beginning of `ids`, up to `most` tokens, from the first token on."""
        path = self._path(ids)
        self._touch([node for node, _ in path])
        pieces: list[Piece] = []
        for node, matched in path:
            tokens = min(matched, most)
            if tokens == 0:
                break
            pieces.append(Piece(node.places[:tokens]))
            most -= tokens
        return pieces

    def remember(self, ids: Sequence[int], first: int = 0) -> Fresh | None:
        """Find places for the whole blocks of `ids` that are not remembered yet; the caller fills them at once.

        Args:
            first: the position from which the caller knows what the model made of `ids`.

        Returns:
            None where nothing is missing, where there is no room, and where what lies before `first` is forgotten.
        """
        path = self._path(ids)
        start = sum(matched for _, matched in path)
        stop = len(ids) - len(ids) % BLOCK
        if not first <= start < stop:
            return None
        nodes = [node for node, _ in path]
        if path and path[-1][1] < len(path[-1][0].ids):
            nodes[-1] = self._split(*path[-1])
        self._touch(nodes)
        places = self._find_room(stop - start, set(nodes))
        if places is None:
            return None
        parent = nodes[-1] if nodes else self._root
        node = _Node(parent, tuple(ids[start:stop]), places)
        parent.children[node.ids[:BLOCK]] = node
        self.tokens += len(places)
        self._recency[node] = None
        self._touch(nodes)
        return Fresh(start, places)

    def _path(self, ids: Sequence[int]) -> list[tuple[_Node, int]]:
        """The nodes along `ids` from the top, each with how many of its tokens agree: all but the last one's do."""
        path: list[tuple[_Node, int]] = []
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

    def _touch(self, path: Sequence[_Node]) -> None:
        """Make the nodes the most recent ones, each more so than those below it."""
        for node in reversed(path):
            self._recency.move_to_end(node)

    def _split(self, node: _Node, tokens: int) -> _Node:
        """Cut `node` in two after `tokens`; the upper part, which is new."""
        if node.parent is None:
            raise AssertionError("the root has nothing to cut")
        upper = _Node(node.parent, node.ids[:tokens], node.places[:tokens])
        node.parent.children[upper.ids[:BLOCK]] = upper
        node.parent, node.ids, node.places = upper, node.ids[tokens:], node.places[tokens:]
        upper.children[node.ids[:BLOCK]] = node
        self._recency[upper] = None
        return upper

    def _find_room(self, tokens: int, kept: set[_Node]) -> range | None:
        """Forget what was used longest ago, until so many places stand together; None where that would cost `kept`."""
        while (places := self._free.take(tokens)) is None:
            oldest = next(iter(self._recency), None)
            if oldest is None or oldest in kept or oldest.parent is None:
                return None
            del self._recency[oldest]
            del oldest.parent.children[oldest.ids[:BLOCK]]
            self._free.give(oldest.places)
            self.tokens -= len(oldest.places)
        return places


class _FreeRuns:
    """Places that are free, as runs in order, none next to another."""

    def __init__(self, places: int) -> None:
        self._runs = [range(places)] if places else []

    def take(self, count: int) -> range | None:
        """The first `count` free places that stand together."""
        for index, run in enumerate(self._runs):
            if len(run) >= count:
                self._runs[index : index + 1] = [run[count:]] if len(run) > count else []
                return run[:count]
        return None

    def give(self, places: range) -> None:
        """They are free again."""
        index = bisect(self._runs, places.start, key=lambda run: run.start)
        start, stop = places.start, places.stop
        if index < len(self._runs) and self._runs[index].start == stop:
            stop = self._runs.pop(index).stop
        if index and self._runs[index - 1].stop == start:
            index -= 1
            start = self._runs.pop(index).start
        self._runs.insert(index, range(start, stop))
