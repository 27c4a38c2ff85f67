"""The prefix cache: which prefixes of prompts have their keys and values in which slots of the KV cache.

A radix tree over blocks of tokens: each node stands for a run of whole blocks, knows the slots of their keys and
values, and has one child for each way that prompts went on. Blocks are compared token by token, so no prompt can pass
for another. Each namespace has prefixes of its own, and none matches another's. Slots are bounded over all of them,
and the least recently used leaf is evicted first; a node is always as recent as everything below it.

This module knows no torch and no model: it hands out slots, one a token.
"""

from __future__ import annotations

from bisect import bisect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

BLOCK = 32
"""Tokens of a block. Prefixes shorter than one are not worth the bookkeeping."""


@dataclass(frozen=True)
class Inserted:
    """What the caller is to put into slots: the tokens from position `start` on, as many as there are `slots`."""

    start: int
    slots: range


_Key = tuple[str, tuple[int, ...]]
"""The namespace, at the top of the tree, and the first block of a node."""


@dataclass(eq=False)
class _Node:
    parent: _Node | None  # None at the root
    key: _Key  # by which its parent knows it
    ids: tuple[int, ...]
    slots: range
    children: dict[_Key, _Node] = field(default_factory=dict)


class PrefixCache:
    """A tree of the most recently used prefixes, over so many slots."""

    def __init__(self, slots: int) -> None:
        """Make an empty one."""
        self._slots = slots - slots % BLOCK
        self._free = _FreeRuns(self._slots)
        self._root = _Node(None, ("", ()), (), range(0))
        self._recency: OrderedDict[_Node, None] = OrderedDict()  # the least recently used node first
        self.tokens = 0
        """Tokens that are cached."""

    def match(self, ids: Sequence[int], limit: int, namespace: str = "") -> list[range]:
        """Slots of the longest cached prefix of `ids` of at most `limit` tokens, in runs, from the first token on."""
        path = self._path(ids, namespace)
        self._touch([node for node, _ in path])
        runs: list[range] = []
        for node, matched in path:
            tokens = min(matched, limit)
            if tokens == 0:
                break
            runs.append(node.slots[:tokens])
            limit -= tokens
        return runs

    def insert(self, ids: Sequence[int], known_from: int = 0, namespace: str = "") -> Inserted | None:
        """Find slots for the whole blocks of `ids` that are not cached yet; the caller fills them at once.

        Args:
            known_from: the position from which on the caller has keys and values of `ids`.

        Returns:
            None where nothing is missing, where there are no slots, and where tokens before `known_from` were evicted.
        """
        path = self._path(ids, namespace)
        start = sum(matched for _, matched in path)
        stop = len(ids) - len(ids) % BLOCK
        if not known_from <= start < stop:
            return None
        nodes = [node for node, _ in path]
        if path and path[-1][1] < len(path[-1][0].ids):
            nodes[-1] = self._split(*path[-1])
        self._touch(nodes)
        slots = self._evict_for(stop - start, set(nodes))
        if slots is None:
            return None
        parent = nodes[-1] if nodes else self._root
        node = _Node(parent, _key(ids, start, namespace), tuple(ids[start:stop]), slots)
        parent.children[node.key] = node
        self.tokens += len(slots)
        self._recency[node] = None
        self._touch(nodes)
        return Inserted(start, slots)

    def _path(self, ids: Sequence[int], namespace: str) -> list[tuple[_Node, int]]:
        """The nodes along `ids` from the top, each with how many of its tokens agree: all but the last one's do."""
        path: list[tuple[_Node, int]] = []
        node, position = self._root, 0
        while child := node.children.get(_key(ids, position, namespace)):
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
        upper = _Node(node.parent, node.key, node.ids[:tokens], node.slots[:tokens])
        node.parent.children[upper.key] = upper
        node.parent, node.key = upper, _key(node.ids, tokens, "")
        node.ids, node.slots = node.ids[tokens:], node.slots[tokens:]
        upper.children[node.key] = node
        self._recency[upper] = None
        return upper

    def _evict_for(self, tokens: int, kept: set[_Node]) -> range | None:
        """Evict until so many free slots stand together; None where that would cost `kept`."""
        if sum(len(node.slots) for node in kept) + tokens > self._slots:
            return None  # before others' prefixes are evicted for nothing
        while (slots := self._free.take(tokens)) is None:
            oldest = next(iter(self._recency), None)
            if oldest is None or oldest in kept or oldest.parent is None:
                return None
            del self._recency[oldest]
            del oldest.parent.children[oldest.key]
            self._free.give(oldest.slots)
            self.tokens -= len(oldest.slots)
        return slots


def _key(ids: Sequence[int], position: int, namespace: str) -> _Key:
    """What names the node that begins at `position` of `ids`. Below the top of the tree the namespace is decided."""
    return "" if position else namespace, tuple(ids[position : position + BLOCK])


class _FreeRuns:
    """Slots that are free, as runs in order, none next to another."""

    def __init__(self, slots: int) -> None:
        self._runs = [range(slots)] if slots else []

    def take(self, count: int) -> range | None:
        """The first `count` free slots that stand together."""
        for index, run in enumerate(self._runs):
            if len(run) >= count:
                self._runs[index : index + 1] = [run[count:]] if len(run) > count else []
                return run[:count]
        return None

    def give(self, slots: range) -> None:
        """They are free again."""
        index = bisect(self._runs, slots.start, key=lambda run: run.start)
        start, stop = slots.start, slots.stop
        if index < len(self._runs) and self._runs[index].start == stop:
            stop = self._runs.pop(index).stop
        if index and self._runs[index - 1].stop == start:
            index -= 1
            start = self._runs.pop(index).start
        self._runs.insert(index, range(start, stop))
