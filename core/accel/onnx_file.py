"""Reading model files: is it what it says, is it safe to read, what goes in and out, are its weights numbers.

Nothing here runs the model or loads a runtime. ``read`` is cheap and is what every step uses; ``check`` adds the onnx checker,
strict shape inference and a look at every weight, for files that come from outside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from accel import ir_file
from accel.axis_names import AxisNames
from accel.errors import ModelFault, UsageError
from accel.model import OnnxModel, Signature, TensorSpec
from accel.onnx_structure import require_sound, require_text
from accel.onnx_tensors import extent, is_external, require_finite_tensor, tensors

PROTOBUF_LIMIT_BYTES = (1 << 31) - 1
OLDEST_OPSET = 7  # ONNX Runtime promises nothing below it
_MAGIC: Sequence[tuple[int, bytes, str]] = (
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with `git lfs pull`"),
    (0, b"<?xml", "XML: an OpenVINO IR should end in .xml"),
    (0, b"<net", "XML: an OpenVINO IR should end in .xml"),
    (0, b"<!DOCTYPE", "a web page: the download failed"),
    (0, b"<html", "a web page: the download failed"),
    (0, b"\x80\x02", "a Python pickle, perhaps an old PyTorch checkpoint: pass it as weights"),
    (0, b"\x80\x04", "a Python pickle: nothing here reads those"),
    (0, b"\x1f\x8b", "a gzip file: unpack it first"),
    (0, b"\x89HDF\r\n", "an HDF5 file (Keras): export it to ONNX first"),
    (0, b"\x89PNG", "a picture"),
    (0, b"\xff\xd8\xff", "a picture"),
    (1, b"trt\0\0\0\0", "a TensorRT engine: it should end in .engine and have its engine.json beside it"),
    (4, b"TFL3", "a TensorFlow Lite model: convert it with tf2onnx first"),
    (8, b'{"', "a safetensors file: pass it as weights"),
)


def read(path: Path) -> OnnxModel:
    """The model in an ``.onnx``, IR ``.xml`` or ``.engine`` file, with its signature: of the graph, or from the manifest.

    ModelFault for a file that is not such a model, whose external data is missing, short or not plainly beside it, whose opset
    is outside what the installed onnx knows, whose graph has a cycle or an unknown operator, or whose inputs and outputs are
    not tensors of known rank. SafetyRefusal for external data outside the model's folder or behind a link.
    """
    if path.suffix == ".xml":
        files(path)
        return OnnxModel(path=path, signature=ir_file.signature(path))
    if path.suffix == ".engine":
        from accel import engine_file  # its manifest needs pydantic, which a child that runs an ONNX file does without

        _size(path)
        return OnnxModel(path=path, signature=engine_file.signature(path))
    proto = parse(path)
    _require_external_safe(proto, path)
    _require_opsets(proto, path)
    require_sound(proto, path.name)
    return OnnxModel(path=path, signature=signature(proto, path.name))


def parse(path: Path, limit_bytes: int = PROTOBUF_LIMIT_BYTES) -> Any:
    """The ModelProto of a file, external data not loaded and not checked. ``limit_bytes``: what one protobuf may have."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    size = _size(path)
    if size > limit_bytes:
        raise ModelFault(
            f"{path.name}: {size} bytes, and one ONNX file holds at most {limit_bytes}{_guess(path)};"
            " save the weights of an ONNX model as external data (onnx.save(..., save_as_external_data=True))"
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ModelFault(f"{path.name}: not an ONNX model, or cut short ({size} bytes){_guess(path)}") from None
    if proto.ir_version <= 0 or not proto.opset_import or not proto.graph.output:
        raise ModelFault(
            f"{path.name}: not an ONNX model, or cut short: it has no version, operator set or output{_guess(path)}"
        )
    require_text(proto, path.name)
    return proto


def _guess(path: Path) -> str:
    with path.open("rb") as stream:
        looks = looks_like(stream.read(4096))
    return f"; it looks like {looks}" if looks else ""


def looks_like(start: bytes) -> str | None:
    """What the first bytes of a file that should be ONNX say it is instead; None if they say nothing."""
    if start.startswith(b"PK\x03\x04"):
        inside = b"data.pkl" in start or b"/.format_version" in start or b".data/serialization_id" in start
        return "a PyTorch checkpoint (torch.save): pass it as weights" if inside else "a zip archive"
    return next((what for at, magic, what in _MAGIC if start[at : at + len(magic)] == magic), None)


def files(path: Path) -> tuple[Path, ...]:
    """Every file the model is made of: ``.onnx`` and external data, ``.xml`` and ``.bin``, or ``.engine`` and its manifest.

    External data is checked as in ``read``.
    """
    _size(path)
    if path.suffix == ".xml":
        return path, ir_file.weights_of(path)
    if path.suffix == ".engine":
        from accel import engine_file

        return path, engine_file.manifest_of(path)
    return (path, *_require_external_safe(parse(path), path))


def digest(path: Path) -> str:
    """SHA-256 over the bytes of all files of the model, in ``files``' order. Names of folders and dates do not enter."""
    total = hashlib.sha256()
    for file in files(path):
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def require_finite(path: Path) -> None:
    """ModelFault naming the first tensor that holds NaN or Inf; an attention mask of 0 and -inf passes.

    An engine is opaque: it is asked only whether its bytes are those that were made from weights found finite.
    """
    if path.suffix == ".xml":
        ir_file.require_finite(path)
        return
    if path.suffix == ".engine":
        from accel import engine_file

        engine_file.require_intact(path, engine_file.read(path))
        return
    for found in tensors(parse(path)):
        require_finite_tensor(found, path.parent)


def check(path: Path) -> list[str]:
    """Everything that can be known without running the model; gives warnings.

    Raises as ``read``, and ModelFault for what the onnx checker or strict shape inference refuses and for weights that are not
    finite. Warnings: weights that are all zero, and denormal numbers, which some CPUs multiply many times slower.
    """
    read(path)
    if path.suffix in (".xml", ".engine"):
        require_finite(path)
        return []
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelFault(f"{path.name}: the ONNX checker refuses it: {_first_lines(str(error))}") from None
    warnings = []
    for found in tensors(parse(path)):
        state = require_finite_tensor(found, path.parent)
        if state is None or found.tensor.data_type == 0:
            continue
        if state.mask_like and {"Conv", "ConvTranspose", "Gemm", "MatMul"} & set(found.readers) and len(found.tensor.dims) > 1:
            warnings.append(f"{found.name}: all {_count(found.tensor.dims)} weights are zero")
        if state.denormals:
            warnings.append(f"{found.name}: {state.denormals} denormal values, slow on some CPUs; round them to zero")
    return warnings


def signature(proto: Any, name: str = "the model") -> Signature:
    """Inputs and outputs of a ModelProto; initializers that are also listed as inputs are not inputs."""
    graph = proto.graph
    weights = {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}
    axes = AxisNames()
    inputs = tuple(_spec(value, name, axes.input) for value in graph.input if value.name not in weights)
    outputs = list(graph.output)
    if any(not _has_shape(value) for value in outputs):
        outputs = _inferred_outputs(proto, name)
    return Signature(inputs, tuple(_spec(value, name, axes.output) for value in outputs))


def _has_shape(value: Any) -> bool:
    return bool(value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"))


def _inferred_outputs(proto: Any, name: str) -> list[Any]:
    import onnx

    try:
        return list(onnx.shape_inference.infer_shapes(proto).graph.output)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelFault(f"{name}: shapes cannot be inferred: {_first_lines(str(error))}") from None


def _spec(value: Any, name: str, make: Any) -> TensorSpec:
    import onnx

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelFault(f"{name}: {value.name!r} is a {kind or 'value without a type'}; only tensors are supported")
    if not _has_shape(value):
        raise ModelFault(f"{name}: {value.name!r} has no shape; export the model with the shapes of its inputs and outputs")
    dims: list[int | str | None] = []
    for dim in value.type.tensor_type.shape.dim:
        if dim.HasField("dim_value") and dim.dim_value > 0:
            dims.append(dim.dim_value)
        else:
            # Some exporters write -1 or 0 for an axis that varies; unk__0 is a name that shape inference made up.
            dims.append(None if dim.dim_param.startswith("unk__") else dim.dim_param or None)
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
    except (KeyError, ValueError, TypeError):
        raise ModelFault(f"{name}: {value.name!r} has an element type this version of onnx does not know") from None
    spec: TensorSpec = make(value.name, dims, str(dtype))
    return spec


def _size(path: Path) -> int:
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if not path.is_file():
        raise UsageError(f"{path}: not a file")
    size = path.stat().st_size
    if size == 0:
        raise ModelFault(f"{path.name}: the file is empty")
    return size


def _require_external_safe(proto: Any, path: Path) -> tuple[Path, ...]:
    outside = {extent(found.tensor, found.name, path.parent).path for found in tensors(proto) if is_external(found.tensor)}
    return tuple(sorted(outside))


def _require_opsets(proto: Any, path: Path) -> None:
    import onnx

    if proto.ir_version > onnx.IR_VERSION:
        raise ModelFault(
            f"{path.name}: ONNX IR version {proto.ir_version}; the installed onnx {onnx.__version__} reads up to"
            f" {onnx.IR_VERSION}. Upgrade onnx, or export for an older version"
        )
    newest = onnx.defs.onnx_opset_version()
    for entry in proto.opset_import:
        if entry.domain not in ("", "ai.onnx"):
            continue
        if entry.version > newest:
            raise ModelFault(
                f"{path.name}: opset {entry.version}{_blame(proto)}; the installed onnx {onnx.__version__} knows up to"
                f" {newest}. Upgrade onnx, or export with an older opset"
            )
        if entry.version < OLDEST_OPSET:
            raise ModelFault(
                f"{path.name}: opset {entry.version}{_blame(proto)} is older than {OLDEST_OPSET}, the oldest that runtimes run;"
                " export the model again, or convert it with onnx.version_converter"
            )


def _blame(proto: Any) -> str:
    first: Iterable[Any] = proto.graph.node[:1]
    return "".join(f" (first node: {node.name or node.op_type})" for node in first)


def _count(dims: Sequence[int]) -> int:
    total = 1
    for size in dims:
        total *= size
    return total


def _first_lines(text: str, lines: int = 3) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())[: lines * 160]
