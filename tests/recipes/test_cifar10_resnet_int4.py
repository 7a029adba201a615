from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
import torch

from accel.accelerate.onnxruntime_session import OnnxRuntime
from accel.compress.export_onnx import ExportOnnx
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.compress.repair_settings import AdaRound, StaticWeights
from accel.contracts import Batch, Job
from accel.model import OnnxModel, Signature, TensorSpec, TorchModel
from accel.recipe.settings import Recipe
from accel.tasks.image_classification import ImageClassification
from accel.tasks.settings import ImageClassificationSettings

if TYPE_CHECKING:
    from tests.recipes.conftest import Shipped

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
NAME = "cifar10_resnet_int4.yaml"
IMAGES = 1000


def recipe_with(shipped: Shipped, weights: Path, data: Path, *more: str) -> Recipe:
    return shipped.recipe(
        NAME,
        f"model.weights={weights}",
        f"data.calibration.arrays.path={data}",
        f"data.validation.arrays.path={data}",
        *more,
    )


def test_the_recipe_is_valid_and_says_when_to_use_it(shipped: Shipped, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.touch()
    recipe = recipe_with(shipped, there, there, "passes.2.weights.bits=3")
    assert [target.backend for target in recipe.targets_resolved()] == ["onnxruntime", "openvino"]
    target = recipe.targets_resolved()[0]
    key, quantize = recipe.passes_for(target)[-1]
    assert key == "quantize/static/onnxruntime" and isinstance(quantize, QuantizeStaticOnnxRuntime)
    assert quantize.weights == StaticWeights(dtype="int4", bits=3) and quantize.adaround == AdaRound(iterations=600)
    header = (FOLDER / NAME).read_text(encoding="utf-8").split("\nversion:", maxsplit=1)[0]
    assert "# When to use it:" in header and "size, not speed" in header
    assert f"accel optimize recipes/{NAME}" in header
    assert f"<!-- results:{NAME.removesuffix('.yaml')} -->" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_plain_rounding_is_one_word_away(shipped: Shipped, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.touch()
    recipe = recipe_with(shipped, there, there, "passes.2.adaround=null")
    target = recipe.targets_resolved()[0]
    quantize = recipe.passes_for(target)[-1][1]
    assert isinstance(quantize, QuantizeStaticOnnxRuntime) and quantize.adaround is None


@pytest.mark.shared_data
@pytest.mark.slow
def test_three_bits_learned_lose_less_than_6_points_where_plain_ones_lose_a_quarter(
    shipped: Shipped, shared: Path, tmp_path: Path
) -> None:
    """On 1,000 of the 5,000 test images, with 128 of 512 calibration images and a fifth of the steps."""
    recipe = recipe_with(
        shipped,
        shared / "models" / "cifar10_resnet20_jpegft.safetensors",
        shared / "data" / "cifar10_jpeg.npz",
        "data.calibration.num_samples=128",
        f"data.validation.num_samples={IMAGES}",
    )
    assert isinstance(recipe.task, ImageClassificationSettings)
    assert recipe.model.factory is not None and recipe.model.weights is not None
    signature = Signature(
        tuple(TensorSpec(entry.name, tuple(entry.shape), entry.dtype) for entry in recipe.model.inputs),
        (TensorSpec("logits", ("batch", 10), "float32"),),
    )
    task = ImageClassification(recipe.task, recipe.data, policy=shipped.policy, inputs=signature, seed=recipe.seed)
    module = shipped.module(recipe.model.factory, FOLDER / recipe.model.weights)
    model = ExportOnnx()(TorchModel(module=module, signature=signature), _job(tmp_path, "float"))
    batches = list(task.validation())
    scores = {"float": top1(model, batches)}
    for name, adaround in (("plain", None), ("learned", AdaRound(iterations=120))):
        step = QuantizeStaticOnnxRuntime(weights=StaticWeights(dtype="int4", bits=3), adaround=adaround)
        scores[name] = top1(step(model, _job(tmp_path, name, task)), batches)
    assert scores["plain"] < scores["float"] - 0.15
    assert scores["learned"] > scores["float"] - 0.06
    assert torch.is_grad_enabled(), "learning leaves torch as it was"


def _job(folder: Path, name: str, task: ImageClassification | None = None) -> Job:
    there = folder / name
    there.mkdir()

    def execute(path: Path, inputs: object) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        found: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = session(path).run(None, inputs)
        return found

    return Job.local(there, task=task, profile=OnnxRuntime.quantization, execute=execute)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def top1(model: OnnxModel, batches: Iterable[Batch]) -> float:
    running = session(model.path)
    right = []
    for batch in batches:
        answers = running.run(None, {name: np.asarray(value) for name, value in batch.inputs.items()})[0].argmax(axis=1)
        right.append(answers == batch.labels)
    return float(np.concatenate(right).mean())
