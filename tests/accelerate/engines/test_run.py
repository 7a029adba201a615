"""How an engine is run on the fake GPU: the order of calls, what is captured again, what is refused, what is given back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
from tests.accelerate.engines import fake_tensorrt
from tests.accelerate.engines.fake_gpu import World
from tests.accelerate.engines.fake_tensorrt import Plan
from tests.accelerate.engines.tensorrt_subject import DEVICE, STATE, Subject, fake_subject, rows

from accel.accelerate import nvidia_device
from accel.accelerate.engines import buffers as tensorrt_buffers
from accel.accelerate.engines import library as tensorrt_library
from accel.accelerate.engines.run import EngineRunner
from accel.accelerate.nvidia_device import UNKNOWN_STATE
from accel.contracts import Concurrent
from accel.errors import BackendFault, DataFault, MissingBackend, SafetyRefusal

PREPARED = [
    "shape x 4x4", "infer shapes",
    "make memory", "make host memory", "address x",
    "make memory", "make host memory", "address total",
    "make memory", "make host memory", "address double",
]  # fmt: skip


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Subject]:
    with fake_subject(tmp_path, "tensorrt") as made:
        yield made


@pytest.fixture
def rtx(tmp_path: Path) -> Iterator[Subject]:
    with fake_subject(tmp_path, "tensorrt-rtx") as made:
        yield made


def world(subject: Subject) -> World:
    assert subject.world is not None
    return subject.world


def since(subject: Subject) -> list[str]:
    """What was called since this was last asked."""
    calls = list(world(subject).calls)
    world(subject).calls.clear()
    return calls


def run(runner: EngineRunner, count: int = 4, seed: int = 0) -> None:
    x = rows(count, seed)
    outputs: list[Any] = list(runner({"x": x}))
    np.testing.assert_array_equal(outputs[0], 2 * x)


# -- the fake is like the real one --------------------------------------------------------------------------------------


def test_what_the_fake_has_the_real_module_has_too() -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    for fake in fake_tensorrt.CLASSES:
        real = getattr(trt, fake.__name__.replace("RtxRuntime", "Runtime"))
        told = {name for name in dir(fake) if not name.startswith("_")}
        assert told <= set(dir(real)), fake.__name__
    for enum in fake_tensorrt.ENUMS:
        members = getattr(trt, enum.__name__).__members__
        assert {name: int(members[name].value) for name in enum.__members__} == {e.name: int(e.value) for e in enum}
    for name, value in vars(fake_tensorrt.ILogger).items():
        if name.isupper():
            assert int(getattr(trt.ILogger, name)) == value


# -- the order of calls -------------------------------------------------------------------------------------------------


def test_calls_come_in_the_order_that_tensorrt_asks_for(plain: Subject) -> None:
    with plain.open() as runner:
        assert since(plain) == [
            "make runtime", "deserialize", "make engine", "make stream", "make context", "shape x 4x4", "infer shapes",
        ]  # fmt: skip
        run(runner)
        assert since(plain) == [*PREPARED, "copy in", "execute", "copy out", "copy out", "synchronize"]
        run(runner)  # the second of its shapes is captured, and then replayed
        assert since(plain) == [
            "copy in",
            "synchronize",
            "capture",
            "make graph",
            "launch",
            "copy out",
            "copy out",
            "synchronize",
        ]
        run(runner)
        assert since(plain) == ["copy in", "launch", "copy out", "copy out", "synchronize"]
    assert since(plain) == [
        "synchronize", "free graph", "free context", "free engine", "free runtime",
        *["free memory"] * 3, *["free host memory"] * 3, "free stream",
    ]  # fmt: skip


def test_other_shapes_are_captured_again_and_keep_nothing_of_the_old(plain: Subject) -> None:
    with plain.open() as runner:
        for _ in range(3):
            run(runner)
        since(plain)
        run(runner, 2)
        calls = since(plain)
        assert calls[:7] == ["free graph", *["free memory"] * 3, *["free host memory"] * 3]
        assert "execute" in calls
        assert "capture" not in calls
        run(runner, 2)
        assert "capture" in since(plain)


def test_without_cuda_graphs_every_inference_is_executed(plain: Subject) -> None:
    with plain.open(cuda_graphs=False) as runner:
        for _ in range(3):
            run(runner)
    calls = since(plain)
    assert calls.count("execute") == 3
    assert "capture" not in calls


@pytest.mark.parametrize(("asked", "strategy"), [(True, "WHOLE_GRAPH_CAPTURE"), (False, "DISABLED")])
def test_rtx_captures_by_itself_and_compiles_for_each_shape_at_once(rtx: Subject, asked: bool, strategy: str) -> None:
    with rtx.open(cuda_graphs=asked, streams=2) as runner:
        for _ in range(3):
            run(runner)
        configs = [lane.context._config for lane in runner._lanes]
        assert [config.cuda_graph_strategy.name for config in configs] == [strategy] * 2
        assert configs[0].dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
        assert configs[0]._cache is configs[1]._cache is not None
        del configs
    calls = since(rtx)
    assert calls[:4] == ["make runtime", "validity", "deserialize", "make engine"]
    assert calls.count("execute") == 3
    assert calls.count("make runtime cache") == 1
    assert "capture" not in calls


def test_layers_are_timed_in_a_context_of_their_own(plain: Subject) -> None:
    with plain.open() as runner:
        run(runner, 2)
        since(plain)
        found = runner.profile()
        calls = since(plain)
        assert calls.count("make context") == calls.count("free context") == 1
        assert calls.count("execute") == 23
        assert "shape x 2x4" in calls
        assert [(layer.name, layer.ms) for layer in found.layers] == [("double", 0.25), ("total", 0.25)]
        run(runner, 2)
        assert "capture" in since(plain)


def test_the_nearest_profile_is_chosen_and_waited_for(plain: Subject) -> None:
    plain.plan(Plan(profiles=(((1, 4), (1, 4), (8, 4)), ((2, 4), (8, 4), (16, 4)))))
    with plain.open() as runner:
        run(runner, 1)
        assert not any(call.startswith("profile") for call in since(plain))
        run(runner, 8)
        calls = since(plain)
        assert calls[calls.index("profile 1") :][:3] == ["profile 1", "synchronize", "shape x 8x4"]
        run(runner, 16)
        run(runner, 2)
        assert "profile 0" in since(plain)
        with pytest.raises(DataFault, match="x has 17 along batch; the engine was built for 1 to 8 or 2 to 16"):
            run(runner, 17)
        assert since(plain) == []


def test_an_engine_of_fixed_shape_takes_that(plain: Subject) -> None:
    plain.plan(Plan(shape=(3, 4), profiles=(((9, 9), (9, 9), (9, 9)),)))  # such a profile says nothing
    with plain.open(batch=3) as runner:
        run(runner, 3)
    with plain.open() as runner, pytest.raises(DataFault, match="x has 4 along batch; the engine was built for 3"):
        run(runner, 4)


# -- timing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("copies", "ms", "copied"), [(False, 1.0, 0), (True, 2.5, 6)])
def test_latency_counts_copies_only_where_asked(plain: Subject, copies: bool, ms: float, copied: int) -> None:
    with plain.open() as runner:
        run(runner)
        since(plain)
        found = runner.latency({"x": rows(4)}, 3, copies=copies, warmup=3)
        assert found.ms == (ms,) * 3  # the fake GPU takes 1 ms for an inference, and half for each of the three copies
        assert (found.before, found.after, found.cuda_graphs) == (STATE, STATE, True)
        calls = since(plain)
        assert calls.count("launch") == 6
        assert calls.count("copy in") == 1 + copied
        assert calls.count("free event") == 2
        run(runner, 4, seed=1)


def test_a_gpu_that_nvml_does_not_know_is_no_reason_to_fail(plain: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_device, "at", lambda bus_id: None)
    monkeypatch.setattr(nvidia_device, "found", lambda: (DEVICE, replace(DEVICE, index=1)))
    with plain.open() as runner:
        assert runner.device is None
        assert runner.latency({"x": rows(4)}, 1).before == UNKNOWN_STATE
    monkeypatch.setattr(nvidia_device, "found", lambda: (DEVICE,))

    def gone(index: int) -> None:
        raise MissingBackend("the driver went away")

    monkeypatch.setattr(nvidia_device, "state", gone)
    with plain.open() as runner:
        assert runner.device == DEVICE
        assert runner.latency({"x": rows(4)}, 1).after == UNKNOWN_STATE


def test_queries_are_dealt_out_to_the_streams(plain: Subject) -> None:
    with plain.open(streams=2, cuda_graphs=False) as runner:
        since(plain)
        found = runner.throughput({"x": rows(4)}, 6, copies=False, warmup=1)
    assert found.streams == 2
    calls = since(plain)
    assert calls.count("execute") == 2 + 6
    assert calls.count("copy in") == 2  # and then they lie on the GPU


# -- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(on_host=True), r"^model\.engine: tensor x: its values are shapes.*make it a constant"),
        (Plan(dtype="BF16"), r"^model\.engine: tensor x is of type BF16.*cast it to float32"),
        (Plan(dtype="HALF"), r"^model\.engine: x is float16 -1x4 in the engine, and float32 batchx4 in the model"),
        (Plan(by_value=True), r"^model\.engine: output total: its size depends on the values.*leave the operator"),
        (Plan(profiles=(((1, 4, 1),) * 3,)), r"^model\.engine: input x: profile 0 .* no shapes for it; build it again"),
    ],
)
def test_an_engine_that_cannot_be_run_is_refused_when_opened(plain: Subject, plan: Plan, said: str) -> None:
    plain.plan(plan)
    with pytest.raises(BackendFault, match=said):
        plain.open()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("deserialize", r"tensorrt 11\.1\.0\.5 cannot load it: .*magic tag does not match.*build it again"),
        (
            "context",
            r"an execution context cannot be made: .*no memory left.*; it needs 3 MiB of GPU memory, and 1 of 1 MiB are free",
        ),
        ("shape", r"input x: the library does not take the shape \(4, 4\)"),
        ("infer", r"tensorrt failed: shape inference failed"),
        ("stream", "out of GPU memory: a stream needs"),
    ],
)
@pytest.mark.parametrize("streams", [1, 2])
def test_what_the_library_refuses_on_opening_is_told_with_its_words(plain: Subject, what: str, said: str, streams: int) -> None:
    world(plain).refuse.add(what)
    with pytest.raises(BackendFault, match=rf"^model\.engine: {said}"):
        plain.open(streams=streams)


def test_what_the_library_refuses_later_is_told_with_its_words(plain: Subject) -> None:
    plain.plan(Plan(profiles=(((1, 4), (4, 4), (8, 4)), ((9, 4), (9, 4), (9, 4)))))
    with plain.open(cuda_graphs=False) as runner:
        for what, count, said in (
            ("execute", 4, "refused to execute it: Error Code 1: Cask|refused to execute it: Cask"),
            ("address", 2, "input x: the library does not take its address"),
            ("profile", 9, "does not take optimization profile 1"),
            ("infer", 3, "shape inference failed"),
        ):
            world(plain).refuse.add(what)
            with pytest.raises(BackendFault, match=rf"^model\.engine: .*({said})"):
                run(runner, count)
            world(plain).refuse.clear()
            run(runner, count)


def test_an_execution_that_cannot_be_captured_says_how_to_do_without(plain: Subject) -> None:
    with plain.open() as runner:
        run(runner)
        world(plain).refuse.add("execute")
        with pytest.raises(BackendFault, match=r"cannot be captured as a CUDA graph .*; set cuda_graphs: false"):
            run(runner)
        world(plain).refuse.clear()
        run(runner)


def test_rtx_tells_why_an_engine_does_not_fit_and_never_loads_it(rtx: Subject) -> None:
    world(rtx).invalid = 2 | 4
    with pytest.raises(BackendFault, match=r"^model\.engine: .*cannot run here \(unsupported cc, old cuda driver\).*build it"):
        rtx.open()
    assert "deserialize" not in since(rtx)


@pytest.mark.parametrize(
    ("settings", "call"), [({}, "deserialize"), ({"version_compatible": True}, "deserialize with host code")]
)
def test_host_code_is_allowed_only_where_the_engine_was_built_with_it(plain: Subject, settings: Any, call: str) -> None:
    plain.plan(Plan(), **settings)
    with plain.open(**settings):
        assert call in since(plain)


def test_an_engine_with_code_of_its_own_is_refused_where_nobody_asked_for_it(plain: Subject) -> None:
    plain.plan(Plan(), version_compatible=True)
    with pytest.raises(SafetyRefusal, match="version_compatible: true"):
        plain.open()
    assert "deserialize" not in " ".join(since(plain))


def test_weights_are_streamed_only_where_the_engine_was_built_for_it(plain: Subject) -> None:
    plain.plan(Plan(), weight_streaming=True)
    with plain.open(weight_streaming=True):
        assert since(plain).index("weights 48") > 0
    plain.plan(Plan())
    with plain.open():
        assert not any(call.startswith("weights") for call in since(plain))


def test_an_option_that_the_engine_was_not_built_with_is_refused(plain: Subject) -> None:
    plain.plan(Plan(), tf32=True, refittable=False)
    with pytest.raises(BackendFault, match=r"settings\.tf32: the engine was built for True, and here is False"):
        plain.open(tf32=False)
    with plain.open(tf32=True), plain.open():  # what is not asked for is as it was built
        pass


@pytest.mark.parametrize(("owner", "said"), [(tensorrt_library, "chosen"), (tensorrt_buffers, "first_gpu")])
def test_what_is_not_here_is_missing(plain: Subject, owner: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise MissingBackend(f"no {said}")

    monkeypatch.setattr(owner, said, missing)
    with pytest.raises(MissingBackend, match=f"no {said}"):
        plain.open()
    assert since(plain) == []


# -- giving back --------------------------------------------------------------------------------------------------------


class Freeing:
    """A GPU that refuses to take memory back, once: what it refused is taken in the end."""

    def __init__(self, runner: EngineRunner) -> None:
        self._held = next(iter(runner._lanes[0]._device.values()))
        self._whole = self._held._give_back
        self._held._give_back = self._refuse

    def _refuse(self) -> None:
        assert self._whole is not None
        self._whole()
        raise BackendFault("cudaFree: cudaErrorIllegalAddress")


def test_a_fault_while_giving_back_is_raised_after_all_the_rest_is_given_back(plain: Subject) -> None:
    with pytest.raises(BackendFault, match="cudaErrorIllegalAddress"), plain.open(streams=2) as runner:
        run(runner)
        Freeing(runner)
    assert world(plain).alive == []


def test_a_fault_while_giving_back_does_not_hide_what_went_wrong_before(plain: Subject) -> None:
    with pytest.raises(KeyError, match="first"), plain.open() as runner:
        run(runner)
        Freeing(runner)
        raise KeyError("first")
    assert world(plain).alive == []


def test_an_interrupt_between_queueing_and_waiting_leaves_nothing(plain: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), plain.open() as runner:
        run(runner)
        with monkeypatch.context() as patch:
            patch.setattr(runner._lanes[0], "synchronize", interrupted)
            run(runner)
    assert world(plain).alive == []


def interrupted() -> None:
    raise KeyboardInterrupt


def test_a_refused_layer_profile_gives_back_its_context(plain: Subject) -> None:
    with plain.open() as runner:
        run(runner)
        since(plain)
        world(plain).refuse.add("execute")
        with pytest.raises(BackendFault, match="refused to execute"):
            runner.profile()
        world(plain).refuse.clear()
        calls = since(plain)
        assert calls.count("make context") == calls.count("free context") == 1
        run(runner)


def test_exit_takes_what_python_gives_it(plain: Subject) -> None:
    """For the type checker too: a runner is a context manager of the usual shape."""
    exiting: tuple[type[BaseException] | None, BaseException | None, TracebackType | None] = (None, None, None)
    plain.open().__exit__(*exiting)


# -- several threads ------------------------------------------------------------------------------------------------------


def test_another_runner_has_a_lane_of_its_own_and_goes_with_the_first(plain: Subject) -> None:
    runner = plain.open()
    other = runner.another()
    assert isinstance(runner, Concurrent)
    run(runner)
    since(plain)
    x = rows(4, 1)
    np.testing.assert_array_equal(next(iter(other({"x": x}))), 2 * x)
    assert PREPARED[0] in since(plain)  # its own context is given its shapes, its own buffers are made
    run(runner)
    assert "make memory" not in since(plain)
    runner.__exit__(None, None, None)
    assert world(plain).alive == []
    assert world(plain).violations == []
    with pytest.raises(BackendFault, match="closed"):
        other({"x": x})
