"""The memory of a value function, and its form at rest.

Draws are a function of the seed, so the values found are all that an interrupted explanation needs: a new attempt
makes the same draws, finds the values here, and computes only what is missing.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

from ml.explain.estimator import FloatArray

_MAGIC = b"GLOSSVF2"  # the last character is the layout's version
_HEADER = struct.Struct("<8s32sIQQQQQd")
_VECTOR_KEY = struct.Struct("<cd")


@dataclass
class Memory:
    """Values of coalitions, what was seen inside the model, and what finding them cost over all attempts.

    Attributes:
        features: the number of features.
        values: value by coalition; a coalition is its `numpy.packbits` as bytes.
        vectors: what a look inside the model told of each feature, float64 [features], by `vector_key`.
        evaluations: prompts computed.
        tokens_computed: tokens that went through the model.
        tokens_saved: tokens that did not have to.
        seconds: time spent.
    """

    features: int
    values: dict[bytes, float] = field(default_factory=dict)
    vectors: dict[bytes, FloatArray] = field(default_factory=dict)
    evaluations: int = 0
    tokens_computed: int = 0
    tokens_saved: int = 0
    seconds: float = 0.0

    @property
    def findings(self) -> int:
        """How much is known."""
        return len(self.values) + len(self.vectors)

    def pack(self, fingerprint: bytes) -> bytes:
        """This memory as bytes: little-endian, about features / 8 + 8 bytes a value, features × 8 a vector.

        Args:
            fingerprint: 32 bytes that name the value function; only under the same ones can it be unpacked.
        """
        header = _HEADER.pack(
            *(_MAGIC, fingerprint, self.features, len(self.values), len(self.vectors)),
            *(self.evaluations, self.tokens_computed, self.tokens_saved, self.seconds),
        )
        values = np.fromiter(self.values.values(), dtype="<f8", count=len(self.values))
        vectors = np.array(list(self.vectors.values()), dtype="<f8")
        body = header + b"".join([*self.values, *self.vectors]) + values.tobytes() + vectors.tobytes()
        return body + zlib.crc32(body).to_bytes(4, "little")

    @classmethod
    def unpack(cls, data: bytes, fingerprint: bytes, features: int) -> Memory | None:
        """What `pack` wrote, or None if `data` is damaged, of another version or of another value function."""
        body, checksum = data[:-4], data[-4:]
        if len(body) < _HEADER.size or zlib.crc32(body).to_bytes(4, "little") != checksum:
            return None
        magic, owner, players, count, vector_count, *costs = _HEADER.unpack_from(body)
        width = (features + 7) // 8
        vectors_begin = _HEADER.size + count * width
        keys_end = vectors_begin + vector_count * _VECTOR_KEY.size
        numbers = count + vector_count * features
        if (magic, owner, players) != (_MAGIC, fingerprint, features) or len(body) != keys_end + numbers * 8:
            return None
        keys = [body[start : start + width] for start in range(_HEADER.size, vectors_begin, width)]
        vector_keys = [
            body[start : start + _VECTOR_KEY.size] for start in range(vectors_begin, keys_end, _VECTOR_KEY.size)
        ]
        found = np.frombuffer(body, dtype="<f8", offset=keys_end).astype(np.float64)
        vectors = found[count:].reshape(vector_count, features)
        return cls(
            features,
            dict(zip(keys, found[:count].tolist(), strict=True)),
            dict(zip(vector_keys, vectors, strict=True)),
            *costs,
        )


def vector_key(kind: bytes, number: float = 0.0) -> bytes:
    """The key of a vector: what was looked at, a byte, and where or how much."""
    return _VECTOR_KEY.pack(kind, number)


def evaluations_of(key: bytes) -> int:
    """The number in a vector's key, where that is how much it took."""
    _, number = _VECTOR_KEY.unpack(key)
    return int(number)
