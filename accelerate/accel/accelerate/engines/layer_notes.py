"""What stands out in the layers of an engine: conversions, lost fusions, islands in float, sparse kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from accel.accelerate.engines.layers import FLOATS, UNKNOWN, EngineLayer
from accel.accelerate.engines.names import OnnxNodes, copied_for, few
from accel.accelerate.engines.reach import reached

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Elu", "Tanh"})
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})

Times = Mapping[str, float]


def notes(layers: Sequence[EngineLayer], times: Times, known: OnnxNodes | None) -> tuple[str, ...]:
    """Each with layer, fact and way out; most costly first. ``times``: layer to milliseconds, empty where none was timed."""
    found: list[str] = []
    found += _untold(layers)
    found += _conversions(layers, times)
    if known is not None:
        found += _lost_fusions(layers, times, known)
    found += _islands(layers, times)
    found += _sparse(layers)
    return tuple(found)


def _untold(layers: Sequence[EngineLayer]) -> Iterator[str]:
    if not any(layer.kind for layer in layers):
        yield (
            "the engine tells only the names of its layers, so their precision is unknown; build it with detailed profiling"
            " verbosity (trtexec --profilingVerbosity=detailed)"
        )
        return
    dark = [layer.name for layer in layers if layer.heavy and layer.precision == UNKNOWN]
    if dark:
        yield (
            f"the precision of {_layers(len(dark))} is not told ({few(dark)}); with dynamic shapes, the inspector needs an"
            " execution context whose input shapes are set"
        )


def _conversions(layers: Sequence[EngineLayer], times: Times) -> Iterator[str]:
    """Reformats that the builder put in, and Q/DQ of the graph that stayed layers of their own."""
    for own, what, way_out in (
        (False, "reformat", "they change layout or type between layers that want different ones: islands in float cause them"),
        (True, "conversion", "Q/DQ or casts of the graph that no neighbour took in"),
    ):
        some = [layer for layer in layers if layer.copies and bool(layer.nodes) == own]
        if some:
            named = _listed(some, times, lambda layer: f"before {before}" if (before := copied_for(layer.name)) else layer.name)
            yield f"{_layers(len(some), what)}{_share(some, times)}: {named}; {way_out}"


def _lost_fusions(layers: Sequence[EngineLayer], times: Times, known: OnnxNodes) -> Iterator[str]:
    """An activation or addition that follows a convolution in the graph, and that its layer does not hold."""
    home = {node: layer for layer in reversed(layers) if not layer.copies for node in layer.nodes}
    seen: set[str] = set()
    for node, kind in known.kinds.items():
        if kind not in _CONVOLUTIONS or node not in home:
            continue
        for after, through in _followers(node, known):
            layer = home.get(after)
            if layer is None or after in seen or layer is home[node]:
                continue
            if any(known.kinds.get(each) in _PRODUCTS for each in layer.nodes):
                continue  # an addition of two branches goes into one of the two convolutions
            seen.add(after)
            reason = f"between them: {few(through)}" if through else "look whether something else reads what is between"
            yield f"{after} ran in a layer of its own after {node}{_cost([layer], times)}, not within it; {reason}"


def _followers(node: str, known: OnnxNodes) -> Iterator[tuple[str, list[str]]]:
    """Activations and additions right behind a node, each with the conversions on the way there."""
    pending: list[tuple[str, list[str]]] = [(reader, []) for reader in known.readers.get(node, ())]
    if len(pending) > 1 and not all(known.kinds[reader] in ("Sigmoid", "HardSigmoid", "Mul") for reader, _ in pending):
        return  # what several layers read must be written out: no fusion was to be had
    while pending:
        current, through = pending.pop(0)
        kind = known.kinds.get(current)
        if kind in _CONVERSIONS:
            pending += [(reader, [*through, current]) for reader in known.readers.get(current, ())]
        elif kind in _ACTIVATIONS or kind == "Add":
            yield current, through


def _islands(layers: Sequence[EngineLayer], times: Times) -> Iterator[str]:
    """Layers in float that an INT8 layer feeds, however far, and that feed an INT8 layer."""
    makers = {tensor: index for index, layer in enumerate(layers) for tensor in layer.makes}
    feeding: list[list[int]] = [[makers[tensor] for tensor in layer.reads if tensor in makers] for layer in layers]
    fed: list[list[int]] = [[] for _ in layers]
    for index, sources in enumerate(feeding):
        for source in sources:
            fed[source].append(index)
    quantized = [index for index, layer in enumerate(layers) if layer.heavy and layer.precision in ("int8", "fp8")]
    inside = reached(quantized, fed) & reached(quantized, feeding)
    found = [
        layer
        for index, layer in enumerate(layers)
        if index in inside and layer.precision in FLOATS and not layer.copies and not layer.idle
    ]
    if found:
        named = _listed(found, times, lambda layer: f"{layer.name} in {layer.precision}")
        yield (
            f"in float between INT8 layers{_share(found, times)}: {named}; each needs a conversion on both sides:"
            " quantize them too, or leave their neighbours in float"
        )


def _sparse(layers: Sequence[EngineLayer]) -> Iterator[str]:
    heavy = [layer for layer in layers if layer.heavy]
    ran = [layer.name for layer in heavy if layer.sparse]
    dense = [layer.name for layer in heavy if layer.sparse_weights and not layer.sparse]
    if ran:
        yield f"{len(ran)} of {len(heavy)} convolution and matrix layers ran 2:4 sparse kernels: {few(ran)}"
    if dense:
        yield (
            f"{_layers(len(dense))} with 2:4 sparse weights ran dense kernels, the faster ones there: {few(dense)};"
            " sparse kernels pay off with many channels"
        )


def _layers(count: int, what: str = "") -> str:
    return f"{count} {what}{' ' if what else ''}layer{'' if count == 1 else 's'}"


def _share(layers: Sequence[EngineLayer], times: Times) -> str:
    total = sum(times.values())
    own = sum(times.get(layer.name, 0.0) for layer in layers)
    return f", {own:.3g} of {total:.3g} ms ({100 * own / total:.0f} %)" if total > 0 else ""


def _cost(layers: Sequence[EngineLayer], times: Times) -> str:
    own = sum(times.get(layer.name, 0.0) for layer in layers)
    return f" ({own:.3g} ms)" if times else ""


def _listed(layers: Sequence[EngineLayer], times: Times, label: Callable[[EngineLayer], str]) -> str:
    ordered = sorted(layers, key=lambda layer: -times.get(layer.name, 0.0))
    return few([f"{label(layer)}{_cost([layer], times)}" for layer in ordered])
