"""What a recipe says, as checked values. Light: pydantic only; the passes' own settings are checked by their classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from accel import catalog
from accel.benchmarks.gate_settings import GateSettings
from accel.contracts import Pass
from accel.model import Target
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.recipe.passes import PassEntry, gives_file, kind_for_backend, leaf_for
from accel.tasks.settings import DataSettings, PositiveInt, TaskSettings

VERSION = 1

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


Format = Literal["json", "md", "html", "junit", "github-action-benchmark", "bencher"]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class About(_Settings):
    """Goes into each target's manifest."""

    version: Annotated[str, Field(description="Version of the model, in quotes")] = "0.0.0"
    author: str = ""
    description: str = ""


class Sizes(_Settings):
    """The range of an axis that varies."""

    min: PositiveInt
    opt: PositiveInt
    max: PositiveInt


class InputSettings(_Settings):
    """One input of the model."""

    name: Annotated[str, Field(min_length=1, description="Name in the exported file")]
    shape: Annotated[
        tuple[PositiveInt | Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...],
        Field(min_length=1, description="A number is fixed, a name (batch) is an axis that varies"),
    ]
    dtype: Literal["float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"] = "float32"
    dynamic: Annotated[
        dict[str, Sizes],
        Field(description="For TensorRT profiles, other runtimes take any size: {batch: {min: 1, opt: 8, max: 32}}"),
    ] = Field(default_factory=dict)


class ModelSettings(_Settings):
    """The model to start from: exactly one of ``factory``, ``torchvision`` and ``path``."""

    factory: Annotated[str | None, Field(description="file.py:name beside the recipe, or package.module:name")] = None
    torchvision: Annotated[str | None, Field(description="Name of a torchvision model, such as resnet18")] = None
    path: Annotated[str | None, Field(description="An .onnx file")] = None
    kwargs: Annotated[dict[str, Any], Field(description="Arguments of the factory")] = Field(default_factory=dict)
    weights: Annotated[str | None, Field(description="safetensors, or a state dict (read with weights_only=True)")] = None
    inputs: Annotated[tuple[InputSettings, ...], Field(description="Not for an .onnx, which names its own")] = ()


class TargetSettings(_Settings):
    """Where the result will run."""

    name: Annotated[FileName, Field(description="Folder of its files; by default the backend's name")]
    backend: str
    device: Annotated[Literal["cpu", "gpu", "npu"], Field(description="By default cpu, or what the backend has instead")] = (
        "cpu"
    )
    precision: Annotated[
        Literal["fp32", "fp16", "bf16"], Field(description="Of what is not quantized; INT8 comes from a quantize pass")
    ] = "fp32"
    optional: Annotated[bool, Field(description="Skip the target where its backend is not here")] = False
    options: Annotated[dict[str, Any], Field(description="The backend's own")] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _own_device(cls, given: Any) -> Any:
        """TensorRT has no CPU, and who names it need not say so."""
        if not isinstance(given, Mapping) or "device" in given or given.get("backend") not in catalog.backends():
            return given
        try:
            devices = catalog.backend(given["backend"]).devices
        except (ImportError, AttributeError):  # reported where targets are checked
            return given
        return given if "cpu" in devices else {**given, "device": devices[0]}


class ReportSettings(_Settings):
    """``report.json`` is written in any case."""

    formats: Annotated[
        tuple[Format, ...], Field(description="Of the report, besides report.json; junit: junit.xml, a test case for each gate")
    ] = ("json", "md", "html")
    layers: Annotated[bool, Field(description="Time each layer once more with the runtimes' profilers on")] = True
    samples: Annotated[
        int,
        Field(
            ge=0, le=50, description="Samples that differ most, for each row, with pictures in report.json and .html; 0: none"
        ),
    ] = 6
    roofline: Annotated[bool, Field(description="How far rows are from the machine's own peak, measured once")] = True


