"""Statistics are accumulated sample by sample: the peak of memory does not depend on how many samples there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

PROGRAM = """
import sys, tempfile
from pathlib import Path
import numpy as np
from accel import onnx_file
from accel.compress.calibration import Calibration, NncfCalibration
from accel.compress.quantize_nncf import QuantizeStaticNncf
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.contracts import Batch, Job, QuantizationProfile

how, model = sys.argv[1], onnx_file.read(Path(sys.argv[2]))

class Task:
    def __init__(self, count):
        self.count = count
    def has(self, split):
        return split == "calibration"
    def calibration(self):
        for seed in range(self.count):
            yield Batch({"image": np.random.default_rng(seed).standard_normal((1, 1, 256, 256), np.float32)})

def quantize(count):
    job = Job.local(Path(tempfile.mkdtemp(dir=Path(sys.argv[2]).parent)), Task(count),
                    profile=QuantizationProfile("uint8", False, "per_channel", "int32", True, "onnxruntime"))
    if how == "nncf":
        QuantizeStaticNncf(calibration=NncfCalibration(num_samples=count))(model, job)
    elif how == "library":
        from onnxruntime.quantization import CalibrationMethod, create_calibrator
        calibrator = create_calibrator(model.path, None, str(job.folder / "a.onnx"), CalibrationMethod.Percentile)
        samples = (dict(batch.inputs) for batch in Task(count).calibration())
        class Reader:
            def get_next(self):
                return next(samples, None)
        calibrator.collect_data(Reader())
    else:
        QuantizeStaticOnnxRuntime(calibration=Calibration(method=how, num_samples=count))(model, job)

def peak_mib():
    # Of this program alone: ru_maxrss begins with the memory of whom it was forked from.
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))

quantize(3)
few = peak_mib()
quantize(33)
print(few, peak_mib())
"""
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
KEPT_MIB = 30 * 8 * 256 * 256 * 4 * 3 >> 20
"""What thirty samples more would take if the three values of eight channels were kept."""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions of eight channels on 256 x 256."""
    drawn = np.random.default_rng(0)
    weights = [drawn.standard_normal(shape).astype(np.float32) for shape in ((8, 1, 3, 3), (8, 8, 3, 3))]
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["a"], "a", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "b"),
        helper.make_node("Conv", ["b", "w1"], ["out"], "c", pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 256, 256])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 8, 256, 256])],
        [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)],
    )
    path = tmp_path_factory.mktemp("wide") / "wide.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))
    return path


def grown_mib(how: str, path: Path) -> int:
    """How much higher the peak of a process is after 33 samples than after 3."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM, how, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    few, many = map(int, done.stdout.split()[-2:])
    return many - few


@pytest.mark.parametrize("how", ["minmax", "percentile", "entropy", "nncf"])
def test_the_peak_does_not_grow_with_the_number_of_samples(how: str, wide: Path) -> None:
    assert grown_mib(how, wide) < KEPT_MIB / 4


def test_the_librarys_own_way_does_and_this_sees_it(wide: Path) -> None:
    assert grown_mib("library", wide) > KEPT_MIB / 2
