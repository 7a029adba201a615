"""``accel inspect``: what is in a model file. Runs nothing of it and imports no code that it names."""

from __future__ import annotations

import json as json_module
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from accel import checkpoint, engine_file, ir_graph, onnx_file, onnx_graph
from accel.benchmarks.untrusted import plain
from accel.errors import UsageError
from accel.onnx_graph import GraphSummary, Quantization

_SHOWN = 40  # rows of a table on a terminal; JSON has them all
_SAFETENSORS_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def run(path: Path, *, json: bool, out: Console) -> int:
    """Print the facts of a model file, of any kind that ``facts`` reads, as tables or as one JSON document."""
    record = facts(path)
    if json:
        out.file.write(json_module.dumps(record, indent=2, allow_nan=False) + "\n")
    elif "tensors" in record:
        _show_weights(record, out)
    elif "library" in record:
        _show_engine(record, out)
    else:
        _show_graph(record, out)
    return 0


def facts(path: Path) -> dict[str, Any]:
    """Everything ``inspect`` knows about a file, ready for JSON. Raises as ``onnx_file.check`` and ``checkpoint.read``."""
    if path.is_dir():
        raise UsageError(f"{path}: a folder; name the model file in it")
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if path.suffix in (".py", ".yaml", ".yml"):
        raise UsageError(f"{path}: inspect reads model files and runs no code; for a recipe there is `accel plan`")
    if path.suffix == ".safetensors":
        return _safetensors_facts(path)
    if path.suffix not in (".onnx", ".xml", ".engine") and _is_checkpoint(path):
        return _state_dict_facts(path)
    warnings = onnx_file.check(path)
    if path.suffix == ".engine":
        return _engine_facts(path) | {"warnings": warnings}
    if path.suffix == ".xml":
        return _graph_facts(path, "openvino-ir", ir_graph.summary(path)) | {"warnings": warnings}
    return _graph_facts(path, "onnx", onnx_graph.summary(path)) | {"warnings": warnings}


def _is_checkpoint(path: Path) -> bool:
    with path.open("rb") as stream:
        start = stream.read(2)
    return start == b"PK" or start[:1] == b"\x80" or path.suffix in (".pt", ".pth", ".bin", ".ckpt")


def _engine_facts(path: Path) -> dict[str, Any]:
    """What the manifest says: the engine itself is opaque, and nothing reads it."""
    files = onnx_file.files(path)
    manifest = engine_file.read(path).model_dump(mode="json")
    return {
        "file": str(path),
        "format": "tensorrt-engine",
        "files": [{"path": file.name, "bytes": file.stat().st_size} for file in files],
        "size_bytes": sum(file.stat().st_size for file in files),
        **{name: value for name, value in manifest.items() if name not in ("format", "engine_bytes")},
    }


def _graph_facts(path: Path, form: str, summary: GraphSummary) -> dict[str, Any]:
    model = onnx_file.read(path)
    files = onnx_file.files(path)
    return {
        "file": str(path),
        "format": form,
        "files": [{"path": file.relative_to(path.parent).as_posix(), "bytes": file.stat().st_size} for file in files],
        "size_bytes": sum(file.stat().st_size for file in files),
        "producer": summary.producer,
        "opset": summary.opset if form == "onnx" else None,
        "ir_version": summary.ir_version,
        "signature": asdict(model.signature),
        "parameters": summary.parameters,
        "macs": summary.macs.total,
        "macs_unknown": list(summary.macs.unknown),
        "operators": dict(summary.operators),
        "precision": asdict(summary.quantization) | {"float_dtypes": dict(summary.float_dtypes)},
        "warnings": [],
    }


def _safetensors_facts(path: Path) -> dict[str, Any]:
    header = checkpoint.safetensors_header(path)
    header.pop("__metadata__", None)
    tensors = [
        {"name": name, "shape": entry["shape"], "dtype": _SAFETENSORS_DTYPES.get(entry["dtype"], entry["dtype"])}
        for name, entry in header.items()
    ]
    return _weights_record(path, "safetensors", tensors)


