"""Data that is hostile, broken, odd or changed, from the command line to the report (faults 32, 38 to 41)."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Project

RECIPE = """\
version: 1
name: small
model: {{path: model.onnx}}
task: {{type: image_classification, metrics: {metrics}, preprocess: {preprocess}}}
data: {{calibration: {calibration}{validation}}}
passes: {passes}
targets: [{{name: ort, backend: onnxruntime}}]
benchmark: {{min_duration_s: 0.1, min_iterations: 10, warmup: 1, max_duration_s: 1}}
"""
QUANTIZE = "[{type: quantize, approach: static}]"
ARRAYS = "{arrays: {path: data.npz}}"
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (24, 24, 24, 3)).astype(np.uint8)
LABELS = np.arange(24) % 4
READY = RANDOM.standard_normal((24, 3, 24, 24)).astype(np.float32)

Prepare = Callable[..., "Project"]


@pytest.fixture(scope="module")
def exported(finished: Project) -> bytes:
    """The network of the tests as a plain ONNX file: runs that start from it need no torch."""
    for path in (finished.cache / "accel" / "steps").glob("*/files/model.onnx"):
        if not any(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node):
            return path.read_bytes()
    raise AssertionError("no FP32 file is in the store")


@pytest.fixture
def prepare(new_project: Callable[[Path], Project], exported: bytes, tmp_path: Path) -> Prepare:
    """A project that takes the ONNX file through a quantization, with the given data."""

    def make(
        calibration: str = ARRAYS,
        validation: str | None = None,
        *,
        preprocess: str = "{color: rgb}",
        metrics: str = "[top1]",
        passes: str = QUANTIZE,
    ) -> Project:
        project = new_project(tmp_path / "p")
        (project.folder / "model.onnx").write_bytes(exported)
        project.recipe.write_text(
            RECIPE.format(
                metrics=metrics,
                preprocess=preprocess,
                calibration=calibration,
                validation="" if validation is None else f", validation: {validation}",
                passes=passes,
            )
        )
        return project

    return make


def refused(project: Project, code: int, *said: str, benchmark: bool = False) -> None:
    done = project.accel("optimize", "recipe.yaml", "--benchmark" if benchmark else "--no-benchmark")
    assert done.returncode == code, done.stderr
    for text in said:
        assert text in done.stderr, done.stderr
    assert "Traceback (most recent call last)" not in done.stderr
    if not benchmark:
        assert not project.out.exists()


def warned(project: Project) -> str:
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark", "--json")
    assert done.returncode == 0, done.stderr
    return "\n".join(json.loads(done.stdout)["warnings"])


# -- 32 ---------------------------------------------------------------------------------------------------------------


def image_bytes(pixels: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("../outside.png", tarfile.REGTYPE, "reaches outside the tar"),
        ("/etc/passwd", tarfile.REGTYPE, "is an absolute name"),
        ("link.png", tarfile.SYMTYPE, "is a symbolic link"),
        ("hard.png", tarfile.LNKTYPE, "is a hard link"),
        ("null", tarfile.CHRTYPE, "is a device"),
        ("disk", tarfile.BLKTYPE, "is a device"),
        ("pipe", tarfile.FIFOTYPE, "is a named pipe"),
    ],
)
def test_a_tar_with_an_entry_that_reaches_outside(prepare: Prepare, name: str, kind: bytes, said: str) -> None:
    project = prepare("{tar: {path: data.tar, csv: labels.csv}}")
    with tarfile.open(project.folder / "data.tar", "w") as archive:
        content = {"labels.csv": b"file,label\na.png,0\n", "a.png": image_bytes(PIXELS[0])}
        for entry, data in content.items():
            record = tarfile.TarInfo(entry)
            record.size = len(data)
            archive.addfile(record, io.BytesIO(data))
        record = tarfile.TarInfo(name)
        record.type = kind
        record.linkname = "/etc/passwd"
        archive.addfile(record, io.BytesIO(b""))
    refused(project, 5, "data.tar: entry ", said)


# -- 38: calibration that cannot be right -----------------------------------------------------------------------------


def test_no_samples(prepare: Prepare) -> None:
    project = prepare()
    np.savez(project.folder / "data.npz", inputs=PIXELS[:0])
    refused(project, 4, "data.calibration: is empty: the source holds no samples")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sample_that_is_not_finite(prepare: Prepare, value: float) -> None:
    project = prepare(preprocess="null")
    bad = READY.copy()
    bad[13, 2, 0, 4] = value
    np.savez(project.folder / "data.npz", inputs=bad)
    refused(project, 4, f"data.calibration: sample 13 (data.npz: inputs[13]): {value} at (2, 0, 4)")


def test_a_wrong_shape(prepare: Prepare) -> None:
    project = prepare(preprocess="null")
    np.savez(project.folder / "data.npz", inputs=READY[:, :, :20])
    refused(project, 4, "data.calibration: sample 0 ", "(3, 20, 24)", "(3, 24, 24)")


def test_a_wrong_dtype(prepare: Prepare) -> None:
    project = prepare(preprocess="null")
    np.savez(project.folder / "data.npz", inputs=(READY * 10).astype(np.int8))
    refused(project, 4, "data.calibration: sample 0 ", "is int8", "takes float32")


def test_a_corrupt_image_in_the_middle(prepare: Prepare) -> None:
    project = prepare("{folder: images}")
    (project.folder / "images").mkdir()
    for index in range(5):
        (project.folder / "images" / f"{index}.png").write_bytes(image_bytes(PIXELS[index])[: 60 if index == 3 else None])
    refused(project, 4, "data.calibration: sample 3 (", "3.png): cannot be read as an image")


def test_a_generator_that_raises_at_an_item(prepare: Prepare) -> None:
    project = prepare("{factory: data.py:data}")
    (project.folder / "data.py").write_text(
        "import numpy as np\n\ndef data():\n    for i in range(9):\n"
        "        if i == 7:\n            raise ValueError('no more')\n"
        "        yield np.full((24, 24, 3), i, np.uint8), 0\n"
    )
    refused(project, 4, "data.calibration: sample 7 (data.py:data): raised ValueError", "no more")


def test_an_infinite_generator_is_read_as_far_as_asked(prepare: Prepare) -> None:
    project = prepare("{factory: data.py:data, num_samples: 20}")
    (project.folder / "data.py").write_text(
        "import itertools, numpy as np\n\ndef data():\n    for i in itertools.count():\n"
        "        yield np.arange(i, i + 24 * 24 * 3).reshape(24, 24, 3).astype(np.uint8), 0\n"
    )
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("label", [4, -1])
def test_a_label_out_of_range(prepare: Prepare, label: int) -> None:
    project = prepare(validation="{arrays: {path: judged.npz}}", passes="[]")
    np.savez(project.folder / "data.npz", inputs=PIXELS)
    labels = LABELS.copy()
    labels[17] = label
    np.savez(project.folder / "judged.npz", inputs=PIXELS, labels=labels)
    refused(project, 4, f"sample 17 (judged.npz: inputs[17]): label {label}", benchmark=True)


# -- 38: calibration that looks odd -----------------------------------------------------------------------------------


def test_one_sample(prepare: Prepare) -> None:
    project = prepare()
    np.savez(project.folder / "data.npz", inputs=PIXELS[:1])
    assert "data.calibration: has 1 sample only" in warned(project)


@pytest.mark.parametrize("value", [0, 7])
def test_constant_samples(prepare: Prepare, value: int) -> None:
    project = prepare()
    np.savez(project.folder / "data.npz", inputs=np.full_like(PIXELS, value))
    assert "data.calibration: all 24 samples are constant" in warned(project)


def test_raw_pixels_where_a_normalised_input_is_meant(prepare: Prepare) -> None:
    project = prepare(preprocess="null")
    np.savez(project.folder / "data.npz", inputs=np.abs(READY) * 80)
    assert "are they raw pixels (0..255)?" in warned(project)


def test_a_warning_stays_when_the_step_is_stored(prepare: Prepare) -> None:
    project = prepare()
    np.savez(project.folder / "data.npz", inputs=PIXELS[:1])
    assert "data.calibration: has 1 sample only" in warned(project)
    assert "data.calibration: has 1 sample only" in warned(project)


# -- 38, 39: what a measured run says ---------------------------------------------------------------------------------


def test_one_class_only_and_splits_that_overlap(prepare: Prepare) -> None:
    project = prepare(validation="{arrays: {path: judged.npz}}", passes="[]")
    np.savez(project.folder / "data.npz", inputs=PIXELS)
    np.savez(project.folder / "judged.npz", inputs=PIXELS[::-1][:10], labels=np.full(10, 2))
    done = project.accel("optimize", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    said = "\n".join(json.loads((project.out / "report.json").read_text())["warnings"])
    assert "data.validation: all labels are 2; accuracy on one class says little" in said
    assert "calibration and validation share 10 of 10 samples" in said
    shown = (project.out / "report.md").read_text()
    assert "share 10 of 10 samples" in shown
    assert "all labels are 2" in shown


# -- 40 ---------------------------------------------------------------------------------------------------------------


def states(project: Project) -> list[str]:
    planned = json.loads(project.accel("plan", "recipe.yaml", "--json").stdout)
    return [step["state"] for step in planned["targets"][0]["steps"]]


def test_changed_data_is_never_a_stale_hit(prepare: Prepare) -> None:
    project = prepare()
    np.savez(project.folder / "data.npz", inputs=PIXELS)
    assert project.accel("optimize", "recipe.yaml", "--no-benchmark").returncode == 0
    assert states(project) == ["cached"]
    changed = PIXELS.copy()
    changed[23, 0, 0, 0] ^= 1
    np.savez(project.folder / "data.npz", inputs=changed)
    assert states(project) == ["to run"]
    np.savez(project.folder / "data.npz", inputs=PIXELS)
    assert states(project) == ["cached"]


def test_changed_data_of_a_factory_is_never_a_stale_hit(prepare: Prepare) -> None:
    project = prepare("{factory: data.py:data}")
    np.savez(project.folder / "read.npz", inputs=PIXELS)
    (project.folder / "data.py").write_text(
        "import numpy as np\nfrom pathlib import Path\n\ndef data():\n"
        "    return np.load(Path(__file__).with_name('read.npz'))['inputs'], None\n"
    )

    def cached() -> bool:
        done = project.accel("optimize", "recipe.yaml", "--no-benchmark", "--json")
        assert done.returncode == 0, done.stderr
        (step,) = json.loads(done.stdout)["steps"]
        return bool(step["cached"])

    assert [cached(), cached()] == [False, True]
    np.savez(project.folder / "read.npz", inputs=255 - PIXELS)
    assert not cached()


# -- 41 ---------------------------------------------------------------------------------------------------------------


def test_a_metric_that_is_nan_is_never_a_result(prepare: Prepare) -> None:
    project = prepare(validation="{arrays: {path: judged.npz}}", passes="[]", metrics='[top1, "judge.py:metric"]')
    np.savez(project.folder / "data.npz", inputs=PIXELS)
    np.savez(project.folder / "judged.npz", inputs=PIXELS, labels=LABELS)
    (project.folder / "judge.py").write_text("def metric(outputs, labels):\n    return float('nan')\n")
    refused(project, 4, "judge.py:metric", "nan", benchmark=True)
    if project.out.exists():
        rows = json.loads((project.out / "report.json").read_text())["rows"]
        assert {row["status"] for row in rows} == {"failed"}
