"""OpenVINO: a compiled model of exactly the shipped file, in exactly the precision asked for. The only file that imports it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from accel.accelerate.compile_faults import compile_fault, shortened
from accel.accelerate.inputs import batch_axis, check_inputs, fix_axis
from accel.accelerate.installed import Library, installed_distribution, problem, require, versions
from accel.accelerate.options import Choice, Count, Option, check
from accel.accelerate.precision import executed
from accel.accelerate.shipping import require_onnx, ship
from accel.contracts import ExecutedPrecision, LayerProfile, Progress, QuantizationProfile, silent
from accel.errors import BackendFault, MissingBackend, StorageFault
from accel.model import Model, OnnxModel, Signature, Target

if TYPE_CHECKING:
    from accel.contracts import Array

LIBRARY = Library(module="openvino", distribution="openvino", minimum=(2025, 2), extra="openvino")
_OPTIONS: Mapping[str, Option] = {
    "format": Choice(("onnx", "ir")),
    "performance_hint": Choice(("latency", "throughput")),
    "num_streams": Count(),
}
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVino:
    """OpenVINO on Intel CPUs, GPUs and NPUs, and on other x86 and Arm CPUs.

    Options: ``format`` (``onnx``, ``ir``), ``performance_hint`` (``latency``, ``throughput``),
    ``num_streams``.
    """

    name: ClassVar[str] = "openvino"
    distribution: ClassVar[str] = "openvino"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "gpu", "npu")
    # Equal to ONNX Runtime's, so that what is trained for one serves both; OpenVINO is fast with any (DESIGN.md, fact 1).
    quantization: ClassVar[QuantizationProfile] = QuantizationProfile(
        activation="uint8",
        activation_symmetric=False,
        weight_granularity="per_channel",
        bias="int32",
        quantize_residual_add=True,
        engine="nncf",
    )

    def unavailable(self, device: str = "cpu") -> str | None:
        sentence = problem(LIBRARY)
        if sentence is not None:
            return sentence
        if device not in self.devices:
            return f"openvino has no device {device!r}; it has {', '.join(self.devices)}"
        import openvino

        here = openvino.Core().available_devices
        if not any(name.split(".")[0].lower() == device for name in here):
            return f"OpenVINO finds no device {device!r} here (it finds {', '.join(here)}); install the device's driver"
        return None

    def installed_distribution(self) -> str | None:
        """The name under which it is installed; None if it is not."""
        return installed_distribution(LIBRARY)

    def versions(self) -> dict[str, str]:
        """Every installed distribution that brings it, to its version."""
        return versions(LIBRARY)

    def check_options(self, target: Target) -> None:
        check(
            target,
            devices=self.devices,
            precisions=tuple(_HINTS),
            why_precision="INT8 comes from a quantize pass",
            options=_OPTIONS,
        )

    def runtime_settings(self, target: Target) -> dict[str, Any]:
        """``device`` and ``properties``, as ``compile_model`` takes them."""
        hint = target.options.get("performance_hint", "latency")
        properties: dict[str, Any] = {
            "PERFORMANCE_HINT": hint.upper(),
            # Without it a CPU that has BF16 runs an FP32 model in BF16 (DESIGN.md, fact 3).
            "INFERENCE_PRECISION_HINT": _HINTS[target.precision],
        }
        if "num_streams" in target.options or hint == "latency":
            properties["NUM_STREAMS"] = target.options.get("num_streams", 1)
        if target.device == "cpu":
            properties["INFERENCE_NUM_THREADS"] = target.threads
        return {"device": target.device.upper(), "properties": properties}

    def with_streams(self, target: Target, streams: int) -> Target:
        """It shares out INFERENCE_NUM_THREADS among its streams; with one stream, requests wait for one another."""
        return replace(target, threads=target.threads * streams, options={**target.options, "num_streams": streams})

    def deploy(
        self, model: Model, target: Target, folder: Path, *, cache: Path | None = None, progress: Progress = silent
    ) -> OnnxModel:
        """``format: onnx`` copies the file; ``ir`` converts it, weights in the precision they have. An IR stays an IR."""
        file = require_onnx(model, self.name)
        self.check_options(target)
        if target.options.get("format", "onnx") == "onnx" or file.path.suffix == ".xml":
            return ship(file, folder)
        require(LIBRARY)
        import openvino

        graph = _read(openvino.Core(), file.path)
        place = folder / "model.xml"
        try:
            openvino.save_model(graph, str(place), compress_to_fp16=False)  # by default it halves the weights' precision
        except RuntimeError as error:
            _remove(place)
            needed = file.path.stat().st_size
            if shutil.disk_usage(folder).free < needed:
                raise StorageFault(f"{place}: the disk is full; about {needed} bytes are needed") from error
            raise BackendFault(f"{file.path.name}: openvino cannot write it as IR: {shortened(str(error))}") from error
        return replace(file, path=place)

    def compile(self, model: Model, target: Target, cache: Path) -> CompiledRunner:
        """``cache`` keeps nothing: with OpenVINO's model cache a second compilation would be reported as fast."""
        return self._compiled(model, target, {})

    def profile(self, model: Model, target: Target, inputs: Mapping[str, Array], *, queries: int, cache: Path) -> LayerProfile:
        """From the counters of its own graph; times are whole microseconds."""
        from accel.accelerate.layer_nodes import of_file
        from accel.accelerate.openvino_profile import COMPILATIONS, WARMUP, counters, layer_profile, means_ms

        times = []
        for _ in range(COMPILATIONS):
            with self._compiled(model, target, {"PERF_COUNT": True}) as runner:
                for _ in range(WARMUP):
                    runner(inputs)
                before = counters(runner.runtime_model())
                for _ in range(queries):
                    runner(inputs)
                ran = counters(runner.runtime_model())
            times.append(means_ms(before, ran, queries))
        return layer_profile(ran, times, of_file(require_onnx(model, self.name).path))

    def _compiled(self, model: Model, target: Target, more: Mapping[str, Any]) -> CompiledRunner:
        """``more``: properties besides those of :meth:`runtime_settings`."""
        file = require_onnx(model, self.name)
        self.check_options(target)
        sentence = self.unavailable(target.device)
        if sentence is not None:
            raise MissingBackend(f"target {target.name}: {sentence}")
        import openvino

        core = openvino.Core()
        settings = self.runtime_settings(target)
        device = settings["device"]
        _require_precision(core, device, target)
        graph = _read(core, file.path)
        signature = file.signature
        if target.batch is not None:
            axis = batch_axis(signature, target.batch)
            if axis is not None:
                signature = fix_axis(signature, axis, target.batch)
                _reshape(graph, signature, file.path)
        try:
            compiled = core.compile_model(graph, device, {**settings["properties"], **more})
        except RuntimeError as error:
            raise compile_fault("openvino", file.path, error) from error
        granted = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if granted != _HINTS[target.precision]:
            raise BackendFault(f"target {target.name}: openvino was asked for {target.precision} and would run {granted}")
        return CompiledRunner(compiled, signature, file.path)


