"""``accel explain`` on real runtimes: what it says did not run in INT8 is what the runtime's own graph shows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from rich.console import Console
from tests.core.residual_network import CONVOLUTIONS, network, quantized

from accel import looking
from accel.accelerate.lint_cpu import lint_onnxruntime
from accel.commands.explain import Given, run
from accel.errors import BackendFault, MissingBackend, ModelFault, UsageError

INT8 = ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("explained")
    plain = network(folder / "fp32.onnx")
    return {
        "fp32": plain,
        "unsigned": quantized(plain, folder / "unsigned", "onnxruntime"),
        "signed": quantized(plain, folder / "signed", "onnxruntime", activation="int8", activation_symmetric=True),
        "kept": quantized(plain, folder / "kept", "onnxruntime", kept=("block1.conv1/Conv",)),
    }


def explained(
    after: Given, before: Given | None = None, *backends: str, form: str = "json", output: Path | None = None, **changes: Any
) -> str:
    out = io.StringIO()
    settings: dict[str, Any] = {
        "device": "cpu", "threads": 1, "batch_size": 1, "sizes": {}, "rounds": 1, "queries": 3,
        "cache": lambda _: after.path.parent / "cache", "form": form, "output": output,
        "out": Console(file=out, width=80),
    }  # fmt: skip
    assert run(after, before, backends=backends, **{**settings, **changes}) == 0
    return out.getvalue()


def record(*given: Any, **changes: Any) -> dict[str, Any]:
    (found,) = json.loads(explained(*given, **changes))["explanations"]
    assert isinstance(found, dict)
    return found


def unfused(found: dict[str, Any]) -> set[str]:
    return {each["node"] for each in found["not_int8"] if each["kind"] == "Conv" and each["status"] != "kept back"}


def in_own_graph(path: Path, folder: Path) -> tuple[int, int]:
    """Convolutions in float and in INT8 in the graph that ONNX Runtime itself writes, with the settings it runs with."""
    import onnxruntime

    place = folder / "optimized.onnx"
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath = str(place)
    settings.log_severity_level = 3
    onnxruntime.InferenceSession(
        str(path), settings, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
    )
    kinds = [node.op_type for node in onnx.load(str(place)).graph.node]
    return sum(kind in ("Conv", "FusedConv", "NhwcFusedConv") for kind in kinds), kinds.count("QLinearConv")


def test_signed_activations_and_the_right_profile(files: dict[str, Path], tmp_path: Path) -> None:
    """Exactly the convolutions that the runtime's own graph shows unfused are named; with the right profile, none."""
    found = record(Given(files["signed"]), Given(files["fp32"]), "onnxruntime")
    in_float, in_int8 = in_own_graph(files["signed"], tmp_path)
    assert 0 < in_float < len(CONVOLUTIONS) and in_float + in_int8 == len(CONVOLUTIONS)
    assert len(unfused(found)) == in_float
    # Behind these stands a Relu that a symmetric zero point keeps; behind the others an addition, which has its own Q/DQ.
    assert unfused(found) == {"stem/Conv", "block0.conv1/Conv", "block1.conv1/Conv"}
    for each in found["not_int8"]:
        assert each["rule"] and each["why"] and each["way_out"] and each["after_ms"] is not None
    assert {each["before_ms"] is None for each in found["not_int8"] if each["kind"] == "Conv"} == {False}
    assert found["after"]["quantized_operators"] == 6
    assert found["after"]["int8_operators"] == 6 - in_float
    assert not any("own graph" in note for note in found["after"]["notes"])  # profile and graph agree

    found = record(Given(files["unsigned"]), Given(files["fp32"]), "onnxruntime")
    assert in_own_graph(files["unsigned"], tmp_path) == (0, len(CONVOLUTIONS))
    assert found["not_int8"] == []
    assert found["after"]["int8_operators"] == found["after"]["quantized_operators"] == 6


