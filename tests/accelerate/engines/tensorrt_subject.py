"""An engine that gives ``double`` = 2 x and ``total`` = the sum of each row, on the fake GPU or on a real one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.accelerate.engines.fake_gpu import FakeGpu, World
from tests.accelerate.engines.fake_tensorrt import Module, Plan

from accel import engine_file
from accel.accelerate import nvidia_device
from accel.accelerate.engines import buffers as tensorrt_buffers
from accel.accelerate.engines import library as tensorrt_library
from accel.accelerate.engines.editions import edition
from accel.accelerate.engines.library import TensorRtLibrary
from accel.accelerate.engines.run import EngineRunner, open_engine
from accel.accelerate.nvidia_device import DeviceState, NvidiaDevice
from accel.engine_file import EngineManifest, TypedLayers
from accel.model import OnnxModel, Signature, Target, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec("x", ("batch", 4), "float32"),),
    outputs=(TensorSpec("double", ("batch", 4), "float32"), TensorSpec("total", ("batch",), "float32")),
)
STATE = DeviceState(1980, 5001, 44, 71.5, ())
DEVICE = NvidiaDevice(0, "Fake GPU", "8.9", "580.65.06", 1 << 20, FakeGpu.bus_id)
VERSIONS = {"tensorrt": "11.1.0.5", "tensorrt-rtx": "1.7.1.116"}


def rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def target(**options: Any) -> Target:
    batch = options.pop("batch", None)
    return Target(name="t", backend="tensorrt", device="gpu", options=options, batch=batch, ranges={"batch": (1, 4, 8)})


@dataclass
class Subject:
    """``folder`` holds what is opened; ``world`` is None on a real GPU."""

    folder: Path
    library: str
    world: World | None = None

    @property
    def engine(self) -> Path:
        return self.folder / "model.engine"

    def open(self, **options: Any) -> EngineRunner:
        return open_engine(self.engine, SIGNATURE, target(**options))

    def manifest(self) -> EngineManifest:
        return engine_file.read(self.engine)

    def change(self, **fields: Any) -> None:
        """The manifest, as if the engine had been made elsewhere."""
        engine_file.write(self.manifest().model_copy(update=fields), self.folder)

    def plan(self, plan: Plan, **settings: Any) -> None:
        """Another engine, as if just built; on the fake GPU only."""
        write_fake(self.folder, self.library, plan, settings)


def write_fake(folder: Path, library: str, plan: Plan, settings: dict[str, Any] | None = None) -> None:
    data = plan.serialized()
    folder.joinpath("model.engine").write_bytes(data)
    manifest = EngineManifest(
        library=library,
        library_version=VERSIONS[library],
        compute_capabilities=["8.9"] if library == "tensorrt-rtx" else [],
        gpu=DEVICE.name,
        gpu_compute_capability=DEVICE.compute_capability,
        driver=DEVICE.driver,
        onnx_sha256="0" * 64,
        settings=settings or {},
        engine_sha256=hashlib.sha256(data).hexdigest(),
        engine_bytes=len(data),
        build_s=0.1,
        signature=SIGNATURE,
        layers=TypedLayers(quantized_operators=0, int8_typed=0, float_types={"fp32": 1}, operators={"double/MatMul": "fp32"}),
    )
    engine_file.write(manifest, folder)


@contextmanager
def fake_subject(folder: Path, library: str) -> Iterator[Subject]:
    """At the end: nothing was done wrongly, and nothing is left on the GPU."""
    world = World()
    gpu = FakeGpu(world)
    write_fake(folder, library, Plan())
    row = edition(library, int(VERSIONS[library].partition(".")[0]))
    opened = TensorRtLibrary(library, VERSIONS[library], Module(gpu, rtx=library == "tensorrt-rtx"), row)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorrt_library, "chosen", lambda name: opened)
        patch.setattr(tensorrt_buffers, "first_gpu", lambda: gpu)
        patch.setattr(nvidia_device, "at", lambda bus_id: DEVICE if bus_id == gpu.bus_id else None)
        patch.setattr(nvidia_device, "state", lambda index: STATE)
        yield Subject(folder, library, world)
    assert world.violations == []
    assert world.alive == []


def real_subject(folder: Path) -> Subject:
    """Built here, on this machine's GPU; skips, with the reason, where that cannot be."""
    sentence = tensorrt_library.problem("auto") or tensorrt_library.gpu_problem()
    if sentence is not None:
        pytest.skip(sentence)
    from accel.accelerate.engines.build import build

    path = folder / "model.onnx"
    _write_onnx(path)
    library = tensorrt_library.resolved(target())
    build(OnnxModel(path=path, signature=SIGNATURE), target(), folder / "model.engine", cache=folder)
    return Subject(folder, library)


def _write_onnx(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [
        numpy_helper.from_array(2 * np.eye(4, dtype=np.float32), "twice"),
        numpy_helper.from_array(np.array([1]), "axes"),
    ]
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["total"], name="total/ReduceSum", keepdims=0),
        helper.make_node("MatMul", ["x", "twice"], ["double"], name="double/MatMul"),
    ]
    values = [
        helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, list(spec.shape))
        for spec in (*SIGNATURE.inputs, *SIGNATURE.outputs[::-1])
    ]
    graph = helper.make_graph(nodes, "double", values[:1], values[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
