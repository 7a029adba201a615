"""Minimal ONNX files for the rules of ``accel lint``, and the real parser and builder to hold them against."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.accelerate.lint_tensorrt import TENSORRT, TENSORRT_RTX, lint, lint_rtx
from accel.contracts import Finding

IMAGE = (1, 4, 8, 8)
KERNEL = np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype(np.float32)
KERNEL_INT8 = np.random.default_rng(0).integers(-127, 128, (4, 4, 3, 3)).astype(np.int8)
KERNEL_SCALES = np.full(4, 0.01, np.float32)
SCALE, ZERO = np.float32(0.1), np.int8(0)
FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def node(operator: str, inputs: str | Sequence[str], outputs: str, name: str = "", domain: str = "", **attributes: Any) -> Any:
    """A node called ``<first output>/<operator>``, unless ``name`` says otherwise."""
    given = inputs.split() if isinstance(inputs, str) else list(inputs)
    made = outputs.split()
    return helper.make_node(operator, given, made, name=name or f"{made[0]}/{operator}", domain=domain, **attributes)


def value(name: str, kind: int = FLOAT, shape: Sequence[int | str] | None = None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[Any],
    weights: Mapping[str, Any] | None = None,
    *,
    x: Sequence[int | str] = IMAGE,
    kinds: tuple[int, int] = (FLOAT, FLOAT),
    inputs: Sequence[Any] | None = None,
    outputs: Sequence[Any] | None = None,
    opset: int = 20,
    domains: Sequence[str] = (),
) -> Any:
    """From ``x`` to ``y``, of the two ``kinds``, unless ``inputs`` and ``outputs`` say otherwise."""
    tensors = [
        each if isinstance(each, TensorProto) else numpy_helper.from_array(np.asarray(each), name)
        for name, each in (weights or {}).items()
    ]
    graph = helper.make_graph(nodes, "g", inputs or [value("x", kinds[0], x)], outputs or [value("y", kinds[1])], tensors)
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def pair(source: str, name: str, scale: str = "s", zero: str = "z", **attributes: Any) -> list[Any]:
    """QuantizeLinear and DequantizeLinear of ``source`` into ``name``."""
    return [
        node("QuantizeLinear", f"{source} {scale} {zero}", f"{name}_q", **attributes),
        node("DequantizeLinear", f"{name}_q {scale} {zero}", name, **attributes),
    ]


def quantized_conv(
    *,
    zero: Any = ZERO,
    scale: Any = SCALE,
    weights: Any = KERNEL_INT8,
    weight_scales: Any = KERNEL_SCALES,
    weight_zero: Any = None,
    axis: int = 0,
    operator: str = "Conv",
    data: bool = True,
    quantized_weights: bool = True,
    bias: Mapping[str, Any] | None = None,
    behind: Sequence[Any] = (),
    x: Sequence[int | str] = IMAGE,
    kinds: tuple[int, int] = (FLOAT, FLOAT),
) -> Any:
    """One operator with quantized data and weights, its output ``c``, or ``y`` where nothing is ``behind`` it."""
    tensors: dict[str, Any] = {}
    nodes: list[Any] = []
    reads = ["x", "w"]
    if data:
        many: dict[str, Any] = {"axis": 1} if np.ndim(scale) else {}
        tensors |= {"s": scale, "z": zero}
        nodes += pair("x", "x_d", **many)
        reads[0] = "x_d"
    if quantized_weights:
        tensors |= {"w": weights, "w_s": weight_scales}
        inputs = "w w_s"
        if weight_zero is not None:
            tensors["w_z"] = weight_zero
            inputs += " w_z"
        along: dict[str, Any] = {"axis": axis} if np.ndim(weight_scales) else {}
        nodes.append(node("DequantizeLinear", inputs, "w_d", **along))
        reads[1] = "w_d"
    else:
        tensors["w"] = np.asarray(weights, np.asarray(scale).dtype)
    if bias is not None:
        tensors |= {"b": bias["values"]}
        if "scales" in bias:
            tensors["b_s"] = bias["scales"]
            nodes.append(node("DequantizeLinear", "b b_s", "b_d", axis=0))
        reads.append("b_d" if "scales" in bias else "b")
    nodes.append(node(operator, reads, "c" if behind else "y", name="layer/op"))
    return model([*nodes, *behind], tensors, x=x, kinds=kinds)


@dataclass(frozen=True)
class Case:
    """``bad`` breaks ``rule`` and ``good`` follows its way out. ``refused`` by the real library: its parser, its builder, or
    not. ``rtx``: whether TensorRT-RTX has the rule."""

    rule: str
    bad: Callable[[], Any]
    good: Callable[[], Any]
    refused: Literal["parser", "builder", ""] = ""
    names: str = ""
    rtx: bool = True
    capability: str = "SM86"


def case_id(case: Any) -> str:
    return f"{case.rule}-{case.names}" if case.names else str(case.rule)


def found(proto: Any, folder: Path, *, rtx: bool = True) -> list[Finding]:
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return (lint_rtx if rtx else lint)(path)


def check(case: Case, folder: Path) -> None:
    """The rule fires for the bad file, once at least and with all its parts, and not for the good one."""
    for rtx in (True, False) if case.rtx else (False,):
        of_rule = [finding for finding in found(case.bad(), folder, rtx=rtx) if finding.rule == case.rule]
        assert of_rule, f"{case.rule} does not fire"
        declared = {rule.name: rule.severity for rule in (TENSORRT_RTX if rtx else TENSORRT)}
        for finding in of_rule:
            assert finding.severity == declared[case.rule]
            assert finding.message and finding.way_out and len(finding.message) < 300
        assert case.rule not in {finding.rule for finding in found(case.good(), folder, rtx=rtx)}
        if declared[case.rule] == "error" and case.refused:
            assert "error" not in {finding.severity for finding in found(case.good(), folder, rtx=rtx)}


@functools.cache
def library() -> Any:
    """The real library and what is made of it once; the test skips where it is not installed."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install 'accel-toolkit[tensorrt-rtx]'")

    class Silent(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.said: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.said.append(message)

    logger = Silent()
    return trt, logger, trt.Builder(logger)


def parsed(proto: Any) -> tuple[Any, list[str]]:
    """The strongly typed network that the real parser makes, None where it refuses, and what it complained about.

    ``proto``: a model, its bytes, or the path of a file.
    """
    trt, logger, builder = library()
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    logger.said.clear()
    if isinstance(proto, Path):
        accepted = parser.parse_from_file(str(proto))
    else:
        accepted = parser.parse(proto if isinstance(proto, bytes) else proto.SerializeToString())
    errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
    # The parser owns the values of the weights: it must outlive the network.
    return ((network, parser) if accepted else None), [*errors, *logger.said]


def builds(proto: Any, capability: str = "SM86") -> bool:
    """Whether the real builder makes an engine for ``capability``; one profile, axes that vary from 1 to 8."""
    return _builds(proto if isinstance(proto, Path) else proto.SerializeToString(deterministic=True), capability)


@functools.cache  # a third of a second each, and the cases share their good files
def _builds(proto: Path | bytes, capability: str) -> bool:
    trt, _, builder = library()
    made, _ = parsed(proto)
    if made is None:
        return False
    network, _parser = made
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        shape = tuple(network.get_input(index).shape)
        if -1 in shape:
            sizes = [tuple(size if axis == -1 else axis for axis in shape) for size in (1, 4, 8)]
            profile.set_shape(network.get_input(index).name, *sizes)
            config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config) is not None


def hold_against_library(case: Case) -> None:
    """What the rule calls an error is refused; the file that follows the way out is taken."""
    if case.refused == "parser":
        assert parsed(case.bad())[0] is None, f"{case.rule}: the parser takes it"
        made, said = parsed(case.good())
        assert made is not None, said[:3]
    else:
        assert parsed(case.bad())[0] is not None
        assert not builds(case.bad(), case.capability), f"{case.rule}: the builder takes it"
        assert builds(case.good(), case.capability)
