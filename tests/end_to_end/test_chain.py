"""The chain through the command a user types, on four networks: prune, distill, QAT, export, two runtimes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from accel import catalog, onnx_file
from accel.compress import saved
from accel.imports import ImportPolicy
from accel.model import QuantizeAware, Target, TorchModel
from accel.report import Report
from accel.store import Entry, Store

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Project

HERE = Path(__file__).parent
NETWORKS = ("plain", "residual", "depthwise", "transformer")
ASKED = 50
"""Per cent of the multiply-adds that shall remain."""

RECIPE = """\
version: 1
name: chain
model:
  factory: chain_networks.py:{network}
  weights: weights.safetensors
  inputs: [{{name: image, shape: [batch, 1, 28, 28]}}]
task: {{type: image_classification, metrics: [top1]}}
data:
  training: {{arrays: {{path: digits.npz}}, num_samples: 960, batch_size: 64}}
  calibration: {{arrays: {{path: digits.npz}}, num_samples: 64, batch_size: 32}}
  validation: {{arrays: {{path: digits.npz}}, skip: 960, batch_size: 100}}
passes:
  - {{type: prune, constraint: {{macs: "{asked}%"}}}}
  - type: distill
    train: {{epochs: 6, lr: 0.002, optimizer: adamw}}
  - type: quantize
    approach: qat
    teacher: baseline
    losses: [{{type: logits, weight: 0.9}}, {{type: task, weight: 0.1}}]
    train: {{epochs: 2, lr: 0.0005, optimizer: adamw}}
  - {{type: export_onnx}}
  - {{type: simplify, short_names: true}}
targets:
  - {{name: ort, backend: onnxruntime}}
  - {{name: ov, backend: openvino}}
benchmark: {{min_duration_s: 0.2, min_iterations: 20, max_duration_s: 1}}
report: {{layers: false, roofline: false}}
"""


@cache
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """1,500 of the real digits, normalised, (n, 1, 28, 28)."""
    sys.path.insert(0, str(HERE.parents[1] / "recipes"))
    try:
        from mnist_digits import digits as read  # type: ignore[import-not-found,unused-ignore]
    finally:
        sys.path.pop(0)
    images, labels = read("training")
    order = np.random.default_rng(0).permutation(len(images))[:1500]
    return ((images[order, None] / 255 - 0.13) / 0.31).astype(np.float32), labels[order]


def trained(network: str, folder: Path) -> None:
    """Weights after a minute's training of the network: enough to lose some."""
    from safetensors.torch import save_file

    script = (
        "import sys, numpy, torch, chain_networks\n"
        "torch.set_num_threads(1)\n"
        "data = numpy.load('digits.npz')\n"
        "x, y = torch.from_numpy(data['inputs'][:960]), torch.from_numpy(data['labels'][:960])\n"
        "net = getattr(chain_networks, sys.argv[1])().train()\n"
        "optimizer = torch.optim.AdamW(net.parameters(), 3e-3)\n"
        "for step in range(150):\n"
        "    chosen = torch.randint(0, 960, (64,), generator=torch.Generator().manual_seed(step))\n"
        "    loss = torch.nn.functional.cross_entropy(net(x[chosen]), y[chosen])\n"
        "    optimizer.zero_grad(); loss.backward(); optimizer.step()\n"
        "torch.save(net.state_dict(), 'weights.pt')\n"
    )
    subprocess.run([sys.executable, "-c", script, network], cwd=folder, check=True, timeout=200)
    save_file(torch.load(folder / "weights.pt", weights_only=True), folder / "weights.safetensors")


