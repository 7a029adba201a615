"""What every backend of the catalogue promises, whichever it is: run on one small residual network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from accel import catalog
from accel.accelerate.eager import Eager
from accel.accelerate.onnxruntime_session import OnnxRuntime
from accel.accelerate.openvino_model import OpenVino
from accel.contracts import AheadOfTime, Backend, QuantizationProfile, Runner
from accel.errors import BackendFault, DataFault, MissingBackend, UsageError
from accel.model import Model, OnnxModel, Signature, Target, TensorSpec, TorchModel

Array = NDArray[Any]

BACKENDS = sorted(catalog.backends())
# The runtimes add in another order than PyTorch does; in FP32, sums of a few hundred products then differ by some 1e-6 of
# their size, and three layers carry that on. A runtime that computes in BF16 or FP16 is off by 1e-2 or 1e-3 and fails.
RTOL, ATOL = 1e-3, 1e-4
CHANNELS = 16
SIGNATURE = Signature(
    inputs=(TensorSpec("image", ("batch", 3, 16, 16), "float32"),),
    outputs=(TensorSpec("logits", ("batch", 10), "float32"),),
)


class Residual(nn.Module):
    """Stem, one residual block, pooling, classifier: three convolutions and one Gemm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.first = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.head = nn.Linear(CHANNELS, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(image))
        x = torch.relu(x + self.second(torch.relu(self.first(x))))
        result: torch.Tensor = self.head(x.mean((2, 3)))
        return result


