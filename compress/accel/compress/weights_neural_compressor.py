"""Core of ``quantize/weight_only/neural-compressor``: its integers and scales in linear layers that export as such.

The library works on a copy, from which integers are taken. What it gives itself is not used: its layer computes in float32
from packed weights, which the exporter would write in full, and with 8 bits and zero points it computes something else
(``recover`` takes differences of more than 127 for INT8).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.compress.calibration_batches import in_batches
from accel.compress.calibration_data import Samples, calibration_samples
from accel.compress.edits import add_edit_, edits_of
from accel.compress.grouped_linear import GroupedLinear, grouped_layers, with_layers
from accel.compress.layer_names import matching
from accel.compress.neural_compressor_library import INCWeightOnlyLinear, MulLinear, library
from accel.compress.product_weights import Tally
from accel.compress.qat.module import QuantizeAwareModule
from accel.compress.quantize_aware import IgnoredModules
from accel.compress.quiet_library import quiet
from accel.compress.weight_settings import LibraryWeights, WeightCalibration
from accel.contracts import Job
from accel.errors import AccelError, MissingBackend, PassFault
from accel.model import EDITS, GroupedWeights, Signature, TorchModel

WHAT = "quantize (engine neural-compressor)"
LEFT = "left by neural-compressor"


def quantized(
    model: TorchModel, job: Job, weights: LibraryWeights, calibration: WeightCalibration, scope: IgnoredModules
) -> TorchModel:
    """See ``QuantizeWeightOnlyNeuralCompressor``."""
    if isinstance(model.module, QuantizeAwareModule) or grouped_layers(model.module):
        raise PassFault(f"{WHAT}: the model is prepared already; a recipe has one quantize pass")
    named = matching(model.module, (*scope.names, *scope.patterns), f"{WHAT}: ignored_scope")
    kept = _kept(model.module, weights, frozenset().union(*named.values()))
    linear = {path: part for path, part in model.module.named_modules() if isinstance(part, nn.Linear)}
    if not linear.keys() - kept.keys():
        some = "; ".join(f"{path}: {reason}" for path, reason in list(kept.items())[:3])
        raise PassFault(f"{WHAT} changed nothing: no nn.Linear is quantized ({some or 'the model has none'}); remove the pass")
    samples = calibration_samples(job, model.signature, calibration.num_samples) if weights.algorithm != "rtn" else None
    theirs, stack = _by_library(model.module, model.signature, weights, kept, samples, job)
    result = copy.deepcopy(model.module)
    if weights.algorithm == "awq":
        _take_over_(result, theirs)
    layers = _layers(result, theirs, weights)
    if not layers:
        raise PassFault(f"{WHAT} changed nothing: {weights.algorithm} left every layer as it was; set algorithm: rtn")
    result = with_layers(result, layers)
    scaled = tuple(path for path, layer in layers.items() if layer.input_scales is not None)
    setattr(result, EDITS, edits_of(model.module))
    add_edit_(result, GroupedWeights(4 if weights.dtype == "int4" else 8, weights.group_size, tuple(layers), scaled))
    notes = _notes(model.module, layers, kept, weights, stack)
    return replace(model, module=result).noting(*notes, *(samples.notes if samples is not None else ()))


def _kept(module: nn.Module, weights: LibraryWeights, ignored: Collection[str]) -> dict[str, str]:
    """Linear layers that are not for the library, each with the reason."""
    size = weights.group_size
    kept = {}
    for path, part in module.named_modules():
        if not isinstance(part, nn.Linear):
            continue
        if path in ignored:
            kept[path] = "in ignored_scope"
        elif part.in_features % size:
            # OpenVINO 2026.4 refuses a DequantizeLinear whose last block is not full.
            kept[path] = f"its inputs cannot be divided into groups of {size}"
        elif part.weight.dtype != torch.float32:
            kept[path] = "its weights are not float32"
        elif weights.algorithm != "rtn" and type(part) is not nn.Linear:
            # As in nn.MultiheadAttention, which reads the weight and never calls the layer: GPTQ would set all of it to 0.
            kept[path] = f"{weights.algorithm} does not see what goes into a {type(part).__name__}"
    return kept


class _Hidden(nn.Module):
    """A linear layer that the library does not take for one, so that it leaves the layer and what stands before it alone: GPTQ
    there quantizes what its configuration excludes, too."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class _HiddenList(nn.ModuleList):
    """A list that is not the stack of blocks."""


