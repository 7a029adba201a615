"""How far a measured row is from what the machine can do at best.

The roofline model: S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance model for multicore
architectures", CACM 52(4), 2009. A kernel takes at least its operations over the peak, and at least its bytes over the
bandwidth; kernels follow one another, so their bounds add up. Which bandwidth: A. Ilic, F. Pratas, L. Sousa, "Cache-aware
roofline model: upgrading the loft", IEEE Computer Architecture Letters 13(1), 2014: that of the level of memory that the data
is in.
The same inference is timed again and again, so weights are in the cache where all weights and the largest activations fit into
it together, and activations, which were written just before, where those of the kernel fit.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property

from accel.machine import Peaks
from accel.onnx_traffic import Kernel, Traffic
from accel.report import Precision, Roofline

_FLOAT_BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class Placed:
    """A roofline, or None where there is none, and what is to be said about it."""

    roofline: Roofline | None
    notes: tuple[str, ...] = ()


def roofline(traffic: Traffic, peaks: Peaks, ran: Precision, p50_ms: float, *, in_float: Set[str] | None = None) -> Placed:
    """``ran``: what the row executed; ``p50_ms``: its measured median.

    ``in_float``: the nodes that ran in float, where a profile tells; otherwise all that are quantized count as INT8 where any
    ran so: that bound is never too high.
    """
    peak = {"fp32": peaks.fp32_gops, "bf16": peaks.bf16_gops}.get(ran.float_precision)
    notes = []
    if peak is None:
        return Placed(None, (f"no roofline: this machine's peak in {ran.float_precision} is not known",))
    in_int8 = [kernel for kernel in traffic.kernels if kernel.macs and _runs_int8(kernel, ran, in_float)]
    if in_int8 and peaks.int8_gops is None:
        return Placed(None, ("no roofline: this machine's peak in INT8 is not known",))
    if not traffic.kernels or p50_ms <= 0:
        return Placed(None, ("no roofline: there is nothing in the file to count",))
    if in_float is None and 0 < ran.int8_operators < ran.quantized_operators:
        notes.append(
            "roofline: not every quantized operator ran in INT8, and without `report: {layers: true}` nobody tells which; the"
            " bound is that of all in INT8"
        )
    bounds = _Bounds(traffic, peaks, peak, _FLOAT_BYTES[ran.float_precision], ran, in_float)
    times = [(bounds.compute_ms(kernel), bounds.memory_ms(kernel)) for kernel in traffic.kernels]
    bound = sum(max(pair) for pair in times)
    found = Roofline(
        macs=traffic.macs,
        bytes=sum(bounds.bytes(kernel) for kernel in traffic.kernels),
        bound_ms=bound,
        share=bound / p50_ms,
        compute_share=sum(compute for compute, memory in times if compute >= memory) / bound if bound else 0.0,
        uncounted=list(traffic.uncounted),
    )
    if found.share > 1:
        notes.append(
            f"roofline: {100 * found.share:.0f} % of the machine's peak is more than there can be: the peak was measured while"
            " something else ran; `accel cache clear` has it measured again"
        )
    return Placed(found, tuple(notes))


def _runs_int8(kernel: Kernel, ran: Precision, in_float: Set[str] | None) -> bool:
    if not kernel.quantized or not ran.int8_operators:
        return False
    return in_float is None or kernel.nodes[0] not in in_float


@dataclass(frozen=True)
class _Bounds:
    """Times of kernels of one row. ``peak``: its float precision's, in 1e9 operations per second."""

    traffic: Traffic
    peaks: Peaks
    peak: float
    float_bytes: int
    ran: Precision
    in_float: Set[str] | None

    def compute_ms(self, kernel: Kernel) -> float:
        int8 = self.peaks.int8_gops if _runs_int8(kernel, self.ran, self.in_float) else None
        return 2 * kernel.macs / (int8 or self.peak) / 1e6

    def memory_ms(self, kernel: Kernel) -> float:
        activations, weights = self.activation_bytes(kernel), self.weight_bytes(kernel)
        return (activations / self._gb_s(activations) + weights / self._gb_s(self.working_bytes)) / 1e6

    def bytes(self, kernel: Kernel) -> int:
        return self.activation_bytes(kernel) + self.weight_bytes(kernel)

    def activation_bytes(self, kernel: Kernel) -> int:
        return kernel.activations.bytes(self.float_bytes, self._quantized_bytes(kernel))

    def weight_bytes(self, kernel: Kernel) -> int:
        return kernel.weights.bytes(self.float_bytes, self._quantized_bytes(kernel))

    @cached_property
    def working_bytes(self) -> int:
        """All weights, and the activations of the kernel that has most."""
        kernels = self.traffic.kernels
        return sum(map(self.weight_bytes, kernels)) + max(map(self.activation_bytes, kernels))

    def _quantized_bytes(self, kernel: Kernel) -> int:
        if kernel.macs:
            return 1 if _runs_int8(kernel, self.ran, self.in_float) else self.float_bytes
        return 1 if self.ran.int8_operators else self.float_bytes

    def _gb_s(self, held: int) -> float:
        """``held``: the bytes that have to stay for the cache to serve them. Where its size is not known, all is in it."""
        cached = self.peaks.cache_bytes is None or held <= self.peaks.cache_bytes
        return self.peaks.cache_gb_s or self.peaks.bandwidth_gb_s if cached else self.peaks.bandwidth_gb_s
