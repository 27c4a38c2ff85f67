"""Self-attention of chosen layers, heads and queries: what is asked for, what it will weigh, and how it is reduced.

A request becomes a plan, whose reply size is known before the model runs; `ml.models.internals.attention_maps` then
collects what the plan asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from ml.errors import InputError, NoAttentionError, OutOfReachError
from ml.models.protocol import ModelInfo

MAX_LAYER_BYTES = 1 << 31
"""The most memory that one layer's weights may take while they are reduced. Dense replies end far below it."""


class Reduction(Enum):
    """How weights are reduced; ROLLOUT is Abnar & Zuidema 2020 ("Quantifying attention flow in transformers")."""

    RAW = "raw"
    HEAD_MEAN = "head mean"
    ROLLOUT = "rollout"


@dataclass(frozen=True)
class AttentionSpec:
    """Which weights are asked for. Empty `layers` and `heads` mean all, empty `queries` the last position.

    Queries may be negative and then count from the end. `top_n` None sends every key; `half` sends float16.
    """

    layers: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    queries: tuple[int, ...] = ()
    reduction: Reduction = Reduction.RAW
    top_n: int | None = None
    half: bool = False


@dataclass(frozen=True)
class AttentionPlan:
    """A spec with nothing left open, for a prompt of `keys` tokens. `heads` is empty where heads are reduced."""

    layers: tuple[int, ...]
    heads: tuple[int, ...]
    queries: tuple[int, ...]
    keys: int
    reduction: Reduction
    chosen_heads: tuple[int, ...]
    top_n: int | None
    half: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[layers, heads, queries, keys or n] of the reply."""
        return len(self.layers), len(self.heads) or 1, len(self.queries), self.top_n or self.keys

    @property
    def reply_bytes(self) -> int:
        """Size of the reply's tensors."""
        element = (2 if self.half else 4) + (4 if self.top_n else 0)
        return int(np.prod(self.shape, dtype=object)) * element


@dataclass(frozen=True)
class AttentionMap:
    """The weights, [layers, heads, queries, keys]; or the largest n of each row, largest first, with their keys.

    Attributes:
        weights: float32 or float16, little-endian.
        keys: int32, the shape of `weights`; -1 (with weight 0) where a row has fewer than n keys. None without top_n.
    """

    weights: npt.NDArray[np.floating]
    keys: npt.NDArray[np.int32] | None = None


def resolve(spec: AttentionSpec, info: ModelInfo, tokens: int) -> AttentionPlan:
    """Check a spec against a model and a prompt of `tokens` tokens, and fill in what it leaves open.

    More keys than the prompt has are not listed: the plan's `top_n` is at most `tokens`.

    Raises:
        NoAttentionError: the model has no attention.
        OutOfReachError: an external engine computes it.
        InputError: a layer, head or query out of range or repeated, a reduction that contradicts the rest, or more
            weights in one layer than memory is given to.
    """
    if info.engine:
        instead = "ask which words matter by an explanation, such as occlusion, or load the model in Gloss"
        raise OutOfReachError(info.name, info.engine, "gives no attention weights", instead)
    if not info.heads:
        raise NoAttentionError(info.name)
    layers = _chosen("layers", spec.layers, info.layers)
    heads = _chosen("heads", spec.heads, info.heads)
    queries = _queries(spec.queries, tokens)
    if spec.top_n is not None and spec.top_n < 1:
        raise InputError("top_n", f"must be at least 1, not {spec.top_n}")
    top_n = None if spec.top_n is None else min(spec.top_n, tokens)
    rollout = spec.reduction is Reduction.ROLLOUT
    if rollout:
        if spec.heads:
            raise InputError("heads", "rollout uses the mean over all heads; leave heads empty")
        layers = (max(layers),)
    rows = tokens if rollout else len(queries)
    if (size := info.heads * rows * tokens * 4) > MAX_LAYER_BYTES:
        message = f"one layer's weights would take {size} bytes of memory and the limit is {MAX_LAYER_BYTES}"
        advice = "shorten the prompt" if rollout else "ask for fewer queries at once"
        raise InputError("reduction" if rollout else "queries", f"{message}; {advice}")
    shown = heads if spec.reduction is Reduction.RAW else ()
    return AttentionPlan(layers, shown, queries, tokens, spec.reduction, heads, top_n, spec.half)


def _chosen(field: str, numbers: Sequence[int], count: int) -> tuple[int, ...]:
    if not numbers:
        return tuple(range(count))
    seen: set[int] = set()
    for index, number in enumerate(numbers):
        if not 0 <= number < count:
            raise InputError(f"{field}[{index}]", f"must be between 0 and {count - 1}, not {number}")
        if number in seen:
            raise InputError(f"{field}[{index}]", f"{number} is named twice")
        seen.add(number)
    return tuple(numbers)


def _queries(numbers: Sequence[int], tokens: int) -> tuple[int, ...]:
    if not numbers:
        return (tokens - 1,)
    seen: set[int] = set()
    for index, number in enumerate(numbers):
        if not -tokens <= number < tokens:
            raise InputError(
                f"queries[{index}]", f"must be between {-tokens} and {tokens - 1} for this prompt, not {number}"
            )
        position = number % tokens
        if position in seen:
            raise InputError(f"queries[{index}]", f"position {position} is named twice")
        seen.add(position)
    return tuple(number % tokens for number in numbers)