class _HiddenSequence(nn.Sequential):
    """A sequence that is not the stack of blocks."""


class _Example(tuple[Tensor, ...]):
    """Inputs that can be moved, as AWQ there does with the one input of a language model."""

    def to(self, device: Any) -> _Example:
        return _Example(value.to(device) for value in self)


def _by_library(
    module: nn.Module,
    signature: Signature,
    weights: LibraryWeights,
    kept: Collection[str],
    samples: Samples | None,
    job: Job,
) -> tuple[nn.Module, str]:
    """What the library makes of a copy of ``module``; and the path of the stack of blocks that its algorithm works on."""
    work = copy.deepcopy(module).eval().requires_grad_(False)
    work = with_layers(work, {path: _Hidden(part) for path, part in _linear(work).items() if path in kept})
    stack = "" if weights.algorithm == "rtn" else _choose_stack_(work, weights.algorithm)
    settings = {
        "bits": 4 if weights.dtype == "int4" else 8,
        "group_size": weights.group_size,
        "use_sym": weights.symmetric,
        "use_layer_wise": False,  # which reads a checkpoint again, layer by layer
        "model_path": str(job.folder),  # never read, but without a folder GPTQ there asks a hub for a model called ''
    }
    config = {"rtn": library.RTNConfig, "gptq": library.GPTQConfig, "awq": library.AWQConfig}[weights.algorithm](**settings)
    batches = iter(() if samples is None else _counted(samples, signature, job))
    first = next(batches, None)
    example = None if first is None else _Example(first)
    # RTN alone can be told to leave scales in float32; the others round them to float16.
    told = {"use_optimum_format": False} if weights.algorithm == "rtn" else {}
    try:
        with quiet(), torch.no_grad():
            prepared = library.prepare(work, config, example_inputs=example)
            for batch in () if first is None else (first, *batches):
                prepared(*batch)
            found: nn.Module = library.convert(prepared, **told)
    except (AccelError, MemoryError, OSError):
        raise
    except ModuleNotFoundError as absent:
        name = (absent.name or "a package").partition(".")[0]
        raise MissingBackend(
            f"{WHAT}: {name} is not installed; pip install 'accel-toolkit[neural-compressor]', or set algorithm: rtn"
        ) from absent
    except Exception as error:  # the library raises AssertionError, IndexError, KeyError, RuntimeError, what torch raises
        raise PassFault(
            f"{WHAT}: {weights.algorithm} failed in neural-compressor: {type(error).__name__}: {error}; "
            "set algorithm: rtn, or quantize after export_onnx with engine: onnxruntime"
        ) from error
    return found, stack


def _linear(module: nn.Module) -> dict[str, nn.Linear]:
    return {path: part for path, part in module.named_modules(remove_duplicate=False) if isinstance(part, nn.Linear)}


def _counted(samples: Samples, signature: Signature, job: Job) -> Iterator[tuple[Tensor, ...]]:
    done = 0
    for batch in in_batches(samples, signature):
        done += len(batch[0])
        job.progress(min(done, len(samples)), len(samples), "calibrating")
        yield batch


def _choose_stack_(module: nn.Module, algorithm: str) -> str:
    """Leave the library one stack of blocks to find, the list with most weights of linear layers in it; gives its path.

    By itself GPTQ there takes the last list or sequence, be it the two layers of a block, and AWQ the first list, be it
    without linear layers.
    """
    lists = {path: part for path, part in module.named_modules() if type(part) is nn.ModuleList and len(part)}
    sequences = {path: part for path, part in module.named_modules() if type(part) is nn.Sequential and len(part)}
    usable: Mapping[str, nn.Module] = lists if lists or algorithm == "awq" else sequences
    stacks = {path: part for path, part in usable.items() if path and _weights_in(part)}
    if not stacks:
        what = "scales" if algorithm == "awq" else "quantizes"
        kinds = "nn.ModuleList" if algorithm == "awq" else "nn.ModuleList or nn.Sequential"
        raise PassFault(
            f"{WHAT}: {algorithm} in neural-compressor {what} one stack of blocks, an {kinds} below the model, and there is "
            "none with linear layers in it; set algorithm: rtn, or quantize after export_onnx with engine: onnxruntime"
        )
    chosen: str = max(stacks, key=lambda path: _weights_in(stacks[path]))
    for path, part in (*lists.items(), *sequences.items()):
        if path != chosen:
            # The blocks compute as before: only what type() says of the container is another.
            part.__class__ = _HiddenList if isinstance(part, nn.ModuleList) else _HiddenSequence
    return chosen


