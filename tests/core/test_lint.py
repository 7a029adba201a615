"""``accel lint``: what is printed, in which form, and with which exit code."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from accel import catalog
from accel.commands.lint import run
from accel.errors import AccelError, ModelFault, SafetyRefusal, UsageError

HOSTILE = "\x1b[31m::error::[bold]evil[/bold]"


def saved(path: Path, *names: str, operator: str = "Det") -> Path:
    """A chain of ``operator``, which TensorRT does not have, one node for each name."""
    values = ["x", *(f"v{index}" for index in range(1, len(names))), "y"]
    nodes = [helper.make_node(operator, [values[i]], [values[i + 1]], name=name) for i, name in enumerate(names)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, 3]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def shown(
    path: Path | None, *, target: str | None = "tensorrt-rtx", rules: bool = False, as_json: bool = False, code: int = 1
) -> str:
    stream = io.StringIO()
    given = run(path, target=target, rules=rules, as_json=as_json, out=Console(file=stream, width=60))
    assert given == code
    return stream.getvalue()


def test_a_finding_has_rule_severity_node_message_and_way_out(tmp_path: Path) -> None:
    text = shown(saved(tmp_path / "m.onnx", "a"))
    assert text.splitlines() == [
        "error unsupported-operator: a: the parser has no operator Det",
        "    way out: rewrite it in the network with operators that are there, and export again",
        f"{tmp_path / 'm.onnx'}: 1 error and 0 warnings of 1 rule; tensorrt-rtx would refuse it, or give other results",
    ]


def test_nodes_of_one_rule_are_grouped(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", *(f"n{index}" for index in range(300)))
    text = shown(path)
    assert "also: n1, n2, n3, n4, n5 and 294 more" in text
    assert "300 errors and 0 warnings of 1 rule" in text
    assert len(text) < 1000
    record = json.loads(shown(path, as_json=True))
    assert len(record["findings"]) == record["errors"] == 300


def test_json_is_one_document_with_every_fact(tmp_path: Path) -> None:
    record = json.loads(shown(saved(tmp_path / "m.onnx", "a"), as_json=True))
    (finding,) = record.pop("findings")
    assert record == {"file": str(tmp_path / "m.onnx"), "target": "tensorrt-rtx", "ok": False, "errors": 1, "warnings": 0}
    assert sorted(finding) == ["message", "node", "rule", "severity", "way_out"]
    assert (finding["rule"], finding["severity"], finding["node"]) == ("unsupported-operator", "error", "a")


def test_a_clean_file_and_a_file_with_warnings_give_0(tmp_path: Path) -> None:
    clean = saved(tmp_path / "m.onnx", "a", operator="Relu")
    assert shown(clean, code=0) == f"{clean}: nothing found for tensorrt-rtx\n"
    assert json.loads(shown(clean, as_json=True, code=0))["ok"] is True
    twice = saved(tmp_path / "n.onnx", "a", "a", operator="Relu")
    assert shown(twice, code=0).endswith("0 errors and 1 warning of 1 rule; tensorrt-rtx takes it\n")


def test_names_from_the_file_cannot_drive_the_terminal_or_a_ci_log(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", HOSTILE, HOSTILE + "2", "x" * 5000)
    text = shown(path)
    assert "\x1b" not in text and "::error" not in text
    assert "[bold]evil" in text
    assert max(map(len, text.splitlines())) < 1000
    assert json.loads(shown(path, as_json=True))["findings"][0]["node"] == HOSTILE


@pytest.mark.parametrize("target", sorted(catalog.LINTS))
def test_the_rules_are_listed_with_one_line_each(target: str) -> None:
    lines = shown(None, target=target, rules=True, code=0).splitlines()
    record = json.loads(shown(None, target=target, rules=True, as_json=True, code=0))[target]
    assert lines[0] == f"{target}: {len(record)} rules" and len(lines) == len(record) + 1
    assert len({entry["rule"] for entry in record}) == len(record) > (45 if target.startswith("tensorrt") else 18)
    assert all(entry["about"] and entry["severity"] in ("error", "warning") for entry in record)


def test_without_a_target_the_rules_of_all_are_listed() -> None:
    assert sorted(json.loads(shown(None, target=None, rules=True, as_json=True, code=0))) == sorted(catalog.LINTS)
    assert set(catalog.LINTS) == set(catalog.LINT_RULES)


def external(folder: Path, location: str) -> Path:
    path = saved(folder / "e.onnx", "a", operator="Relu")
    proto = onnx.load(str(path))
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    proto.graph.initializer.append(tensor)
    path.write_bytes(proto.SerializeToString())
    return path


def test_what_cannot_be_linted(tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)))
    (tmp_path / "empty.onnx").touch()
    good = saved(tmp_path / "m.onnx", "a")
    cases: list[tuple[Path | None, str | None, type[AccelError], str]] = [
        (good, "tensorflow", UsageError, "no target 'tensorflow'; there are tensorrt, tensorrt-rtx, onnxruntime, openvino"),
        (good, None, UsageError, "give --target; there are tensorrt, tensorrt-rtx"),
        (None, "tensorrt", UsageError, "name an .onnx file"),
        (tmp_path / "absent.onnx", "tensorrt", UsageError, "no such file"),
        (tmp_path, "tensorrt", UsageError, "a folder; name the .onnx file in it"),
        (tmp_path / "model.engine", "tensorrt", UsageError, "is built already; lint the .onnx file"),
        (tmp_path / "model.xml", "tensorrt", UsageError, "an OpenVINO IR; lint reads the .onnx file"),
        (tmp_path / "recipe.yaml", "tensorrt", UsageError, "`accel validate`"),
        (tmp_path / "noise.onnx", "tensorrt", ModelFault, "not an ONNX model"),
        (tmp_path / "empty.onnx", "tensorrt", ModelFault, "the file is empty"),
        (external(tmp_path, "../w.bin"), "tensorrt", SafetyRefusal, "outside the model's folder"),
    ]
    for path, target, kind, message in cases:
        with pytest.raises(kind, match=message):
            shown(path, target=target)


def test_external_data_that_is_missing_is_a_finding(tmp_path: Path) -> None:
    assert "error external-data: tensor 'w': its external data 'w.bin' is not beside the model" in shown(
        external(tmp_path, "w.bin")
    )


def test_the_command_line_passes_on_the_verdict(tmp_path: Path) -> None:
    def ended(*arguments: str) -> tuple[int, Any, str]:
        done = subprocess.run([sys.executable, "-m", "accel", "lint", *arguments], capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout) if "--json" in arguments and done.stdout else done.stdout, done.stderr

    bad = saved(tmp_path / "m.onnx", "a")
    code, record, said = ended(str(bad), "--target", "tensorrt", "--json")
    assert (code, record["errors"], said) == (1, 1, "")
    code, _, said = ended(str(bad), "--target", "nowhere")
    assert code == 2 and "there are tensorrt, tensorrt-rtx" in said and "Traceback" not in said


def test_the_list_of_rules_imports_nothing_heavy() -> None:
    program = (
        "from pathlib import Path; import io, sys\n"
        "from rich.console import Console\n"
        "from accel.commands.lint import run\n"
        "run(None, target=None, rules=True, as_json=False, out=Console(file=io.StringIO()))\n"
        "print([name for name in ('onnx', 'numpy', 'torch', 'tensorrt_rtx', 'onnxruntime') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_linting_imports_no_runtime(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", "a")
    program = (
        "import sys; from pathlib import Path\n"
        "from accel.accelerate.lint_tensorrt import lint_rtx\n"
        f"assert lint_rtx(Path({str(path)!r}))\n"
        "print([name for name in ('tensorrt', 'tensorrt_rtx', 'onnxruntime', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"
