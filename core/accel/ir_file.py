"""OpenVINO IR files: an ``.xml`` with the graph and a ``.bin`` with the weights, read with the standard library.

No runtime is loaded: the process that plans and reports must not import one.
Format: docs.openvino.ai, "OpenVINO IR format"; versions 10 and 11.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from accel.axis_names import AxisNames
from accel.errors import ModelFault
from accel.model import Signature

_LIMIT_BYTES = 512 << 20  # an .xml has no weights in it; the largest known ones are a few tens of megabytes
_DTYPES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "boolean": "bool", "string": "object",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8",
    "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8",
}  # fmt: skip


def weights_of(path: Path) -> Path:
    """The ``.bin`` beside an ``.xml``; ModelFault if it is not there."""
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ModelFault(f"{path.name}: no {weights.name} beside it; an IR is both files")
    return weights


def layers(path: Path) -> ElementTree.Element:
    """The parsed ``<net>``; ModelFault if the file is not an IR."""
    if path.stat().st_size > _LIMIT_BYTES:
        raise ModelFault(f"{path.name}: larger than {_LIMIT_BYTES >> 20} MiB, so not the .xml of an IR")
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (ElementTree.ParseError, ValueError) as error:
        raise ModelFault(f"{path.name}: not a readable IR: {error}") from None
    if root.tag != "net" or root.find("layers") is None or root.find("edges") is None:
        raise ModelFault(f"{path.name}: XML, but not an OpenVINO IR (no <net> with <layers> and <edges>)")
    return root


def signature(path: Path) -> Signature:
    """Inputs and outputs of the IR. Axes of unknown size get names as ``AxisNames`` gives them."""
    root = layers(path)
    nodes = {layer.get("id", ""): layer for layer in root.iterfind("layers/layer")}
    sources = {edge.get("to-layer", ""): edge for edge in root.iterfind("edges/edge")}
    names = AxisNames()
    inputs = []
    for layer in nodes.values():
        if layer.get("type") != "Parameter":
            continue
        port = layer.find("output/port")
        inputs.append(names.input(_name(port, layer), _dims(port, path), _dtype(port, path)))
    outputs = []
    for layer in nodes.values():
        if layer.get("type") != "Result":
            continue
        edge = sources.get(layer.get("id", ""))
        source = nodes.get(edge.get("from-layer", "")) if edge is not None else None
        if edge is None or source is None:
            raise ModelFault(f"{path.name}: output {layer.get('name')!r} is connected to nothing")
        port = next((p for p in source.iterfind("output/port") if p.get("id") == edge.get("from-port")), None)
        outputs.append(names.output(layer.get("output_names", _name(port, source)), _dims(port, path), _dtype(port, path)))
    return Signature(tuple(inputs), tuple(outputs))


def _name(port: ElementTree.Element | None, layer: ElementTree.Element) -> str:
    names = port.get("names", "") if port is not None else ""
    return names.split(",")[0] or layer.get("name", "")


def _dims(port: ElementTree.Element | None, path: Path) -> list[int | str | None]:
    if port is None:
        raise ModelFault(f"{path.name}: a layer without an output port")
    try:
        sizes = [int(dim.text or "") for dim in port.iterfind("dim")]
    except ValueError:
        raise ModelFault(f"{path.name}: a dimension that is not a number") from None
    return [size if size > 0 else None for size in sizes]


def _dtype(port: ElementTree.Element | None, path: Path) -> str:
    precision = (port.get("precision", "") if port is not None else "").lower()
    aliases = {"fp32": "f32", "fp16": "f16", "fp64": "f64", "bool": "boolean"}
    precision = aliases.get(precision, precision)
    if precision not in _DTYPES:
        raise ModelFault(f"{path.name}: element type {precision!r} is not one this version knows")
    return _DTYPES[precision]


def require_finite(path: Path) -> None:
    """ModelFault naming the first constant with NaN, or with Inf among other values, or whose bytes the ``.bin`` lacks.

    OpenVINO itself runs on and may hide a NaN behind a ReLU (measured).
    """
    from accel.onnx_tensors import Extent, health, stored

    weights = weights_of(path).resolve()
    size = weights.stat().st_size
    kinds = {"f32": "FLOAT", "f16": "FLOAT16", "bf16": "BFLOAT16", "f64": "DOUBLE"}
    for layer in layers(path).iterfind("layers/layer[@type='Const']"):
        data = layer.find("data")
        name = layer.get("name", "")
        try:
            place = Extent(weights, int(data.get("offset", "")), int(data.get("size", ""))) if data is not None else None
        except ValueError:
            place = None
        if data is None or place is None or place.offset < 0 or place.length < 0 or place.offset + place.length > size:
            raise ModelFault(
                f"{path.name}: constant {name!r} is not inside {weights.name} ({size} bytes); one of the two is damaged"
            )
        kind = kinds.get(data.get("element_type", ""))
        if kind is None or place.length % {"FLOAT": 4, "DOUBLE": 8}.get(kind, 2):
            continue
        state = health(kind, stored(place, name))
        if state.nan or (state.infinite and not state.mask_like):
            raise ModelFault(f"{path.name}: constant {name!r} holds {'NaN' if state.nan else 'Inf'}")
