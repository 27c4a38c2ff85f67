"""What a model said, kept in a file as well: a run that is started again goes on behind it."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np

from ml.explain.estimator import FloatArray
from ml.explain.values.cache import ValueCache


class KeptCache(ValueCache):
    """A cache of values that writes each down, a line of key and numbers, when it is new.

    Attributes:
        asked: the keys that were looked for: one for each prompt, known or not.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(max_bytes=2**30)
        self.asked: set[bytes] = set()
        for line in path.read_text(encoding="ascii").splitlines() if path.exists() else []:
            if line.count(" ") == 1 and len(line) % 4 == 1:  # whole: the last one may have been cut off
                key, numbers = line.split()
                super().put(bytes.fromhex(key), np.frombuffer(base64.b64decode(numbers)))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def get(self, key: bytes) -> FloatArray | None:
        """The value of `key`, if it is known."""
        self.asked.add(key)
        return super().get(key)

    def put(self, key: bytes, log_probabilities: FloatArray) -> None:
        """Keep it, in the file too."""
        super().put(key, log_probabilities)
        with self._path.open("a", encoding="ascii") as file:
            file.write(f"{key.hex()} {base64.b64encode(log_probabilities.tobytes()).decode()}\n")
