"""What a TensorRT target may ask for: every refusal says why, and what to write instead; nothing is imported for it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from accel.accelerate.engines import options as tensorrt_options
from accel.accelerate.engines.editions import EDITIONS, edition, lacking
from accel.accelerate.engines.options import REMOVED, build_settings, run_settings
from accel.errors import UsageError
from accel.model import Target


def target(**options: Any) -> Target:
    return Target("edge", "tensorrt", "gpu", options=options)


def refused(**options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        tensorrt_options.check(target(**options))
    message = str(caught.value)
    assert message.startswith("target edge: backend tensorrt")
    return message


ALL: dict[str, Any] = {
    "profiles": [{"image": {"min": [1, 3], "opt": [2, 3], "max": [8, 3]}}],
    "workspace_mb": 512,
    "weight_streaming": True,
    "refittable": True,
    "tf32": True,
    "build_timeout_s": 60,
    "cuda_graphs": False,
    "streams": 2,
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"library": "tensorrt-rtx", "compute_capabilities": [8.6, "8.9", 12.0], **ALL},
        {
            "library": "tensorrt",
            "timing_cache": True,
            "builder_optimization_level": 5,
            "hardware_compatibility": "ampere_plus",
            "version_compatible": True,
            "sparse_weights": True,
            **ALL,
        },
        # Off is no wish: a recipe may say so for either library.
        {"library": "tensorrt-rtx", "timing_cache": False, "hardware_compatibility": "none", "sparse_weights": False},
        {"compute_capabilities": [8.6]},  # auto: one of the two has it
        {"timing_cache": True},
    ],
)
def test_taken(options: dict[str, Any]) -> None:
    tensorrt_options.check(target(**options))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fp16": True}, "put `- type: cast, dtype: fp16` into the passes"),
        ({"bf16": True}, "dtype: bf16"),
        ({"int8": True}, "put `- type: quantize`"),
        ({"best": True}, "type: cast"),
        ({"calibrator": "entropy"}, "data.calibration"),
        ({"calibration_cache": "c.bin"}, "data.calibration"),
        ({"precision_constraints": "obey"}, "strongly typed"),
        ({"OBEY_PRECISION_CONSTRAINTS": True}, "strongly typed"),
        ({"strongly_typed": False}, "strongly typed"),
        ({"max_workspace_size": 1}, "called `workspace_mb`"),
        ({"max_batch_size": 8}, "dynamic: {batch: {min, opt, max}}"),
    ],
)
def test_removed_options_say_what_replaced_them(options: dict[str, Any], said: str) -> None:
    message = refused(**options)
    assert f"has no option {next(iter(options))!r}: " in message
    assert said in message


def test_no_removed_option_is_one_that_exists() -> None:
    assert not set(REMOVED) & (set(build_settings(target())) | {"build_timeout_s", "cuda_graphs", "streams"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workspce_mb": 1}, "did you mean 'workspace_mb'?"),
        ({"library": "trt"}, "auto, tensorrt, tensorrt-rtx"),
        ({"workspace_mb": 0}, "at least 1"),
        ({"workspace_mb": 1.5}, "whole number"),
        ({"workspace_mb": 10**20}, "at most 1073741824"),
        ({"tf32": "yes"}, "true or false"),
        ({"streams": True}, "whole number"),
        ({"builder_optimization_level": 6}, "from 0 to 5"),
        ({"builder_optimization_level": True}, "from 0 to 5"),
        ({"hardware_compatibility": "ampere"}, "did you mean 'ampere_plus'?"),
        ({"build_timeout_s": -1}, "at least 1"),
        ({"compute_capabilities": 8.6}, "a list such as [8.6, 8.9]"),
        ({"compute_capabilities": []}, "a list such as [8.6, 8.9]"),
        ({"compute_capabilities": "8.6"}, "a list such as [8.6, 8.9]"),
        ({"compute_capabilities": ["sm_86"]}, "did you mean 8.6?"),
        ({"compute_capabilities": [True]}, "holds True"),
        ({"compute_capabilities": [89]}, "did you mean 8.9?"),
        ({"compute_capabilities": [120]}, "did you mean 12.0?"),
        ({"compute_capabilities": [8.6, "8.6"]}, "8.6 twice"),
        (
            {"compute_capabilities": ["9.0"]},
            "builds for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1; for another GPU",
        ),
        ({"profiles": {"image": 1}}, "must be a list"),
        ({"profiles": []}, "must be a list"),
        ({"profiles": [[1]]}, "profiles[0] is [1]"),
        ({"profiles": [{"image": {"min": [1], "opt": [1]}}]}, "must have min, opt and max"),
        ({"profiles": [{"image": {"min": [1], "opt": [1], "max": ["8"]}}]}, "whole numbers, each from 1 to 2147483647"),
        ({"profiles": [{"image": {"min": [0], "opt": [1], "max": [8]}}]}, "whole numbers, each from 1 to 2147483647"),
        ({"profiles": [{"image": {"min": [1], "opt": [1], "max": [1 << 31]}}]}, "from 1 to 2147483647"),  # the library wraps it
        ({"profiles": [{"image": {"min": [1], "opt": [1, 3], "max": [8, 3]}}]}, "1, 2 and 2 axes"),
        ({"profiles": [{"image": {"min": [4, 3], "opt": [2, 3], "max": [8, 3]}}]}, "axis 0: found min 4, opt 2, max 8"),
    ],
)
def test_values(options: dict[str, Any], said: str) -> None:
    assert said in refused(**options)


@pytest.mark.parametrize(
    ("library", "option", "value", "said"),
    [
        ("tensorrt", "compute_capabilities", [8.6], "set `library: tensorrt-rtx`"),
        ("tensorrt-rtx", "timing_cache", True, "times nothing while it builds"),
        ("tensorrt-rtx", "hardware_compatibility", "ampere_plus", "name them there"),
        ("tensorrt-rtx", "version_compatible", True, "lean runtime"),
        ("tensorrt-rtx", "builder_optimization_level", 0, "every level gives the same"),
        ("tensorrt-rtx", "sparse_weights", True, "run as dense ones"),
    ],
)
def test_options_of_the_other_library(library: str, option: str, value: Any, said: str) -> None:
    message = refused(library=library, **{option: value})
    assert f"{library} has no {option}: " in message
    assert said in message


def test_auto_refuses_what_no_library_has_together() -> None:
    message = refused(compute_capabilities=[8.6], timing_cache=True)
    assert "tensorrt has no compute_capabilities" in message
    assert "tensorrt-rtx has no timing_cache" in message


def test_device_and_precision() -> None:
    with pytest.raises(UsageError, match="it has gpu"):
        tensorrt_options.check(Target("edge", "tensorrt", "cpu"))
    with pytest.raises(UsageError, match="INT8 comes from a quantize pass"):
        tensorrt_options.check(Target("edge", "tensorrt", "gpu", precision="int8"))


def test_settings_have_every_default_written_out() -> None:
    settings = build_settings(target(compute_capabilities=[8.6, 12.0], profiles=ALL["profiles"]))
    assert settings["compute_capabilities"] == ["8.6", "12.0"]
    assert settings["profiles"] == ALL["profiles"]
    assert settings["tf32"] is False
    assert settings["library"] == "auto"
    assert "build_timeout_s" not in settings  # it decides whether there is an engine, not which
    found = run_settings(target(streams=2))
    assert (found.cuda_graphs, found.streams) == (True, 2)


def test_editions() -> None:
    assert edition("tensorrt", 10).needs_strong_flag
    assert not edition("tensorrt", 11).needs_strong_flag
    assert edition("tensorrt", 12) is edition("tensorrt", 11)  # what is newer than the table
    assert edition("tensorrt", 9) is edition("tensorrt", 10)
    for row in EDITIONS:
        assert set(row.lacks) <= set(build_settings(target()))
        assert not lacking(row, {"library": "auto", "timing_cache": False, "compute_capabilities": []})


def test_checking_imports_no_library() -> None:
    code = """
import sys
from accel.accelerate.engines import options as tensorrt_options
from accel.model import Target
tensorrt_options.check(Target("t", "tensorrt", "gpu", options={"compute_capabilities": [8.6]}))
heavy = [name for name in ("tensorrt", "tensorrt_rtx", "pynvml", "numpy", "onnx", "torch") if name in sys.modules]
assert not heavy, heavy
"""
    path = [entry for entry in sys.path if entry]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{code}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