def _state_dict_facts(path: Path) -> dict[str, Any]:
    tensors = [
        {"name": name, "shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in checkpoint.read(path).items()
    ]
    return _weights_record(path, "state-dict", tensors)


def _weights_record(path: Path, form: str, tensors: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "file": str(path),
        "format": form,
        "size_bytes": path.stat().st_size,
        "parameters": sum(math.prod(tensor["shape"]) for tensor in tensors),
        "tensors": tensors,
        "warnings": [],
    }


def _show_graph(record: dict[str, Any], out: Console) -> None:
    macs = f"{record['macs']:,}" + (f" and {len(record['macs_unknown'])} operators uncounted" if record["macs_unknown"] else "")
    version = f"opset {record['opset']}, IR version {record['ir_version']}" if record["opset"] else f"IR {record['ir_version']}"
    _pairs(
        out,
        [
            ("file", f"{record['file']} ({record['format']})"),
            ("made by", f"{record['producer'] or 'unknown'}, {version}"),
            ("size", ", ".join(f"{file['path']} {file['bytes']:,} bytes" for file in record["files"])),
            ("parameters", f"{record['parameters']:,}"),
            ("MACs", f"{macs} (one sample)"),
            ("precision", _precision_line(record["precision"])),
        ],
    )
    _show_signature(record, out)
    operators = Table(box=None, title_justify="left", title="operators", show_header=False)
    for name, count in list(record["operators"].items())[:_SHOWN]:
        operators.add_row(_safe(str(count)), _safe(name))
    out.print(operators)
    _rest(out, len(record["operators"]))
    _warnings(record, out)


def _show_engine(record: dict[str, Any], out: Console) -> None:
    gpu = f"{record['gpu']}, compute capability {record['gpu_compute_capability'] or 'unknown'}, driver {record['driver']}"
    here = "a machine without a GPU" if record["gpu"] is None else gpu
    _pairs(
        out,
        [
            ("file", f"{record['file']} ({record['format']})"),
            ("made by", f"{record['library']} {record['library_version']} in {record['build_s']:.1f} s, on {here}"),
            ("runs on", _capabilities_line(record)),
            ("size", ", ".join(f"{file['path']} {file['bytes']:,} bytes" for file in record["files"])),
            ("ONNX file", f"SHA-256 {record['onnx_sha256']}"),
            ("typed layers", _typed_line(record["layers"])),
        ],
    )
    _show_signature(record, out)
    settings = Table(box=None, title_justify="left", title="settings", show_header=False)
    for name, value in record["settings"].items():
        settings.add_row(_safe(name), _safe(value if isinstance(value, str) else json_module.dumps(value)))
    out.print(settings)
    for note in record["notes"]:
        out.print(_safe(f"note: {note}"), soft_wrap=True)
    _warnings(record, out)


def _capabilities_line(record: dict[str, Any]) -> str:
    if record["compute_capabilities"]:
        return f"compute capability {', '.join(record['compute_capabilities'])}"
    return "the kind of GPU it was built on"


def _typed_line(layers: dict[str, Any]) -> str:
    parts = [f"{layers[key]} {name}" for key, name in (("int8_typed", "int8"), ("fp8_typed", "fp8")) if layers[key]]
    parts += [f"{count} {name}" for name, count in layers["float_types"].items()]
    quantized = f"; {layers['quantized_operators']} quantized in the ONNX file" if layers["quantized_operators"] else ""
    return f"{', '.join(parts) or 'none'}{quantized} (what the graph asks for; what ran, only a GPU tells)"


def _show_signature(record: dict[str, Any], out: Console) -> None:
    table = Table(box=None, title_justify="left", title="signature", header_style="")
    for head in ("", "name", "shape", "dtype"):
        table.add_column(head, overflow="fold")
    for side in ("inputs", "outputs"):
        for spec in record["signature"][side]:
            table.add_row(side[:-1], *(_safe(spec["name"]), _safe(_shape(spec["shape"])), _safe(spec["dtype"])))
    out.print(table)


def _show_weights(record: dict[str, Any], out: Console) -> None:
    _pairs(
        out,
        [
            ("file", f"{record['file']} ({record['format']})"),
            ("size", f"{record['size_bytes']:,} bytes"),
            ("tensors", f"{len(record['tensors'])} with {record['parameters']:,} numbers"),
        ],
    )
    table = Table(box=None, header_style="")
    for head in ("name", "shape", "dtype"):
        table.add_column(head, overflow="fold")
    for tensor in record["tensors"][:_SHOWN]:
        table.add_row(_safe(tensor["name"]), _safe(_shape(tensor["shape"])), _safe(tensor["dtype"]))
    out.print(table)
    _rest(out, len(record["tensors"]))
    _warnings(record, out)


def _precision_line(precision: dict[str, Any]) -> str:
    found = Quantization(**{key: value for key, value in precision.items() if key != "float_dtypes"})
    floats = ", ".join(f"{count:,} in {name}" for name, count in precision["float_dtypes"].items()) or "none in float"
    if not found.quantized and not found.weight_only:
        return f"not quantized; weights: {floats}"
    parts = [f"{found.quantized} of {found.weighted} weighted operators quantized"]
    if found.weight_only:
        parts.append(f"{found.weight_only} in their weights only")
    if found.activation_dtypes:
        mode = {True: " symmetric", False: " asymmetric", None: ""}[found.activations_symmetric]
        parts.append(f"activations {' and '.join(found.activation_dtypes)}{mode}")
    if found.weight_dtypes:
        mode = {True: " per channel", False: " per tensor", None: ""}[found.per_channel]
        parts.append(f"weights {' and '.join(found.weight_dtypes)}{mode}")
    return ", ".join(parts)


def _pairs(out: Console, rows: list[tuple[str, str]]) -> None:
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(Text(key), _safe(value))
    out.print(table)


def _rest(out: Console, total: int) -> None:
    if total > _SHOWN:
        out.print(Text(f"and {total - _SHOWN} more; --json has them all"))


def _warnings(record: dict[str, Any], out: Console) -> None:
    for warning in record["warnings"]:
        out.print(_safe(f"warning: {warning}"), soft_wrap=True)


def _shape(shape: list[int | str] | tuple[int | str, ...]) -> str:
    return "[" + ", ".join(str(axis) for axis in shape) + "]"


def _safe(text: str) -> Text:
    """Names come from the file: no escape sequence and no markup of theirs reaches the terminal."""
    return Text(plain(text))
