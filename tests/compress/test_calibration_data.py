from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from accel.compress.calibration_data import calibration_samples
from accel.compress.same_outputs import example_inputs
from accel.contracts import Batch, Job, Task
from accel.errors import DataFault
from accel.model import Signature, TensorSpec

Array = NDArray[Any]
MakeJob = Callable[..., Job]
MakeTask = Callable[..., Task]
SIGNATURE = Signature((TensorSpec("image", ("batch", 1, 2, 2), "float32"),), ())


def ramp(count: int) -> Array:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 1, 2, 2)


def test_single_samples_in_order_at_most_num_samples(make_job: MakeJob, make_task: MakeTask) -> None:
    samples = calibration_samples(make_job(task=make_task(ramp(10), batch=4)), SIGNATURE, 7)
    assert samples.notes == ()
    for _ in range(2):
        got = [group["image"] for group in samples]
        assert len(got) == len(samples) == 7
        np.testing.assert_array_equal(np.concatenate(got), ramp(7))


def test_a_model_that_takes_float16_is_given_the_same_samples_so(make_job: MakeJob, make_task: MakeTask) -> None:
    half = Signature((TensorSpec("image", ("batch", 1, 2, 2), "float16"),), ())
    job = make_job(task=make_task(ramp(3)))
    for got in (
        np.concatenate([group["image"] for group in calibration_samples(job, half, 3)]),
        example_inputs(half, job, 3)["image"],
    ):
        assert got.dtype == np.float16
        np.testing.assert_array_equal(got, ramp(3).astype(np.float16))
    whole = Signature((TensorSpec("image", ("batch", 1, 2, 2), "int64"),), ())
    with pytest.raises(DataFault, match="is float32 but the model takes int64"):
        calibration_samples(job, whole, 3)


def test_no_data_is_an_error_never_noise(make_job: MakeJob, make_task: MakeTask) -> None:
    for task in (None, make_task(None)):
        with pytest.raises(DataFault, match=r"there is none; set data\.calibration"):
            calibration_samples(make_job(task=task), SIGNATURE, 5)


def test_empty(make_job: MakeJob, make_task: MakeTask) -> None:
    with pytest.raises(DataFault, match="empty"):
        calibration_samples(make_job(task=make_task(ramp(0))), SIGNATURE, 5)


def test_fewer_than_asked_for_is_noted(make_job: MakeJob, make_task: MakeTask) -> None:
    samples = calibration_samples(make_job(task=make_task(ramp(3))), SIGNATURE, 5)
    assert samples.notes == ("calibration: 3 samples, all that the split holds (num_samples is 5)",)


def test_one_sample_is_warned_about(make_job: MakeJob, make_task: MakeTask) -> None:
    samples = calibration_samples(make_job(task=make_task(ramp(1))), SIGNATURE, 1)
    assert any(note.startswith("warning: calibration: one sample") for note in samples.notes)


@pytest.mark.parametrize(("value", "words"), [(0.0, "all zero"), (0.5, "the constant 0.5")])
def test_constant_data_is_warned_about(value: float, words: str, make_job: MakeJob, make_task: MakeTask) -> None:
    task = make_task(np.full((4, 1, 2, 2), value, dtype=np.float32))
    notes = calibration_samples(make_job(task=task), SIGNATURE, 4).notes
    assert notes == (f"warning: calibration: input 'image' is {words} in every sample; the ranges mean nothing",)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_names_the_sample(value: float, make_job: MakeJob, make_task: MakeTask) -> None:
    images = ramp(12)
    images[9, 0, 1, 1] = value
    with pytest.raises(DataFault, match="calibration sample 9: input 'image' holds NaN or Inf"):
        calibration_samples(make_job(task=make_task(images)), SIGNATURE, 12)


def test_wrong_shape_names_the_sample(make_job: MakeJob, make_task: MakeTask) -> None:
    with pytest.raises(DataFault, match=r"sample 0: input 'image' has shape \(1, 3, 2\) but the model takes \(1, 2, 2\)"):
        calibration_samples(make_job(task=make_task(np.zeros((4, 1, 3, 2), np.float32))), SIGNATURE, 4)


def test_wrong_type_names_the_sample(make_job: MakeJob, make_task: MakeTask) -> None:
    with pytest.raises(DataFault, match="sample 0: input 'image' is float64 but the model takes float32"):
        calibration_samples(make_job(task=make_task(ramp(4).astype(np.float64))), SIGNATURE, 4)


def test_missing_input_is_named(make_job: MakeJob, make_task: MakeTask) -> None:
    two = Signature((*SIGNATURE.inputs, TensorSpec("mask", ("batch",), "float32")), ())
    with pytest.raises(DataFault, match=r"batches hold \['image'\] but the model takes \['mask'\]"):
        calibration_samples(make_job(task=make_task(ramp(4))), two, 4)


def test_an_endless_generator_is_read_only_as_far_as_needed(make_job: MakeJob, make_task: MakeTask) -> None:
    task = make_task(ramp(4))

    def endless() -> Iterable[Batch]:
        while True:
            yield Batch({"image": ramp(4)})

    task.calibration = endless  # type: ignore[method-assign]
    assert len(list(calibration_samples(make_job(task=task), SIGNATURE, 10))) == 10


def test_a_fixed_batch_is_filled(make_job: MakeJob, make_task: MakeTask) -> None:
    fixed = Signature((TensorSpec("image", (4, 1, 2, 2), "float32"),), ())
    samples = calibration_samples(make_job(task=make_task(ramp(10), batch=3)), fixed, 10)
    groups = [group["image"] for group in samples]
    assert [group.shape[0] for group in groups] == [4, 4]
    np.testing.assert_array_equal(np.concatenate(groups), ramp(8))
    assert any("last 2 samples do not fill" in note for note in samples.notes)
    with pytest.raises(DataFault, match="3 samples do not fill one batch of the model's fixed size 4"):
        calibration_samples(make_job(task=make_task(ramp(3))), fixed, 3)
