"""The pass ``bn_reestimate``: statistics against independent ones, and nothing else touched."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from accel.compress.batch_norm import GROUP, reestimate_batch_norm_
from accel.compress.bn_reestimate import BnReestimate
from accel.compress.edits import add_edit_
from accel.contracts import Batch, Job, Split
from accel.errors import DataFault, PassFault
from accel.model import RemoveBlock, Signature, TensorSpec, TorchModel

Array = NDArray[Any]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class Images:
    """One array, in batches of ``batch``, for one split; labels only if given."""

    def __init__(self, images: Array, split: Split = "training", batch: int = 10, labels: Array | None = None) -> None:
        self.images, self.split, self.batch, self.labels = images, split, batch, labels

    def has(self, split: Split) -> bool:
        return split == self.split

    def batches(self) -> Iterable[Batch]:
        for start in range(0, len(self.images), self.batch):
            labels = None if self.labels is None else self.labels[start : start + self.batch]
            yield Batch({"x": self.images[start : start + self.batch]}, labels)

    training = calibration = batches


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 5, 3)
        self.second = nn.BatchNorm2d(5, momentum=0.3)
        self.drop = nn.Dropout(0.5)
        self.untracked = nn.BatchNorm2d(5, track_running_stats=False)
        self.head = nn.Linear(5 * 36, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.untracked(self.drop(torch.relu(self.second(self.conv(self.first(x))))))
        out: Tensor = self.norm(self.head(x.flatten(1)))
        return out


NORMS = ("first", "second", "norm")


def model(batch: int | str = "batch") -> TorchModel:
    signature = Signature((TensorSpec("x", (batch, 3, 8, 8), "float32"),), (TensorSpec("y", (batch, 4), "float32"),))
    return TorchModel(module=Net().eval(), signature=signature)


def drawn(count: int) -> Array:
    return np.random.default_rng(0).normal(2.0, 3.0, (count, 3, 8, 8)).astype(np.float32)


def job(folder: Path, images: Array | None = None, **settings: Any) -> Job:
    return Job.local(folder, Images(drawn(300) if images is None else images, **settings))  # type: ignore[arg-type]


def by_torch(module: nn.Module, groups: Iterable[Array]) -> dict[str, Tensor]:
    """What PyTorch's own cumulative average gives."""
    other = copy.deepcopy(module)
    for name in NORMS:
        part = other.get_submodule(name)
        assert isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d)
        part.reset_running_stats()
        part.momentum = None
        part.train()
    with torch.no_grad():
        for group in groups:
            other(torch.from_numpy(group))
    return dict(other.named_buffers())


def test_statistics_are_pytorchs_cumulative_average(tmp_path: Path) -> None:
    images, given = drawn(2 * GROUP), model()
    result = BnReestimate(num_samples=2 * GROUP)(given, job(tmp_path, images))
    expected = by_torch(given.module, (images[:GROUP], images[GROUP:]))
    found = dict(result.module.named_buffers())
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert float(found["first.running_mean"].mean()) == pytest.approx(images.mean(), rel=1e-4)
    assert float(found["first.running_var"].mean()) == pytest.approx(images.var(), rel=0.02)
    assert result.notes == ()


def test_every_sample_counts_the_same(tmp_path: Path) -> None:
    """Three samples beyond two groups join the last: the mean is that of all samples, not of unequal groups."""
    images = drawn(2 * GROUP + 3)
    images[-3:] += 100
    result = BnReestimate(num_samples=1000)(model(), job(tmp_path, images))
    torch.testing.assert_close(
        result.module.get_buffer("first.running_mean"), torch.from_numpy(images.mean((0, 2, 3))), rtol=1e-4, atol=1e-4
    )
    assert [note for note in result.notes if "131 samples, all that training holds" in note]