@pytest.mark.parametrize("name", ["signed", "unsigned"])
def test_the_lint_names_the_same_before_anything_runs(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    named = {finding.node for finding in lint_onnxruntime(files[name]) if finding.rule == "float-output"}
    assert len(named) == in_own_graph(files[name], tmp_path)[0]


def test_what_the_file_keeps_in_float_is_told_apart(files: dict[str, Path]) -> None:
    pytest.importorskip("openvino")
    found = record(Given(files["kept"]), None, "openvino")
    assert found["before"] is None
    (kept,) = found["not_int8"]
    assert (kept["node"], kept["status"], kept["precision"]) == ("block1.conv1/Conv", "data only", "fp32")
    assert found["int8_unasked"] == []


def test_onnxruntime_quantizes_weights_that_the_file_keeps_in_float(files: dict[str, Path], tmp_path: Path) -> None:
    found = record(Given(files["kept"]), None, "onnxruntime")
    assert in_own_graph(files["kept"], tmp_path) == (0, len(CONVOLUTIONS))
    assert found["not_int8"] == []
    assert found["int8_unasked"] == ["block1.conv1/Conv"]
    assert "float-weights" in {finding.rule for finding in lint_onnxruntime(files["kept"])}


def test_places_hold_the_time_of_all_layers(files: dict[str, Path]) -> None:
    found = record(Given(files["signed"]), Given(files["fp32"]), "onnxruntime")
    for side, converted in (("before", "conversions_before"), ("after", "conversions")):
        placed = sum(place[side]["ms"] for place in found["places"] if place[side])
        assert placed + sum(each["ms"] for each in found[converted]) == pytest.approx(found[side]["ms"])
    titles = {place["title"] for place in found["places"]}
    assert {*CONVOLUTIONS, "fc/Gemm"} <= titles


def test_two_backends_of_one_file(files: dict[str, Path]) -> None:
    pytest.importorskip("openvino")
    found = record(Given(files["signed"]))
    assert found["before"]["name"].endswith("on onnxruntime") and found["after"]["name"].endswith("on openvino")
    assert found["not_int8"] == []  # OpenVINO is fast with any
    assert found["after"]["int8_operators"] == 6
    assert unfused(record(Given(files["signed"]), None, "openvino", "onnxruntime"))


def test_text_and_markdown_say_it_in_words(files: dict[str, Path], tmp_path: Path) -> None:
    text = explained(Given(files["signed"]), Given(files["fp32"]), "onnxruntime", form="text")
    assert "3 of 6 quantized operators ran in INT8" in text
    assert "did not run in INT8:" in text and "conversions:" in text and "where the time went:" in text
    assert "Relu (Relu) between it and" in text and "way out: quantize for a target with `backend: onnxruntime`" in text
    place = tmp_path / "explained.md"
    assert "explained.md: written" in explained(Given(files["signed"]), None, "onnxruntime", form="md", output=place)
    assert "### Did not run in INT8" in place.read_text()


def test_what_cannot_be_explained(files: dict[str, Path], tmp_path: Path) -> None:
    plain = Given(files["fp32"])
    noise = tmp_path / "noise.onnx"
    noise.write_bytes(bytes(range(256)))
    cases: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
        ((Given(tmp_path / "model.xml"),), {}, UsageError, "found .xml, allowed are .onnx"),
        ((Given(tmp_path / "absent.onnx"),), {}, UsageError, "no such file"),
        ((Given(noise),), {}, ModelFault, "not an ONNX model"),
        ((plain, plain), {}, UsageError, "given twice"),
        ((plain, None, "tensorrt"), {}, UsageError, "found 'tensorrt', allowed are onnxruntime, openvino; name the layers"),
        ((plain,), {"form": "html"}, UsageError, "found 'html', allowed are text, md, json"),
        ((Given(files["fp32"], times=noise),), {}, UsageError, "it is profiled here"),
        ((Given(tmp_path / "model.engine", times=noise),), {}, UsageError, "an engine is timed here"),
        ((plain, None, "onnxruntime"), {"device": "gpu"}, MissingBackend, "CUDA"),
    ]
    for given, changes, kind, message in cases:
        with pytest.raises(kind, match=message):
            explained(*given, **changes)
    with pytest.raises(UsageError, match="name it with --vs"):
        looking.explain(files["fp32"], vs_times=noise)


