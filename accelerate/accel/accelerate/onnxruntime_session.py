"""ONNX Runtime: one session, one provider list, no fallback that nobody asked for. The only file that imports it."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from accel.accelerate import cuda_driver, onnxruntime_optimizers, onnxruntime_providers
from accel.accelerate.compile_faults import compile_fault, shortened
from accel.accelerate.inputs import batch_axis, check_inputs, fix_axis
from accel.accelerate.installed import Library, installed_distribution, problem, require, versions
from accel.accelerate.onnxruntime_providers import CPU, CUDA, OF_DEVICE, TELLS_NODES, Asked
from accel.accelerate.options import Choice, Flag, Option, check
from accel.accelerate.precision import executed
from accel.accelerate.shipping import require_onnx, ship
from accel.contracts import ExecutedPrecision, LayerProfile, Progress, QuantizationProfile, silent
from accel.errors import BackendFault, MissingBackend
from accel.model import Model, OnnxModel, Signature, Target

if TYPE_CHECKING:
    from accel.contracts import Array

LIBRARY = Library(module="onnxruntime", distribution="onnxruntime", minimum=(1, 20), extra="onnxruntime")
_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_OPTIONS: Mapping[str, Option] = {
    "execution_providers": Choice(many=True),
    "provider_options": Choice(),  # a mapping: see onnxruntime_providers
    "graph_optimization_level": Choice(tuple(_LEVELS)),
    "allow_fallback": Flag(),
}
_ERRORS_ONLY = 3


class OnnxRuntime:
    """ONNX Runtime, on the CPU or, with a build that has the CUDA provider, on the GPU.

    Options: ``execution_providers`` (in order; TensorRT's too, where the build has them), ``provider_options`` (of each, as
    the library names them), ``graph_optimization_level`` (``disable``, ``basic``, ``extended``, ``all``), ``allow_fallback``.
    """

    name: ClassVar[str] = "onnxruntime"
    distribution: ClassVar[str] = "onnxruntime"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "gpu")
    # Measured: of the dialects, only unsigned activations with signed per-channel weights fuse wholly on the CPU, and a
    # residual Add between Q/DQ keeps its neighbours in INT8 (DESIGN.md, fact 1).
    quantization: ClassVar[QuantizationProfile] = QuantizationProfile(
        activation="uint8",
        activation_symmetric=False,
        weight_granularity="per_channel",
        bias="int32",
        quantize_residual_add=True,
        engine="onnxruntime",
    )

    def unavailable(self, device: str = "cpu") -> str | None:
        sentence = problem(LIBRARY)
        if sentence is not None:
            return sentence
        import onnxruntime

        wanted = OF_DEVICE.get(device)
        here = onnxruntime.get_available_providers()
        if wanted is None:
            return f"onnxruntime has no device {device!r}; it has {', '.join(self.devices)}"
        if wanted not in here:
            return (
                f"this build of onnxruntime has no {wanted} for device {device} (it has {', '.join(here)}); "
                "get one with: pip uninstall onnxruntime && pip install onnxruntime-gpu"
            )
        return cuda_driver.problem() if wanted == CUDA else None

    def installed_distribution(self) -> str | None:
        """The flavour that is installed: ``onnxruntime``, ``onnxruntime-gpu``...; None if there is none."""
        return installed_distribution(LIBRARY)

    def versions(self) -> dict[str, str]:
        """Every installed flavour to its version. More than one means they overwrote each other's files."""
        return versions(LIBRARY)

    def check_options(self, target: Target) -> None:
        plain = {key: value for key, value in target.options.items() if key != "provider_options"}
        check(
            replace(target, options=plain),
            devices=self.devices,
            precisions=("fp32",),
            why_precision="it runs each operator in the precision that the file has",
            options=_OPTIONS,
        )
        onnxruntime_providers.check(target)

    def runtime_settings(self, target: Target) -> dict[str, Any]:
        """``providers`` (name and options of each), ``session_options`` (enumerations by name), ``session_config`` and
        ``disabled_optimizers``."""
        config = {}
        if target.threads > 1:
            # Threads that wait for work spin for a while, on the cores of whatever row has its turn next.
            config["session.intra_op.allow_spinning"] = "0"
        return {
            "providers": onnxruntime_providers.settings(target),
            "session_options": {
                "intra_op_num_threads": target.threads,
                "inter_op_num_threads": 1,
                "execution_mode": "ORT_SEQUENTIAL",
                "graph_optimization_level": _LEVELS[target.options.get("graph_optimization_level", "all")],
            },
            "session_config": config,
            "disabled_optimizers": list(onnxruntime_optimizers.ALWAYS_OFF),
        }

    def runtime_settings_for(self, target: Target, path: Path) -> dict[str, Any]:
        """:meth:`runtime_settings`, and the optimizers that would compute the file at ``path`` wrong switched off too."""
        return {**self.runtime_settings(target), "disabled_optimizers": list(onnxruntime_optimizers.disabled(path))}

    def deploy(
        self, model: Model, target: Target, folder: Path, *, cache: Path | None = None, progress: Progress = silent
    ) -> OnnxModel:
        return ship(require_onnx(model, self.name), folder)

    def compile(self, model: Model, target: Target, cache: Path) -> SessionRunner:
        """``cache`` keeps nothing: a session is built from the shipped file each time, so that the time it takes is true."""
        plan, signature = self._planned(model, target)
        session, notes = plan.open()
        return SessionRunner(
            session, signature, plan, cache, notes + onnxruntime_providers.notes(target, session.get_providers())
        )

    def profile(self, model: Model, target: Target, inputs: Mapping[str, Array], *, queries: int, cache: Path) -> LayerProfile:
        """From the library's own profile; times are whole microseconds."""
        from accel.accelerate.layer_nodes import of_file
        from accel.accelerate.onnxruntime_profile import WARMUP, layer_profile

        plan, signature = self._planned(model, target)
        check_inputs(signature, inputs)
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="profile-") as folder:
            text = plan.profiled(Path(folder), inputs, WARMUP + queries)
        return layer_profile(text, of_file(plan.path))

    def _planned(self, model: Model, target: Target) -> tuple[SessionPlan, Signature]:
        """How a session of ``model`` is made, and what it takes and gives then."""
        file = require_onnx(model, self.name)
        self.check_options(target)
        require(LIBRARY)
        if file.path.suffix == ".xml":
            raise BackendFault(f"{file.path.name}: onnxruntime runs ONNX files, not OpenVINO IR")
        if "execution_providers" not in target.options:
            sentence = self.unavailable(target.device)
            if sentence is not None:
                raise MissingBackend(f"target {target.name}: {sentence}")
        signature, fixed = file.signature, {}
        if target.batch is not None:
            axis = batch_axis(signature, target.batch)
            if axis is not None:
                signature, fixed = fix_axis(signature, axis, target.batch), {axis: target.batch}
        return SessionPlan(file.path, self.runtime_settings_for(target, file.path), target, fixed), signature


