"""Recipes for a model that has none yet: a commented text to start from, and plain data to run at once."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel import catalog
from accel.errors import UsageError
from accel.recipe.document import resolved
from accel.recipe.fields import suggestion
from accel.recipe.settings import VERSION, name_of

if TYPE_CHECKING:
    from accel.model import TensorSpec

SCHEMA_FILE = "accel.schema.json"
TARGETS = ("onnxruntime", "openvino")
CALIBRATION_SAMPLES = 300

_INPUTS = ("inputs", "x", "images", "image", "data", "X", "x_test", "test_images")
_LABELS = ("labels", "y", "targets", "label", "y_test", "test_labels")
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./ -]*")


def default_document(model_path: Path, data: Path, targets: Sequence[str]) -> dict[str, Any]:
    """A recipe for an ONNX classifier as plain data: simplify and static INT8, calibrated on up to 300 of the samples in
    ``data`` (.npz, image folder, .csv or .tar) and judged on the others; the same shuffle keeps the two apart.

    ``targets``: ``backend`` or ``backend/device``; one that is built for a range of sizes gets batches of 1 to 32. Images are
    scaled to [0, 1] and fitted to the model's input; what a model wants beyond that no file says: write a recipe then. Paths
    are absolute. UsageError, DataFault or ModelFault.
    """
    from accel import onnx_file

    signature = onnx_file.read(model_path).signature
    return {
        "version": VERSION,
        "name": name_of(model_path),
        "model": {"path": str(model_path.absolute())},
        **_judged(data.absolute(), signature.inputs[0] if signature.inputs else None),
        "passes": [{"type": "simplify", "allow_noop": True}, {"type": "quantize"}],
        "targets": [_target(text, signature.inputs) for text in targets],
    }


def guessed_preprocessing_note(document: Mapping[str, Any]) -> str | None:
    """What ``default_document`` guessed about the pixels, and what follows if that is wrong; None where it guessed nothing."""
    preprocess = document.get("task", {}).get("preprocess")
    if preprocess is None:
        return None
    size = f", resized to {preprocess['resize']}" if "resize" in preprocess else ""
    what = f"{preprocess['color']} pixels / {preprocess['scale']}{size}, {preprocess['layout']}"
    model = document["model"]["path"]
    return (
        f"preprocessing was guessed: {what}; if the model was trained with another mean and std, accuracy and calibration are "
        f"wrong: write a recipe with `accel init {model} --data PATH`"
    )


def init(model: str, *, folder: Path, data: Path | None = None, targets: Sequence[str] = TARGETS) -> str:
    """A commented recipe, to be saved in ``folder``, that passes ``validate`` as it is.

    ``model``: an .onnx file, or ``file.py:name`` (both relative to the current directory), or ``package.module:name``.
    Without ``data`` the parts that need it are there as comments. Imports no code of the user's.
    """
    is_onnx = model.endswith(".onnx")
    if is_onnx:
        _require_file(Path(model))
    place = _path(Path(model), folder) if is_onnx else _reference(model, folder)
    judged = _judged(data.absolute(), _first_input(Path(model)) if is_onnx else None) if data is not None else None
    name = name_of(Path(model if is_onnx else model.partition(":")[0]))
    ranges = any(_builds_for_ranges(text) for text in targets)
    inputs = _inputs(Path(model)) if is_onnx and ranges else ()
    lines = "".join(f"  - {_flow(_target(text, inputs))}\n" for text in targets)
    parts = [
        _HEAD.format(schema=SCHEMA_FILE, name=_word(name), version=VERSION),
        (_ONNX if is_onnx else _FACTORY).format(model=_word(place), mark="" if ranges else "# "),
        _NO_DATA if judged is None else _with_data(judged, folder),
        _PASSES.format(
            export="" if is_onnx else _EXPORT,
            mark="# " if judged is None else "",
            why="; needs data.calibration" if judged is None else "",
            samples=CALIBRATION_SAMPLES,
        ),
        "targets:  # each gets its own files\n" + lines + (_ENGINE_KEYS if ranges else "") + _TARGET_KEYS,
        _TAIL,
    ]
    return "\n".join(parts)


def _first_input(path: Path) -> TensorSpec | None:
    return next(iter(_inputs(path)), None)


def _inputs(path: Path) -> tuple[TensorSpec, ...]:
    from accel import onnx_file

    return onnx_file.read(path).signature.inputs


def _builds_for_ranges(text: str) -> bool:
    return text.partition("/")[0] == "tensorrt"


def _target(text: str, inputs: Sequence[TensorSpec] = ()) -> dict[str, Any]:
    """``inputs``: of an .onnx file, whose sizes no key of the recipe gives."""
    backend, _, device = text.partition("/")
    known = list(catalog.backends())
    if backend not in known:
        raise UsageError(
            f"target {text}: there is no backend {backend!r}; allowed: {', '.join(known)}{suggestion(backend, known)}"
        )
    devices = catalog.backend(backend).devices
    if device and device not in devices:
        raise UsageError(f"target {text}: {backend} has no device {device!r}; allowed: {', '.join(devices)}")
    profile = _profile(inputs) if _builds_for_ranges(text) else {}
    return {
        "backend": backend,
        **({"device": device} if device else {}),
        **({"options": {"profiles": [profile]}} if profile else {}),
    }


def _profile(inputs: Sequence[TensorSpec]) -> dict[str, dict[str, list[int]]]:
    """Batches of 1 to 32; none where no axis varies, or another than the first: its sizes nobody can guess."""
    varying = [spec for spec in inputs if any(isinstance(axis, str) for axis in spec.shape)]
    found = {}
    for spec in varying:
        rest = [axis for axis in spec.shape[1:] if isinstance(axis, int)]
        if len(rest) < len(spec.shape) - 1:
            return {}
        found[spec.name] = {word: [size, *rest] for word, size in (("min", 1), ("opt", 8), ("max", 32))}
    return found


def _judged(data: Path, spec: TensorSpec | None) -> dict[str, Any]:
    """The ``task`` and ``data`` sections for one source: half (at most 300) for calibration, the rest for validation."""
    from accel.imports import ImportPolicy
    from accel.tasks.reader import open_reader
    from accel.tasks.settings import DataSource

    source = _source(data)
    reader = open_reader(DataSource(**source), ImportPolicy(data.parent))
    count = len(reader)
    if count < 2:
        raise UsageError(f"{data}: has {count} samples; calibration and validation need at least one each")
    pixels, _ = reader.sample(0)
    files = data.suffix != ".npz" or "offsets" in source.get("arrays", {})
    preprocess = _preprocess(pixels.shape, spec, same_size=not files) if str(pixels.dtype) == "uint8" else None
    held = min(CALIBRATION_SAMPLES, count // 2)
    return {
        "task": {"type": "image_classification", **({"preprocess": preprocess} if preprocess else {})},
        "data": {
            "calibration": {**source, "shuffle": 0, "num_samples": held},
            "validation": {**source, "shuffle": 0, "skip": held},
        },
    }


def _source(data: Path) -> dict[str, Any]:
    if data.is_dir():
        return {"folder": str(data)}
    if not data.is_file():
        raise UsageError(f"{data}: there is no such file or folder of data")
    if data.suffix == ".csv":
        return {"csv": str(data)}
    if data.suffix == ".tar":
        return {"tar": str(data)}
    if data.suffix == ".npz":
        return {"arrays": _arrays(data)}
    raise UsageError(f"{data}: allowed are an .npz, a folder of images, a .csv of files and labels, or a .tar of images")


def _arrays(data: Path) -> dict[str, str]:
    """Which arrays of an .npz are the inputs and the labels, by the usual names."""
    try:
        with zipfile.ZipFile(data) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"{data}: is no .npz: {error}") from None
    inputs = next((name for name in _INPUTS if name in names), None)
    labels = next((name for name in _LABELS if name in names), None)
    if inputs is None or labels is None:
        what = f"has the arrays {', '.join(names[:10])}; which are the inputs and the labels?"
        raise UsageError(
            f"{data}: {what} Name them inputs and labels, or write a recipe with `arrays: {{path, inputs, labels}}`"
        )
    return {"path": str(data), "inputs": inputs, "labels": labels, **({"offsets": "offsets"} if "offsets" in names else {})}


def _preprocess(pixels: tuple[int, ...], spec: TensorSpec | None, *, same_size: bool) -> dict[str, Any]:
    """Pixels to [0, 1] in the colours, size and layout of the model's input."""
    shape = spec.shape if spec is not None and len(spec.shape) == 4 else ("batch", 3, 224, 224)
    last = shape[3] in (1, 3) and shape[1] not in (1, 3)
    channels, height, width = (shape[3], shape[1], shape[2]) if last else (shape[1], shape[2], shape[3])
    settings: dict[str, Any] = {"color": "gray" if channels == 1 else "rgb"}
    if isinstance(height, int) and isinstance(width, int) and not (same_size and pixels[:2] == (height, width)):
        settings |= {"resize": height, "center_crop": height} if height == width else {"resize": [height, width]}
    return {**settings, "scale": 255, "layout": "nhwc" if last else "nchw"}


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file")


