"""What is kept of the library's messages, and how it is shortened. The messages are TensorRT-RTX 1.7.1's own."""

from __future__ import annotations

import pytest

from accel.accelerate.engines.log import Messages, cleaned

NO_DRIVER = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at"
    " /_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
)


BUILD = "IBuilder::buildSerializedNetwork: "
SAID = {
    f"{BUILD}Error Code 4: API Usage Error (Network must have at least one output. In validate at /_src/api/network.cpp:38)": (
        "Network must have at least one output."
    ),
    "Invalid Node - rs\nITensor::getDimensions: Error Code 4: Shape Error (reshape changes volume. Reshaping [2,8] to [7,5]. In"
    f" operator() at /_src/optimizer/common/shape/shapeContext.cpp:4633)\n{NO_DRIVER}": (
        "reshape changes volume. Reshaping [2,8] to [7,5]."
    ),
    "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported.": (
        "Non-zero zero point is not supported."
    ),
    f"{BUILD}Error Code 1: Myelin ([tactic.cpp:1676: enumerate_tactics] Tactic Selection: no tactics within workspace limit."
    " In compileGraph at /_src/a.cpp:7)": "Tactic Selection: no tactics within workspace limit.",
    "false": "false",
    "": "",
}


@pytest.mark.parametrize(("message", "left"), SAID.items())
def test_cleaned(message: str, left: str) -> None:
    assert cleaned(message) == left


def test_long_messages_are_cut() -> None:
    assert len(cleaned("x" * 5000)) == 300


def test_noise_is_dropped() -> None:
    messages = Messages()
    for severity, text in [
        ("error", NO_DRIVER),
        ("internal_error", "Thread context has not been set! Using global log stream."),
        ("error", "ModelImporter.cpp:142: --- Begin node ---\nNode name: head"),
        ("info", "Opset version: 20"),
        ("verbose", "something"),
    ]:
        messages.sink(severity, text)
    assert messages.notes() == ()
    assert messages.last_error == ""


def test_notes_are_distinct_and_bounded() -> None:
    messages = Messages()
    for index in range(1000):
        messages.sink("warning", f"weight {index % 10} is subnormal")
    notes = messages.notes()
    assert len(notes) == 9
    assert notes[0] == "TensorRT says: weight 0 is subnormal"
    assert notes[-1] == "TensorRT says 2 more things of this kind"
    assert messages.errors == ()


def test_the_last_error() -> None:
    messages = Messages()
    for text in ("first", "second"):
        messages.sink("error", text)
    messages.sink("warning", "third")
    assert messages.errors == ("first", "second")
    assert messages.last_error == "second"


def test_errors_are_kept_after_many_warnings() -> None:
    messages = Messages()
    for index in range(1000):
        messages.sink("warning", f"warning {index}")
    messages.sink("error", "what ended it")
    assert messages.last_error == "what ended it"
