"""A loop around a runtime with nothing of accel in it: what against_benchmark_app.py holds our figures against.

    python benchmarks/bare_loop.py ASKED.json

``ASKED.json``: ``{"runtime": "onnxruntime" | "openvino", "model": PATH, "inputs": PATH.npz, "seconds": S, "settings": {...}}``,
where ``settings`` are those of our runner in the runtime's own words; the one axis that varies is ``batch``, fixed to 1.
Prints ``ready`` once it is warm; then, for each line that comes in, it measures and prints a line: ``{"bare loop": ...}``, the
median in milliseconds by the clock around the call, and ``"bare loop, OpenVINO's clock"``, by ``InferRequest.latency``, which
is what benchmark_app reports.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

WARM_UP = 10

Loop = tuple[Callable[[], object], Callable[[], float] | None]
"""One inference, and what the runtime says that it took in milliseconds."""


def onnxruntime_loop(model: str, inputs: dict[str, Any], settings: dict[str, Any]) -> Loop:
    """``session.run`` on the same dictionary again and again."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    kinds = {
        "execution_mode": onnxruntime.ExecutionMode,
        "graph_optimization_level": onnxruntime.GraphOptimizationLevel,
    }
    for name, value in settings["session_options"].items():
        setattr(options, name, getattr(kinds[name], value) if name in kinds else value)
    for name, value in settings["session_config"].items():
        options.add_session_config_entry(name, value)
    options.add_free_dimension_override_by_name("batch", 1)
    session = onnxruntime.InferenceSession(
        model,
        options,
        providers=[name for name, _ in settings["providers"]],
        disabled_optimizers=settings["disabled_optimizers"],
    )
    return lambda: session.run(None, inputs), None


def openvino_loop(model: str, inputs: dict[str, Any], settings: dict[str, Any]) -> Loop:
    """``request.infer()``: the request's input tensors are filled once, as benchmark_app does."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    core = openvino.Core()
    graph = core.read_model(model)
    graph.reshape({name: list(array.shape) for name, array in inputs.items()})
    request = core.compile_model(graph, settings["device"], settings["properties"]).create_infer_request()
    for name, array in inputs.items():
        request.get_tensor(name).data[:] = array
    return lambda: request.infer(), lambda: float(request.latency)


def main(path: Path) -> None:
    asked = json.loads(path.read_text(encoding="utf-8"))
    with np.load(asked["inputs"]) as stored:
        inputs = {name: stored[name] for name in stored.files}
    make = onnxruntime_loop if asked["runtime"] == "onnxruntime" else openvino_loop
    call, own = make(asked["model"], inputs, asked["settings"])
    for _ in range(WARM_UP):
        call()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        sys.stdout.write(json.dumps(measured(call, own, asked["seconds"])) + "\n")
        sys.stdout.flush()


def measured(call: Callable[[], object], own: Callable[[], float] | None, seconds: float) -> dict[str, float]:
    """Medians of so many seconds."""
    taken: list[int] = []
    said: list[float] = []
    ends = perf_counter_ns() + int(seconds * 1e9)
    while (start := perf_counter_ns()) < ends:
        call()
        taken.append(perf_counter_ns() - start)
        if own is not None:
            said.append(own())
    found = {"bare loop": statistics.median(taken) / 1e6}
    return found | ({"bare loop, OpenVINO's clock": statistics.median(said)} if said else {})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