def engine(folder: Path, name: str, *, quantized_stem: bool) -> Given:
    """What trtexec would save of an engine for the network: the stem, one convolution in float, a reformat between them."""

    def layer(name: str, kind: str, nodes: list[str], reads: str, makes: str, tactic: str = "") -> dict[str, Any]:
        return {
            "Name": name,
            "LayerType": kind,
            "Inputs": [{"Name": "x", "Dimensions": [1, 8, 16, 16], "Format/Datatype": reads}],
            "Outputs": [{"Name": "y", "Dimensions": [1, 8, 16, 16], "Format/Datatype": makes}],
            "TacticName": tactic,
            "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes),
        }

    int8, fp32 = "Int8 NC/32HW32", "FP32 NCHW"
    made = int8 if quantized_stem else fp32
    tactic = "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32" if quantized_stem else "sm80_sgemm_f32"
    layers = [
        layer("stem/Conv + stem/Relu", "CaskConvolution", ["stem/Conv", "stem/Relu"], made, made, tactic),
        layer("block0.conv1/Conv", "CaskConvolution", ["block0.conv1/Conv"], fp32, fp32, "sm80_sgemm_f32"),
    ]
    times = [0.1 if quantized_stem else 0.2, 0.2]
    if quantized_stem:
        layers.insert(1, layer("Reformatting CopyNode for Input Tensor 0 to block0.conv1/Conv", "Reformat", [], int8, fp32))
        times.insert(1, 0.3)
    path, saved = folder / f"{name}.json", folder / f"{name}.times.json"
    path.write_text(json.dumps({"Layers": layers, "Bindings": ["x", "y"]}))
    rows = [{"name": each["Name"], "averageMs": ms} for each, ms in zip(layers, times, strict=True)]
    saved.write_text(json.dumps([{"count": 5}, *rows]))
    return Given(path, saved)


def test_a_saved_engine_without_a_gpu(files: dict[str, Path], tmp_path: Path) -> None:
    after, before = engine(tmp_path, "int8", quantized_stem=True), engine(tmp_path, "fp32", quantized_stem=False)
    found = record(Given(after.path, after.times, files["signed"]), Given(before.path, before.times, files["fp32"]))
    by_node = {each["node"]: each for each in found["not_int8"] if each["weighted"]}
    assert "stem/Conv" not in by_node
    assert by_node["block0.conv1/Conv"]["status"] == "unfused" and by_node["block0.conv1/Conv"]["after_ms"] == 0.2
    assert by_node["block1.conv1/Conv"]["status"] == "not told"  # this engine does not have it
    (reformat,) = found["conversions"]
    assert (reformat["kind"], reformat["ms"], reformat["beside"]) == ("Reformat", 0.3, ["block0.conv1/Conv"])
    assert (found["before"]["ms"], found["after"]["ms"]) == (pytest.approx(0.4), pytest.approx(0.6))
    assert any(line.startswith("INT8 does not pay here") for line in found["told"])


def test_a_saved_engine_alone_says_what_is_missing(tmp_path: Path) -> None:
    found = record(engine(tmp_path, "int8", quantized_stem=True))
    assert found["not_int8"] == []
    assert any("--onnx" in note for note in found["after"]["notes"])
    assert {place["title"] for place in found["places"]} == {"stem/Conv", "block0.conv1/Conv"}
    with pytest.raises(BackendFault, match="not JSON"):
        (tmp_path / "noise.json").write_text("noise")
        record(Given(tmp_path / "noise.json"))
