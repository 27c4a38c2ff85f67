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
_HEADER = struct.Struct("<8s32sIIQQQQd")


@dataclass
class Memory:
    """Values of coalitions, and what finding them cost over all attempts.

    Attributes:
        features: the number of features.
        rows: the number of the target's rows.
        values: by coalition the target's value and those of its rows, float64 [1 + rows]; a coalition is its
            `numpy.packbits` as bytes.
        evaluations: prompts computed.
        tokens_computed: tokens that went through the model.
        tokens_saved: tokens that did not have to.
        seconds: time spent.
    """

    features: int
    rows: int = 0
    values: dict[bytes, FloatArray] = field(default_factory=dict)
    evaluations: int = 0
    tokens_computed: int = 0
    tokens_saved: int = 0
    seconds: float = 0.0

    def pack(self, fingerprint: bytes) -> bytes:
        """This memory as bytes: little-endian, about features / 8 + 8 (1 + rows) bytes a coalition.

        Args:
            fingerprint: 32 bytes that name the value function; only under the same ones can it be unpacked.
        """
        header = _HEADER.pack(
            *(_MAGIC, fingerprint, self.features, self.rows, len(self.values)),
            *(self.evaluations, self.tokens_computed, self.tokens_saved, self.seconds),
        )
        values = b"".join(each.astype("<f8", copy=False).tobytes() for each in self.values.values())
        body = header + b"".join(self.values) + values
        return body + zlib.crc32(body).to_bytes(4, "little")

    @classmethod
    def unpack(cls, data: bytes, fingerprint: bytes, features: int, rows: int = 0) -> Memory | None:
        """What `pack` wrote, or None if `data` is damaged, of another version or of another value function."""
        body, checksum = data[:-4], data[-4:]
        if len(body) < _HEADER.size or zlib.crc32(body).to_bytes(4, "little") != checksum:
            return None
        *owner, count, evaluations, computed, saved, seconds = _HEADER.unpack_from(body)
        width, numbers = (features + 7) // 8, 1 + rows
        keys_end = _HEADER.size + count * width
        if owner != [_MAGIC, fingerprint, features, rows] or len(body) != keys_end + count * numbers * 8:
            return None
        keys = [body[start : start + width] for start in range(_HEADER.size, keys_end, width)]
        values = np.frombuffer(body, dtype="<f8", offset=keys_end).astype(np.float64).reshape(count, numbers)
        return cls(features, rows, dict(zip(keys, values, strict=True)), evaluations, computed, saved, seconds)