def test_the_size_of_the_tasks_batches_does_not_matter(tmp_path: Path) -> None:
    results = []
    for batch in (1, 7, 300):
        (tmp_path / str(batch)).mkdir()
        torch.manual_seed(0)
        results.append(BnReestimate(num_samples=200)(model(), job(tmp_path / str(batch), batch=batch)).module.state_dict())
    assert all(torch.equal(value, other[name]) for other in results[1:] for name, value in results[0].items())


def test_nothing_but_the_statistics_changes(tmp_path: Path) -> None:
    given = model()
    add_edit_(given.module, RemoveBlock("gone"))
    before = copy.deepcopy(given.module.state_dict())
    result = BnReestimate()(given, job(tmp_path))
    after = result.module.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in given.module.state_dict().items())
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {f"{n}.{leaf}" for n in NORMS for leaf in ("running_mean", "running_var", "num_batches_tracked")}
    assert [part.training for part in result.module.modules()] == [False] * len(list(result.module.modules()))
    assert [getattr(result.module.get_submodule(name), "momentum") for name in NORMS] == [0.1, 0.3, 0.1]  # noqa: B009
    assert result.edits == (RemoveBlock("gone"),)
    assert result.signature == given.signature


def test_it_repairs_statistics_of_other_data(tmp_path: Path) -> None:
    given = model()
    images = drawn(256)
    with torch.no_grad():
        wanted = torch.from_numpy(images).mean((0, 2, 3))
        given.module.get_buffer("first.running_mean").fill_(50.0)
    result = BnReestimate()(given, job(tmp_path, images))
    torch.testing.assert_close(result.module.get_buffer("first.running_mean"), wanted, rtol=1e-4, atol=1e-4)


def test_calibration_data_serves_where_asked(tmp_path: Path) -> None:
    assert BnReestimate().needs == {"training"}
    step = BnReestimate(data="calibration", num_samples=64)
    assert step.needs == {"calibration"}
    result = step(model(), job(tmp_path, split="calibration"))
    assert float(result.module.get_buffer("first.running_mean").mean()) == pytest.approx(2.0, abs=0.2)
    with pytest.raises(DataFault, match="no training data"):
        BnReestimate()(model(), job(tmp_path, split="calibration"))


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    sizes: list[int] = []
    given = model(batch=16)
    given.module.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    result = BnReestimate(num_samples=40)(given, job(tmp_path))
    assert sizes == [16, 16]
    assert [note for note in result.notes if "32 samples" in note]
    with pytest.raises(DataFault, match="12 samples do not fill one batch of the model's fixed size 16"):
        BnReestimate(num_samples=12)(given, job(tmp_path))


@pytest.mark.parametrize(("num_samples", "warned"), [(100, True), (105, True), (300, False)])
def test_data_sorted_by_class_is_told_unless_all_of_it_is_read(tmp_path: Path, num_samples: int, warned: bool) -> None:
    """A folder of folders as it is: the first 2048 images of ImageNet are of two classes."""
    labels = np.arange(300) // 30
    step = BnReestimate(num_samples=num_samples)
    notes = step(model(), job(tmp_path, labels=labels)).notes
    assert [note for note in notes if "sorted by class" in note and "data.training.shuffle: 0" in note] == list(notes)
    assert bool(notes) == warned
    assert step(model(), job(tmp_path, labels=np.random.default_rng(0).permutation(labels))).notes == ()
    assert step(model(), job(tmp_path)).notes == ()


def test_progress_reaches_its_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    told = Job.local(tmp_path, Images(drawn(150)), progress=lambda done, total, what: seen.append((done, total)))  # type: ignore[arg-type]
    BnReestimate(num_samples=130)(model(), told)
    assert seen == [(64, 130), (130, 130)]


def test_a_norm_that_does_not_run_keeps_its_statistics(tmp_path: Path) -> None:
    given = model()
    given.module.add_module("spare", nn.BatchNorm2d(2))
    given.module.get_buffer("spare.running_mean").fill_(7.0)
    result = BnReestimate()(given, job(tmp_path))
    assert result.module.get_buffer("spare.running_mean").tolist() == [7.0, 7.0]
    assert [note for note in result.notes if "spare did not run" in note]