def _path(path: Path, folder: Path) -> str:
    """As a recipe in ``folder`` writes it: relative where it lies below, absolute elsewhere."""
    absolute = Path(os.path.normpath(path.absolute()))
    home = Path(os.path.normpath(folder.absolute()))
    return absolute.relative_to(home).as_posix() if absolute.is_relative_to(home) else str(absolute)


def _reference(reference: str, folder: Path) -> str:
    left, colon, name = reference.rpartition(":")
    if not colon or not left or not name:
        raise UsageError(f"{reference}: allowed are an .onnx file, file.py:name and package.module:name")
    if not left.endswith(".py"):
        return reference
    _require_file(Path(left))
    place = _path(Path(left), folder)
    if Path(place).is_absolute():
        way = f"write it beside: --output {Path(left).parent}/recipe.yaml"
        raise UsageError(f"{reference}: a recipe names code of its own folder only; {way}")
    return f"{place}:{name}"


def _with_data(judged: Mapping[str, Any], folder: Path) -> str:
    preprocess = judged["task"].get("preprocess")
    lines = ["task:", "  type: image_classification", "  metrics: [top1, top5]  # or file.py:name of your own"]
    if preprocess is None:
        lines.append("  # preprocess is absent: the data already is what the model takes")
    else:
        lines.append("  preprocess:  # check these against how the model was trained: no file says")
        lines += [f"    {key}: {_flow(value)}" for key, value in preprocess.items()]
        lines += ["    mean: [0]  # of pixel / scale; one number, or one per channel", "    std: [1]"]
    lines += ["", "data:"]
    why = {"calibration": "ranges of the activations", "validation": "the accuracy in the report; no sample of the other"}
    for split, source in judged["data"].items():
        lines += [f"  {split}:  # {why[split]}"]
        lines += [f"    {key}: {_flow(_relative(value, folder))}" for key, value in source.items()]
    return "\n".join(lines) + "\n"