class SessionPlan:
    """How a session is made: the same way for running, and for writing down the graph that runs.

    ``settings``: of :meth:`OnnxRuntime.runtime_settings_for`. ``fixed``: axes to sizes.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], target: Target, fixed: Mapping[str, int]) -> None:
        self.path = path
        self._given = settings
        self._providers = tuple(name for name, _ in settings["providers"])
        self._fixed = dict(fixed)
        self._allow_fallback = bool(target.options.get("allow_fallback", False))

    def open(self) -> tuple[Any, tuple[str, ...]]:
        """A session, and notes on what is not the library's way, or not what was asked for. Raises BackendFault."""
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        here = onnxruntime.get_available_providers()
        absent = [provider for provider in self._providers if provider not in here]
        if absent and not self._allow_fallback:
            raise BackendFault(
                f"onnxruntime: {', '.join(absent)} asked for, but this build has only {', '.join(here)}; "
                "install a build that has it, or set options.allow_fallback: true"
            )
        asked = self._asked(self._here())
        settings = self._settings()
        watched = asked.providers != (CPU,)
        if watched and TELLS_NODES in dir(onnxruntime.InferenceSession):
            settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        elif watched and CPU not in asked.providers and not self._allow_fallback:  # an older release refuses, but names no node
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        session = self._session(settings, asked)
        notes = tuple(f"{provider} is not in this build of onnxruntime: fell back, as allowed" for provider in absent)
        if self._given["session_config"].get("session.intra_op.allow_spinning") == "0":
            notes += ("threads wait without spinning, so that they leave the cores to the row that is timed next",)
        if onnxruntime_optimizers.REQUANTIZES_BIASES in self._given["disabled_optimizers"]:
            notes += (onnxruntime_optimizers.NOTE,)
        return session, notes + (onnxruntime_providers.held_against(session, asked) if watched else ())

    def optimized_to(self, path: Path) -> None:
        """Write the graph that a session of this plan runs; weights apart, in a file beside it."""
        settings = self._settings()
        settings.optimized_model_filepath = str(path)
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", path.name + ".data")
        settings.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        self._session(settings, self._asked(self._here()))

    def profiled(self, folder: Path, inputs: Mapping[str, Array], runs: int) -> str:
        """What the library writes of ``runs`` inferences in a session of this plan. ``folder``: where it writes meanwhile."""
        settings = self._settings()
        settings.enable_profiling = True
        settings.profile_file_prefix = str(folder / "profile")
        session = self._session(settings, self._asked(self._here()))
        try:
            for _ in range(runs):
                session.run(None, inputs)
            return Path(session.end_profiling()).read_text(encoding="utf-8", errors="replace")
        except Exception as error:  # the library's errors have no common class
            raise BackendFault(f"{self.path.name}: onnxruntime failed while profiling: {shortened(str(error))}") from error

    def _here(self) -> list[str]:
        """The providers of the plan that this build has."""
        import onnxruntime

        here = onnxruntime.get_available_providers()
        return [provider for provider in self._providers if provider in here] or [CPU]

    def _asked(self, providers: Sequence[str]) -> Asked:
        import onnxruntime

        folder = Path(onnxruntime.__file__).parent / "capi"
        return Asked(tuple(providers), self._allow_fallback, self.path.name, folder)

    def _settings(self) -> Any:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        enumerations = {
            "execution_mode": onnxruntime.ExecutionMode,
            "graph_optimization_level": onnxruntime.GraphOptimizationLevel,
        }
        for name, value in self._given["session_options"].items():
            setattr(settings, name, getattr(enumerations[name], value) if name in enumerations else value)
        for name, value in self._given["session_config"].items():
            settings.add_session_config_entry(name, value)
        settings.log_severity_level = _ERRORS_ONLY
        for axis, size in self._fixed.items():
            settings.add_free_dimension_override_by_name(axis, size)
        return settings

    def _session(self, settings: Any, asked: Asked) -> Any:
        import onnxruntime

        if set(asked.providers) != {CPU} and hasattr(onnxruntime, "preload_dlls"):
            with redirect_stdout(io.StringIO()):  # it prints what it does not find; whether that matters shows at the end
                onnxruntime.preload_dlls()  # finds CUDA and cuDNN where pip installed them, which the linker does not
        options = dict(self._given["providers"])
        try:
            # enable_fallback: by default the library retries on the CPU, with no more than a line on standard output.
            return onnxruntime.InferenceSession(
                str(self.path),
                settings,
                providers=[(name, options[name]) if options.get(name) else name for name in asked.providers],
                enable_fallback=int(self._allow_fallback),
                disabled_optimizers=self._given["disabled_optimizers"],
            )
        except Exception as error:  # the library's errors have no common class
            fault = compile_fault("onnxruntime", self.path, error)
            reasons = {name: onnxruntime_providers.why_not(name, asked.folder) for name in asked.providers}
            known = "".join(f"; {name}: {reason}" for name, reason in reasons.items() if reason)
            raise BackendFault(f"{fault}{known}") from error


