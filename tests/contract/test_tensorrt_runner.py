"""What a running TensorRT engine promises: held against a strict fake of both libraries, and the real one where a GPU is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.accelerate.engines.tensorrt_subject import SIGNATURE, Subject, fake_subject, real_subject, rows, target

from accel.accelerate.engines.buffers import Held, out_of_memory
from accel.accelerate.engines.run import EngineRunner, open_engine
from accel.errors import BackendFault, DataFault, ModelFault
from accel.model import Signature, TensorSpec

RTOL, ATOL = 1e-5, 1e-5  # FP32; sums of four


@pytest.fixture(params=["fake tensorrt", "fake tensorrt-rtx", "real"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    if request.param == "real":
        yield real_subject(tmp_path)
    else:
        with fake_subject(tmp_path, request.param.removeprefix("fake ")) as made:
            yield made


def require_right(runner: EngineRunner, x: Any) -> None:
    outputs: list[Any] = list(runner({"x": x}))
    double, total = outputs
    np.testing.assert_allclose(double, 2 * x, rtol=RTOL, atol=ATOL)
    np.testing.assert_allclose(total, x.sum(1), rtol=RTOL, atol=ATOL)
    assert (double.dtype, total.dtype, total.shape) == (np.float32, np.float32, (len(x),))


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_outputs_are_right_and_in_the_order_of_the_signature(subject: Subject, cuda_graphs: bool) -> None:
    with subject.open(cuda_graphs=cuda_graphs) as runner:
        for seed in range(4):  # the first is executed, the second captured, the others replayed
            require_right(runner, rows(4, seed))


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_takes_every_shape_of_its_profile(subject: Subject, cuda_graphs: bool) -> None:
    with subject.open(cuda_graphs=cuda_graphs) as runner:
        for count in (1, 8, 8, 8, 3, 1, 8):
            require_right(runner, rows(count, seed=count))


def test_first_outputs_stay_as_they_were(subject: Subject) -> None:
    with subject.open() as runner:
        first = runner({"x": rows(2)})
        kept = [output.copy() for output in first]
        runner({"x": rows(2, seed=1)})
        runner({"x": rows(5, seed=2)})
    for output, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(output, copy)


def test_inputs_stay_as_they_were_and_need_not_be_contiguous(subject: Subject) -> None:
    x = rows(8)[::2, ::-1]
    x.flags.writeable = False
    copy = x.copy()
    with subject.open() as runner:
        require_right(runner, x)
    np.testing.assert_array_equal(x, copy)


def test_two_engines_do_not_meet(subject: Subject) -> None:
    x = rows(3)
    with subject.open() as one:
        require_right(one, x)
        with subject.open() as two:
            require_right(two, rows(5, seed=1))
            require_right(one, x)
            require_right(two, rows(5, seed=2))
        require_right(one, x)


def test_shape_outside_the_profile_names_the_axis_and_the_range(subject: Subject) -> None:
    with subject.open() as runner:
        require_right(runner, rows(4))
        with pytest.raises(DataFault, match=r"x has 9 along batch; the engine was built for 1 to 8: .*dynamic"):
            runner({"x": rows(9)})
        require_right(runner, rows(4, seed=1))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"y": rows(1)}, "takes the inputs x; given were y"),
        ({"x": rows(1), "y": rows(1)}, "given were x, y"),
        ({"x": rows(1)[0]}, "x has shape 4; the model takes batchx4"),
        ({"x": rows(1)[:, :2]}, "x has shape 1x2"),
        ({"x": rows(4).astype(np.float64)}, "x has dtype float64"),
        ({"x": [[1.0, 2.0, 3.0, 4.0]]}, "x is a list"),
    ],
)
def test_wrong_inputs_are_told(subject: Subject, wrong: Any, said: str) -> None:
    with subject.open() as runner:
        require_right(runner, rows(4))
        with pytest.raises(DataFault, match=said):
            runner(wrong)
        require_right(runner, rows(4, seed=1))


def test_one_batch_size_where_asked(subject: Subject) -> None:
    with subject.open(batch=2) as runner:
        assert runner.signature.inputs[0].shape == (2, 4)
        assert [spec.shape for spec in runner.signature.outputs] == [(2, 4), (2,)]
        require_right(runner, rows(2))
        with pytest.raises(DataFault, match="x has shape 3x4; the model takes 2x4"):
            runner({"x": rows(3)})


def test_closed_runner_says_so_and_closing_twice_is_fine(subject: Subject) -> None:
    with subject.open() as runner:
        require_right(runner, rows(1))
    runner.__exit__(None, None, None)
    for use in (
        lambda: runner({"x": rows(1)}),
        lambda: runner.latency({"x": rows(1)}, 1),
        lambda: runner.throughput({"x": rows(1)}, 1),
        runner.executed_precision,
        runner.profile,
        runner.__enter__,
    ):
        with pytest.raises(BackendFault, match="closed; compile"):
            use()


class Refusing:
    """An execution context that executes nothing."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def execute_async_v3(self, stream_handle: int) -> bool:
        return False


@pytest.mark.parametrize("before", [0, 1, 3])
def test_refused_execution_is_told_and_the_runner_lives_on(subject: Subject, before: int) -> None:
    with subject.open(cuda_graphs=False) as runner:
        for seed in range(before):
            require_right(runner, rows(4, seed))
        lane = runner._lanes[0]
        whole, lane.context = lane.context, Refusing(lane.context)
        with pytest.raises(BackendFault, match=r"^model\.engine: the library refused to execute"):
            runner({"x": rows(4)})
        lane.context = whole
        del whole
        require_right(runner, rows(4, seed=9))


