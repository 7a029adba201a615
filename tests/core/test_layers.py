"""``accel layers``: from files that trtexec saved, and what it says of an engine without a GPU."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from accel.commands.layers import run
from accel.errors import BackendFault, UsageError

LAYERS: dict[str, Any] = {
    "Layers": [
        {
            "Name": "stem/Conv + stem/Relu",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Dimensions": [1, 3, 8, 8], "Format/Datatype": "Int8 NC/32HW32"}],
            "Outputs": [{"Name": "y", "Dimensions": [1, 8, 8, 8], "Format/Datatype": "Int8 NC/32HW32"}],
            "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
            "Metadata": "[ONNX Layer: stem/Conv]\x1e[ONNX Layer: stem/Relu]",
        },
        {
            "Name": "Reformatting CopyNode for Output Tensor 0 to head\x1b[31m/Gemm",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "y", "Dimensions": [1, 8, 8, 8], "Format/Datatype": "Int8 NC/32HW32"}],
            "Outputs": [{"Name": "z", "Dimensions": [1, 8, 8, 8], "Format/Datatype": "FP32 NCHW"}],
            "TacticName": "",
            "Metadata": "",
        },
    ],
    "Bindings": ["x", "z"],
}


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    layers, times = tmp_path / "layers.json", tmp_path / "times.json"
    layers.write_text(json.dumps(LAYERS))
    names = [layer["Name"] for layer in LAYERS["Layers"]]
    rows = [{"name": name, "timeMs": 20.0 * cost, "averageMs": cost} for name, cost in zip(names, (0.01, 0.03), strict=True)]
    times.write_text(json.dumps([{"count": 20}, *rows]))
    return layers, times


def shown(path: Path, times: Path | None = None, *, as_json: bool = False) -> str:
    text = io.StringIO()
    assert run(path, times=times, onnx=None, as_json=as_json, out=Console(file=text, width=200)) == 0
    return text.getvalue()


def test_the_dearest_layer_comes_first_with_its_share(saved: tuple[Path, Path]) -> None:
    text = shown(*saved)
    rows = [line for line in text.splitlines() if "%" in line]
    assert "Reformat" in rows[0] and "75.0 %" in rows[0]
    assert "25.0 %" in rows[1] and "stem/Conv, stem/Relu" in rows[1] and "int8" in rows[1]
    assert "\x1b" not in text, "a name of the model is not obeyed by the terminal"


def test_json_has_every_layer(saved: tuple[Path, Path]) -> None:
    record = json.loads(shown(*saved, as_json=True))
    assert [layer["nodes"] for layer in record["layers"]] == [["stem/Conv", "stem/Relu"], []]
    assert [layer["ms"] for layer in record["layers"]] == [0.01, 0.03]


def test_without_times_there_are_layers_and_no_share(saved: tuple[Path, Path]) -> None:
    assert "%" not in shown(saved[0])


def test_what_is_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(BackendFault):
        shown(tmp_path / "other.json")
    with pytest.raises(UsageError):
        shown(tmp_path / "absent.json")
    with pytest.raises(UsageError, match="--times and --onnx go with"):
        run(tmp_path / "m.engine", times=tmp_path / "t.json", onnx=None, as_json=False, out=Console(file=io.StringIO()))
