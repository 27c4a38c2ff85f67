"""Values that outlive an explanation: what a model said of a prompt need not be computed again for the next one."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from ml.explain.target import TargetTokens
from ml.models.protocol import ModelInfo

_ENTRY_BYTES = 256
"""What an entry takes in memory: key, number and their places in the map, rounded up."""


class ValueCache:
    """A bounded map from a prompt's digest to its value, which forgets what was not used for longest.

    Not for use by several threads at once.
    """

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        self._max_entries = max_bytes // _ENTRY_BYTES
        self._values: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> float | None:
        """The value under `key`, from now on the most recently used; None if there is none."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: bytes, value: float) -> None:
        """Keep `value`, in the place of the least recently used where there is no room."""
        self._values[key] = value
        self._values.move_to_end(key)
        while len(self._values) > self._max_entries:
            self._values.popitem(last=False)

    def write_only(self) -> ValueCache:
        """The same map for work that has to compute anew: what it puts there is kept, but it finds nothing."""
        return _WriteOnly(self)


class _WriteOnly(ValueCache):
    def __init__(self, cache: ValueCache) -> None:
        self._max_entries = cache._max_entries
        self._values = cache._values

    def get(self, key: bytes) -> float | None:
        return None


def scope(info: ModelInfo, target: TargetTokens, namespace: str = "") -> bytes:
    """32 bytes, equal where equal prompts have equal values: same weights, arithmetic and target.

    Args:
        namespace: whose values these are; those of another are never found.
    """
    return hashlib.sha256(repr((namespace, info.digest, info.dtype, info.device, target)).encode()).digest()
