"""The rules about operators and shapes, each on a minimal file and against the real parser; the list of operators too."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, defs, helper
from tests.accelerate.lint.cases import (
    FLOAT,
    INT64,
    KERNEL,
    Case,
    builds,
    case_id,
    check,
    found,
    hold_against_library,
    library,
    model,
    node,
    pair,
    parsed,
    value,
)

from accel.accelerate import nvidia_device
from accel.accelerate.lint import tensorrt_supported as tensorrt_operators

BOOL, INT8 = TensorProto.BOOL, TensorProto.INT8


def resized(**attributes: Any) -> Any:
    scales = attributes.pop("scales", [1, 1, 2, 2])
    return model([node("Resize", ["x", "", "r"], "y", **attributes)], {"r": np.array(scales, np.float32)})


def cropped(*, crop: bool) -> Any:
    weights = {"r": np.array([1, 1, 2, 2], np.float32), "roi": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)}
    mode = "tf_crop_and_resize" if crop else "half_pixel"
    return model([node("Resize", ["x", "roi" if crop else "", "r"], "y", coordinate_transformation_mode=mode)], weights)


def sized(policy: str) -> Any:
    reads = ["x", "", "", "r"]
    made = node("Resize", reads, "y", mode="linear", keep_aspect_ratio_policy=policy, axes=[2, 3])
    return model([made], {"r": np.array([4, 5], np.int64)})


def pooled(operator: str = "MaxPool", *, indices: bool = False, dilation: int = 1) -> Any:
    made = node(operator, "x", "y i" if indices else "y", kernel_shape=[2, 2], dilations=[dilation] * 2)
    return model([made], outputs=[value("y"), *([value("i", INT64)] if indices else [])])


def normed(training: int) -> Any:
    made = node("BatchNormalization", "x n n n n", "y", training_mode=training)
    return model([made], {"n": np.ones(4, np.float32)})


def dropped(*, training: bool) -> Any:
    return model([node("Dropout", "x r t", "y")], {"r": np.float32(0.5), "t": np.bool_(training)})


def convolved(axes: int) -> Any:
    return model([node("Conv", "x w", "y")], {"w": np.ones((4, 4, *[2] * axes), np.float32)}, x=(1, 4, *[3] * axes))


def scattered(operator: str, reduction: str) -> Any:
    indices = np.zeros((1, 1) if operator == "ScatterND" else (1, 4, 8, 8), np.int64)
    weights = {"i": indices, "u": np.ones((1, 4, 8, 8), np.float32)}
    return model([node(operator, "x i u", "y", reduction=reduction)], weights)


def top(count: int) -> Any:
    made = node("TopK", "x k", "y i", axis=0)
    return model([made], {"k": np.array([count])}, x=(5000,), outputs=[value("y"), value("i", INT64)])


def chosen(other: tuple[int, ...]) -> Any:
    def branch(name: str, shape: tuple[int, ...]) -> Any:
        tensor = onnx.numpy_helper.from_array(np.ones(shape, np.float32))
        return helper.make_graph([node("Constant", "", name, value=tensor)], name, [], [value(name, FLOAT, shape)])

    made = helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch("a", (2, 3)), else_branch=branch("b", other))
    return model([made], inputs=[value("c", BOOL, ())])


def looped(*, growing: bool) -> Any:
    grow = node("Concat", "a a", "b", axis=0) if growing else node("Relu", "a", "b")
    body = helper.make_graph(
        [grow, node("Identity", "on", "go")],
        "body",
        [value("i", INT64, ()), value("on", BOOL, ()), value("a", FLOAT, (2,))],
        [value("go", BOOL, ()), value("b", FLOAT, (4,) if growing else (2,))],
    )
    made = helper.make_node("Loop", ["n", "c", "x"], ["y"], name="loop", body=body)
    return model([made], {"c": np.bool_(True), "n": np.int64(3)}, x=(2,))


def runtime_own(operator: str, domain: str = "com.microsoft") -> Any:
    return model([node(operator, "x", "y", domain=domain)], domains=[domain] if domain else [])


def standard(operator: str, **settings: Any) -> Any:
    return model([node(operator, "x", "y", **settings)])


def integers(operator: str) -> Any:
    weights: dict[str, Any] = {"s": np.float32(0.1), "z": np.int8(0), "w": np.ones((8, 8), np.int8)}
    if operator == "DynamicQuantizeLinear":
        nodes = [node(operator, "x", "q s z"), node("DequantizeLinear", "q s z", "y")]
        return model(nodes, x=(8, 8))
    if operator.endswith("Integer"):
        weights = {"w": np.ones((8, 8, 1, 1) if "Conv" in operator else (8, 8), np.int8)}
        made = node(operator, "x w", "y")
        return model([made], weights, x=(1, 8, 4, 4) if "Conv" in operator else (2, 8), kinds=(INT8, TensorProto.INT32))
    if operator == "QLinearConv":
        weights["w"] = np.ones((8, 8, 1, 1), np.int8)
    made = node(operator, "x s z w s z s z", "y")
    return model([made], weights, x=(1, 8, 4, 4) if "Conv" in operator else (2, 8), kinds=(INT8, INT8))


def product() -> Any:
    weights = {"s": np.float32(0.1), "z": np.int8(0), "w": np.ones((8, 8), np.int8)}
    nodes = [*pair("x", "a"), node("DequantizeLinear", "w s", "b"), node("MatMul", "a b", "y")]
    return model(nodes, weights, x=(2, 8))


def picked(operator: str) -> Any:
    if operator == "NonZero":
        return model([node("NonZero", "x", "y")], kinds=(FLOAT, INT64))
    inputs = [value("b", FLOAT, (1, 16, 4)), value("s", FLOAT, (1, 2, 16))]
    weights = {"n": np.array([5]), "o": np.float32(0.5), "t": np.float32(0.1)}
    made = node("NonMaxSuppression", "b s n o t", "y")
    return model([made], weights, inputs=inputs, outputs=[value("y", INT64, ("n", 3))])


def aligned() -> Any:
    weights = {"r": np.zeros((1, 4), np.float32), "b": np.zeros(1, np.int64)}
    return model([node("RoiAlign", "x r b", "y", output_height=2, output_width=2)], weights)


def masked() -> Any:
    return model([node("Greater", "x z", "m"), node("Where", "m x z", "y")], {"z": np.float32(0)})


def reshaped(*, constant: bool) -> Any:
    inputs = [value("x", FLOAT, (1, 4, 8, 8)), *([] if constant else [value("s", INT64, (2,))])]
    return model([node("Reshape", "x s", "y")], {"s": np.array([4, 64])} if constant else {}, inputs=inputs)


def named(*names: str) -> Any:
    first, second = node("Relu", "x", "a"), node("Abs", "a", "y")
    first.name, second.name = names
    return model([first, second])


def varying(*axes: int | str) -> Any:
    return model([node("Relu", "x", "y")], x=axes)


def opset(version: int) -> Any:
    return model([node("Relu", "x", "y")], opset=version)


def cycle(*, broken: bool) -> Any:
    return model([node("Add", "x b" if broken else "x x", "a"), node("Relu", "a", "b"), node("Abs", "b", "y")])


RELU, GELU = partial(standard, "Relu"), partial(standard, "Gelu")
ERRORS = [
    Case("graph", lambda: cycle(broken=True), lambda: cycle(broken=False), "parser"),
    Case("unsupported-operator", lambda: model([node("BitwiseNot", "x", "y")], kinds=(TensorProto.INT32,) * 2),
         lambda: model([node("Not", "x", "y")], kinds=(BOOL, BOOL)), "parser", "BitwiseNot"),
    Case("unsupported-operator", lambda: standard("Det"), RELU, "parser", "Det"),
    Case("unsupported-operator", lambda: model([node("SequenceConstruct", "x x", "s"),
         node("ConcatFromSequence", "s", "y", axis=0)]),
         lambda: model([node("Concat", "x x", "y", axis=0)]), "parser", "sequence"),
    Case("unsupported-operator", lambda: runtime_own("Relu6", ""), RELU, "parser", "unknown"),
    *(Case("integer-operator", partial(integers, name), product, "parser", name)
      for name in ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")),
    *(Case("contrib-operator", partial(runtime_own, name), GELU, "parser", name)
      for name in ("FusedConv", "QLinearAdd", "SkipLayerNormalization", "FastGelu", "QuickGelu", "BiasGelu", "NhwcMaxPool")),
    Case("plugin", lambda: runtime_own("Foo", "my.domain"), RELU, "parser", "rtx"),
    Case("non-zero", lambda: picked("NonZero"), masked, "parser", "rtx"),
    Case("resize", lambda: cropped(crop=True), lambda: cropped(crop=False), "parser", "transform"),
    Case("resize", lambda: resized(coordinate_transformation_mode="half_pixel_symmetric"), resized, "parser", "symmetric"),
    Case("resize", lambda: resized(mode="linear", antialias=1), lambda: resized(mode="linear"), "parser", "antialias"),
    Case("resize", lambda: sized("not_larger"), lambda: sized("stretch"), "parser", "policy"),
    Case("resize", lambda: resized(mode="cubic", scales=[1, 2, 2, 2]), lambda: resized(mode="cubic"), "parser", "cubic"),
    Case("resize", lambda: resized(mode="linear", scales=[2, 2, 2, 2]),
         lambda: resized(mode="linear", scales=[1, 2, 2, 2]), "parser", "linear"),
    Case("pooling", lambda: pooled(indices=True), pooled, "parser", "indices"),
    Case("pooling", lambda: pooled(dilation=2), pooled, "parser", "dilations"),
    Case("pooling", lambda: pooled("AveragePool", dilation=2), lambda: pooled("AveragePool"), "parser", "average"),
    Case("training-mode", lambda: normed(1), lambda: normed(0), "parser", "norm"),
    Case("training-mode", lambda: dropped(training=True), lambda: dropped(training=False), "parser", "dropout"),
    Case("spatial-axes", lambda: convolved(4), lambda: convolved(3), "parser"),
    Case("scatter-reduction", lambda: scattered("ScatterND", "add"), lambda: scattered("ScatterND", "none"), "parser"),
    Case("scatter-elements", lambda: scattered("ScatterElements", "add"), lambda: scattered("ScatterElements", "none"),
         "parser", "rtx"),
    Case("top-k", lambda: top(3841), lambda: top(3840), "builder"),
    Case("branch-ranks", lambda: chosen((3,)), lambda: chosen((4, 3)), "builder"),
    Case("loop-shapes", lambda: looped(growing=True), lambda: looped(growing=False), "builder"),
]  # fmt: skip
OTHERS = [
    Case("contrib-namesake", lambda: runtime_own("Gelu"), GELU),
    Case("data-dependent", lambda: picked("NonMaxSuppression"), masked),
    Case("shape-input", lambda: reshaped(constant=False), lambda: reshaped(constant=True)),
    Case("dynamic-axis", lambda: varying("n", 4, "h", 8), lambda: varying("n", 4, 8, 8)),
    Case("opset", lambda: opset(28), lambda: opset(20), names="new"),
    Case("opset", lambda: opset(8), lambda: opset(9), names="old"),
    Case("node-names", lambda: named("a", "a"), lambda: named("a", "b"), names="twice"),
    Case("node-names", lambda: named("", ""), lambda: named("a", "b"), names="none"),
]  # fmt: skip


@pytest.mark.parametrize("case", [*ERRORS, *OTHERS], ids=case_id)
def test_a_rule_fires_where_it_should_and_not_where_its_way_out_was_taken(case: Case, tmp_path: Path) -> None:
    if case.names == "rtx":
        assert case.rule in {finding.rule for finding in found(case.bad(), tmp_path)}
        assert "error" not in {finding.severity for finding in found(case.good(), tmp_path)}
    else:
        check(case, tmp_path)


@pytest.mark.parametrize("case", ERRORS, ids=case_id)
def test_the_real_library_refuses_what_is_called_an_error(case: Case) -> None:
    hold_against_library(case)


@pytest.mark.parametrize("case", OTHERS, ids=case_id)
def test_the_real_parser_takes_what_is_called_a_warning(case: Case) -> None:
    assert parsed(case.bad())[0] is not None and parsed(case.good())[0] is not None


@pytest.mark.parametrize("proto", [picked("NonMaxSuppression"), aligned()], ids=["NonMaxSuppression", "RoiAlign"])
def test_what_rtx_builds_on_a_gpu_only_is_a_warning_there(proto: Any, tmp_path: Path) -> None:
    assert "needs-gpu" in {finding.rule for finding in found(proto, tmp_path)}
    assert "needs-gpu" not in {finding.rule for finding in found(proto, tmp_path, rtx=False)}
    if nvidia_device.problem() is not None:
        assert not builds(proto)


def test_foreign_domains_are_a_warning_where_plugins_may_be_registered(tmp_path: Path) -> None:
    severities = {
        rtx: [each.severity for each in found(runtime_own("Foo", "my.domain"), tmp_path, rtx=rtx) if each.rule == "plugin"]
        for rtx in (True, False)
    }
    assert severities == {True: ["error"], False: ["warning"]}


def test_the_lists_of_operators_are_those_of_the_installed_library() -> None:
    trt, logger, builder = library()
    parser = trt.OnnxParser(builder.create_network(1), logger)
    names = {schema.name for schema in defs.get_all_schemas_with_history() if schema.domain == ""}
    assert {name for name in names if parser.supports_operator(name)} == tensorrt_operators.STANDARD & names
    assert names >= tensorrt_operators.STANDARD
    assert {name for name in tensorrt_operators.CONTRIB if parser.supports_operator(name)} == tensorrt_operators.CONTRIB
    assert trt.__version__ in tensorrt_operators.TAKEN_FROM


def test_operators_in_functions_are_looked_at(tmp_path: Path) -> None:
    function = helper.make_function(
        "my", "F", ["a"], ["b"], [helper.make_node("Det", ["a"], ["b"], name="inner")], [helper.make_opsetid("", 20)]
    )
    proto = model([node("F", "x", "y", domain="my")], domains=["my"])
    proto.functions.append(function)
    assert [finding.rule for finding in found(proto, tmp_path)] == ["unsupported-operator"]
    function.node[0].op_type = "Relu"
    del proto.functions[:]
    proto.functions.append(function)
    assert found(proto, tmp_path) == []
    assert parsed(proto)[0] is not None


def test_missing_external_data(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    proto = model([node("Conv", "x w", "y")], {"w": KERNEL})
    onnx.save(proto, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    from accel.accelerate.lint_tensorrt import lint_rtx

    assert lint_rtx(path) == []
    assert parsed(path)[0] is not None
    (tmp_path / "w.bin").unlink()
    (finding,) = lint_rtx(path)
    assert (finding.rule, finding.severity) == ("external-data", "error")
    assert "'w.bin' is not beside the model" in finding.message
    assert parsed(path)[0] is None


def test_every_axis_that_varies_but_the_first_is_named(tmp_path: Path) -> None:
    messages = [each.message for each in found(varying("n", 4, "h", "w"), tmp_path)]
    assert [message.partition(" varies")[0] for message in messages] == ["axis 2 (h) of input x", "axis 3 (w) of input x"]


def calling(name: str, called: str, times: int) -> Any:
    domain = "" if called == "Relu" else "my"
    nodes = [helper.make_node(called, [f"v{index}"], [f"v{index + 1}"], domain=domain) for index in range(times)]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("my", 1)]
    return helper.make_function("my", name, ["v0"], [f"v{times}"], nodes, imports)


def test_functions_that_unfold_without_end_are_told(tmp_path: Path) -> None:
    proto = model([node("F0", "x", "y", domain="my")], domains=["my"])
    proto.functions.extend(calling(f"F{depth}", f"F{depth + 1}" if depth < 40 else "Relu", 2) for depth in range(41))
    (finding,) = found(proto, tmp_path)
    assert finding.rule == "graph" and "unfolds to more than 1000000 nodes" in finding.message
    del proto.functions[:]
    proto.functions.append(calling("F0", "F0", 1))
    (finding,) = found(proto, tmp_path)
    assert finding.rule == "graph" and "recursive" in finding.message


def test_a_branch_on_a_constant_is_not_taken_for_a_constant(tmp_path: Path) -> None:
    """Its body reads the input: the convolution behind it has weights that are computed."""
    inner = [helper.make_graph([node("Mul", "k x", name)], name, [], [value(name)]) for name in ("a", "b")]
    branch = helper.make_node("If", ["c"], ["w"], name="if", then_branch=inner[0], else_branch=inner[1])
    weights = {"c": np.bool_(True), "k": KERNEL, "s": np.float32(0.1), "z": np.int8(0)}
    nodes = [branch, *pair("x", "x_d"), *pair("w", "w_d"), node("Conv", "x_d w_d", "y")]
    assert "computed-weights" in {each.rule for each in found(model(nodes, weights, x=(1, 4, 3, 3)), tmp_path)}