def _relative(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _relative(item, folder) for key, item in value.items()}
    return _path(Path(value), folder) if isinstance(value, str) and Path(value).is_absolute() else value


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_word(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _word(value) if isinstance(value, str) else json.dumps(value)


def _word(text: str) -> str:
    """Text as YAML: plain where that means the same, in quotes elsewhere."""
    is_plain = _PLAIN.fullmatch(text) and text == text.strip() and isinstance(resolved(text), str)
    return text if is_plain or re.fullmatch(r"[\w./-]+\.py:\w+|[\w.]+:\w+", text) else json.dumps(text, ensure_ascii=True)


_HEAD = """\
# yaml-language-server: $schema={schema}
# A recipe for accel. `accel validate` checks it, `accel plan` shows what it will do, `accel optimize` does it.

version: {version}  # of the recipe format
name: {name}  # results go to <output_dir>/<name>
seed: 0  # the same seed, the same result
output_dir: out  # below this file's folder, or an absolute path
# cache_dir: .cache  # finished steps; by default your user's cache folder

about:  # goes into the manifest beside the files that ship
  version: "0.0.0"
  author: ""
  description: ""
"""

_ONNX = """\
model:
  path: {model}  # the file names its own inputs
"""

_FACTORY = """\
model:
  factory: {model}  # a function that gives the torch module
  kwargs: {{}}  # its arguments
  # weights: weights.safetensors  # or a state dict, read with weights_only=True
  inputs:
    - name: input
      shape: [batch, 3, 224, 224]  # change to yours; a number is fixed, a name may vary
      dtype: float32
      {mark}dynamic: {{batch: {{min: 1, opt: 8, max: 32}}}}  # for TensorRT; other runtimes take any size
"""

_NO_DATA = """\
# task:
#   type: image_classification
#   metrics: [top1, top5]  # or file.py:name of your own
#   preprocess:  # as the model was trained; leave it out where the data already is what the model takes
#     color: rgb  # or bgr, gray
#     resize: 256  # the short side; [height, width] for both
#     center_crop: 224  # pixels after the resize; a fraction up to 1 is cropped before it
#     scale: 255  # (pixel / scale - mean) / std
#     mean: [0.485, 0.456, 0.406]
#     std: [0.229, 0.224, 0.225]
#
# data:  # each split is one of: arrays (.npz), folder, csv, tar, torchvision, factory
#   calibration:  # ranges of the activations
#     folder: images
#     shuffle: 0  # a seed
#     num_samples: 300
#   validation:  # the accuracy in the report; no sample of the others
#     folder: images
#     shuffle: 0
#     skip: 300
"""

_EXPORT = """\
  - type: export_onnx  # torch module to ONNX file, checked against PyTorch
"""

_PASSES = """\
passes:  # in this order
{export}  - type: simplify  # folds constants, fuses, drops what no output needs
    allow_noop: true  # it may find nothing to do
{mark}  - type: quantize  # INT8 from calibration data, in the form that each target runs fast{why}
{mark}    calibration:
{mark}      method: minmax  # or percentile, entropy
{mark}      num_samples: {samples}
{mark}    # ignored_scope: {{names: [], patterns: [], types: []}}  # what stays in floating point
"""

_ENGINE_KEYS = """\
  # tensorrt builds on the GPU that is here; without one: options: {compute_capabilities: ["8.9"]}, of the GPUs it is for
"""

_TARGET_KEYS = """\
  # more keys: name, device (cpu, gpu, npu), precision (fp32, fp16, bf16: of what is not quantized), options,
  # optional: true (skip the target where its backend is not installed)
"""

_TAIL = """\
benchmark:
  warmup: 10  # inferences before any is timed
  min_duration_s: 3.0  # timed seconds per row, and ...
  min_iterations: 100  # ... timed inferences, both at least
  percentiles: [50, 90, 99]  # of latency; only these are reported
  batch_sizes: 1
  threads: 1

# gates:  # limits, judged from confidence intervals; a run that breaks one ends with an exit code of its own
#   - {metric: top1, max_drop: 0.01}  # a fraction: at most one percentage point below the reference (exit code 11)
#   - {metric: latency_p50_ms, max_drop: 0.05}  # at most 5 % slower than the untouched model, timed in turn (12)
#   - {metric: size_bytes, max_drop: 0}  # no larger than the untouched model (13)
#   - {metric: int8_share, min: 0.9}  # of the quantized operators, those that really ran in INT8 (14)
#   # more limits: max, min (of the value), min_improvement: 2.0 (twice as good); more keys: target, drop_type,
#   # vs: path/to/report.json (by default the baseline of the same run), margin_abs,
#   # on_inconclusive: fail

report:
  formats: [json, md, html]  # and junit, github-action-benchmark, bencher
"""
