"""Which nodes go to 16 bits, and why the others do not.

Rounding happens where a tensor is written in 16 bits, and shows where it is read. So a node that is harmed by rounded inputs is
not helped by computing in FP32 on inputs that have been rounded: what makes them is kept too, as far back as it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx

from accel.compress.casting.ranges import Range, Trial, range_of
from accel.compress.casting.types import LowType, Ports, constant_values, constants, element_types, opset, ports

HEADROOM = 2.0
"""Data not seen may be larger than calibration data; a bit of the exponent is left for it. Constants need none."""
FAINT = 0.5
"""Share of values below the smallest normal number above which a tensor underflows, if rounding also changes it by more than
the limit: of a softmax over a thousand entries most are below, and none of those matters."""
LEVELS = 4
"""How many nodes back from one that rounding harms are tried in FP32."""
_HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"})
_QDQ = ("QuantizeLinear", "DequantizeLinear")

Measure = Callable[[Sequence[str], Sequence[Trial]], tuple[dict[str, Range], list[float]]]


@dataclass
class Plan:
    """``low``: places of the nodes that compute in 16 bits; ``kept``: of those that make floats and do not, to the reason.
    ``ranges``: of the tensors that were measured, and of constants. ``remarks``: more to say."""

    nodes: Sequence[onnx.NodeProto]
    ports: Mapping[int, Ports]
    low: set[int] = field(default_factory=set)
    kept: dict[int, str] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def keep(self, place: int, why: str) -> None:
        """The node stays FP32."""
        self.low.discard(place)
        self.kept.setdefault(place, why)

    def fits(self, name: str, low: LowType) -> bool:
        """Whether a tensor that was measured may be written in ``low``."""
        return name in self.ranges and self.ranges[name].largest * HEADROOM <= low.largest

    def made_low(self) -> set[str]:
        """The tensors that are written in 16 bits."""
        return {self.nodes[place].output[port] for place in self.low for port in self.ports[place].outputs}


def ports_of(model: onnx.ModelProto, low: LowType) -> dict[int, Ports]:
    """Of each node of the outermost graph that reads or makes FP32, by its place."""
    types = element_types(model)
    version = opset(model)
    found = {place: ports(node, types, version, low) for place, node in enumerate(model.graph.node)}
    return {place: each for place, each in found.items() if each.inputs or each.outputs or each.why_not}


def planned(
    model: onnx.ModelProto,
    nodes: Mapping[int, Ports],
    ignored: Collection[str],
    low: LowType,
    limit: float,
    measure: Measure,
    low_ends: Collection[str],
) -> Plan:
    """Decide for every node. ``limit``: ``max_relative_error``; ``measure(tensors, trials)`` as of ``casting.ranges``;
    ``low_ends``: FP32 inputs and outputs of the model that are to be in 16 bits too."""
    plan = Plan(list(model.graph.node), nodes)
    fixed = constants(model.graph)
    for place, each in nodes.items():
        if not each.makes and plan.nodes[place].op_type != "QuantizeLinear":
            continue
        plan.low.add(place)
        if each.why_not:
            plan.keep(place, each.why_not)
        elif plan.nodes[place].name in ignored:
            plan.keep(place, "in ignored_scope")
    if not plan.low:
        return plan
    rounded = {place: frozenset(_read(plan, place)) for place in sorted(plan.low)}
    first = [Trial(place, (place,), names) for place, names in rounded.items() if names and nodes[place].outputs]
    tensors = {name for place in plan.low for name in (*rounded[place], *_made(plan, place))} | set(low_ends)
    plan.ranges, errors = measure(sorted(tensors - fixed.keys()), first)
    plan.ranges |= {
        name: range_of(constant_values(fixed[name]), low) for names in rounded.values() for name in names & fixed.keys()
    }
    faint = sorted(name for name, each in plan.ranges.items() if each.faint > FAINT and name not in fixed)
    if faint:
        losses = measure([], [Trial(-1, (), frozenset({name})) for name in faint])[1]
        plan.ranges |= {name: replace(plan.ranges[name], loss=loss) for name, loss in zip(faint, losses, strict=True)}
    for place in sorted(plan.low):
        why = _out_of_range(plan, place, fixed, low, limit)
        if why:
            plan.keep(place, why)
    _keep_pairs_whole(plan)
    _keep_what_rounding_harms(plan, dict(zip([trial.node for trial in first], errors, strict=True)), limit, measure, low_ends)
    _keep_pairs_whole(plan)
    _keep_what_costs_more_casts(plan)
    _follow(plan, fixed, ignored)
    return plan


def _read(plan: Plan, place: int) -> list[str]:
    return [plan.nodes[place].input[port] for port in plan.ports[place].inputs]


def _made(plan: Plan, place: int) -> list[str]:
    return [plan.nodes[place].output[port] for port in plan.ports[place].outputs]


def _out_of_range(plan: Plan, place: int, fixed: Collection[str], low: LowType, limit: float) -> str:
    node = plan.nodes[place]
    for verb, names in (("reads", _read(plan, place)), ("makes", _made(plan, place))):
        for name in names:
            found, constant = plan.ranges[name], name in fixed
            if found.largest * (1.0 if constant else HEADROOM) > low.largest:
                spare = "" if constant else f", and a factor of {HEADROOM:g} is left for data not seen"
                return f"it {verb} {name!r}, up to {found.largest:.3g}; {low.name} ends at {low.largest:.5g}{spare}"
            scales = node.op_type in _QDQ and name == node.input[1]
            if scales and found.vanishes:
                return f"its scale {name!r} holds a value that {low.name} rounds to 0"
            # A device that flushes subnormal numbers makes a scale 0, and what is divided by it infinite.
            if found.faint > FAINT and (found.loss > limit or scales):
                return (
                    f"it {verb} {name!r}, where {found.faint:.0%} of the values that are not zero are below {low.smallest:.2g},"
                    f" the smallest normal number of {low.name}: rounding changes it by {found.loss:.2g}"
                )
    return ""


def _keep_pairs_whole(plan: Plan) -> None:
    """A QuantizeLinear and what dequantizes its integers have one scale, and one type."""
    quantizers = {node.output[0]: place for place, node in enumerate(plan.nodes) if node.op_type == "QuantizeLinear"}
    pairs = [
        (quantizers[node.input[0]], place)
        for place, node in enumerate(plan.nodes)
        if node.op_type == "DequantizeLinear" and node.input[0] in quantizers
    ]
    for _ in range(2):  # one that is kept for its partner keeps the partner's other partners
        for pair in pairs:
            for one, other in (pair, pair[::-1]):
                if one in plan.kept and other in plan.low:
                    plan.keep(other, f"{plan.nodes[one].name} stays FP32, and the two share a scale")


def _keep_what_rounding_harms(
    plan: Plan, errors: Mapping[int, float], limit: float, measure: Measure, low_ends: Collection[str]
) -> None:
    """Keep nodes whose error is above ``limit``, each with as many of the nodes before it as bring it below."""
    maker = {name: place for place, node in enumerate(plan.nodes) for name in node.output if name}
    harmed = {place: error for place, error in errors.items() if place in plan.low and not error <= limit}
    for place, error in harmed.items():
        plan.keep(place, f"rounding what it reads to 16 bits changes what it makes by {error:.2g}; the limit is {limit:.2g}")

    def rounded(region: frozenset[int]) -> frozenset[str]:
        """What the region reads in 16 bits."""
        read = {name for place in region for name in plan.nodes[place].input}
        made = plan.made_low()
        inside = {name for place in region for name in plan.nodes[place].output}
        return frozenset((read - inside) & (made | {name for name in low_ends if name not in maker}))

    regions = {place: frozenset({place}) for place in harmed}
    last = dict(harmed)
    for level in range(LEVELS + 1):
        if not regions:
            return
        if level:
            regions = {
                place: region | {maker[name] for name in rounded(region) if name in maker} for place, region in regions.items()
            }
        trials = [Trial(place, tuple(sorted(region)), rounded(region)) for place, region in regions.items()]
        for trial, error in zip(trials, measure([], trials)[1], strict=True):
            last[trial.node] = error
            if error <= limit:
                del regions[trial.node]
                name, before = plan.nodes[trial.node].name, harmed[trial.node]
                for place in trial.region:
                    plan.keep(place, f"{name} needs what it makes exactly: an error of {before:.2g}, in FP32 {error:.2g}")
    for place in regions:
        plan.remarks.append(
            f"warning: {plan.nodes[place].name}: its error is {last[place]:.2g} even with the {LEVELS} nodes before it in FP32:"
            " what they read is rounded further up; name nodes there in ignored_scope"
        )


def _keep_what_costs_more_casts(plan: Plan) -> None:
    """A few nodes between nodes in FP32 stay FP32 too, where they need as many casts as they are."""
    maker = {name: place for place, node in enumerate(plan.nodes) for name in node.output if name}
    edges = [
        (maker[name], place, name)
        for place in plan.ports
        for name in plan.nodes[place].input
        if name in maker and maker[name] in plan.ports
    ]
    neighbours: dict[int, set[int]] = {place: set() for place in plan.ports}
    for one, other, _ in edges:
        neighbours[one].add(other)
        neighbours[other].add(one)
    pending = set(plan.low)
    while pending:
        group, edge = set[int](), [min(pending)]
        while edge:
            place = edge.pop()
            if place not in group:
                group.add(place)
                edge += [other for other in neighbours[place] if other in plan.low]
        pending -= group
        casts = {name for one, other, name in edges if len({one, other} & group) == 1 and {one, other} & plan.kept.keys()}
        if len(casts) >= len(group) and not any(plan.nodes[place].op_type in _HEAVY for place in group):
            for place in group:
                plan.keep(place, "between nodes in FP32, where 16 bits would only add casts")


def _follow(plan: Plan, fixed: Collection[str], ignored: Collection[str]) -> None:
    """What makes no floats (Shape, ArgMax, comparisons) reads them as they are: rounding has been done by then."""
    low_made = plan.made_low()
    for place, each in plan.ports.items():
        if place in plan.low or place in plan.kept or each.why_not or plan.nodes[place].name in ignored:
            continue
        names = _read(plan, place)
        if any(name in low_made for name in names) and all(name in low_made for name in names if name not in fixed):
            plan.low.add(place)