# A group for each network: its tests go to one worker of pytest-xdist, and the chain runs once.
@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(f"chain-{name}")) for name in NETWORKS]
)
def chain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, new_project: Any) -> Project:
    project: Project = new_project(tmp_path_factory.mktemp(request.param) / "a project")
    shutil.copyfile(HERE / "chain_networks.py", project.folder / "chain_networks.py")
    images, labels = digits()
    np.savez(project.folder / "digits.npz", inputs=images, labels=labels)
    trained(request.param, project.folder)
    project.recipe.write_text(RECIPE.format(network=request.param, asked=ASKED))
    done = project.accel("optimize", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture(scope="module")
def report(chain: Project) -> Report:
    return Report.model_validate_json((chain.folder / "out" / "chain" / "report.json").read_bytes())


def stored(chain: Project, report: Report, step: str) -> tuple[Entry, Mapping[str, Any]]:
    """The store's entry of one step, and the step's record."""
    record = next(each for each in report.steps if each.name == step)
    store = Store(next(path.parent for path in chain.cache.rglob("CACHEDIR.TAG")))
    entry = store.find(record.key, evict=False)
    assert entry is not None
    return entry, record.model_dump()


def module(chain: Project, report: Report, step: str) -> TorchModel:
    return saved.load_model(stored(chain, report, step)[0].folder, policy=ImportPolicy(chain.folder))


def outputs(chain: Project, name: str, backend: str, images: NDArray[np.float32]) -> NDArray[Any]:
    model = onnx_file.read(chain.folder / "out" / "chain" / "targets" / name / "model.onnx")
    target = Target("check", backend, batch=len(images))  # fixed, as it is measured and as the report's script has it
    with catalog.backend(backend).compile(model, target, chain.folder) as runner:
        (found,) = runner({"image": images})
    return np.asarray(found)


def macs(net: torch.nn.Module) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 1, 28, 28))
    return float(counter.get_total_flops()) / 2


def test_the_training_is_done_once_for_both_runtimes(report: Report) -> None:
    for name in ("prune", "distill", "quantize/qat"):
        assert len({step.key for step in report.steps if step.name == name}) == 1, name


def test_multiply_adds_are_within_three_points_of_what_was_asked(chain: Project, report: Report) -> None:
    sys.path.insert(0, str(chain.folder))
    try:
        import chain_networks  # type: ignore[import-not-found,unused-ignore]
    finally:
        sys.path.pop(0)
    factory = getattr(
        chain_networks,
        json.loads((stored(chain, report, "prune")[0].folder / "edits.json").read_text())["origin"]["factory"].partition(":")[
            2
        ],
    )
    remaining = 100 * macs(module(chain, report, "prune").module) / macs(factory())
    assert abs(remaining - ASKED) <= 3.0, f"{remaining:.1f} % remain"


@pytest.mark.parametrize("step", ["prune", "distill", "quantize/qat"])
def test_each_model_on_the_way_loads_and_can_be_trained_further(chain: Project, report: Report, step: str) -> None:
    model = module(chain, report, step)
    images = torch.from_numpy(digits()[0][:8])
    model.module.train()
    loss = model.module(images).square().mean()
    loss.backward()
    gradients = [parameter.grad for parameter in model.module.parameters() if parameter.grad is not None]
    assert gradients and any(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize(("target", "backend"), [("ort", "onnxruntime"), ("ov", "openvino")])
def test_the_shipped_file_computes_what_the_fake_quantized_module_does(
    chain: Project, report: Report, target: str, backend: str
) -> None:
    trained_model = module(chain, report, "quantize/qat")
    assert isinstance(trained_model.edits[-1], QuantizeAware)
    images = digits()[0][960:1216]
    with torch.no_grad():
        wanted = trained_model.module(torch.from_numpy(images)).numpy()
    found = outputs(chain, target, backend, images)
    spread = wanted.max() - wanted.min()
    # A value on the edge between two INT8 steps may be rounded the other way: an error of one step, which does not grow.
    assert np.abs(found - wanted).mean() < 0.01 * spread
    assert (found.argmax(1) == wanted.argmax(1)).mean() >= 0.98


@pytest.mark.parametrize("target", ["ort", "ov"])
def test_int8_operators_really_run(chain: Project, report: Report, target: str) -> None:
    row = next(row for row in report.rows if row.name == target)
    assert row.status == "measured", row.reason
    assert row.precision is not None
    assert row.precision.quantized_operators >= 4
    # OpenVINO multiplies two activations in float, whoever quantized them: two products in each of two attention layers.
    products = 4 if target == "ov" and "chain_networks.py:transformer" in chain.recipe.read_text() else 0
    assert row.precision.int8_operators == row.precision.quantized_operators - products, row.precision


def test_it_is_smaller_than_a_quarter_and_still_knows_its_digits(report: Report) -> None:
    rows = {row.name: row for row in report.rows}
    for name in ("ort", "ov"):
        assert rows[name].size_bytes < 0.5 * rows[f"{name} fp32 baseline"].size_bytes  # type: ignore[operator]
        assert rows[name].metrics[0].value > rows["eager fp32"].metrics[0].value - 0.10
