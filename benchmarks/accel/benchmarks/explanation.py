"""Why one profile of a network differs from another: where its time went, what did not run in INT8, what conversions cost.

From layer profiles and ONNX files alone: nothing runs here. The times are a profiler's, so shares and differences count, not
the sum. No numpy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from accel.benchmarks.explanation_places import Place, places
from accel.contracts import Finding, LayerRun
from accel.onnx_quantized import CONVERSIONS, Operator

_PAYS = 1.05
"""Times as fast as before; below it, what INT8 costs is named."""

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
"""For these no runtime has a fast way with weights alone; for products they all have one."""

INTEGERS = frozenset({"int8", "int4", "fp8"})
# As ONNX Runtime (Reorder: its blocked layout), OpenVINO and TensorRT call what only changes layout or number format.
_CONVERTS = re.compile(
    r"QuantizeLinear|DequantizeLinear|DynamicQuantizeLinear|Cast|Reorder\w*|Convert|FakeQuantize|Quantize|Reformat",
    re.IGNORECASE,
)
_TENSORRT_COPY = re.compile(r"^Reformatting CopyNode for (?:Input|Output) Tensor \d+ (?:to|from) (.+)$")

Status = Literal["unfused", "unsupported", "weights only", "data only", "kept back", "not told"]


@dataclass(frozen=True)
class Side:
    """One profile. ``name``: what ran where. ``kinds``: every node of its ONNX file, in order, to its operator type.

    ``findings``: what the lint of its backend says of the file; ``counted``: how many quantized operators the file has and how
    many the runtime's own optimized graph runs in INT8, where that was asked.
    """

    name: str
    layers: tuple[LayerRun, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)
    operators: tuple[Operator, ...] = ()
    findings: tuple[Finding, ...] = ()
    counted: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotInt8:
    """An operator that computed in floats. ``quantized``: whether the file means it to run on integers.

    ``unfused``: the file quantizes it and the runtime computed in float all the same; ``unsupported``: the runtime has no INT8
    kernel for its kind; ``weights only``, ``data only``: the file quantizes half of it; ``kept back``: not at all;
    ``not told``: no layer names it. ``rule``: of the lint, where one explains it. The times are of the layers that hold it.
    """

    node: str
    kind: str
    weighted: bool
    status: Status
    precision: str
    why: str
    way_out: str
    rule: str
    before_ms: float | None
    after_ms: float | None


@dataclass(frozen=True)
class Conversion:
    """A layer that only changes number format or layout. ``beside``: the operators that it works for, as far as is known."""

    layer: str
    kind: str
    ms: float | None
    beside: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """One side in numbers. ``ms``: of all layers, None where none was timed; ``by_precision``: of those that compute.

    ``int8_operators``: weighted ones that ran in INT8, of ``quantized_operators`` in the file.
    """

    name: str
    layers: int
    ms: float | None
    conversions: int
    conversions_ms: float | None
    by_precision: Mapping[str, float]
    quantized_operators: int
    int8_operators: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """``after`` against ``before``, None where there is one profile only. Places: those that cost or gained most first.

    ``told``: the findings in sentences, the most important one first. ``int8_unasked``: weighted operators that the file keeps
    in float, and that ran in INT8 all the same.
    """

    before: Summary | None
    after: Summary
    told: tuple[str, ...]
    places: tuple[Place, ...]
    not_int8: tuple[NotInt8, ...]
    conversions: tuple[Conversion, ...]
    conversions_before: tuple[Conversion, ...] = ()
    int8_unasked: tuple[str, ...] = ()


def explain(before: Side | None, after: Side) -> Explanation:
    """Both are profiles of one network; nodes are matched by name."""
    missing = float_operators(after, before)
    conversions = converted(after)
    earlier = () if before is None else converted(before)
    first = None if before is None else _summary(before, earlier)
    last = _summary(after, conversions)
    found = places(
        None if before is None else computing(before),
        computing(after),
        without={node for side in (before, after) if side for node, kind in side.kinds.items() if kind in CONVERSIONS},
        order=list(after.kinds),
        weighted={operator.name for side in (before, after) if side for operator in side.operators if operator.weighted},
    )
    unasked = _unasked(after)
    told = _told(first, last, missing, conversions, found)
    if unasked:
        told += (f"kept in float by the file, and run in INT8 all the same: {_few(unasked)}",)
    return Explanation(first, last, told, found, missing, conversions, earlier, unasked)


def is_conversion(layer: LayerRun, kinds: Mapping[str, str]) -> bool:
    """Whether ``layer`` computes nothing. A transpose that no Transpose of the file asks for changes the layout."""
    if _CONVERTS.fullmatch(layer.kind) or _TENSORRT_COPY.match(layer.name):
        return True
    if layer.kind == "Transpose":
        return "Transpose" not in {kinds.get(node) for node in layer.nodes}
    return bool(layer.nodes) and all(kinds.get(node) in CONVERSIONS for node in layer.nodes)


def computing(side: Side) -> tuple[LayerRun, ...]:
    """The layers that are no conversion."""
    return tuple(layer for layer in side.layers if not is_conversion(layer, side.kinds))


def converted(side: Side) -> tuple[Conversion, ...]:
    """The conversions, the longest first."""
    works_for: dict[str, list[str]] = {}
    for operator in side.operators:
        for node in operator.around:
            works_for.setdefault(node, []).append(operator.name)
    known = {operator.name for operator in side.operators}
    found = []
    for index, layer in enumerate(side.layers):
        if is_conversion(layer, side.kinds):
            beside = [name for node in layer.nodes for name in works_for.get(node, ())] or _next(
                side.layers[index + 1 :], known
            )
            if copied := _TENSORRT_COPY.match(layer.name):
                beside = [copied.group(1)]
            found.append(Conversion(layer.name, layer.kind, layer.ms, tuple(dict.fromkeys(beside))))
    return tuple(sorted(found, key=lambda each: -(each.ms or 0.0)))


def float_operators(after: Side, before: Side | None = None) -> tuple[NotInt8, ...]:
    """What did not run in INT8 of a file that is quantized at least in part: weighted operators first, the longest first."""
    if not any(operator.data or operator.weights for operator in after.operators):
        return ()
    homes, earlier = _homes(after), {} if before is None else _homes(before)
    found = []
    for operator in after.operators:
        layer = homes.get(operator.name)
        if (layer is not None and layer.precision in INTEGERS) or not (operator.weighted or (operator.quantized and layer)):
            continue
        status, why, way_out, rule = _reason(operator, layer, after)
        was = earlier.get(operator.name)
        found.append(
            NotInt8(
                node=operator.name,
                kind=operator.kind,
                weighted=operator.weighted,
                status=status,
                precision="unknown" if layer is None else layer.precision,
                why=why,
                way_out=way_out,
                rule=rule,
                before_ms=None if was is None else was.ms,
                after_ms=None if layer is None else layer.ms,
            )
        )
    return tuple(sorted(found, key=lambda each: (not each.weighted, -(each.after_ms or 0.0))))


def _unasked(side: Side) -> tuple[str, ...]:
    homes = _homes(side)
    return tuple(
        operator.name
        for operator in side.operators
        if operator.weighted and not operator.weights and (home := homes.get(operator.name)) and home.precision in INTEGERS
    )


def _homes(side: Side) -> dict[str, LayerRun]:
    """Each node to the layer that computes it; of several, the longest."""
    found: dict[str, LayerRun] = {}
    for layer in sorted(computing(side), key=lambda layer: layer.ms or 0.0):
        found.update(dict.fromkeys(layer.nodes, layer))
    return found


def _reason(operator: Operator, layer: LayerRun | None, side: Side) -> tuple[Status, str, str, str]:
    of_node = [finding for finding in side.findings if finding.node == operator.name]
    of_node += [finding for finding in side.findings if finding.node in operator.around]
    if not operator.data and not operator.weights:
        why = "the file has no Q/DQ around it: its quantizer left it alone, or was told to"
        return "kept back", why, "nothing, where its accuracy needs it; else take it out of `ignored_scope`", ""
    if operator.weights and not operator.data and operator.kind not in _CONVOLUTIONS:
        why = "the file stores its weights alone as integers, and they are unpacked as they are multiplied"
        return "weights only", why, "nothing, where they are to save memory; else quantize its data too", ""
    if not operator.data or not operator.weights:
        status: Status = "weights only" if operator.weights else "data only"
        what = "data" if operator.weights else "weights"
        rule = of_node[0].rule if of_node else ""
        return status, f"its {what} are not quantized in the file", f"quantize its {what} too", rule
    if layer is None:
        return "not told", "no layer of the profile names it; it may be part of another", "look at the neighbours' layers", ""
    if of_node:
        first = of_node[0]
        return "unsupported" if first.rule == "no-int8-kernel" else "unfused", first.message, first.way_out, first.rule
    why = "the runtime did not join it with the Q/DQ around it, and nothing that is known of the file says why"
    return "unfused", why, "compare with the file that the other quantization profile gives (`accel lint` names the rules)", ""


def _next(layers: Sequence[LayerRun], known: Iterable[str]) -> list[str]:
    """The first operator that runs afterwards."""
    return next(([node] for layer in layers for node in layer.nodes if node in known), [])


def _summary(side: Side, conversions: Sequence[Conversion]) -> Summary:
    timed = [layer.ms for layer in side.layers if layer.ms is not None]
    by_precision: dict[str, float] = {}
    for layer in computing(side):
        by_precision[layer.precision] = by_precision.get(layer.precision, 0.0) + (layer.ms or 0.0)
    homes = _homes(side)
    quantized = [operator for operator in side.operators if operator.weighted and operator.quantized]
    ran = sum(1 for operator in quantized if operator.name in homes and homes[operator.name].precision in INTEGERS)
    notes = side.notes
    if side.counted is not None and side.counted != (len(quantized), ran):
        notes += (f"the runtime's own graph has {side.counted[1]} of {side.counted[0]} quantized operators in INT8",)
    return Summary(
        name=side.name,
        layers=len(side.layers),
        ms=sum(timed) if timed else None,
        conversions=len(conversions),
        conversions_ms=sum(each.ms or 0.0 for each in conversions) if timed else None,
        by_precision=dict(sorted(by_precision.items(), key=lambda item: -item[1])),
        quantized_operators=len(quantized),
        int8_operators=ran,
        notes=notes,
    )


def _told(
    before: Summary | None,
    after: Summary,
    missing: Sequence[NotInt8],
    conversions: Sequence[Conversion],
    found: Sequence[Place],
) -> tuple[str, ...]:
    lines = []
    heavy = [each for each in missing if each.weighted]
    meant = [each for each in heavy if each.status in ("unfused", "unsupported", "not told")]
    if before is not None and before.ms and after.ms:
        ratio = before.ms / after.ms
        change = f"{ratio:.2f} times as fast" if ratio >= 1 else f"{1 / ratio:.2f} times as slow"
        lines.append(f"all layers of one inference: {before.ms:.3f} ms before, {after.ms:.3f} ms after, {change}")
        if ratio < _PAYS and after.quantized_operators and not before.quantized_operators:
            lines.append(f"INT8 does not pay here: {_blame(meant, after)}")
    if after.quantized_operators:
        lines.append(f"{after.int8_operators} of {after.quantized_operators} quantized operators ran in INT8")
    for title, some in (
        ("quantized in the file and run in float", meant),
        ("weights alone stored as integers", [each for each in heavy if each.status == "weights only"]),
        ("of data alone quantized, and run in float", [each for each in heavy if each.status == "data only"]),
        ("kept back in float", [each for each in heavy if each.status == "kept back"]),
        ("besides, operators between Q/DQ that ran in float", [each for each in missing if not each.weighted]),
    ):
        if some:
            lines.append(f"{title}: {len(some)}{_share(sum(each.after_ms or 0.0 for each in some), after)}")
    if conversions:
        kinds = Counter(each.kind for each in conversions)
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
        lines.append(f"conversions: {listed}{_share(after.conversions_ms or 0.0, after)}")
        if before is not None and before.conversions_ms is not None:
            lines[-1] += f"; before: {before.conversions}, {before.conversions_ms:.3f} ms"
    slower = [place for place in found if place.change_ms is not None and place.change_ms > 0]
    if before is not None and slower:
        lines.append(f"slower than before: {_few([f'{place.title} (+{place.change_ms:.3f} ms)' for place in slower])}")
    return tuple(lines)


def _blame(meant: Sequence[NotInt8], after: Summary) -> str:
    """Which of what INT8 brought costs most of the time."""
    assert after.ms is not None
    unfused = sum(each.after_ms or 0.0 for each in meant)
    costs = [(unfused, f"{len(meant)} of {after.quantized_operators} quantized operators ran in float")] if meant else []
    if after.conversions:
        costs.append((after.conversions_ms or 0.0, f"{after.conversions} conversions"))
    dear = [(ms / after.ms, what) for ms, what in sorted(costs, reverse=True) if ms > 0.05 * after.ms]
    named = [f"{what} ({100 * share:.0f} % of the time)" for share, what in dear]
    return ", ".join(named) or "neither conversions nor operators left in float explain it; see where the time went"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _share(ms: float, after: Summary) -> str:
    return f", {ms:.3f} ms ({100 * ms / after.ms:.0f} % of its layers)" if after.ms else ""
