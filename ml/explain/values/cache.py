"""What outlives an explanation: what a model said of a prompt need not be computed again for the next one.

It is kept as it was said, as log-probabilities of each token of a target: whatever is made of these (a probability, the
rows of a target) comes from the same ones.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

from ml.explain.estimator import FloatArray
from ml.explain.target import TargetTokens
from ml.models.protocol import ModelInfo

_ENTRY_BYTES = 256
"""What an entry of one token takes in memory: key, number and their places in the map, rounded up."""
_NUMBER_BYTES = 8
"""What each further token takes."""


class ValueCache:
    """A bounded map from a prompt's digest to log-probabilities, which forgets what was not used for longest.

    They are of each token of a target's continuations, as in `ml.models.protocol.LogProbabilities`, float64 [tokens].

    Not for use by several threads at once.
    """

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> FloatArray | None:
        """What is under `key`, from now on the most recently used; None if there is nothing."""
        packed = self._entries.get(key)
        if packed is None:
            return None
        self._entries.move_to_end(key)
        return np.frombuffer(packed)

    def put(self, key: bytes, log_probabilities: FloatArray) -> None:
        """Keep them, in the place of the least recently used where there is no room."""
        known = self._entries.pop(key, None)
        self._bytes -= _entry_bytes(known) if known else 0
        packed = self._entries[key] = log_probabilities.tobytes()  # an array would take another hundred bytes
        self._bytes += _entry_bytes(packed)
        while self._bytes > self._max_bytes:
            self._bytes -= _entry_bytes(self._entries.popitem(last=False)[1])

    def write_only(self) -> ValueCache:
        """The same map for work that has to compute anew: what it puts there is kept, but it finds nothing."""
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
    said_of = (target.given, target.objective.continuations)
    return hashlib.sha256(repr((namespace, info.digest, info.dtype, info.device, *said_of)).encode()).digest()
