"""Checkpoints that name the weights they were computed with: a digest of what an engine reports cannot."""

from __future__ import annotations

import struct

import numpy as np

from ml.models.served.fingerprint import Fingerprint

_MAGIC = b"GLOSSEN1"
_COUNT = struct.Struct("<I")


def marked(checkpoint: bytes, fingerprint: Fingerprint) -> bytes:
    """`checkpoint` behind the fingerprint of the model that it is of."""
    values = fingerprint.values.astype("<f8").tobytes()
    return _MAGIC + _COUNT.pack(len(values)) + values + checkpoint


def unmarked(data: bytes, fingerprint: Fingerprint) -> bytes | None:
    """What `marked` was given; None where it is damaged, or by more than noise of another model than `fingerprint`."""
    start = len(_MAGIC) + _COUNT.size
    if len(data) < start or not data.startswith(_MAGIC):
        return None
    (size,) = _COUNT.unpack_from(data, len(_MAGIC))
    if size != fingerprint.values.nbytes or len(data) < start + size:
        return None
    values = np.frombuffer(data[start : start + size], dtype="<f8").reshape(fingerprint.values.shape)
    return data[start + size :] if fingerprint.matches(values) else None