def test_out_of_memory_says_how_much_and_the_runner_lives_on(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    with subject.open() as runner:
        require_right(runner, rows(2))
        gpu = runner._lanes[0]._gpu
        whole = gpu.allocate

        def allocate(size_bytes: int, what: str) -> Held:
            if size_bytes >= 8 * 4 * 4 and "output" in what:
                raise out_of_memory(size_bytes, gpu.free_bytes(), what)
            return whole(size_bytes, what)

        with monkeypatch.context() as patch:
            patch.setattr(gpu, "allocate", allocate)
            with pytest.raises(BackendFault, match=r"output double \(8x4 float32\) needs 128 bytes, and .* are free; take a"):
                runner({"x": rows(8)})
        require_right(runner, rows(8))
        require_right(runner, rows(2))


@pytest.mark.parametrize("copies", [True, False])
def test_latency_is_of_each_query_and_says_what_is_in_it(subject: Subject, copies: bool) -> None:
    x = rows(4)
    with subject.open() as runner:
        found = runner.latency({"x": x}, 5, copies=copies)
        assert len(found.ms) == 5
        assert all(ms > 0 for ms in found.ms)
        assert (found.copies, found.cuda_graphs) == (copies, True)
        assert found.before.sm_clock_mhz != 0
        assert found.after is not None
        require_right(runner, x)


def test_the_report_has_the_time_on_the_gpu_and_the_copies_as_a_note(subject: Subject) -> None:
    x = rows(4)
    with subject.open(streams=2) as runner:
        ms, notes = runner.on_device({"x": x}, 5)
        require_right(runner, x)
    assert len(ms) == 5
    assert all(each > 0 for each in ms)
    assert [note.partition(":")[0] for note in notes[1:2]] == ["GPU before"]
    assert "ms with copies from and to page-locked memory" in notes[0]
    assert "over 2 streams, copies included" in notes[2]


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_streams_work_at_once(subject: Subject, cuda_graphs: bool) -> None:
    with subject.open(streams=3, cuda_graphs=cuda_graphs) as runner:
        found = runner.throughput({"x": rows(4)}, 10, copies=True)
        assert found.streams == 3
        assert found.queries_per_s > 0
        require_right(runner, rows(4, seed=1))
        for lane in runner._lanes:
            double: Any = lane.read()[0]
            x = rows(4, seed=1 if lane is runner._lanes[0] else 0)
            np.testing.assert_allclose(double, 2 * x, rtol=RTOL, atol=ATOL)


def test_precision_is_told(subject: Subject) -> None:
    with subject.open() as runner:
        found = runner.executed_precision()
    assert found.float_precision == "fp32"
    assert (found.quantized_operators, found.int8_operators) == (0, 0)
    assert found.operators


def test_layers_are_timed_apart_and_leave_the_runner_as_it_was(subject: Subject) -> None:
    with subject.open() as runner:
        unused = runner.profile()
        require_right(runner, rows(4))
        found = runner.profile()
        require_right(runner, rows(4, seed=1))
    for profile in (unused, found):
        assert profile.layers
        assert any(layer.ms is not None and layer.ms > 0 for layer in profile.layers)
        assert any("double/MatMul" in layer.nodes for layer in profile.layers)


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_engine_that_is_cut_short_is_never_loaded(subject: Subject, keep: float) -> None:
    data = subject.engine.read_bytes()
    subject.engine.write_bytes(data[: int(len(data) * keep)])
    require_never_loaded(subject, ModelFault, "model.engine: .* bytes")


def test_engine_with_another_byte_is_never_loaded(subject: Subject) -> None:
    data = bytearray(subject.engine.read_bytes())
    data[-1] ^= 1
    subject.engine.write_bytes(data)
    require_never_loaded(subject, ModelFault, "engine_sha256")


def test_engine_of_another_version_is_never_loaded(subject: Subject) -> None:
    subject.change(library_version="1.2.0.1")
    require_never_loaded(subject, BackendFault, "library_version: the engine was built for 1.2.0.1, and here is")


def test_engine_for_another_gpu_is_never_loaded(subject: Subject) -> None:
    subject.change(compute_capabilities=["7.5"], library=subject.library)
    require_never_loaded(subject, BackendFault, "compute_capabilities: the engine was built for 7.5")


def test_engine_of_the_library_that_was_not_asked_for_is_never_loaded(subject: Subject) -> None:
    other = {"tensorrt": "tensorrt-rtx", "tensorrt-rtx": "tensorrt"}[subject.library]
    require_never_loaded(subject, BackendFault, f"built with {subject.library}, and the target asks for {other}", library=other)


def test_engine_of_another_model_is_refused(subject: Subject) -> None:
    for signature, said in (
        (Signature((TensorSpec("image", ("batch", 4), "float32"),), SIGNATURE.outputs), "inputs x, and the model image"),
        (Signature(SIGNATURE.inputs, SIGNATURE.outputs[:1]), "outputs .*, and the model double"),
        (Signature((TensorSpec("x", ("batch", 5), "float32"),), SIGNATURE.outputs), "float32 -1x4 in the engine"),
        (Signature((TensorSpec("x", ("batch", 4), "float16"),), SIGNATURE.outputs), "float16 batchx4"),
    ):
        with pytest.raises(BackendFault, match=said):
            open_engine(subject.engine, signature, target())


def require_never_loaded(subject: Subject, kind: type[Exception], said: str, **options: Any) -> None:
    with pytest.raises(kind, match=said):
        subject.open(**options)
    if subject.world is not None:
        assert subject.world.calls == []
