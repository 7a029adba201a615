"""The tensors of an ONNX file: every one, where its bytes lie, whether reading them is safe, and whether they are finite.

External data is checked here before any library sees the file: readers differ in what they accept (symbolic links, hard links,
offsets past the end), and some have read outside the model's folder (CVE-2022-25882, CVE-2024-27318, CVE-2026-27489).
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.errors import ModelFault, SafetyRefusal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CHUNK_BYTES = 1 << 24
_WEIGHTED = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "DequantizeLinear", "QLinearConv", "QLinearMatMul"}
)
# For types whose non-finite values are told by bits alone: storage bytes, mask, and value under the mask.
# 16 bits are read as integers: numpy's isfinite converts float16 one by one, and does not know bfloat16.
_BITS: dict[str, tuple[int, int, int]] = {
    "FLOAT16": (2, 0x7C00, 0x7C00),
    "BFLOAT16": (2, 0x7F80, 0x7F80),
    "FLOAT8E4M3FN": (1, 0x7F, 0x7F),
    "FLOAT8E4M3FNUZ": (1, 0xFF, 0x80),
    "FLOAT8E5M2": (1, 0x7C, 0x7C),
    "FLOAT8E5M2FNUZ": (1, 0xFF, 0x80),
    "FLOAT8E8M0": (1, 0xFF, 0xFF),
}
_MANTISSA = {"FLOAT16": 0x03FF, "BFLOAT16": 0x007F}
_SMALLEST_NORMAL = {4: 2.0**-126, 8: 2.0**-1022}
_WIDE = {"FLOAT": "<f4", "DOUBLE": "<f8", "COMPLEX64": "<f4", "COMPLEX128": "<f8"}


@dataclass(frozen=True)
class Found:
    """A tensor, called by its own name or, if it sits in an attribute, by its node's. ``readers``: operators that take it."""

    name: str
    tensor: Any
    readers: tuple[str, ...]


def tensors(model: Any) -> Iterator[Found]:
    """Every TensorProto of a ModelProto: initializers (sparse ones too), attributes, subgraphs, functions, training graphs."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)
    for training in model.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def _of_graph(graph: Any) -> Iterator[Found]:
    readers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type)
    for tensor in graph.initializer:
        yield Found(tensor.name, tensor, tuple(sorted(readers.get(tensor.name, ()))))
    for sparse in graph.sparse_initializer:
        name = sparse.values.name
        yield Found(name, sparse.values, tuple(sorted(readers.get(name, ()))))
        yield Found(f"{name} (indices)", sparse.indices, ())
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Any) -> Iterator[Found]:
    for node in nodes:
        label = node.name or (node.output[0] if node.output else node.op_type)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield Found(label, attribute.t, ())
            for tensor in attribute.tensors:
                yield Found(label, tensor, ())
            for sparse in (
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
                *attribute.sparse_tensors,
            ):
                yield Found(label, sparse.values, ())
                yield Found(label, sparse.indices, ())
            if attribute.HasField("g"):
                yield from _of_graph(attribute.g)
            for graph in attribute.graphs:
                yield from _of_graph(graph)


@dataclass(frozen=True)
class Extent:
    """Where a tensor's external bytes lie: a checked file, and ``length`` bytes from ``offset``."""

    path: Path
    offset: int
    length: int


def is_external(tensor: Any) -> bool:
    """Whether the bytes are in another file."""
    return bool(tensor.data_location == tensor.EXTERNAL)


def extent(tensor: Any, name: str, folder: Path) -> Extent:
    """The place of an external tensor's bytes, checked.

    SafetyRefusal: a path that is absolute, climbs, or passes through a symbolic or hard link: the bytes could be any file of
    the user's. ModelFault: a missing file, a folder, a device, a place past the end, or a length that is not the tensor's.
    """
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    path = _safe_path(location, name, folder)
    size = path.stat().st_size
    try:
        offset = int(fields.get("offset", 0))
        length = int(fields.get("length", size - offset))
    except ValueError:
        raise ModelFault(f"tensor {name!r}: offset or length of its data in {location} is not a number") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise ModelFault(
            f"tensor {name!r}: its data should be bytes {offset} to {offset + length} of {location}, which has {size};"
            " the file is truncated or of another model"
        )
    expected = _bytes_of(tensor)
    if expected is not None and length < expected:
        raise ModelFault(f"tensor {name!r}: shape {list(tensor.dims)} needs {expected} bytes, {location} gives {length}")
    return Extent(path, offset, length if expected is None else expected)


def _safe_path(location: str, name: str, folder: Path) -> Path:
    if not location or "\0" in location:
        raise ModelFault(f"tensor {name!r}: its external data names no file")
    parts = location.replace("\\", "/").split("/")
    if location.startswith(("/", "\\")) or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":"):
        raise SafetyRefusal(
            f"tensor {name!r}: its external data {location!r} is outside the model's folder; only files beside it are read"
        )
    path = folder
    for part in Path(location).parts:
        path = path / part
        try:
            status = path.lstat()
        except FileNotFoundError:
            raise ModelFault(
                f"tensor {name!r}: its external data {location!r} is not beside the model; copy it there"
            ) from None
        except OSError as error:
            raise ModelFault(f"tensor {name!r}: its external data {location!r} cannot be read: {error.strerror}") from None
        if stat.S_ISLNK(status.st_mode):
            raise SafetyRefusal(f"tensor {name!r}: its external data {location!r} is a symbolic link; copy the file instead")
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise ModelFault(f"tensor {name!r}: its external data {location!r} is {kind}")
    if status.st_nlink > 1:
        raise SafetyRefusal(f"tensor {name!r}: its external data {location!r} is a hard link; copy the file instead")
    return path


