"""The memory of a value function, and its serialization as a checkpoint.

Draws are a function of the seed, so values are all that an interrupted explanation needs: a new attempt makes the same
draws, finds their values here, and computes only what is missing.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

import numpy as np

from ml.explain.estimator import FloatArray

_MAGIC = b"GLOSSVF3"  # the last character is the layout's version
_HEADER = struct.Struct("<8s32sIIQQQQQd")
_VECTOR_KEY = struct.Struct("<cdI")


@dataclass
class Memory:
    """Values of coalitions, vectors from inside the model, and their cost over all attempts.

    Attributes:
        features: the number of features.
        rows: the number of the target's rows.
        values: by coalition (its `numpy.packbits` as bytes), the values of the target and its rows, float64 [1 + rows].
        vectors: by `vector_key`, a number of each feature from inside the model, float64 [features].
        evaluations: prompts computed.
        tokens_computed: tokens that went through the model.
        tokens_saved: tokens that did not have to, thanks to caches.
        seconds: time spent.
    """

    features: int
    rows: int = 0
    values: dict[bytes, FloatArray] = field(default_factory=dict)
    vectors: dict[bytes, FloatArray] = field(default_factory=dict)
    evaluations: int = 0
    tokens_computed: int = 0
    tokens_saved: int = 0
    seconds: float = 0.0

    @property
    def findings(self) -> int:
        """How many values and vectors there are."""
        return len(self.values) + len(self.vectors)

    def pack(self, fingerprint: bytes) -> bytes:
        """This memory as bytes, little-endian: about features / 8 + 8 (1 + rows) per coalition, 8 features per vector.

        Args:
            fingerprint: 32 bytes that identify the value function; `unpack` takes the same ones only.
        """
        header = _HEADER.pack(
            *(_MAGIC, fingerprint, self.features, self.rows, len(self.values), len(self.vectors)),
            *(self.evaluations, self.tokens_computed, self.tokens_saved, self.seconds),
        )
        numbers = [each.astype("<f8", copy=False).tobytes() for each in [*self.values.values(), *self.vectors.values()]]
        body = header + b"".join([*self.values, *self.vectors, *numbers])
        return body + zlib.crc32(body).to_bytes(4, "little")

    @classmethod
    def unpack(cls, data: bytes, fingerprint: bytes, features: int, rows: int = 0) -> Memory | None:
        """The memory from `pack`, or None if `data` is damaged, of another version or of another value function."""
        body, checksum = data[:-4], data[-4:]
        if len(body) < _HEADER.size or zlib.crc32(body).to_bytes(4, "little") != checksum:
            return None
        *owner, count, vector_count, evaluations, computed, saved, seconds = _HEADER.unpack_from(body)
        width, values_size = (features + 7) // 8, count * (1 + rows)
        vectors_begin = _HEADER.size + count * width
        keys_end = vectors_begin + vector_count * _VECTOR_KEY.size
        size = keys_end + 8 * (values_size + vector_count * features)
        if owner != [_MAGIC, fingerprint, features, rows] or len(body) != size:
            return None
        keys = _parts(body[_HEADER.size : vectors_begin], width)
        vector_keys = _parts(body[vectors_begin:keys_end], _VECTOR_KEY.size)
        found = np.frombuffer(body, dtype="<f8", offset=keys_end).astype(np.float64)
        values = found[:values_size].reshape(count, 1 + rows)
        vectors = found[values_size:].reshape(vector_count, features)
        return cls(
            features,
            rows,
            dict(zip(keys, values, strict=True)),
            dict(zip(vector_keys, vectors, strict=True)),
            *(evaluations, computed, saved, seconds),
        )


def vector_key(kind: bytes, amount: float = 0.0, number: int = 0) -> bytes:
    """The key of a vector.

    Args:
        kind: a byte for what was computed.
        amount: the point of a path, or how many evaluations it took.
        number: whose it is: 0 for the target's value, from 1 for those of the rows.
    """
    return _VECTOR_KEY.pack(kind, amount, number)


def evaluations_of(key: bytes) -> int:
    """The amount in a vector's key, where it is a number of evaluations."""
    _, amount, _ = _VECTOR_KEY.unpack(key)
    return int(amount)


def _parts(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]
