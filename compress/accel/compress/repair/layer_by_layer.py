"""Weights and biases of a Q/DQ graph written anew, each layer on what the rounded layers before it give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from accel.compress.calibration_data import Arrays, Samples
from accel.compress.onnx_writing import drop_unused_initializers_
from accel.compress.qdq_onnxruntime import activations
from accel.compress.repair.learned_rounding import learned, to_nearest
from accel.compress.repair.moments import moments
from accel.compress.repair.weighted_layers import Floats, QuantizedWeights, WeightedLayer
from accel.compress.repair_settings import Repairs
from accel.contracts import Job
from accel.model import Signature

MOST_INPUTS = 8192
"""A layer with more inputs to one output is rounded to the nearest: its two matrices of moments would take half a gigabyte."""

MOST_NAMED = 8
"""Layers that one note names."""

HELD_BYTES = 1 << 28
"""Samples that take less stay in memory; else they are read again for each layer."""

BIAS_SAMPLES = 64
"""So many of the calibration samples, and up to twice as many, say what a bias is off by: a mean needs fewer than a rounding
does, and for every layer the network is run anew up to that layer."""

TOGETHER = 16
"""Samples that are run at a time, where the model takes any number and they have one shape."""


def rewrite_(
    model: onnx.ModelProto,
    source: onnx.ModelProto,
    repairs: Repairs,
    samples: Samples,
    signature: Signature,
    job: Job,
    folder: Path,
) -> tuple[str, ...]:
    """Round weights as ``repairs`` says and correct biases, in place, and say what was done.

    ``model``: ``source`` in Q/DQ as the quantizer wrote it, weights in INT8. ``folder``: for files that are run.
    """
    known = QuantizedWeights(model, source)
    bits = repairs.weights.used_bits
    shares: list[float] = []
    moved: list[float] = []
    plain: list[str] = []
    shifted = 0
    groups = _Groups(samples, signature)
    few = _Groups(samples, signature, every=max(1, len(samples) // BIAS_SAMPLES))
    for done, layer in enumerate(known.layers, 1):
        job.progress(done, len(known.layers), "rounding" if repairs.rewrites_weights else "correcting biases")
        weights, bias = known.weights(layer), known.bias(layer)
        fits = layer.inputs <= MOST_INPUTS
        if repairs.adaround is not None and fits:
            values = _pairs(source, _input_of(source, layer.name), model, known.value(layer), groups, folder)
            found = learned(torch.tensor(weights), moments(layer, values, bias is not None), bits, repairs.adaround.iterations)
            corrected = None if bias is None else bias + found.shift.numpy().reshape(-1)
            known.set_weights_(layer, found.integers.numpy(), found.scales.numpy(), corrected)
            shares.append(found.share)
            if corrected is not None:
                known.set_bias_(layer, corrected)
                shifted += 1
            continue
        if repairs.rewrites_weights:
            integers, scales = to_nearest(torch.tensor(weights), bits)
            known.set_weights_(layer, integers.numpy(), scales.numpy(), bias)
            plain += [] if repairs.adaround is None else [layer.name]
            if bias is not None:
                known.set_bias_(layer, bias)
        if repairs.bias_correction and bias is not None:
            output = _output_of(source, layer.name)
            values = _pairs(source, output, model, known.output(layer), few, folder)
            shift = _mean_difference(layer, values)
            known.set_bias_(layer, bias + shift)
            moved.append(float(np.abs(shift).max()))
    drop_unused_initializers_(model)
    return _notes(repairs, known, shares, shifted, plain, moved)


def _notes(
    repairs: Repairs,
    known: QuantizedWeights,
    shares: Sequence[float],
    shifted: int,
    plain: Sequence[str],
    moved: Sequence[float],
) -> tuple[str, ...]:
    notes = []
    dtype, bits = repairs.weights.dtype.upper(), repairs.weights.used_bits
    if repairs.rewrites_weights and known.layers:
        used = "" if (dtype, bits) in (("INT8", 8), ("INT4", 4)) else f", {bits} bits of it used"
        notes.append(f"weights of {len(known.layers)} layers in {dtype}{used}")
        if repairs.weights.dtype == "int4":
            notes.append(
                "INT4 weights buy size, not speed: they become INT8 when a runtime loads the file, and run as fast as that"
            )
    if repairs.rewrites_weights and known.others:
        named = ", ".join(known.others[:MOST_NAMED]) + (", ..." if len(known.others) > MOST_NAMED else "")
        notes.append(
            f"warning: weights of {len(known.others)} layers stay in plain INT8 ({named}): only linear layers and convolutions"
            " of two dimensions are written anew, and only weights that no other layer reads"
        )
    if shares:
        biases = f"; {shifted} biases corrected" if shifted else ""
        notes.append(
            f"adaround: rounding learned for {len(shares)} layers; the squared error of their outputs is"
            f" {100 * float(np.mean(shares)):.0f} % of that of rounding to the nearest{biases}"
        )
    notes += [f"{name}: rounded to the nearest, more than {MOST_INPUTS} inputs to one output" for name in plain]
    if moved:
        notes.append(f"bias_correction: {len(moved)} biases corrected, by {max(moved):.3g} at most")
    elif repairs.bias_correction and not shifted:
        notes.append("warning: bias_correction: no quantized layer has a bias of its own that could be corrected")
    return tuple(notes)


class _Groups:
    """Calibration samples, many at a time where the model takes that; may be iterated more than once. ``every``: of how many
    one is taken."""

    def __init__(self, samples: Samples, signature: Signature, every: int = 1) -> None:
        self._samples = samples
        self._every = every
        self._any = samples.group == 1 and all(spec.shape and isinstance(spec.shape[0], str) for spec in signature.inputs)
        self._held: list[Arrays] | None = None

    def __iter__(self) -> Iterator[Arrays]:
        if self._held is not None:
            yield from self._held
            return
        held: list[Arrays] = []
        size = 0
        for group in self._together():
            size += sum(array.nbytes for array in group.values())
            if size <= HELD_BYTES:
                held.append(group)
            yield group
        self._held = held if size <= HELD_BYTES else None

    def _together(self) -> Iterator[Arrays]:
        pending: list[Arrays] = []
        for sample in islice(self._samples, 0, None, self._every):
            if pending and (len(pending) == TOGETHER or not self._any or _shapes(sample) != _shapes(pending[0])):
                yield _joined(pending)
                pending = []
            pending.append(sample)
        if pending:
            yield _joined(pending)


def _shapes(sample: Arrays) -> list[tuple[int, ...]]:
    return [array.shape for array in sample.values()]


def _joined(samples: Sequence[Arrays]) -> Arrays:
    if len(samples) == 1:
        return dict(samples[0])
    return {name: np.concatenate([each[name] for each in samples]) for name in samples[0]}


def _pairs(
    source: onnx.ModelProto,
    value: str,
    model: onnx.ModelProto,
    rounded: str,
    groups: Iterable[Mapping[str, NDArray[Any]]],
    folder: Path,
) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """``value`` of the float network with ``rounded`` of the quantized one, group by group."""
    before = activations(source, [value], groups, folder / "float")
    after = activations(model, [rounded], groups, folder / "rounded")
    for (given,), (got,) in zip(before, after, strict=True):
        yield given, got


def _mean_difference(layer: WeightedLayer, pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]]) -> Floats:
    """(outputs,): what the float layer's outputs are larger by, on average over samples and positions."""
    total = np.zeros(layer.groups * layer.outputs)
    count = 0
    for given, got in pairs:
        difference = np.asarray(given, np.float64) - got
        channels = np.moveaxis(difference, 1 if layer.convolution is not None else -1, -1)
        rows = channels.reshape(-1, channels.shape[-1])
        total += rows.sum(axis=0)
        count += len(rows)
    return (total / count).astype(np.float32)


def _input_of(source: onnx.ModelProto, name: str) -> str:
    return next(str(node.input[0]) for node in source.graph.node if node.name == name)


def _output_of(source: onnx.ModelProto, name: str) -> str:
    return next(str(node.output[0]) for node in source.graph.node if node.name == name)
