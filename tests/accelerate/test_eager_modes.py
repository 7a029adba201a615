"""PyTorch's faster ways: autocast, memory format, torch.compile; and what of them a recipe may ask for together."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from accel.accelerate.eager import Eager
from accel.accelerate.eager_modes import Compiled, cast_weights_, forward, missing, prepared
from accel.accelerate.eager_module import EagerRunner, cuda_problem
from accel.errors import BackendFault, MissingBackend, UsageError
from accel.model import Signature, Target, TensorSpec, TorchModel

IMAGES = Signature((TensorSpec("x", ("batch", 3, 8, 8), "float32"),), (TensorSpec("y", ("batch", 5), "float32"),))
CPU = torch.device("cpu")
NO_GPU = cuda_problem()
gpu = pytest.mark.skipif(NO_GPU is not None, reason=str(NO_GPU))
# torch 2.13's Inductor imports a module that still uses torch.jit.script_method.
inductor = pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")


class Net(nn.Module):
    """Two convolutions with a norm between them, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        result: torch.Tensor = self.head(x.mean((2, 3)))
        return result


def images(batch: int = 2) -> dict[str, Any]:
    return {"x": np.random.default_rng(batch).standard_normal((batch, 3, 8, 8)).astype(np.float32)}


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def runner(module: nn.Module, cache: Path = Path(), **changes: Any) -> EagerRunner:
    return Eager().compile(TorchModel(module=module, signature=IMAGES), Target(name="t", backend="eager", **changes), cache)


def called(made: EagerRunner, inputs: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    (found,) = made(inputs)
    assert found.dtype == np.float32
    return np.asarray(found, np.float32)


def refused(**changes: Any) -> str:
    with pytest.raises(UsageError) as caught:
        Eager().check_options(Target(name="t", backend="eager", **changes))
    return str(caught.value)


def test_what_cannot_be_asked_for_together_is_refused_with_a_way_out() -> None:
    assert "cuda_graphs needs device gpu; set it, or leave" in refused(options={"cuda_graphs": True})
    both = {"cuda_graphs": True, "mode": "compile"}
    assert "goes with mode eager, not compile: leave one of the two out" in refused(device="gpu", options=both)
    assert "fp16 needs device gpu; on a CPU take bf16" in refused(precision="fp16")
    assert "it must be true or false" in refused(options={"channels_last": "yes"})
    assert "did you mean 'compile'?" in refused(options={"mode": "compiled"})
    assert "quantize pass" in refused(precision="int8")
    Eager().check_options(Target("t", "eager", "gpu", "fp16", options={"cuda_graphs": True, "channels_last": True}))
    Eager().check_options(Target("t", "eager", "cpu", "bf16", options={"mode": "compile", "cuda_graphs": False}))


def test_the_reference_is_what_it_was() -> None:
    settings = Eager().runtime_settings(Target("eager", "eager", threads=3))
    assert settings == {"device": "cpu", "num_threads": 3, "float32_matmul_precision": "highest"}
    module = net()
    assert prepared(module, CPU, settings) is module
    assert forward(module, CPU, settings) is module


def test_bf16_on_a_cpu_is_autocast_and_says_so() -> None:
    module = net()
    with runner(module, precision="bf16") as made:
        (found,) = made(images())
        told = made.executed_precision()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = module(torch.from_numpy(images()["x"]))
    assert expected.dtype == torch.bfloat16
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.float().numpy())  # weights cast once are the weights cast at every call
    assert told.float_precision == "bf16"
    assert "weights of linear and convolution layers were cast once" in told.notes[0]
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


def test_weights_are_not_cast_again_at_every_call() -> None:
    with runner(net(), precision="bf16") as made:
        casts = made.executed_precision().operators["_to_copy"]
    assert casts == 1  # the input's


