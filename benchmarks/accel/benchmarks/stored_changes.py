"""How a row stands to that of a stored report: what may be compared at all, and the interval of the comparison.

Two medians of two runs are never compared: the same model's moved by 50 % between two blocks of one run (DESIGN.md, fact 4).
What is compared is how each row stood to a row that was timed in turn with it. Light: no numpy.
"""

from __future__ import annotations

from dataclasses import replace

from accel.benchmarks.changes import Change, between, interleaved, of_difference, of_ratio
from accel.benchmarks.intervals import minus, newcombe, over
from accel.benchmarks.quantities import Figure, Quantity, point_of
from accel.benchmarks.verdict import own_baseline
from accel.report import DataUse, Estimate, Metric, Report, Row, Speedup

RUNTIMES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "eager": "torch",
    "tensorrt": "tensorrt",
}
"""A backend to the start of the names of the distributions that decide its speed."""

_AGREEMENTS = ("top1_agreement", "nearest_agreement")

SAME_BOUND = 0.01
"""A rate that keeps another bound is another quantity. The default bound follows from a median, and so differs by more."""

ALIKE = 0.01
"""Two untouched models whose sizes differ by less are taken for one architecture: trained again, it keeps its speed."""


def match(row: Row, base: Report) -> Row | None:
    """The same thing in another report: by name, or else as the result for the same target."""
    named = next((other for other in base.rows if other.name == row.name), None)
    same = (other for other in base.rows if row.target is not None and (other.target, other.role) == (row.target, row.role))
    return named or next(same, None)


def since(quantity: Quantity, row: Row, head: Report, base: Report, vs: str, *, across_machines: bool = False) -> Change:
    """``row`` of ``head`` against the same row of ``base``, which ``vs`` names."""
    other = match(row, base)
    if other is None:
        return Change(vs, reason=f"{vs} has no such row")
    ours, theirs = quantity.read(row, samples(head)), quantity.read(other, samples(base))
    if ours.estimate is None or theirs.estimate is None:
        return Change(vs, reason=ours.reason if ours.estimate is None else f"in {vs}: {theirs.reason}")
    if quantity.kind == "latency":
        return _latency(quantity, (row, ours, head), (other, theirs, base), vs, across_machines)
    if quantity.kind in ("accuracy", "fidelity") and quantity.name != "int8_share":
        problem = other_data(head, base)
        if problem is not None:
            return Change(vs, reason=f"not comparable: {problem}", refused=True)
    if quantity.metric:
        return _accuracy(quantity, row, other, vs)
    if quantity.name in _AGREEMENTS and ours.estimate.value == theirs.estimate.value and _same_files(row, other):
        found = of_difference(quantity, vs, Estimate(value=0.0), theirs.estimate.value)
        return replace(found, exact=True, broken=ours.broken)
    if quantity.name in _AGREEMENTS and samples(head) and samples(base):
        difference = newcombe(ours.estimate.value, samples(head), theirs.estimate.value, samples(base))
        found = of_difference(quantity, vs, difference, theirs.estimate.value)
        return replace(found, broken=ours.broken)
    return between(quantity, vs, ours, theirs)


def samples(report: Report) -> int:
    """Of the validation split; 0 where nothing is known of it."""
    use = _validation(report)
    if use is not None:
        return use.samples
    return next((metric.n for row in report.rows for metric in row.metrics), 0)


def _validation(report: Report) -> DataUse | None:
    return next((use for use in report.data if use.split == "validation"), None)


def other_data(head: Report, base: Report) -> str | None:
    """Why accuracies of the two do not compare; None where they were taken on the same data."""
    ours, theirs = _validation(head), _validation(base)
    if ours is None or theirs is None:
        return "what data one of them was judged on is not known"
    if ours.digest != theirs.digest:
        return f"they were judged on other data (digests {ours.digest[:12]} and {theirs.digest[:12]})"
    return None


def other_machine(head: Report, base: Report, row: Row) -> str | None:
    """Why latencies of ``row`` do not compare: what differs between the machines; None where they are alike."""
    ours, theirs = head.environment, base.environment
    if ours.cpu != theirs.cpu:
        return f"the CPU differs ({theirs.cpu}, now {ours.cpu})"
    if ours.cores != theirs.cores:
        return f"the number of cores differs ({theirs.cores}, now {ours.cores})"
    gpus = [sorted(gpu.name for gpu in machine.gpus) for machine in (theirs, ours)]
    if row.device == "gpu" and gpus[0] != gpus[1]:
        return f"the GPU differs ({', '.join(gpus[0]) or 'none'}, now {', '.join(gpus[1]) or 'none'})"
    start = RUNTIMES.get(row.backend, row.backend)
    for name in sorted(ours.libraries.keys() | theirs.libraries.keys()):
        if name.startswith(start) and name.removeprefix(start)[:1] in ("", "-"):
            before, now = (machine.libraries.get(name) for machine in (theirs, ours))
            if (before or "").partition(".")[0] != (now or "").partition(".")[0]:
                return f"{name} differs ({before or 'absent'}, now {now or 'absent'})"
    return None


Side = tuple[Row, Figure, Report]