class Recipe(_Settings):
    """A whole recipe, checked. Equal to another that says the same from the same file, whatever notes reading it gave."""

    version: Annotated[Literal[1], Field(description="Of the recipe format")]
    name: Annotated[FileName, Field(description="Folder of the results; by default the file's name")]
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    output_dir: Annotated[str, Field(min_length=1, description="Results go to <output_dir>/<name>")] = "out"
    cache_dir: Annotated[str | None, Field(min_length=1, description="By default the user's cache folder")] = None
    about: About = Field(default_factory=About)
    model: ModelSettings
    task: Annotated[TaskSettings | None, Field(description="What the model is for, and how it is judged")] = None
    data: DataSettings = Field(default_factory=DataSettings)
    passes: Annotated[tuple[PassEntry, ...], Field(description="In order; may be empty")] = ()
    targets: Annotated[tuple[TargetSettings, ...], Field(min_length=1)]
    benchmark: BenchmarkSettings = Field(default_factory=BenchmarkSettings)
    gates: Annotated[tuple[GateSettings, ...], Field(description="Limits that the results keep, or the run fails")] = ()
    report: ReportSettings = Field(default_factory=ReportSettings)

    _path: Path = PrivateAttr(default=Path("recipe.yaml"))
    _notes: tuple[str, ...] = PrivateAttr(default=())
    _gate_places: tuple[tuple[int, int], ...] = PrivateAttr(default=())

    @property
    def path(self) -> Path:
        """The recipe's file, absolute. It need not exist: a run without a recipe names where it would be."""
        return self._path

    @property
    def folder(self) -> Path:
        """What relative paths in the recipe are relative to."""
        return self._path.parent

    @property
    def cache_folder(self) -> Path | None:
        """The recipe's own store of finished steps; None where the user's is meant."""
        return None if self.cache_dir is None else self.folder / self.cache_dir

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader took for something else, for the report: aliases, absolute paths."""
        return self._notes

    @property
    def gate_places(self) -> tuple[tuple[int, int], ...]:
        """Line and column of each gate in the recipe's file, for annotations; (0, 0) or absent where it is not from there."""
        return self._gate_places

    def at(self, path: Path, notes: tuple[str, ...] = (), gate_places: tuple[tuple[int, int], ...] = ()) -> Recipe:
        """The same recipe as read from ``path``."""
        recipe = self.model_copy()
        recipe._path, recipe._notes, recipe._gate_places = path, notes, gate_places
        return recipe

    def with_gates(self, gates: Sequence[GateSettings]) -> Recipe:
        """The same recipe with ``gates`` after its own. They are checked by whoever made them."""
        return self.model_copy(update={"gates": (*self.gates, *gates)})

    def document(self) -> dict[str, Any]:
        """The recipe as plain JSON data with every default written out; ``reader.from_document`` gives an equal recipe."""
        document = _plain(self)
        assert isinstance(document, dict)
        return document

    def passes_for(self, target: Target | TargetSettings) -> tuple[tuple[str, Pass], ...]:
        """Catalogue key and pass, in order; where no engine is named, the target's backend decides.

        A target that runs modules (eager) takes the model as it is before the first pass that makes a file.
        """
        found = tuple(leaf_for(entry, target.backend) for entry in self.passes)
        if self.model.path is None and kind_for_backend(target.backend) == "TorchModel":
            return tuple(takewhile(lambda item: not gives_file(type(item[1])), found))
        return found

    def targets_resolved(self) -> tuple[Target, ...]:
        """The targets as backends take them."""
        return tuple(resolved_target(target, self.benchmark, self.model) for target in self.targets)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self._path == other._path and self.document() == other.document()

    def __hash__(self) -> int:
        return hash((self._path, self.name))


def name_of(path: Path) -> str:
    """What a recipe is called that does not say: its file's name, as far as folders can be called so."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-")[:64] or "recipe"


def resolved_target(target: TargetSettings, benchmark: BenchmarkSettings, model: ModelSettings | None) -> Target:
    """One target as a backend takes it; the number of threads is the benchmark's, the same for all.

    ``model``: its inputs say how far their axes vary, which only TensorRT asks for.
    """
    sizes = {axis: found for entry in (model.inputs if model else ()) for axis, found in entry.dynamic.items()}
    return Target(
        name=target.name,
        backend=target.backend,
        device=target.device,
        precision=target.precision,
        optional=target.optional,
        threads=benchmark.threads[0],
        options=target.options,
        ranges={axis: (found.min, found.opt, found.max) for axis, found in sizes.items()} if reads_ranges(target) else {},
    )


def reads_ranges(target: TargetSettings) -> bool:
    """Whether the target's backend builds for a range of sizes; any other takes whatever size comes."""
    return target.backend == "tensorrt"


def _plain(value: Any) -> Any:
    """Models to mappings without the keys that are null by default; passes are written flat, as a recipe has them."""
    if isinstance(value, PassEntry):
        return value.flat()
    if isinstance(value, BaseModel):
        return {
            name: _plain(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if getattr(value, name) is not None or field.default is not None
        }
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
