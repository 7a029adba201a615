from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch.nn import functional

from accel.compress.repair import moments as module
from accel.compress.repair.moments import moments
from accel.compress.repair.weighted_layers import WeightedLayer, layer_of

RANDOM = np.random.default_rng(0)


def layer(node: onnx.NodeProto, shape: tuple[int, ...]) -> WeightedLayer:
    found = layer_of(node, shape)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("groups", "settings"),
    [(1, {}), (2, {"strides": [2, 1], "pads": [1, 0, 2, 1]}), (4, {"dilations": [2, 2], "pads": [2, 2, 2, 2]})],
    ids=["plain", "pads that differ", "depthwise"],
)
def test_a_convolution_is_its_rows_times_its_columns(groups: int, settings: dict[str, list[int]]) -> None:
    """The mean of what the layer gives, from the mean of the columns."""
    weight = RANDOM.normal(size=(8, 4 // groups, 3, 3)).astype(np.float32)
    x = RANDOM.normal(size=(2, 4, 9, 8)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", group=groups, **settings)
    known = layer(node, weight.shape)
    found = moments(known, [(x, x)], centred=True)
    top, left, bottom, right = settings.get("pads", [0, 0, 0, 0])
    padded = functional.pad(torch.from_numpy(x), (left, right, top, bottom))
    y = functional.conv2d(
        padded,
        torch.from_numpy(weight),
        stride=tuple(settings.get("strides", [1, 1])),
        dilation=tuple(settings.get("dilations", [1, 1])),
        groups=groups,
    )
    rows = torch.from_numpy(known.rows(weight))
    given = (rows @ found.mean[..., None]).reshape(-1)
    assert torch.allclose(given, y.mean((0, 2, 3)), atol=1e-5)
    spread = ((rows @ found.rounded) * rows).sum(-1).reshape(-1)
    assert torch.allclose(spread, y.var((0, 2, 3), correction=0), atol=1e-3)
    assert known.stored(known.rows(weight), weight.shape).tobytes() == weight.tobytes()


@pytest.mark.parametrize(("operator", "upright"), [("Gemm", True), ("Gemm", False), ("MatMul", False)])
def test_a_product_is_its_rows_times_its_inputs(operator: str, upright: bool) -> None:
    shape = (5, 7) if upright else (7, 5)
    weight = RANDOM.normal(size=shape).astype(np.float32)
    settings = {"transB": 1} if upright else {}
    known = layer(helper.make_node(operator, ["x", "w"], ["y"], name="product", **settings), shape)
    x = RANDOM.normal(size=(3, 4, 7)).astype(np.float32)
    found = moments(known, [(x[:2], x[:2]), (x[2:], x[2:])], centred=False)
    wanted = x.reshape(-1, 7) @ (weight.T if upright else weight)
    rows = torch.from_numpy(known.rows(weight))
    assert torch.allclose(((rows @ found.rounded) * rows).sum(-1)[0], torch.from_numpy((wanted**2).mean(0)), atol=1e-4)
    assert known.stored(known.rows(weight), shape).tobytes() == weight.tobytes()


def test_a_large_picture_costs_no_more_than_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POSITIONS", 10)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv")
    x = torch.zeros(2, 1, 20, 20)
    assert module._columns(layer(node, (1, 1, 1, 1)), x).shape == (1, 20, 1)


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER"), (1, 1, 3, 3)),
        (helper.make_node("Conv", ["x", "w"], ["y"]), (1, 1, 3)),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), (1, 1, 3, 3)),
        (helper.make_node("Gemm", ["x", "w"], ["y"], alpha=2.0), (3, 3)),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (2, 3, 3)),
    ],
    ids=["auto_pad", "one dimension", "transposed", "alpha", "three axes"],
)
def test_what_is_no_such_layer(node: onnx.NodeProto, shape: tuple[int, ...]) -> None:
    assert layer_of(node, shape) is None