def _require_precision(core: Any, device: str, target: Target) -> None:
    """BackendFault where the device does not compute in the target's precision; asked for FP16, a CPU silently takes BF16."""
    has = [name for name in core.get_property(device, "OPTIMIZATION_CAPABILITIES") if name.lower() in _HINTS]
    if target.precision.upper() not in has:
        raise BackendFault(
            f"target {target.name}: {target.device} here computes in {', '.join(has).lower()}, not in {target.precision}; "
            "change the target's precision"
        )


def _read(core: Any, path: Path) -> Any:
    try:
        return core.read_model(str(path))
    except RuntimeError as error:
        raise compile_fault("openvino", path, error) from error


def _reshape(graph: Any, signature: Signature, path: Path) -> None:
    shapes = {spec.name: [axis if isinstance(axis, int) else -1 for axis in spec.shape] for spec in signature.inputs}
    try:
        graph.reshape(shapes)
    except RuntimeError as error:
        raise compile_fault("openvino", path, error) from error


def _quantized_operators(path: Path) -> int:
    """From the ONNX file where there is one, so that it is the number every backend gives; an IR has only its own graph."""
    if path.suffix == ".xml":
        import openvino

        from accel.accelerate.openvino_graph import quantized_in

        return quantized_in(_read(openvino.Core(), path))
    from accel.accelerate.onnx_operators import quantized_operators

    return quantized_operators(path)


def _packed_weights(path: Path) -> tuple[str, ...]:
    """From the ONNX file; an IR says nothing of it."""
    if path.suffix == ".xml":
        return ()
    from accel.accelerate.onnx_operators import packed_weights

    return packed_weights(path)


def _remove(place: Path) -> None:
    for path in (place, place.with_suffix(".bin")):
        path.unlink(missing_ok=True)


