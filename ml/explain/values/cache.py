"""A cache of log-probabilities that outlives an explanation, so that the next one need not compute them again.

It has the log-probabilities of a target's tokens, as every scale and all rows of a target are made of these.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

from ml.explain.estimator import FloatArray
from ml.explain.target import TargetTokens
from ml.models.protocol import ModelInfo

_ENTRY_BYTES = 256
"""Memory of an entry with one token: key, number and their slots in the map, rounded up."""
_NUMBER_BYTES = 8
"""Memory of each further token."""


class ValueCache:
    """A bounded map from a prompt's digest to log-probabilities, which evicts the least recently used.

    Values are float64 [tokens], over the tokens of a target's continuations as in
    `ml.models.protocol.LogProbabilities`. Not thread-safe.
    """

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> FloatArray | None:
        """The value of `key`, which becomes the most recently used; None if there is none."""
        packed = self._entries.get(key)
        if packed is None:
            return None
        self._entries.move_to_end(key)
        return np.frombuffer(packed)

    def put(self, key: bytes, log_probabilities: FloatArray) -> None:
        """Store log-probabilities, and evict the least recently used until they fit."""
        known = self._entries.pop(key, None)
        self._bytes -= _entry_bytes(known) if known else 0
        packed = self._entries[key] = log_probabilities.tobytes()  # an array would take another hundred bytes
        self._bytes += _entry_bytes(packed)
        while self._bytes > self._max_bytes:
            self._bytes -= _entry_bytes(self._entries.popitem(last=False)[1])

    def write_only(self) -> ValueCache:
        """A view that stores into this cache and finds nothing, for work that has to compute everything."""
        return _WriteOnly(self)


class _WriteOnly(ValueCache):
    def __init__(self, cache: ValueCache) -> None:
        self._cache = cache

    def __len__(self) -> int:
        return len(self._cache)

    def get(self, key: bytes) -> FloatArray | None:
        return None

    def put(self, key: bytes, log_probabilities: FloatArray) -> None:
        self._cache.put(key, log_probabilities)


def _entry_bytes(packed: bytes) -> int:
    return _ENTRY_BYTES - _NUMBER_BYTES + len(packed)


def scope(info: ModelInfo, target: TargetTokens, namespace: str = "") -> bytes:
    """32 bytes, equal where equal prompts have equal log-probabilities: same weights, arithmetic and continuations.

    Args:
        namespace: whose values these are; those of another are never found.
    """
    model = (namespace, info.digest, info.dtype, info.device)
    return hashlib.sha256(repr((*model, target.given, target.objective.continuations)).encode()).digest()