def write_onnx(module: Residual, path: Path) -> None:
    """The same network as ONNX, written by hand so that no exporter is part of what is tested here."""
    weights = [numpy_helper.from_array(value.numpy(), name) for name, value in module.state_dict().items()]
    axes = numpy_helper.from_array(np.array([2, 3]), "axes")

    def conv(name: str, source: str, target: str) -> onnx.NodeProto:
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        return helper.make_node("Conv", inputs, [target], name=f"{name}/Conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    nodes = [
        conv("stem", "image", "a"),
        helper.make_node("Relu", ["a"], ["b"], name="stem/Relu"),
        conv("first", "b", "c"),
        helper.make_node("Relu", ["c"], ["d"], name="first/Relu"),
        conv("second", "d", "e"),
        helper.make_node("Add", ["b", "e"], ["f"], name="block/Add"),
        helper.make_node("Relu", ["f"], ["g"], name="block/Relu"),
        helper.make_node("ReduceMean", ["g", "axes"], ["h"], name="pool/ReduceMean", keepdims=0),
        helper.make_node("Gemm", ["h", "head.weight", "head.bias"], ["logits"], name="head/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [*weights, axes],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def quantize(source: Path, target: Path, *, signed: bool) -> None:
    """Q/DQ by ONNX Runtime's own tool: signed per-channel weights, activations signed or not."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter([{"image": images(4, seed)} for seed in range(3)])

        def get_next(self) -> dict[str, Array] | None:
            return next(self._batches, None)

    quantize_static(
        source,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def images(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).astype(np.float32)


@dataclass(frozen=True)
class Models:
    torch: TorchModel
    onnx: OnnxModel
    unsigned: OnnxModel
    signed: OnnxModel

    def of(self, backend: str) -> Model:
        return self.torch if backend == "eager" else self.onnx


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    module = Residual().eval()
    write_onnx(module, folder / "fp32.onnx")
    quantize(folder / "fp32.onnx", folder / "unsigned.onnx", signed=False)
    quantize(folder / "fp32.onnx", folder / "signed.onnx", signed=True)
    files = {name: OnnxModel(path=folder / f"{name}.onnx", signature=SIGNATURE) for name in ("fp32", "unsigned", "signed")}
    return Models(
        torch=TorchModel(module=module, signature=SIGNATURE),
        onnx=files["fp32"],
        unsigned=files["unsigned"],
        signed=files["signed"],
    )


@pytest.fixture(params=BACKENDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def here(name: str) -> str:
    """A backend that can run on this machine, by name: on its CPU, or on its GPU where it has no other device."""
    sentence = catalog.backend(name).unavailable(device(name))
    if sentence is not None:
        pytest.skip(sentence)
    return name


@pytest.fixture
def runner(here: str, models: Models, tmp_path: Path) -> Iterator[Runner]:
    with compiled(here, models.of(here), tmp_path) as ready:
        yield ready


def device(backend: str) -> str:
    return "cpu" if "cpu" in catalog.backend(backend).devices else "gpu"


def is_built_first(backend: object) -> bool:
    return isinstance(backend, AheadOfTime)


def target(backend: str, **changes: Any) -> Target:
    return Target(name="t", backend=backend, **{"device": device(backend), "ranges": {"batch": (1, 4, 8)}, **changes})


def compiled(backend: str, model: Model, cache: Path, **changes: Any) -> Runner:
    chosen, asked = catalog.backend(backend), target(backend, **changes)
    if is_built_first(chosen):
        model = chosen.deploy(model, asked, cache, cache=cache)
    made: Runner = chosen.compile(model, asked, cache)
    return made


def logits(runner: Runner, inputs: Array) -> Array:
    (found,) = runner({"image": inputs})
    return np.asarray(found)


def expected(models: Models, inputs: Array) -> Array:
    with torch.inference_mode():
        result: Array = models.torch.module(torch.from_numpy(inputs)).numpy()
    return result


def test_import_is_light(name: str) -> None:
    heavy = ("torch", "onnx", "numpy", "onnxruntime", "openvino", "nncf", "tensorrt")
    code = f"""
import sys
from accel import catalog
from accel.model import Target
backend = catalog.backend({name!r})
target = Target(name="t", backend={name!r}, device={device(name)!r})
backend.check_options(target)
backend.runtime_settings(target)
found = [m for m in {heavy!r} if m in sys.modules]
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=with_path())
    assert done.returncode == 0, done.stderr


def with_path() -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_says_what_it_is(name: str) -> None:
    backend = catalog.backend(name)
    assert backend.name == name
    assert "cpu" in backend.devices or backend.devices == ("gpu",)
    assert isinstance(backend.quantization, QuantizationProfile)
    assert backend.distribution


def test_profiles_of_the_cpu_runtimes_are_equal() -> None:
    ours: tuple[Backend, ...] = (OnnxRuntime(), OpenVino(), Eager())  # for the type checker: they have the protocol's shape
    assert len({backend.quantization for backend in ours}) == 1
    assert [backend.quantization.engine for backend in ours[:2]] == ["onnxruntime", "nncf"]


def test_gives_what_eager_gives(runner: Runner, models: Models) -> None:
    inputs = images(4)
    found = logits(runner, inputs)
    np.testing.assert_allclose(found, expected(models, inputs), rtol=RTOL, atol=ATOL)
    assert found.dtype == np.float32


def test_takes_any_batch_size(runner: Runner, models: Models) -> None:
    assert runner.signature == SIGNATURE
    for count in (1, 5, 2):
        inputs = images(count, seed=count)
        np.testing.assert_allclose(logits(runner, inputs), expected(models, inputs), rtol=RTOL, atol=ATOL)


def test_takes_one_batch_size_where_asked(here: str, models: Models, tmp_path: Path) -> None:
    if here == "eager":
        pytest.skip("eager compiles nothing")
    with compiled(here, models.onnx, tmp_path, batch=2) as runner:
        assert runner.signature.inputs[0].shape == (2, 3, 16, 16)
        assert runner.signature.outputs[0].shape == (2, 10)
        inputs = images(2)
        np.testing.assert_allclose(logits(runner, inputs), expected(models, inputs), rtol=RTOL, atol=ATOL)
        with pytest.raises(DataFault, match="2x3x16x16"):
            runner({"image": images(3)})


def test_second_run_is_equal_and_leaves_the_first_outputs(runner: Runner) -> None:
    inputs, other = images(2), images(2, seed=1)
    first = runner({"image": inputs})
    kept = [output.copy() for output in first]
    runner({"image": other})
    again = runner({"image": inputs})
    for before, copy, after in zip(first, kept, again, strict=True):
        np.testing.assert_array_equal(before, copy)
        np.testing.assert_array_equal(after, copy)


def test_leaves_the_inputs(runner: Runner) -> None:
    inputs = images(2)
    inputs.flags.writeable = False
    copy = inputs.copy()
    runner({"image": inputs})
    np.testing.assert_array_equal(inputs, copy)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"picture": images(1)}, "takes the inputs image; given were picture"),
        ({"image": images(1)[0]}, "image has shape 3x16x16"),
        ({"image": images(1)[:, :, :8]}, "image has shape 1x3x8x16"),
    ],
)
def test_wrong_inputs_are_told(runner: Runner, wrong: Mapping[str, Array], said: str) -> None:
    with pytest.raises(DataFault, match=said):
        runner(wrong)


