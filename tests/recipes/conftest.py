"""The shipped recipes as the tool reads them: their code, their weights, their data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from accel.imports import ImportPolicy, load
from accel.model import Signature, TensorSpec
from accel.recipe.reader import read
from accel.recipe.settings import Recipe
from accel.tasks.image_classification import ImageClassification
from accel.tasks.settings import ImageClassificationSettings

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Shipped:
    """The folder ``recipes``, and what the tests ask of it."""

    folder: Path

    @property
    def policy(self) -> ImportPolicy:
        return ImportPolicy(self.folder)

    def function(self, reference: str) -> Callable[..., Any]:
        """What ``file.py:name`` means in a recipe."""
        return load(reference, self.policy)

    def recipe(self, name: str, *overrides: str) -> Recipe:
        return read(self.folder / name, overrides)

    def module(self, factory: str, weights: Path | None = None) -> nn.Module:
        """In evaluation mode; ``weights`` loaded strictly."""
        built = self.function(factory)()
        assert isinstance(built, nn.Module)
        if weights is not None:
            built.load_state_dict(load_file(weights), strict=True)
        return built.eval()

    def top1(self, recipe: Recipe, split: Literal["calibration", "validation"] = "validation") -> tuple[float, int]:
        """What the recipe's untouched module gets right of its own data, as a fraction, and of how many samples."""
        assert isinstance(recipe.task, ImageClassificationSettings)
        assert recipe.model.factory is not None
        assert recipe.model.weights is not None
        module = self.module(recipe.model.factory, self.folder / recipe.model.weights)
        inputs = Signature(tuple(TensorSpec(entry.name, entry.shape, entry.dtype) for entry in recipe.model.inputs), ())
        task = ImageClassification(recipe.task, recipe.data, policy=self.policy, inputs=inputs, seed=recipe.seed)
        right = count = 0
        with torch.inference_mode():
            for batch in task.validation() if split == "validation" else task.calibration():
                assert batch.labels is not None
                answers = module(torch.from_numpy(batch.inputs[recipe.model.inputs[0].name])).argmax(1)
                right += int((answers == torch.from_numpy(batch.labels)).sum())
                count += len(answers)
        return right / count, count

    @staticmethod
    def multiply_adds(module: nn.Module, *shape: int) -> float:
        """Of the convolutions and matrix products for one input."""
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            module(torch.zeros(shape))
        return float(counter.get_total_flops()) / 2

    @staticmethod
    def parameters(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    @staticmethod
    def metadata(path: Path) -> dict[str, str]:
        """Of a safetensors file."""
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})


@pytest.fixture(scope="session")
def shipped() -> Shipped:
    return Shipped(ROOT / "recipes")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared data and models."""
    folder = ROOT.parent / "shared"
    if not (folder / "models").is_dir():
        pytest.skip(f"no shared data: {folder} is not there")
    return folder
