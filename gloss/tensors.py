"""Reads the contract's packed tensors without numpy."""

from __future__ import annotations

import math
import struct
import sys
from array import array
from typing import Any

from gloss import v1


def unpack(tensor: v1.Tensor) -> memoryview[Any]:
    """The tensor's elements as a typed view with its shape.

    Index it as ``view[layer, head, query, key]``, turn it into nested lists with ``view.tolist()``, or hand it to
    ``numpy.asarray(view)`` or ``torch.frombuffer`` without a copy. Half-precision elements come out as float32.
    A tensor without elements gives a flat, empty view.

    Raises:
        ValueError: the type is unknown, or the bytes do not fill the shape.
    """
    count = math.prod(tensor.shape)
    half = tensor.type == v1.TENSOR_TYPE_FLOAT16
    if tensor.type not in (v1.TENSOR_TYPE_FLOAT32, v1.TENSOR_TYPE_FLOAT16, v1.TENSOR_TYPE_INT32):
        raise ValueError(f"tensor type {tensor.type} is unknown to this version of Gloss")
    size = count * (2 if half else 4)
    if len(tensor.data) != size:
        raise ValueError(f"a tensor of shape {list(tensor.shape)} needs {size} bytes, not {len(tensor.data)}")

    elements: array[Any] | bytes
    typecode: Any = "i" if tensor.type == v1.TENSOR_TYPE_INT32 else "f"
    if half:  # memoryview knows no half precision, struct does
        elements = array("f", struct.unpack(f"<{count}e", tensor.data))
    elif sys.byteorder == "big":
        elements = array(typecode, tensor.data)
        elements.byteswap()
    else:
        elements = tensor.data
    flat = memoryview(elements).cast("B")
    return flat.cast(typecode, list(tensor.shape)) if count else flat.cast(typecode)