def test_is_closed_after_with(here: str, models: Models, tmp_path: Path) -> None:
    with compiled(here, models.of(here), tmp_path) as runner:
        runner({"image": images(1)})
    with pytest.raises(BackendFault, match="closed"):
        runner({"image": images(1)})
    with pytest.raises(BackendFault, match="closed"):
        runner.executed_precision()
    with pytest.raises(BackendFault, match="closed"):
        runner.__enter__()


def test_two_runners_do_not_meet(here: str, models: Models, tmp_path: Path) -> None:
    inputs = images(2)
    with compiled(here, models.of(here), tmp_path) as one:
        (before,) = one({"image": inputs})
        with compiled(here, models.of(here), tmp_path) as two:
            (other,) = two({"image": inputs})
        (after,) = one({"image": inputs})
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(before, other)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_honoured(here: str, models: Models, tmp_path: Path, threads: int) -> None:
    if device(here) != "cpu":
        pytest.skip("it computes on no core of this machine")
    with compiled(here, models.of(here), tmp_path, threads=threads) as runner:
        assert runner.threads == threads  # type: ignore[attr-defined]


def test_device_that_is_not_here_is_a_sentence(here: str, models: Models, tmp_path: Path) -> None:
    backend = catalog.backend(here)
    absent = [device for device in backend.devices if backend.unavailable(device)]
    if not absent:
        pytest.skip("this machine has every device")
    for device in absent:
        sentence = backend.unavailable(device)
        assert "\n" not in sentence
        with pytest.raises(MissingBackend) as caught:
            backend.compile(models.of(here), target(here, device=device), tmp_path)
        assert sentence in str(caught.value)


def test_device_that_nobody_has_is_refused(name: str) -> None:
    backend = catalog.backend(name)
    assert "tpu" in (backend.unavailable("tpu") or "")
    with pytest.raises(UsageError, match="tpu"):
        backend.check_options(target(name, device="tpu"))


def test_unknown_option_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no_such_option"):
        catalog.backend(name).check_options(target(name, options={"no_such_option": 1}))


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_unknown_precision_is_refused(name: str, precision: str) -> None:
    with pytest.raises(UsageError, match=precision):
        catalog.backend(name).check_options(target(name, precision=precision))


def test_runs_exactly_what_it_deploys(here: str, models: Models, tmp_path: Path) -> None:
    backend = catalog.backend(here)
    source = models.of(here)
    if isinstance(source, OnnxModel):
        path = tmp_path / "elsewhere" / "fp32.onnx"
        path.parent.mkdir()
        path.write_bytes(source.path.read_bytes())
        source = OnnxModel(path=path, signature=SIGNATURE)
    ships = tmp_path / "ships"
    ships.mkdir()
    deployed = backend.deploy(source, target(here), ships, cache=tmp_path)
    assert list(ships.iterdir())
    if isinstance(source, OnnxModel):
        assert deployed.path.parent == ships
        source.path.unlink()
    with backend.compile(deployed, target(here), tmp_path) as runner:
        inputs = images(2)
        np.testing.assert_allclose(logits(runner, inputs), expected(models, inputs), rtol=RTOL, atol=ATOL)


def test_fp32_is_executed_in_fp32(runner: Runner) -> None:
    found = runner.executed_precision()
    assert found.float_precision == "fp32"
    assert (found.quantized_operators, found.int8_operators) == (0, 0)
    assert sum(found.operators.values()) >= 4
    assert found.notes == ()


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_every_quantized_operator_of_the_fast_dialect_runs_in_int8(backend: str, models: Models, tmp_path: Path) -> None:
    pytest.importorskip(backend)
    with compiled(backend, models.unsigned, tmp_path) as runner:
        found = runner.executed_precision()
        (outputs,) = runner({"image": images(8)})
    assert (found.quantized_operators, found.int8_operators) == (4, 4)
    assert found.notes == ()
    agreement = (outputs.argmax(1) == expected(models, images(8)).argmax(1)).mean()
    assert agreement >= 0.75


def test_signed_activations_do_not_all_run_in_int8_on_onnxruntime(models: Models, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with compiled("onnxruntime", models.signed, tmp_path) as runner:
        found = runner.executed_precision()
    assert found.quantized_operators == 4
    assert 0 < found.int8_operators < 4
    assert found.float_precision == "fp32"
    assert found.operators["Conv"] == 4 - found.int8_operators
    assert any("did not run in INT8" in note for note in found.notes)


def test_signed_activations_run_in_int8_on_openvino(models: Models, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    with compiled("openvino", models.signed, tmp_path) as runner:
        found = runner.executed_precision()
    assert (found.quantized_operators, found.int8_operators) == (4, 4)