def _bytes_of(tensor: Any) -> int | None:
    """Bytes that dtype and shape ask for; None for an unknown type."""
    bits = _type_bits(tensor.data_type)
    return None if bits is None else math.ceil(math.prod(tensor.dims) * bits / 8)


def _type_bits(data_type: int) -> int | None:
    import onnx

    name = type_name(data_type)
    four = {"UINT4", "INT4", "FLOAT4E2M1"}
    if name in four:
        return 4
    if name in {"UINT2", "INT2"}:
        return 2
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize) * 8
    except (KeyError, ValueError, TypeError):
        return None


def type_name(data_type: int) -> str:
    """ONNX's name of an element type: ``FLOAT``, ``INT8``; ``UNKNOWN`` for a number that means none."""
    import onnx

    try:
        return str(onnx.TensorProto.DataType.Name(data_type))
    except ValueError:
        return "UNKNOWN"


def is_float(tensor: Any) -> bool:
    """Whether its values can be NaN or infinite."""
    name = type_name(tensor.data_type)
    return name in _WIDE or name in _BITS


@dataclass(frozen=True)
class Health:
    """What a float tensor holds. ``mask_like``: its finite values are all zero, as in an attention mask of 0 and -inf."""

    nan: bool
    infinite: bool
    mask_like: bool
    denormals: int


def health(kind: str, pieces: Iterable[NDArray[np.uint8]]) -> Health:
    """Look at the bytes of a float tensor once. ``kind``: ONNX's name of its type."""
    import numpy as np

    nan = infinite = False
    zeros_only = True
    denormals = 0
    for piece in pieces:
        if kind in _WIDE:
            values: NDArray[np.generic] = piece.view(_WIDE[kind])
            finite = np.isfinite(values)
            if not finite.all():
                nan = nan or bool(np.isnan(values).any())
                infinite = infinite or bool(np.isinf(values).any())
                values = values[finite]
            magnitude = np.abs(values)
            small = np.count_nonzero(magnitude < _SMALLEST_NORMAL[values.dtype.itemsize])
            zero = values.size - np.count_nonzero(values)
            denormals += int(small - zero)
            zeros_only = zeros_only and zero == values.size
        else:
            width, mask, special = _BITS[kind]
            bits = piece.view(f"<u{width}")
            odd = (bits & mask) == special
            if odd.any():
                has_infinity = kind in _MANTISSA or kind == "FLOAT8E5M2"
                fraction = _MANTISSA.get(kind, 0x03 if kind == "FLOAT8E5M2" else 0)
                as_infinity = has_infinity and bool(((bits[odd] & fraction) == 0).any())
                infinite = infinite or as_infinity
                nan = nan or not has_infinity or bool(((bits[odd] & fraction) != 0).any())
                bits = bits[~odd]
            if kind in _MANTISSA:
                denormals += int(np.count_nonzero(((bits & mask) == 0) & ((bits & _MANTISSA[kind]) != 0)))
            zeros_only = zeros_only and not bool((bits & (0x7FFF if width == 2 else 0x7F)).any())
    return Health(nan, infinite, zeros_only, denormals)


def _pieces(found: Found, folder: Path) -> Iterator[NDArray[np.uint8]]:
    import numpy as np
    import onnx

    tensor = found.tensor
    if is_external(tensor):
        place = extent(tensor, found.name, folder)
        yield from stored(place, found.name)
        return
    if tensor.HasField("raw_data"):
        whole = np.frombuffer(tensor.raw_data, np.uint8)
        expected = _bytes_of(tensor)
        if expected is not None and whole.nbytes != expected:
            raise ModelFault(f"tensor {found.name!r}: shape {list(tensor.dims)} needs {expected} bytes, it has {whole.nbytes}")
    else:
        try:
            whole = np.ascontiguousarray(onnx.numpy_helper.to_array(tensor)).reshape(-1).view(np.uint8)
        except ValueError as error:
            raise ModelFault(f"tensor {found.name!r}: its values do not fit shape {list(tensor.dims)}: {error}") from None
    for start in range(0, whole.nbytes, _CHUNK_BYTES):
        yield whole[start : start + _CHUNK_BYTES]


def stored(place: Extent, name: str) -> Iterator[NDArray[np.uint8]]:
    """The bytes of an extent, in pieces; ModelFault if the file is shorter than when it was checked."""
    import numpy as np

    # The check of the path and this open are two looks at a name; the flag closes the gap between them.
    handle = os.open(place.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as stream:
        stream.seek(place.offset)
        left = place.length
        while left > 0:
            block = stream.read(min(left, _CHUNK_BYTES))
            if not block:
                raise ModelFault(f"tensor {name!r}: its data in {place.path.name} ended early")
            left -= len(block)
            yield np.frombuffer(block, np.uint8)


def require_finite_tensor(found: Found, folder: Path) -> Health | None:
    """ModelFault where a float tensor holds NaN, or an infinity that is no mask; its Health otherwise, None for integers.

    Tensors whose finite values are all zero and that no weighted operator reads are masks or bounds (``Where``, ``Clip``).
    """
    if not is_float(found.tensor):
        return None
    state = health(type_name(found.tensor.data_type), _pieces(found, folder))
    if state.nan:
        raise ModelFault(f"tensor {found.name!r} holds NaN; the training that made it diverged, or the file is damaged")
    if state.infinite and not (state.mask_like and _WEIGHTED.isdisjoint(found.readers)):
        raise ModelFault(f"tensor {found.name!r} holds Inf; the training that made it diverged, or a step overflowed")
    return state