def _weights_in(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in _linear(module).values())


def _take_over_(module: nn.Module, theirs: nn.Module) -> None:
    """The parameters that AWQ changed: where it scales the inputs of a layer up, it scales down what makes them."""
    found = dict(theirs.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if name in found:
                parameter.copy_(found[name])


def _layers(module: nn.Module, theirs: nn.Module, weights: LibraryWeights) -> dict[str, GroupedLinear]:
    """By path, what the library quantized, in our form. ``module`` has the float layers."""
    parts = dict(theirs.named_modules(remove_duplicate=False))
    made: dict[int, GroupedLinear | None] = {}
    for path, linear in _linear(module).items():
        if id(linear) not in made or made[id(linear)] is None:
            made[id(linear)] = _layer(path, linear, parts.get(path), weights)
    found = {path: made[id(linear)] for path, linear in _linear(module).items()}
    return {path: layer for path, layer in found.items() if layer is not None}


def _layer(path: str, linear: nn.Linear, part: nn.Module | None, weights: LibraryWeights) -> GroupedLinear | None:
    scales = None
    if isinstance(part, MulLinear):
        scales, part = part.input_scale, part.linear
        if isinstance(part, nn.Linear):  # scaled, and then not quantized
            return None
    if not isinstance(part, INCWeightOnlyLinear):
        return None
    bits = 4 if weights.dtype == "int4" else 8
    layer = GroupedLinear(
        linear.in_features,
        linear.out_features,
        bits=bits,
        size=weights.group_size,
        bias=_bias(linear.bias, part.bias),
        scaled=scales is not None,
    )
    unpacked = part.unpack()
    integers, zeros = unpacked["int_weight"].to(torch.int64), unpacked["zp"]
    if zeros is None:  # signed, with scales alone
        integers, zeros = integers + 2 ** (bits - 1), torch.full_like(unpacked["scales"], 2 ** (bits - 1))
    values = {"integers": integers, "zeros": zeros, "scales": unpacked["scales"]}
    if scales is not None:
        values["input_scales"] = scales
    for name, value in values.items():
        getattr(layer, name).copy_(value)
    if not bool((layer.scales.isfinite() & (layer.scales > 0)).all()):
        raise PassFault(
            f"{WHAT}: {path}: a scale is 0 or no number, for {weights.algorithm} in neural-compressor stores scales as "
            "float16; name the layer in ignored_scope, or set algorithm: rtn"
        )
    return layer


def _bias(ours: Tensor | None, theirs: Tensor | None) -> Tensor | None:
    """Ours where theirs is that in float16; theirs where AWQ scaled it."""
    if ours is None or theirs is None or torch.equal(ours.detach().to(theirs.dtype), theirs):
        return ours
    return nn.Parameter(theirs.to(ours.dtype), ours.requires_grad)


def _notes(
    module: nn.Module, layers: Mapping[str, GroupedLinear], kept: Mapping[str, str], weights: LibraryWeights, stack: str
) -> Iterable[str]:
    tally = Tally()
    bits = 4 if weights.dtype == "int4" else 8
    grid = f"a scale{'' if weights.symmetric else ' and a zero point'} for {weights.group_size} each"
    for path, part in module.named_modules():
        if path in layers:
            # AWQ there rounds what is outside the stack to the nearest, and says nothing.
            algorithm = weights.algorithm if not stack or path.startswith(f"{stack}.") else "rtn"
            what = f"linear layers, weights in {bits} bits by {algorithm}, {grid}; activations stay in float32"
            tally.put(tally.done, what, path)
        elif path in kept:
            tally.put(tally.left, kept[path], path)
        elif isinstance(part, nn.Linear):
            alone = ", whose gptq quantizes one stack of blocks" if weights.algorithm == "gptq" else ""
            tally.put(tally.left, f"{LEFT}{alone}", path)
        elif any(parameter.dim() > 1 for parameter in part.parameters(recurse=False)):
            tally.put(tally.left, f"{LEFT}, which quantizes nn.Linear and no {type(part).__name__}", path or "the model")
    return tally.notes()
