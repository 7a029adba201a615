"""How near each row comes to what the machine can do, and what that is."""

from __future__ import annotations

from accel.benchmarks import figures
from accel.benchmarks.html import cells
from accel.benchmarks.html.markup import moment, shown
from accel.benchmarks.html.tables import MISSING, Cell, Column, figure, table
from accel.machine import Peaks
from accel.report import Report, Row

_COLUMNS = (
    Column("row"),
    Column("share of the machine's best", numeric=True, note="the bound over the measured median"),
    Column("", sorts=False),
    Column("bound", numeric=True, note="the least time that one inference can take on this machine, kernel by kernel"),
    Column("p50", numeric=True),
    Column("reached", numeric=True, note="operations a second; a multiply-add is two"),
    Column("multiply-adds", numeric=True),
    Column("bytes that must move", numeric=True),
    Column("bound by computing", numeric=True, note="the part of the bound where computing, not memory, is the limit"),
    Column("left out", note="operators that are not counted"),
)


def roofline(report: Report) -> str:
    """The machine's peaks, then a bar for each row. Empty without either."""
    rows = [_row(row, index) for index, row in enumerate(report.rows, 1) if row.roofline is not None]
    parts = [_peaks(report.peaks)] if report.peaks is not None else []
    if rows:
        caption = "Bound: for each kernel the longer of computing and moving its data, at the precision it ran in."
        parts.append(table("roofline", caption, _COLUMNS, rows))
    return "\n".join(parts)


def _row(row: Row, number: int) -> list[Cell]:
    found, latency = row.roofline, row.latency
    assert found is not None
    reason = None if latency is None else latency.unstable
    p50 = None if latency is None else latency.p50_ms
    speed = None if not p50 else 2 * found.macs / p50 / 1e6
    return [
        cells.name(row, number),
        figure(f"{100 * found.share:.1f} %", found.share) if reason is None else cells.unstable(reason),
        Cell(cells.bar(found.share), kind="wide") if reason is None else MISSING,
        figure(figures.milliseconds(found.bound_ms), found.bound_ms),
        cells.time(p50, reason),
        figure(f"{rate(speed or 0)}op/s", speed) if reason is None else cells.unstable(reason),
        figure(f"{found.macs / 1e6:,.2f} M", found.macs),
        figure(figures.size(found.bytes), found.bytes),
        figure(f"{100 * found.compute_share:.0f} %", found.compute_share),
        Cell(shown(figures.listed(found.uncounted), 120), kind="words") if found.uncounted else MISSING,
    ]


def rate(giga: float) -> str:
    """``812 G`` or ``1.25 T``, of 1e9 a second."""
    return f"{giga / 1000:.3g} T" if giga >= 1000 else f"{giga:.3g} G"


def _peaks(peaks: Peaks) -> str:
    """What the machine does at best, each figure with the kernel that gave it."""
    cache = "cache" if peaks.cache_bytes is None else f"cache of {figures.size(peaks.cache_bytes)}"
    figures_found = [
        ("FP32", peaks.fp32_gops, f"{rate(peaks.fp32_gops)}op/s", "fp32"),
        ("BF16", peaks.bf16_gops, f"{rate(peaks.bf16_gops or 0)}op/s", "bf16"),
        ("INT8", peaks.int8_gops, f"{rate(peaks.int8_gops or 0)}op/s", "int8"),
        ("memory", peaks.bandwidth_gb_s, f"{peaks.bandwidth_gb_s:.3g} GB/s", "bandwidth"),
        (cache, peaks.cache_gb_s, f"{peaks.cache_gb_s or 0:.3g} GB/s", "cache"),
    ]
    tiles = [
        f'<div class="tile small"><dt>{name}</dt><dd><b>{text}</b> <small>{shown(_kernel(peaks, key), 120)}</small></dd></div>'
        for name, value, text, key in figures_found
        if value is not None
    ]
    threads = f"{peaks.threads} thread{'s' if peaks.threads != 1 else ''}"
    words = f"<p>This machine at its best with {threads}, measured {shown(moment(peaks.measured), 40)}:</p>"
    return f'{words}<dl class="tiles">{"".join(tiles)}</dl>'


def _kernel(peaks: Peaks, key: str) -> str:
    return next((text for name, text in peaks.kernels.items() if name.startswith(key)), "")