def test_in_training_code_flags_survive() -> None:
    net = Net().train()
    net.drop.eval()
    flags = [part.training for part in net.modules()]
    weights = copy.deepcopy(dict(net.named_parameters()))
    assert reestimate_batch_norm_(net, [torch.randn(8, 3, 8, 8), (torch.randn(4, 3, 8, 8),)]) == []
    assert [part.training for part in net.modules()] == flags
    assert all(torch.equal(value, weights[name]) for name, value in net.named_parameters())
    assert int(net.norm.num_batches_tracked or 0) == 2


# -- what is refused ----------------------------------------------------------------------------------------------------


def without_norm() -> TorchModel:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(72, 4))
    spec = TensorSpec("x", ("batch", 3, 8, 8), "float32"), TensorSpec("y", ("batch", 4), "float32")
    return TorchModel(module=net.eval(), signature=Signature(spec[:1], spec[1:]))


def test_a_model_without_batch_norm_is_refused_unless_allowed(tmp_path: Path) -> None:
    given = without_norm()
    with pytest.raises(PassFault, match="no batch norm with running statistics; remove the pass, or set allow_noop: true"):
        BnReestimate()(given, job(tmp_path))
    result = BnReestimate(allow_noop=True)(given, job(tmp_path))
    assert result.module is given.module
    assert "left as it was" in result.notes[0]


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.full((20, 3, 8, 8), np.nan, np.float32), "training sample 0: input 'x' holds NaN"),
        (np.zeros((20, 3, 9, 9), np.float32), r"has shape \(3, 9, 9\) but the model takes \(3, 8, 8\)"),
        (np.zeros((20, 3, 8, 8), np.float64), "is float64 but the model takes float32"),
        (np.zeros((0, 3, 8, 8), np.float32), "the data is empty"),
        (np.zeros((1, 3, 8, 8), np.float32), "no variance .* give more samples"),
    ],
)
def test_data_that_cannot_serve_is_refused_and_leaves_the_model_as_it_was(tmp_path: Path, images: Array, says: str) -> None:
    given = model()
    before = copy.deepcopy(given.module.state_dict())
    with pytest.raises(DataFault, match=says):
        BnReestimate()(given, job(tmp_path, images))
    assert all(torch.equal(value, before[name]) for name, value in given.module.state_dict().items())


def test_the_sample_that_is_no_number_is_named(tmp_path: Path) -> None:
    images = drawn(40)
    images[23, 1, 2, 2] = np.inf
    with pytest.raises(DataFault, match="training sample 23: input 'x' holds NaN or Inf"):
        BnReestimate()(model(), job(tmp_path, images))


def test_a_task_of_other_inputs_is_refused(tmp_path: Path) -> None:
    given = model()
    renamed = TorchModel(module=given.module, signature=Signature((TensorSpec("y", ("batch", 3, 8, 8), "float32"),), ()))
    with pytest.raises(DataFault, match=r"batches hold \['x'\] but the model takes \['y'\] too"):
        BnReestimate()(renamed, job(tmp_path))


def test_weights_that_overflow_are_named_and_what_was_there_is_put_back() -> None:
    net = Net().eval()
    with torch.no_grad():
        net.conv.weight.fill_(1e38)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(PassFault, match=r"second\.running_(mean|var) became NaN or Inf"):
        reestimate_batch_norm_(net, [torch.randn(8, 3, 8, 8) * 1e3])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(part.training for part in net.modules())


def test_bad_settings_are_refused() -> None:
    for given in ({"num_samples": 1}, {"data": "validation"}, {"samples": 3}):
        with pytest.raises(ValidationError):
            TypeAdapter(BnReestimate).validate_python(given)