def _latency(quantity: Quantity, ours: Side, theirs: Side, vs: str, across_machines: bool) -> Change:
    (row, figure, head), (other, before, base) = ours, theirs
    problem = None if across_machines else other_machine(head, base, row)
    problem = problem or _other_settings(quantity, row, other)
    if problem is not None:
        return Change(vs, reason=f"not comparable: {problem}", refused=True)
    if quantity.spread > 1:
        if across_machines and other_machine(head, base, row) is not None:
            return Change(vs, reason="not comparable: it has no ratio of one run, only times of two machines", refused=True)
        return between(quantity, vs, figure, before)
    if quantity.name in ("latency_p90_ms", "latency_p99_ms"):
        way = "only ratios of rows timed in turn are, so limit latency_p50_ms"
        return Change(vs, reason=f"not comparable: percentiles of two runs are not compared; {way}", refused=True)
    return _ratio_of_ratios(quantity, ours, theirs, vs)


def _ratio_of_ratios(quantity: Quantity, ours: Side, theirs: Side, vs: str) -> Change:
    """How many times better than a row that both runs have, now over then."""
    (row, figure, head), (other, _, base) = ours, theirs
    assert figure.estimate is not None
    pairs = [(anchor, before) for anchor in _anchors(row, head) for before in base.rows if before.name == anchor.name]
    changed = next((anchor.name for anchor, before in pairs if not _same_model(anchor, before)), None)
    if changed is not None:  # then it is another for every anchor, also for those that cannot tell
        return Change(vs, reason=f"not comparable: the untouched model ({changed}) is another than in {vs}", refused=True)
    for anchor, _ in pairs:
        now, then = interleaved(quantity, row, anchor.name), interleaved(quantity, other, anchor.name)
        if now is not None and then is not None:
            if min(now.ratio.value, then.ratio.value, figure.estimate.value) <= 0:  # a file that somebody else wrote
                return Change(vs, reason=f"not comparable: a time or ratio is 0 or negative, here or in {vs}", refused=True)
            found = of_ratio(quantity, vs, over(now.ratio, then.ratio), figure.estimate.value)
            return replace(found, unstable=_unstable(now, then, vs))
    return Change(vs, reason=f"not comparable: no untouched row was timed in turn with it both now and in {vs}", refused=True)


def _anchors(row: Row, head: Report) -> list[Row]:
    """The untouched rows, the row's own baseline first."""
    own = own_baseline(row, head.rows)
    untouched = [other for other in head.rows if other.role != "result" and other.name != row.name]
    return sorted(untouched, key=lambda other: own is None or other.name != own.name)


def _same_model(anchor: Row, before: Row) -> bool:
    """Whether two untouched rows can be one architecture. Weights may differ: they do not move the time."""
    if (anchor.backend, anchor.device) != (before.backend, before.device):
        return False
    if anchor.roofline is not None and before.roofline is not None and anchor.roofline.macs != before.roofline.macs:
        return False
    if not anchor.size_bytes or not before.size_bytes:
        return True
    return abs(anchor.size_bytes / before.size_bytes - 1) <= ALIKE


def _unstable(now: Speedup, then: Speedup, vs: str) -> str | None:
    return now.unstable or (f"in {vs}: {then.unstable}" if then.unstable else None)


def _other_settings(quantity: Quantity, row: Row, other: Row) -> str | None:
    if quantity.name in ("throughput_per_s", "rate_per_s"):
        now, then = point_of(row, quantity.name), point_of(other, quantity.name)
        if now is None or then is None:
            return None
        settings = [("batch size", now.batch_size, then.batch_size), ("threads", now.threads, then.threads)]
        settings.append(("streams", now.streams, then.streams))
        if now.bound_ms and then.bound_ms and abs(now.bound_ms / then.bound_ms - 1) > SAME_BOUND:
            return f"the bound on latency: {then.bound_ms:.4g} ms, now {now.bound_ms:.4g} ms; set benchmark.server_bound_ms"
    elif row.latency is not None and other.latency is not None:
        settings = [("batch size", row.latency.batch_size, other.latency.batch_size)]
        settings.append(("threads", row.latency.threads, other.latency.threads))
    else:
        return None
    return next((f"{what}: {before}, now {found}" for what, found, before in settings if found != before), None)


def _accuracy(quantity: Quantity, row: Row, other: Row, vs: str) -> Change:
    """On the same data. Where both rows were compared, sample by sample, with a reference of the same score, the two paired
    differences say more than the two shares do: what both rows have in common with the reference cancels."""
    now, then = (next(metric for metric in each.metrics if metric.name == quantity.name) for each in (row, other))
    value = now.value - then.value
    if value == 0 and _same_files(row, other):
        return replace(of_difference(quantity, vs, Estimate(value=0.0), then.value), exact=True)
    difference = None
    if now.difference is not None and then.difference is not None and _same_reference(now, then):
        difference = minus(now.difference, then.difference)
        difference = difference.model_copy(update={"value": value})
    shares = quantity.unit == "fraction" or (now.mcnemar is not None and then.mcnemar is not None)
    if difference is None or difference.low is None:
        if shares:
            difference = newcombe(now.value, now.n, then.value, then.n)
        elif difference is None:
            difference = Estimate(value=value)
    found = of_difference(quantity, vs, difference, then.value)
    return replace(found, exact=difference.low is None or difference.high is None)


def _same_files(row: Row, other: Row) -> bool:
    """With the same data and the same score there is then nothing to estimate."""
    files = [[file.sha256 for file in each.files] for each in (row, other)]
    return bool(files[0]) and files[0] == files[1]


def _same_reference(now: Metric, then: Metric) -> bool:
    assert now.difference is not None
    assert then.difference is not None
    return abs((now.value - now.difference.value) - (then.value - then.difference.value)) < 1e-9
