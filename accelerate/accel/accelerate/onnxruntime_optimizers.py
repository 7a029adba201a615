"""Optimizers of ONNX Runtime that are switched off, and for which files.

A file is asked while its compilation is timed: nodes and types are read from protobuf's wire format (protobuf.dev, Encoding;
numbers of fields: onnx.proto). To import onnx takes longer than to compile a small model, and to parse it touches the weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# With a fixed batch it turns a linear layer's MatMul and Add into Gemm, which then runs in float where no Q follows: 4 of 14
# operators of a small INT8 vision transformer, 1.30x its latency (1.32.0, interleaved). An FP32 one is as fast without.
ALWAYS_OFF = ("MatMulAddFusion",)
# It gives a float bias Q/DQ with the product of two scales, 1e-6 or so. FP16 keeps few bits of that: the outputs of a residual
# net were 6 dB from what the file says instead of 46 (1.32.0). FP32 files need it: without, their operators stay in float.
REQUANTIZES_BIASES = "WeightBiasQuantization"
NOTE = f"optimizer {REQUANTIZES_BIASES} is off: where scales have 16 bits, it makes biases anew in 16 bits, and wrong"

_HALF = frozenset({10, 16})  # TensorProto.FLOAT16, BFLOAT16
_SCALED = frozenset({b"QuantizeLinear", b"DequantizeLinear"})


def disabled(path: Path) -> tuple[str, ...]:
    """What to switch off for the ONNX file at ``path``, in a session's words. A file that cannot be read is the session's fault
    to tell."""
    return (*ALWAYS_OFF, REQUANTIZES_BIASES) if has_half_scales(path) else ALWAYS_OFF


def has_half_scales(path: Path) -> bool:
    """Whether a QuantizeLinear or DequantizeLinear of the file has a scale in FP16 or BF16."""
    try:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return any(_half_scales(graph, {}) for graph in _parts(content, 7))
    except (OSError, ValueError, IndexError):
        return False


def _half_scales(graph: memoryview, outer: Mapping[bytes, int]) -> bool:
    """``outer``: types of what the graph sees of those around it."""
    types = dict(outer)
    for tensor in _parts(graph, 5):
        types[_text(tensor, 8)] = _number(tensor, 2)
    for value in (*_parts(graph, 11), *_parts(graph, 13)):
        for kind in _parts(value, 2):
            types.update({_text(value, 1): _number(tensor, 1) for tensor in _parts(kind, 1)})
    nodes = list(_parts(graph, 1))
    for node in nodes:
        if _text(node, 4) in (b"Constant", b"Cast"):
            for attribute in _parts(node, 5):
                tensors = [_number(tensor, 2) for tensor in _parts(attribute, 5)]
                types[_text(node, 2)] = tensors[0] if tensors else _number(attribute, 3)
    for node in nodes:
        inputs = [bytes(name) for name in _parts(node, 1)]
        if _text(node, 4) in _SCALED and len(inputs) > 1 and types.get(inputs[1]) in _HALF:
            return True
    inner = [each for node in nodes for attribute in _parts(node, 5) for field in (6, 11) for each in _parts(attribute, field)]
    return any(_half_scales(each, types) for each in inner)


def _text(message: memoryview, field: int) -> bytes:
    return next((bytes(part) for part in _parts(message, field)), b"")


def _number(message: memoryview, field: int) -> int:
    return next((value for number, value in _fields(message) if number == field and isinstance(value, int)), 0)


def _parts(message: memoryview, field: int) -> Sequence[memoryview]:
    """Strings, or messages, of one field."""
    return [value for number, value in _fields(message) if number == field and isinstance(value, memoryview)]


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and what they hold, but for fields of 4 and 8 bytes. ValueError or IndexError for what is no message."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
        elif kind == 2:
            length, place = _varint(message, place)
            yield key >> 3, message[place : place + length]
            place += length
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
