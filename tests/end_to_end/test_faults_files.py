"""Faults 20 to 27 of the fault list, through the commands a user types: model files that are broken or hostile."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Ended, Project

    Typed = Callable[..., Ended]

State = dict[str, torch.Tensor]


@pytest.fixture
def project(project: Project) -> Project:
    """One target and one pass: what fails here fails before any pass."""
    project.rewrite("  - {name: ov, backend: openvino}\n", "")
    project.rewrite("  - {type: simplify, allow_noop: true}\n  - type: quantize\n    approach: static\n", "")
    return project


@pytest.fixture(scope="module")
def state() -> State:
    """What ``network.py:net`` of the project has."""
    shapes = {"stem.weight": (16, 3, 3, 3), "stem.bias": (16,), "head.weight": (4, 16), "head.bias": (4,)}
    for layer in (1, 2):
        shapes[f"block.conv{layer}.weight"] = (16, 16, 3, 3)
        shapes |= {f"block.bn{layer}.{name}": (16,) for name in ("weight", "bias", "running_mean", "running_var")}
    return {name: torch.full(shape, 0.5) for name, shape in shapes.items()}


def with_weights(project: Project, name: str) -> None:
    project.rewrite("weights: weights.safetensors", f"weights: {name}")


def optimized_weights(project: Project, typed: Typed, name: str) -> Ended:
    with_weights(project, name)
    return typed("optimize", "recipe.yaml", "--no-benchmark", "--json")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


# -- 20, 21: pickles -------------------------------------------------------------------------------------------------------


def pickled(path: Path, found: Any, form: str) -> None:
    if form == "zip":
        torch.save(found, path)
    elif form == "legacy":
        torch.save(found, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(found, protocol=int(form)))


@pytest.mark.parametrize("form", ["zip", "legacy", "2", "4"], ids=["zip", "legacy", "pickle 2", "pickle 4"])
def test_20_a_pickle_payload_is_not_run(project: Project, typed: Typed, state: State, form: str) -> None:
    canary = project.folder / "canary"
    pickled(project.folder / "w.pt", {**state, "extra": Payload(canary)}, form)
    typed("inspect", "w.pt").refused(5, "w.pt: besides tensors it holds ", "could run code from the file; it was not read")
    assert not canary.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.ckpt"])
def test_20_a_pickle_payload_as_weights_of_a_recipe(project: Project, typed: Typed, state: State, name: str) -> None:
    canary = project.folder / "canary"
    pickled(project.folder / name, {**state, "extra": Payload(canary)}, "zip")
    optimized_weights(project, typed, name).refused(5, f"{name}: besides tensors it holds ", "system")
    assert not canary.exists()


@pytest.mark.parametrize("name", ["w.onnx", "w.safetensors", "w.xml", "w"])
def test_20_a_pickle_payload_under_another_name(project: Project, typed: Typed, name: str) -> None:
    canary = project.folder / "canary"
    pickled(project.folder / name, {"extra": Payload(canary)}, "zip")
    ended = typed("inspect", name)
    ended.refused(5 if name == "w" else 4, name)
    assert not canary.exists()


def test_20_a_pickle_payload_in_the_data_is_not_run(project: Project, typed: Typed) -> None:
    canary = project.folder / "canary"
    np.savez(project.folder / "images.npz", inputs=np.array([Payload(canary)], dtype=object), labels=np.zeros(1, np.int64))
    typed("optimize", "recipe.yaml", "--json").refused(4, "images.npz")
    assert not canary.exists()


@pytest.mark.parametrize("how", ["inspect", "optimize"])
def test_21_a_numpy_scalar_is_refused_with_the_way_to_convert(project: Project, typed: Typed, state: State, how: str) -> None:
    torch.save({"state_dict": state, "accuracy": np.float64(0.98)}, project.folder / "w.pt")
    ended = typed("inspect", "w.pt") if how == "inspect" else optimized_weights(project, typed, "w.pt")
    ended.refused(
        5, "w.pt: besides tensors it holds numpy", "convert it yourself, once:", "save_file(tensors, 'w.safetensors')"
    )
    said = ended.err.split("once:\n")[1]
    script = "\n".join(line.removeprefix("    ") for line in said.splitlines())
    subprocess.run([sys.executable, "-c", script], cwd=project.folder, check=True, env=project.environment())
    converted = typed("inspect", "w.safetensors", "--json")
    assert converted.code == 0, converted.err
    assert {tensor["name"] for tensor in json.loads(converted.out)["tensors"]} == set(state)


def test_21_there_is_no_flag_for_it(project: Project, typed: Typed) -> None:
    ended = typed("optimize", "recipe.yaml", "--allow-unsafe-pickle")
    assert ended.code == 2
    assert "No such option" in ended.err


# -- 22: weights that are damaged ------------------------------------------------------------------------------------------


def bounded(project: Project, *arguments: str, limit_mib: int) -> str:
    """Run a command that must end with 4, within so much memory; gives what it said."""
    ended, _, peak_bytes = project.watched(*arguments)
    ended.refused(4)
    assert peak_bytes < limit_mib * 2**20
    return ended.err


def empty(path: Path, state: State) -> None:
    path.touch()


def truncated(path: Path, state: State) -> None:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-100])


def half(path: Path, state: State) -> None:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_legacy(path: Path, state: State) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-100])


def random_bytes(path: Path, state: State) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def picture(path: Path, state: State) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))


def onnx_inside(path: Path, state: State) -> None:
    path.write_bytes(linear().SerializeToString())


def other_kind(path: Path, state: State) -> None:
    torch.save(state, path)


def entry(shape: str, end: int, dtype: str = '"dtype": "F32", ') -> bytes:
    return f'{{"a": {{{dtype}"shape": [{shape}], "data_offsets": [0, {end}]}}}}'.encode()


def header(text: bytes, length: int | None = None) -> Callable[[Path, State], None]:
    def write(path: Path, state: State) -> None:
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(16))

    return write


DAMAGED: list[tuple[str, str, Callable[[Path, State], None]]] = [
    ("empty .pt", "w.pt", empty),
    ("truncated .pt", "w.pt", truncated),
    ("half a .pt", "w.pt", half),
    ("truncated old .pt", "w.pt", truncated_legacy),
    ("random .pt", "w.pt", random_bytes),
    ("picture .pt", "w.pt", picture),
    ("onnx .pt", "w.pt", onnx_inside),
    ("empty .safetensors", "w.safetensors", empty),
    ("truncated .safetensors", "w.safetensors", truncated),
    ("half a .safetensors", "w.safetensors", half),
    ("random .safetensors", "w.safetensors", random_bytes),
    (".pt called .safetensors", "w.safetensors", other_kind),
    ("header of 2^64 - 1", "w.safetensors", header(b"{}", 2**64 - 1)),
    ("header of 2^63", "w.safetensors", header(b"{}", 2**63)),
    ("header of 2^40", "w.safetensors", header(b"{}", 2**40)),
    ("header nested deep", "w.safetensors", header(b'{"a":' + b"[" * 100_000)),
    ("header is a list", "w.safetensors", header(b"[{}]")),
    ("header with a text for a tensor", "w.safetensors", header(b'{"a": "b"}')),
    ("header with an odd shape", "w.safetensors", header(entry('"x"', 4))),
    ("header with a huge shape", "w.safetensors", header(entry(str(2**62), 16))),
    ("header past the end", "w.safetensors", header(entry("1000", 4000))),
    ("header without a type", "w.safetensors", header(entry("4", 16, ""))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage"), [each[1:] for each in DAMAGED], ids=[each[0] for each in DAMAGED])
def test_22_damaged_weights(
    project: Project, typed: Typed, state: State, name: str, damage: Callable[[Path, State], None]
) -> None:
    damage(project.folder / name, state)
    typed("inspect", name).refused(4, name)
    typed("inspect", name, "--json").refused(4, name)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("w.pt", empty),
        ("w.pt", truncated),
        ("w.safetensors", truncated),
        ("w.safetensors", other_kind),
        ("w.safetensors", header(b"{}", 2**64 - 1)),
    ],
    ids=["empty", "truncated .pt", "truncated .safetensors", "wrong extension", "header of 2^64 - 1"],
)
def test_22_damaged_weights_of_a_recipe(
    project: Project, typed: Typed, state: State, name: str, damage: Callable[[Path, State], None]
) -> None:
    damage(project.folder / name, state)
    optimized_weights(project, typed, name).refused(4, name)
    assert not project.out.exists()


@pytest.mark.parametrize("form", ["packed", "overlapping"])
def test_22_a_zip_bomb_is_not_unpacked(project: Project, form: str) -> None:
    path = project.folder / "w.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if form == "packed" else zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", bytes(1_000_000_000 if form == "packed" else 1_000_000))
        if form == "overlapping":  # many entries of the directory, one content
            first = archive.infolist()[0]
            archive.filelist += [first] * 5000
    assert path.stat().st_size < 2_000_000
    assert "unpacks to more than its own size" in bounded(project, "inspect", "w.pt", limit_mib=700)


def test_22_an_old_checkpoint_that_claims_a_huge_tensor(project: Project) -> None:
    """The old format gives a storage's size before its bytes; reading allocates it."""
    path = project.folder / "w.pt"
    torch.save({"a": torch.ones(7)}, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    assert raw.count(b"K\x07") >= 1
    path.write_bytes(raw.replace(b"K\x07", b"\x8a\x05" + (2**38).to_bytes(5, "little")))
    assert "w.pt: " in bounded(project, "inspect", "w.pt", limit_mib=700)


# -- 23: weights of another model ------------------------------------------------------------------------------------------


def test_23_keys_of_another_model(project: Project, typed: Typed, state: State) -> None:
    save_file({f"encoder.{name}": value for name, value in state.items()}, project.folder / "w.safetensors")
    ended = optimized_weights(project, typed, "w.safetensors")
    ended.refused(
        4, "w.safetensors: its keys are not the model's; missing: ", f" and {len(state) - 5} more; not in the model: "
    )
    listed = ended.err.split("missing: ")[1].split(" and ")[0]
    assert len(listed.split(", ")) == 5


def test_23_pruned_weights_for_the_whole_model(project: Project, typed: Typed, state: State) -> None:
    pruned = {name: value[:10].clone() if len(value) == 16 else value for name, value in state.items()}
    torch.save(pruned, project.folder / "w.pt")
    ended = optimized_weights(project, typed, "w.pt")
    ended.refused(4, "w.pt: shapes are not the model's", "[10, 3, 3, 3], the model has [16, 3, 3, 3]", "is it a pruned model?")
    assert ended.err.count("the model has") == 5


# -- 24: files that are no ONNX --------------------------------------------------------------------------------------------


def value(name: str, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(nodes: list[Any], weights: dict[str, np.ndarray[Any, Any]] | None = None, opset: int = 17) -> Any:
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", ["batch", 3])],
        [value("y", ["batch", 4])],
        [onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def linear(weight: np.ndarray[Any, Any] | None = None, opset: int = 17) -> Any:
    weight = np.full((3, 4), 0.5, np.float32) if weight is None else weight
    return model([helper.make_node("MatMul", ["x", "w"], ["y"], "layer/MatMul")], {"w": weight}, opset)


def commands(project: Project) -> list[tuple[str, ...]]:
    """Every way a user hands an ONNX file over."""
    project.recipe.write_text(
        "version: 1\nname: small\nmodel: {path: m.onnx}\npasses: [{type: simplify}]\ntargets: [{backend: onnxruntime}]\n"
    )
    return [
        ("inspect", "m.onnx"),
        ("inspect", "m.onnx", "--json"),
        ("plan", "recipe.yaml"),
        ("optimize", "recipe.yaml", "--no-benchmark", "--json"),
        ("optimize", "m.onnx", "--data", "images.npz", "--target", "onnxruntime", "--json"),
        ("benchmark", "m.onnx", "--backend", "onnxruntime", "--json", "--duration", "0.1"),
    ]


def cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


@pytest.mark.parametrize(
    "damage",
    [lambda raw: b"", lambda raw: np.random.default_rng(1).bytes(len(raw)), cut, lambda raw: raw[:-1]],
    ids=["0 bytes", "random bytes", "half", "a byte short"],
)
def test_24_a_file_that_is_no_onnx(project: Project, typed: Typed, damage: Callable[[bytes], bytes]) -> None:
    (project.folder / "m.onnx").write_bytes(damage(linear().SerializeToString()))
    for arguments in commands(project):
        typed(*arguments).refused(4, "m.onnx: ")
        assert not project.out.exists()


# -- 25: external data -----------------------------------------------------------------------------------------------------


def relocated(path: Path, **fields: str) -> None:
    proto = onnx.load(str(path), load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        entry.value = fields.pop(entry.key, entry.value)
    for key, text in fields.items():
        proto.graph.initializer[0].external_data.add(key=key, value=text)
    path.write_bytes(proto.SerializeToString())


def missing(path: Path) -> None:
    path.with_name("w.bin").unlink()


def short(path: Path) -> None:
    path.with_name("w.bin").write_bytes(bytes(40))


def past_the_end(path: Path) -> None:
    relocated(path, offset=str(1 << 40))


def climbing(path: Path) -> None:
    shutil.copy(path.with_name("w.bin"), path.parent.parent / "w.bin")
    relocated(path, location="../w.bin")


def absolute(path: Path) -> None:
    relocated(path, location=str(path.with_name("w.bin")))


def symlink(path: Path) -> None:
    path.with_name("w.bin").rename(path.parent.parent / "w.bin")
    path.with_name("w.bin").symlink_to(path.parent.parent / "w.bin")


def symlinked_folder(path: Path) -> None:
    (path.parent.parent / "real").mkdir()
    path.with_name("w.bin").rename(path.parent.parent / "real" / "w.bin")
    path.with_name("sub").symlink_to(path.parent.parent / "real")
    relocated(path, location="sub/w.bin")


def hardlink(path: Path) -> None:
    os.link(path.with_name("w.bin"), path.parent.parent / "w.bin")


def directory(path: Path) -> None:
    path.with_name("w.bin").unlink()
    path.with_name("w.bin").mkdir()


def device(path: Path) -> None:
    path.with_name("w.bin").unlink()
    os.mkfifo(path.with_name("w.bin"))  # opening it would wait for ever


@pytest.mark.parametrize(
    ("damage", "exit_code", "said"),
    [
        (missing, 4, "is not beside the model; copy it there"),
        (short, 4, "which has 40"),
        (past_the_end, 4, "which has 48"),
        (directory, 4, "is a folder"),
        (device, 4, "is not a regular file"),
        (climbing, 5, "is outside the model's folder; only files beside it are read"),
        (absolute, 5, "is outside the model's folder; only files beside it are read"),
        (symlink, 5, "is a symbolic link; copy the file instead"),
        (symlinked_folder, 5, "is a symbolic link; copy the file instead"),
        (hardlink, 5, "is a hard link; copy the file instead"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_25_external_data(project: Project, typed: Typed, damage: Callable[[Path], None], exit_code: int, said: str) -> None:
    path = project.folder / "m.onnx"
    onnx.save_model(linear(), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    damage(path)
    for arguments in commands(project):
        typed(*arguments).refused(exit_code, "tensor 'w': its ", said)


def test_25_external_data_beside_the_model_is_read(project: Project, typed: Typed) -> None:
    path = project.folder / "m.onnx"
    onnx.save_model(linear(), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    ended = typed("inspect", "m.onnx", "--json")
    assert [file["path"] for file in json.loads(ended.out)["files"]] == ["m.onnx", "w.bin"]


# -- 26: graphs that do not hold together ----------------------------------------------------------------------------------


def too_new() -> Any:
    return linear(opset=999)


def too_old() -> Any:
    return linear(opset=4)


def unknown_operator() -> Any:
    return model([helper.make_node("Frobnicate", ["x"], ["y"], "odd")])


def unknown_domain() -> Any:
    proto = model([helper.make_node("Magic", ["x"], ["y"], "odd", domain="com.example")])
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    return proto


def cyclic() -> Any:
    return model(
        [
            helper.make_node("Add", ["x", "b"], ["a"], "first"),
            helper.make_node("Relu", ["a"], ["b"], "second"),
            helper.make_node("Relu", ["b"], ["y"], "third"),
        ]
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (too_new, ("opset 999 (first node: layer/MatMul)", "Upgrade onnx")),
        (too_old, ("opset 4 (first node: layer/MatMul) is older than 7", "export the model again")),
        (unknown_operator, ("node 'odd' (Frobnicate) is not an operator of ONNX",)),
        (unknown_domain, ("node 'odd' (Magic) is not an operator of domain 'com.example'",)),
        (cyclic, ("cycle through node 'first' (Add) -> node 'second' (Relu)",)),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_26_a_graph_that_does_not_hold_together(
    project: Project, typed: Typed, make: Callable[[], Any], said: tuple[str, ...]
) -> None:
    (project.folder / "m.onnx").write_bytes(make().SerializeToString())
    for arguments in commands(project):
        if arguments[0] != "plan":  # it names steps by the file's bytes, and does not judge what is in them
            typed(*arguments).refused(4, "m.onnx: ", *said)


def test_26_an_operator_that_only_the_runtime_can_know(project: Project, typed: Typed) -> None:
    proto = model([helper.make_node("Frobnicate", ["x"], ["y"], "odd", domain="com.microsoft")])
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    (project.folder / "m.onnx").write_bytes(proto.SerializeToString())
    for arguments in commands(project):
        if arguments[0] == "benchmark":
            ended = typed(*arguments)
            assert ended.code == 4, ended.err
            assert "nothing could be measured:" in ended.err
            assert "odd" in ended.err
            assert json.loads(ended.out)["rows"][0]["status"] == "failed"
        elif "--no-benchmark" in arguments:
            typed(*arguments).refused(4, "Frobnicate")


def test_26_more_than_one_protobuf_holds(project: Project) -> None:
    path = project.folder / "m.onnx"
    path.write_bytes(linear().SerializeToString())
    os.truncate(path, 2**31)  # sparse: it takes no room on the disk
    said = bounded(project, "inspect", "m.onnx", limit_mib=500)
    assert "2147483648 bytes, and one ONNX file holds at most 2147483647" in said
    assert "as external data" in said


# -- 27: weights that are no numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=["NaN", "Inf", "-Inf"])
def test_27_an_onnx_weight_that_is_no_number(project: Project, typed: Typed, bad: float) -> None:
    weight = np.full((3, 4), 0.5, np.float32)
    weight[1, 2] = bad
    (project.folder / "m.onnx").write_bytes(linear(weight).SerializeToString())
    for arguments in commands(project):
        if arguments[0] in ("inspect", "optimize"):
            typed(*arguments).refused(4, f"tensor 'w' holds {'NaN' if np.isnan(bad) else 'Inf'}; the training that made it")


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=["NaN", "Inf"])
@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_27_a_torch_weight_that_is_no_number(project: Project, typed: Typed, state: State, kind: str, bad: float) -> None:
    key = "block.conv2.weight" if kind == "parameter" else "block.bn1.running_var"
    broken = {name: value.clone() for name, value in state.items()}
    broken[key].view(-1)[3] = bad
    save_file(broken, project.folder / "w.safetensors")
    ended = optimized_weights(project, typed, "w.safetensors")
    ended.refused(4, f"{kind} {key!r} holds {'NaN' if np.isnan(bad) else 'Inf'}")


ODD = {
    "zeros": (0.0, "all 12 weights are zero"),
    "denormals": (1e-40, "12 denormal values, slow on some CPUs"),
}


@pytest.mark.parametrize("what", ODD)
def test_27_odd_weights_of_an_onnx_file_are_warnings(project: Project, typed: Typed, what: str) -> None:
    number, said = ODD[what]
    (project.folder / "m.onnx").write_bytes(linear(np.full((3, 4), number, np.float32)).SerializeToString())
    ended = typed("inspect", "m.onnx", "--json")
    assert ended.code == 0, ended.err
    assert [warning for warning in json.loads(ended.out)["warnings"] if warning.startswith("w: ") and said in warning]
    commands(project)
    project.rewrite("simplify}", "simplify, allow_noop: true}")
    ended = typed("optimize", "recipe.yaml", "--no-benchmark", "--json")
    assert ended.code == 0, ended.err
    assert [warning for warning in json.loads(ended.out)["warnings"] if "w: " in warning and said in warning]


def test_27_odd_weights_of_a_torch_model_are_warnings(project: Project, typed: Typed, state: State) -> None:
    odd = {name: value.clone() for name, value in state.items()}
    odd["block.conv1.weight"].zero_()
    odd["block.conv2.weight"].view(-1)[:7] = 1e-40
    save_file(odd, project.folder / "w.safetensors")
    with_weights(project, "w.safetensors")
    for _ in range(2):  # the second time from the store
        ended = typed("optimize", "recipe.yaml", "--no-benchmark", "--json")
        assert ended.code == 0, ended.err
        warned = json.loads(ended.out)["warnings"]
        assert "block.conv1.weight: all 2304 weights are zero" in warned
        assert "block.conv2.weight: 7 denormal values, slow on some CPUs; round them to zero" in warned
