"""What a TensorRT engine runs and what each layer costs, in the form every backend gives it, mapped back to the ONNX file.

From the engine inspector and a profiler on a GPU, or from what ``trtexec`` saved on another machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from accel.accelerate.engines.layer_notes import notes
from accel.accelerate.engines.layers import FLOATS, UNKNOWN, engine_layers, layer_times
from accel.accelerate.engines.names import OnnxNodes, few, nodes_of
from accel.accelerate.precision import Counts, executed
from accel.contracts import ExecutedPrecision, LayerProfile, LayerRun
from accel.errors import BackendFault, UsageError


def profile_from_files(layers: Path, times: Path | None, onnx: Path | None) -> LayerProfile:
    """From files that ``trtexec --exportLayerInfo`` and ``--exportProfile`` saved, perhaps on another machine.

    ``onnx``: the file the engine was built from; without it, lost fusions cannot be told. UsageError for a file that is not
    there, BackendFault for one of another kind, ModelFault for an ONNX file that is none.
    """
    return layer_profile(
        _text(layers),
        None if times is None else layer_times(_text(times), times.name),
        None if onnx is None else nodes_of(onnx),
        place=layers.name,
    )


def layer_profile(
    inspected: str,
    times: Mapping[str, float] | None = None,
    known: OnnxNodes | None = None,
    *,
    place: str = "the engine inspector's JSON",
) -> LayerProfile:
    """``inspected``: the inspector's JSON of the whole engine. ``times``: layer to mean milliseconds of one inference.

    ``known``: the nodes of the ONNX file. A layer that was timed and that the inspector does not list is a row of its own, so
    that the times add up. Raises BackendFault for text that is no such JSON.
    """
    layers = engine_layers(inspected, place, known)
    given = dict(times or {})
    left = dict(given)  # of layers of one name, the first gets their common time
    runs = [LayerRun(layer.name, layer.kind, layer.nodes, layer.precision, left.pop(layer.name, None)) for layer in layers]
    runs += [LayerRun(name, UNKNOWN, (), UNKNOWN, ms) for name, ms in left.items()]
    found = notes(layers, given, known)
    if left:
        found += (f"{sum(left.values()):.3g} ms in layers that the inspector does not list: {few(list(left))}",)
    if given and (untimed := [layer.name for layer in layers if layer.heavy and layer.name not in given]):
        found += (f"no time for {few(untimed)}; were layers and times saved from one engine?",)
    return LayerProfile(tuple(runs), found)


def executed_precision(inspected: str, operators: Mapping[str, str], known: OnnxNodes | None = None) -> ExecutedPrecision:
    """What ran in which precision, by the ONNX file's operators.

    ``operators``: each Conv, ConvTranspose, Gemm and MatMul of the ONNX file to the type the network gave it, as
    ``EngineManifest.layers`` has them; one typed ``int8`` counts as run in INT8 where a layer that holds it did.
    """
    layers = engine_layers(inspected, known=known)
    ran: dict[str, str] = {}
    for layer in sorted(layers, key=lambda layer: layer.heavy):  # where several hold a node, the one that multiplies counts
        if not layer.copies:
            # A layer of a compiled region tells no kind and no kernel: one that reads INT8 multiplies it.
            held = layer.data if not layer.heavy and layer.data in ("int8", "fp8") else layer.precision
            ran |= {node: held for node in layer.nodes if node in operators}
    quantized = [name for name, kind in operators.items() if kind not in FLOATS]
    int8 = [name for name in quantized if ran.get(name) == "int8"]
    floats = Counter(kind for name, kind in ran.items() if kind in FLOATS)
    if not floats:
        floats = Counter(layer.precision for layer in layers if layer.precision in FLOATS and not layer.copies)
    kinds = Counter(layer.kind or UNKNOWN for layer in layers if not layer.idle)
    return executed(Counts(kinds, len(int8), floats), len(quantized), tuple(_remarks(quantized, operators, ran)))


def _remarks(quantized: list[str], operators: Mapping[str, str], ran: Mapping[str, str]) -> list[str]:
    found = []
    by_kind: dict[str, list[str]] = {}
    for name in quantized:
        kind = ran.get(name, UNKNOWN)
        if kind not in ("int8", UNKNOWN):
            by_kind.setdefault(kind, []).append(name)
    for kind, names in sorted(by_kind.items()):
        found.append(f"quantized, and ran in {kind}: {few(names)}")
    missing = [name for name in operators if ran.get(name, UNKNOWN) == UNKNOWN]
    if missing:
        found.append(f"{len(missing)} of {len(operators)} operators: in what they ran is not told: {few(missing)}")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UsageError(f"{path}: a folder; name the file in it") from None
    except UnicodeDecodeError:
        raise BackendFault(f"{path.name}: not text; give the JSON that trtexec wrote, not the engine") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
