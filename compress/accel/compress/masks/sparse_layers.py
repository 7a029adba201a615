"""What zeros are worth where the model runs: said before anybody trains for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ALIGNED_OUT, ALIGNED_IN = 8, 16
LARGE = 256

Verdict = Literal["may profit", "too small", "cannot"]


@dataclass(frozen=True)
class Shape:
    """A layer as a matrix product. ``inputs``: input channels in a group; ``positions``: of the kernel, 9 for 3x3."""

    name: str
    outputs: int
    inputs: int
    positions: int = 1
    groups: int = 1


def verdict(shape: Shape) -> Verdict:
    """Whether TensorRT can, and is likely to, run the layer on sparse tensor cores when its weights are 2:4.

    ``cannot``: grouped convolutions have no sparse kernels (NVIDIA/TensorRT#4054); output channels that are no multiple of 8 or
    input channels that are no multiple of 16 do not fit the tensor cores (``asp.py`` of NVIDIA/apex skips the same layers).
    ``too small``: TensorRT times the dense kernel too and takes the faster one; its developers see the sparse one win from
    about 256 channels on both sides, where a 3x3 kernel counts its inputs nine times (NVIDIA/TensorRT#3849, #4065).
    """
    if shape.groups > 1 or shape.outputs % ALIGNED_OUT or shape.inputs % ALIGNED_IN:
        return "cannot"
    return "may profit" if shape.outputs >= LARGE and shape.inputs * shape.positions >= LARGE else "too small"


def advice(pattern: str, kept: tuple[int, int] | None, shapes: Sequence[Shape]) -> list[str]:
    """Notes for the report: what the zeros of ``pattern`` buy in ``shapes``, the layers that get them, on each kind of target.

    ``kept``: (n, m) of an n:m pattern. One that is 2:4 as well, such as 1:4, is judged as such.

    No CPU runtime here skips zeros: neuralmagic/sparseml#1529 and #1120 (ONNX Runtime: no faster, 80 and 96 % zeros),
    openvinotoolkit/nncf#1191 (OpenVINO: INT8 2.06 ms, INT8 with 50 % zeros 2.14 ms). OpenVINO can unpack sparse weights of INT8
    matrix products where memory is the limit, which is off by default (CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE).
    """
    on_cpu = (
        "zeros and speed: ONNX Runtime and OpenVINO on a CPU compute with zeros as with any number; "
        "there the gain is only a file that packs smaller (gzip)"
    )
    if kept is None or 4 % kept[1] or kept[0] * (4 // kept[1]) > 2:
        return [on_cpu, f"TensorRT has sparse kernels for 2:4 alone: {pattern} zeros run at dense speed on a GPU too"]
    found: dict[Verdict, list[str]] = {"may profit": [], "too small": [], "cannot": []}
    for shape in shapes:
        found[verdict(shape)].append(shape.name)
    gpu = f"{pattern} on TensorRT (GPUs from Ampere on)"
    notes = [on_cpu]
    if found["may profit"]:
        notes.append(
            f"{gpu}: may run sparse: {', '.join(found['may profit'])}; only where TensorRT times the sparse kernel as the "
            "faster one, and with INT8 Q/DQ some versions never take it (NVIDIA/TensorRT#4694): measure"
        )
    else:
        notes.append(f"{gpu}: expect no speed-up, no layer is large enough")
    if found["too small"]:
        notes.append(
            f"{gpu}: most likely run dense, too small (fewer than {LARGE} output channels or inputs x kernel positions): "
            + ", ".join(found["too small"])
        )
    if found["cannot"]:
        notes.append(
            f"{gpu}: cannot run sparse (grouped, or output channels not in {ALIGNED_OUT}s or input channels not in "
            f"{ALIGNED_IN}s): {', '.join(found['cannot'])}; name them in ignored_layers to keep their accuracy"
        )
    return notes