class CompiledRunner:
    """One infer request, made once. Inputs are shared with the caller during the call, outputs are copies the caller keeps.

    A caller that fills the same arrays again does not pay for handing them over again: from the third call on they stay the
    request's tensors (20 us less, measured on a call of 230), as they do in benchmark_app.

    Shapes that were not seen before go through the asynchronous call: on one thread, ``infer`` of OpenVINO 2026.4 loses the
    error of an operator whose inputs do not fit and gives back uninitialized memory; ``start_async`` and ``wait`` raise it.
    What does not depend on the shapes fails when compiled. Looking the shapes up takes under 1 us.
    """

    def __init__(self, compiled: Any, signature: Signature, path: Path) -> None:
        self.signature = signature
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._infer: Callable[..., Any] = self._request.infer
        self._seen: set[tuple[tuple[int, ...], ...]] = set()
        self._last: _Given = ()
        self._bound: _Given = ()
        self._path = path

    @property
    def threads(self) -> int:
        """CPU threads, as the runtime tells."""
        return int(self._require_open().get_property("INFERENCE_NUM_THREADS"))

    def __call__(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Outputs in the signature's order. Raises DataFault for wrong inputs, else BackendFault.

        ``share_inputs`` spares a copy (measured: 20 % on 0.2 ms); shared outputs would be overwritten by the next call.
        """
        try:
            if self._bound and _same(inputs, self._bound):
                return list(self._infer().values())
            self._bound = ()
            shapes = tuple([array.shape for array in inputs.values()])
            if shapes not in self._seen:
                return self._first(inputs, shapes)
            outputs = list(self._infer(inputs, share_inputs=True).values())
            self._remember(inputs)
            return outputs
        except Exception as error:  # RuntimeError, TypeError or KeyError, as the layer that notices has it
            raise self._fault(inputs, error) from error

    def another(self) -> CompiledRunner:
        """A request of its own. How many run at a time is the compiled model's NUM_STREAMS.

        Run it once before others run in threads: where two hand over their first arrays at the same moment, both wait for ever
        (OpenVINO 2026.4: a static of pybind11's numpy interface, waited for with Python's lock held).
        """
        return CompiledRunner(self._require_open(), self.signature, self._path)

    def executed_precision(self) -> ExecutedPrecision:
        """Read from the runtime's own graph after its optimizations, and from the file: that is no part of compiling."""
        from accel.accelerate.openvino_graph import executed_in

        return executed(executed_in(self.runtime_model()), _quantized_operators(self._path), _packed_weights(self._path))

    def runtime_model(self) -> Any:
        """The graph as the runtime runs it. BackendFault where the device does not tell."""
        compiled = self._require_open()
        try:
            return compiled.get_runtime_model()
        except RuntimeError as error:
            raise BackendFault(f"openvino does not tell what this device runs: {shortened(str(error))}") from error

    def __enter__(self) -> Self:
        self._require_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._infer = _closed
        self._seen = set()
        self._last = self._bound = ()
        self._request = None
        self._compiled = None

    def _first(self, inputs: Mapping[str, Array], shapes: tuple[tuple[int, ...], ...]) -> Sequence[Array]:
        self._require_open()
        self._request.start_async(inputs, share_inputs=True)
        self._request.wait()
        self._seen.add(shapes)
        return [tensor.data.copy() for tensor in self._request.output_tensors]

    def _remember(self, inputs: Mapping[str, Array]) -> None:
        """Arrays that were handed over twice running are bound, if the request reads them where they lie: of one that is not
        contiguous, or of another type, it has made a copy."""
        if self._last and _same(inputs, self._last):
            tensors = [self._request.get_tensor(name).data for name, _, _ in self._last]
            if all(_place(tensor) == _place(array) for tensor, (_, array, _) in zip(tensors, self._last, strict=True)):
                self._bound = self._last
        else:
            self._last = tuple([(name, array, array.shape) for name, array in inputs.items()])

    def _require_open(self) -> Any:
        return _closed() if self._compiled is None else self._compiled

    def _fault(self, inputs: Mapping[str, Array], error: Exception) -> Exception:
        if isinstance(error, BackendFault):
            return error
        check_inputs(self.signature, inputs)
        return BackendFault(f"{self._path.name}: openvino failed while running: {shortened(str(error))}")


_Given = tuple[tuple[str, "Array", tuple[int, ...]], ...]
"""Arrays by the input's name, and their shapes when they were given."""


def _same(inputs: Mapping[str, Array], given: _Given) -> bool:
    """Whether ``inputs`` are exactly these arrays. Under 1 us."""
    if len(inputs) != len(given):
        return False
    for name, array, shape in given:  # noqa: SIM110 a generator takes three times as long
        if inputs.get(name) is not array or array.shape != shape:
            return False
    return True


def _place(array: Array) -> tuple[int, tuple[int, ...], str]:
    """Where its first value lies, its shape, and its type."""
    return array.ctypes.data, array.shape, array.dtype.str


def _closed(*_: object, **__: object) -> None:
    raise BackendFault("this openvino runner is closed; compile the model again")