class SessionRunner:
    """A session. A call is ``session.run`` and nothing else: inputs are not checked (see ``inputs.check_inputs``) or copied."""

    def __init__(self, session: Any, signature: Signature, plan: SessionPlan, cache: Path, notes: tuple[str, ...]) -> None:
        self.signature = signature
        self.threads = int(session.get_session_options().intra_op_num_threads)
        self.providers = tuple(session.get_providers())
        self._session = session
        self._run: Callable[..., Any] = session.run
        self._outputs = [spec.name for spec in signature.outputs]
        self._plan = plan
        self._cache = cache
        self._notes = notes

    def __call__(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Outputs in the signature's order, the caller's to keep. Raises DataFault for wrong inputs, else BackendFault."""
        try:
            return self._run(self._outputs, inputs)  # type: ignore[no-any-return]
        except Exception as error:  # the library's errors have no common class
            raise self._fault(inputs, error) from error

    def another(self) -> SessionRunner:
        """The same session, whose ``run`` may be called from several threads at once."""
        self._require_open()
        return SessionRunner(self._session, self.signature, self._plan, self._cache, self._notes)

    def executed_precision(self) -> ExecutedPrecision:
        """Read from the graph that the runtime itself writes after its optimizations, at the level that runs.

        Of a provider that makes engines of its own, only what the file asks for is known: a note says so.
        """
        from accel.accelerate.onnx_operators import executed_operators, packed_weights, quantized_operators

        self._require_open()
        opaque = onnxruntime_providers.compiling(self.providers)
        if opaque:
            quantized = quantized_operators(self._plan.path)
            said = f"precision and operators are the file's: onnxruntime does not tell what {opaque[0]} runs in its engines"
            if quantized:
                said += f", nor whether the {quantized} quantized operators run in INT8 there"
            found = executed(executed_operators(self._plan.path), 0, (said, *self._notes))
            return replace(found, quantized_operators=quantized)
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache, prefix="optimized-") as folder:
            place = Path(folder) / "optimized.onnx"
            self._plan.optimized_to(place)
            ran = executed_operators(place)
        meant = executed_operators(self._plan.path).floats
        widened = ran.floats.get("fp32", 0) - meant.get("fp32", 0)
        low = [name for name in ("bf16", "fp16") if meant.get(name)]
        notes = self._notes
        if low and widened > 0:
            notes = (f"{widened} operators that the file has in {low[0]} ran in fp32, between casts", *notes)
        return executed(ran, quantized_operators(self._plan.path), (*notes, *packed_weights(self._plan.path)))

    def __enter__(self) -> Self:
        self._require_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._run = _closed
        self._session = None

    def _require_open(self) -> None:
        if self._session is None:
            _closed()

    def _fault(self, inputs: Mapping[str, Array], error: Exception) -> Exception:
        if isinstance(error, BackendFault):
            return error
        check_inputs(self.signature, inputs)
        return BackendFault(f"{self._plan.path.name}: onnxruntime failed while running: {shortened(str(error))}")


def _closed(*_: object) -> None:
    raise BackendFault("this onnxruntime runner is closed; compile the model again")