def test_only_weights_that_are_multiplied_with_are_cast() -> None:
    class Standardized(nn.Conv2d):
        pass

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(5, 8)
            self.tied = nn.Linear(8, 5)
            self.tied.weight = self.words.weight
            self.own = Standardized(3, 8, 3)
            self.norm = nn.LayerNorm(8)
            self.plain = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 5, bias=False))

    module = Several()
    cast_weights_(module, torch.bfloat16)
    cast = {name for name, parameter in module.named_parameters() if parameter.dtype == torch.bfloat16}
    assert cast == {"tied.bias", "plain.weight", "plain.bias"}
    assert module.plain.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_module_that_leaves_autocast_is_told_the_way_out() -> None:
    class Leaves(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", enabled=False):
                return super().forward(x)

    with runner(Leaves().eval(), precision="bf16") as made, pytest.raises(BackendFault, match="set precision: fp32"):
        made(images())


def test_channels_last_changes_the_format_and_not_the_outputs() -> None:
    seen = []
    module = net()
    module.first.register_forward_hook(lambda layer, given, got: seen.append(given[0]))
    with runner(module, options={"channels_last": True}) as made:
        found = called(made, images())
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert module.first.weight.is_contiguous()
    with torch.inference_mode():
        np.testing.assert_allclose(found, module(torch.from_numpy(images()["x"])).numpy(), rtol=1e-4, atol=1e-5)


def compiler_here() -> bool:
    try:
        return subprocess.run(["g++", "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@inductor
@pytest.mark.slow
@pytest.mark.skipif(not compiler_here(), reason="there is no C++ compiler here")
def test_torch_compile_for_real(tmp_path: Path) -> None:
    """Compiled while the runner is made, from nothing, told in notes, and with nothing left behind."""
    module = net()
    with runner(module, tmp_path / "cache", batch=2, options={"mode": "compile"}) as made:
        compiled = made._compiled
        assert compiled is not None
        assert compiled._seen == {((2, 3, 8, 8),)}
        found = called(made, images())
        assert len(compiled._seen) == 1  # nothing was left for the first call
        told = made.executed_precision()
    with torch.inference_mode():
        np.testing.assert_allclose(found, module(torch.from_numpy(images()["x"])).numpy(), rtol=1e-4, atol=1e-5)
    assert told.float_precision == "fp32"
    assert told.operators["convolution"] == 2
    assert told.notes == ("operators are those of the module before torch.compile, which fuses them",)
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(BackendFault, match="closed"):
        made(images())


@inductor
def test_no_compiler_is_a_sentence_and_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    from torch._inductor import config

    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    with config.patch({"cpp.cxx": (str(tmp_path / "no-such-compiler"),)}), pytest.raises(MissingBackend) as caught:
        runner(net(), tmp_path, batch=2, threads=before[0] + 1, options={"mode": "compile"})
    assert "finds no C++ compiler here; install one (Debian: apt install g++), or set mode: eager" in str(caught.value)
    assert (torch.get_num_threads(), torch.get_float32_matmul_precision()) == before


def eagerly(graph: Any, inputs: Any) -> Any:
    """A compiler for tests that compiles nothing."""
    return graph.forward


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without code generation: everything but Inductor is real."""
    compile_it = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: compile_it(module, backend=eagerly))


@inductor
@pytest.mark.usefixtures("quick")
def test_what_was_split_is_told(tmp_path: Path) -> None:
    class Split(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = super().forward(x)
            torch._dynamo.graph_break()
            return x + 1

    compiled = Compiled(Split().eval(), tmp_path)
    with torch.inference_mode():
        compiled(torch.ones(2, 3, 8, 8))
        compiled(torch.ones(5, 3, 8, 8))
    (note,) = compiled.notes
    assert "into 2 parts, 1 graph breaks: " in note


@inductor
@pytest.mark.usefixtures("quick")
def test_what_was_not_compiled_at_all_is_refused(tmp_path: Path) -> None:
    class Never(nn.Module):
        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    with pytest.raises(BackendFault, match=r"compiled nothing of the module.*set mode: eager"):
        Compiled(Never(), tmp_path)(torch.ones(2, 3))


@inductor
@pytest.mark.usefixtures("quick")
def test_a_fallback_after_too_many_shapes_is_refused(tmp_path: Path) -> None:
    with torch.inference_mode(), torch._dynamo.config.patch(recompile_limit=2, automatic_dynamic_shapes=False):
        compiled = Compiled(net(), tmp_path)
        with pytest.raises(BackendFault, match="too many shapes of input"):
            for size in range(2, 9):
                compiled(torch.ones(size, 3, 8, 8))


@inductor
def test_a_known_error_is_a_sentence() -> None:
    from torch._inductor.exc import TritonMissing

    wrapped = RuntimeError("compilation failed")
    wrapped.__cause__ = TritonMissing(None)
    assert "pip install triton" in str(missing(wrapped))
    assert "python3-dev" in str(missing(RuntimeError("x.cpp:1:10: fatal error: Python.h: No such file or directory")))
    assert missing(RuntimeError("something else")) is None


GPU_MODES: list[dict[str, Any]] = [
    {},
    {"options": {"channels_last": True}},
    {"options": {"cuda_graphs": True}},
    {"options": {"mode": "compile"}},
    {"precision": "fp16"},
    {"precision": "bf16"},
    {"precision": "fp16", "options": {"cuda_graphs": True, "channels_last": True}},
    {"precision": "fp16", "options": {"mode": "compile"}},
]


@gpu
@inductor
@pytest.mark.parametrize("changes", GPU_MODES, ids=str)
def test_every_mode_on_a_gpu(changes: dict[str, Any], tmp_path: Path) -> None:
    module = net()
    precision = changes.get("precision", "fp32")
    close = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}[precision]
    with torch.inference_mode():
        expected = {batch: module(torch.from_numpy(images(batch)["x"])).numpy() for batch in (2, 3)}
    before = torch.backends.cudnn.allow_tf32
    with runner(module, tmp_path, device="gpu", batch=2, **changes) as made:
        assert torch.backends.cudnn.allow_tf32 is False
        for batch in (2, 3, 2, 3):  # CUDA graphs are captured for each and replayed
            found = called(made, images(batch))
            np.testing.assert_allclose(found, expected[batch], rtol=close, atol=close)
        told = made.executed_precision()
    assert torch.backends.cudnn.allow_tf32 is before
    assert told.float_precision == precision
    assert "latency includes the copies" in told.notes[-1]
    assert next(module.parameters()).device.type == "cpu"


@gpu
def test_what_waits_for_the_gpu_cannot_be_captured() -> None:
    class Waits(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * (1 if x.sum().item() > 0 else 2)

    made = runner(Waits().eval(), device="gpu", options={"cuda_graphs": True})
    with made, pytest.raises(BackendFault, match="cannot be captured as a CUDA graph"):
        made(images())
