"""Two reports beside one another: what changed, and whether that is more than noise.

Light: no numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from accel.benchmarks import figures
from accel.benchmarks.changes import Change
from accel.benchmarks.gate_limits import Form, estimate
from accel.benchmarks.gates import bounds
from accel.benchmarks.quantities import STANDING, Quantity, metrics_of, quantity
from accel.benchmarks.stored_changes import match, other_data, other_machine, samples, since
from accel.entry import Entry
from accel.report import Estimate, Gate, GateKind, Report, Row, Source

Outcome = Literal["regressed", "improved", "unchanged", "not_comparable"]
RowStatus = Literal["compared", "added", "removed", "broken", "mended"]

LEAST: Mapping[str, float] = {"latency": 0.01, "size": 0.001, "accuracy": 0.0, "fidelity": 0.01}
"""By kind: relative changes below this are called unchanged, however sure they are: nobody acts on them."""


class Figure(Entry):
    """One quantity of one row, before and after. ``base_text``, ``head_text``, ``change_text``: as people read them.

    ``change``: head minus base, in ``change_unit``: ``relative`` (a share of base) or ``absolute`` (the quantity's own unit).
    ``outcome``: ``unchanged`` where the interval of the change holds 0, or the change is too small to matter. ``reason``: why
    there is no change to tell, or why it is not to be relied on.
    """

    metric: str
    kind: GateKind
    base: Estimate | None
    head: Estimate | None
    change: Estimate | None
    change_unit: Literal["relative", "absolute"]
    outcome: Outcome
    base_text: str
    head_text: str
    change_text: str
    reason: str | None = None


class ComparedRow(Entry):
    """``broken``: measured before, failed or skipped now; ``mended``: the other way round. ``precision``: what was executed."""

    name: str
    target: str | None
    status: RowStatus
    base_precision: str | None = None
    head_precision: str | None = None
    reason: str | None = None
    figures: list[Figure] = Field(default_factory=list)


class Side(Entry):
    """Which run."""

    name: str
    created: str
    accel_version: str
    recipe_sha256: str | None
    source: Source | None


class Difference(Entry):
    """Something of the surroundings that is not the same in both."""

    what: str
    base: str
    head: str


class Comparison(Entry):
    """``accel compare``. ``verdict``: one line; ``incomparable``: why latencies or accuracies are not compared at all."""

    schema_version: Literal[1] = 1
    verdict: str
    base: Side
    head: Side
    rows: list[ComparedRow]
    gates: list[Gate] = Field(default_factory=list)
    surroundings: list[Difference] = Field(default_factory=list)
    incomparable: list[str] = Field(default_factory=list)

    def json_text(self) -> str:
        """UTF-8, two spaces, a newline at the end."""
        return self.model_dump_json(indent=2) + "\n"

    def count(self, outcome: Outcome) -> int:
        """How many figures of all rows came out so."""
        return sum(figure.outcome == outcome for row in self.rows for figure in row.figures)

    def names(self, status: RowStatus) -> list[str]:
        """The rows of that status."""
        return [row.name for row in self.rows if row.status == status]


def compare(base: Report, head: Report, *, across_machines: bool = False, gates: Sequence[Gate] = ()) -> Comparison:
    """Rows are matched by name, else by target; those of ``head`` come first, in its order. ``gates``: already judged."""
    rows = []
    matched: set[str] = set()
    for row in head.rows:
        other = match(row, base)
        if other is None:
            rows.append(ComparedRow(name=row.name, target=row.target, status="added", figures=[]))
            continue
        matched.add(other.name)
        rows.append(_row(row, other, head, base, across_machines))
    rows += [ComparedRow(name=row.name, target=row.target, status="removed") for row in base.rows if row.name not in matched]
    found = Comparison(
        verdict="",
        base=_side(base),
        head=_side(head),
        rows=rows,
        gates=list(gates),
        surroundings=_surroundings(base, head),
        incomparable=_incomparable(base, head, across_machines),
    )
    return found.model_copy(update={"verdict": _verdict(found)})


def _row(row: Row, other: Row, head: Report, base: Report, across_machines: bool) -> ComparedRow:
    ours, theirs = (each.status in ("measured", "built") for each in (row, other))
    status: RowStatus = "compared" if ours == theirs else "broken" if theirs else "mended"
    named = [quantity(name, metrics_of([row])) for name in metrics_of([row])]
    found = [_figure(known, row, other, head, base, across_machines) for known in (*filter(None, named), *STANDING)]
    return ComparedRow(
        name=row.name,
        target=row.target,
        status=status,
        base_precision=_precision(other),
        head_precision=_precision(row),
        reason=None if ours else f"{row.status}: {row.reason or 'no reason given'}",
        figures=[figure for figure in found if figure is not None],
    )


def _precision(row: Row) -> str | None:
    return None if row.precision is None else figures.precision(row.precision)


def _figure(known: Quantity, row: Row, other: Row, head: Report, base: Report, across_machines: bool) -> Figure | None:
    """None where neither report has the figure, and for percentiles: they have no ratio that could be compared."""
    if known.name in ("latency_p90_ms", "latency_p99_ms"):
        return None
    now, then = known.read(row, samples(head)).estimate, known.read(other, samples(base)).estimate
    if now is None and then is None:
        return None
    change = since(known, row, head, base, "base", across_machines=across_machines)
    form: Form = "relative" if known.relative else "difference"
    found = change.relative if form == "relative" else change.difference
    outcome, reason = _outcome(known, change, found)
    return Figure(
        metric=known.name,
        kind=known.kind,
        base=then,
        head=now,
        change=found,
        change_unit="relative" if form == "relative" else "absolute",
        outcome=outcome,
        base_text="–" if then is None else estimate(Estimate(value=then.value), "value", known),
        head_text="–" if now is None else estimate(Estimate(value=now.value), "value", known),
        change_text="–" if found is None else estimate(found, form, known),
        reason=reason,
    )


def _outcome(known: Quantity, change: Change, found: Estimate | None) -> tuple[Outcome, str | None]:
    if change.broken is not None:
        return "regressed", change.broken
    if found is None:
        return "not_comparable", change.reason or "base is 0, and nothing is relative to that"
    if change.unstable is not None:
        return "not_comparable", f"unstable: {change.unstable}"
    low, high = bounds(found, change.exact)
    small = change.relative is not None and abs(change.relative.value) < LEAST[known.kind]
    if low <= 0 <= high or small:
        return "unchanged", None
    return ("improved" if (low > 0) == known.higher_is_better else "regressed"), None


def _side(report: Report) -> Side:
    return Side(
        name=report.name,
        created=report.created,
        accel_version=report.accel_version,
        recipe_sha256=report.recipe_sha256,
        source=report.source,
    )


def _surroundings(base: Report, head: Report) -> list[Difference]:
    """What of machine, versions, data and recipe is not the same."""
    before, now = base.environment, head.environment
    pairs = [
        ("CPU", before.cpu, now.cpu),
        ("instruction sets", " ".join(before.isa_flags), " ".join(now.isa_flags)),
        ("cores", str(before.cores), str(now.cores)),
        ("GPUs", ", ".join(gpu.name for gpu in before.gpus), ", ".join(gpu.name for gpu in now.gpus)),
        ("platform", before.platform, now.platform),
        ("Python", before.python, now.python),
        ("accel", base.accel_version, head.accel_version),
        ("recipe", base.recipe_sha256 or "", head.recipe_sha256 or ""),
        *((name, before.libraries.get(name, ""), now.libraries.get(name, "")) for name in _libraries(base, head)),
    ]
    for use in head.data:
        other = next((found for found in base.data if found.split == use.split), None)
        pairs.append((f"{use.split} data", "" if other is None else other.digest, use.digest))
    return [Difference(what=what, base=one or "none", head=two or "none") for what, one, two in pairs if one != two]


def _libraries(base: Report, head: Report) -> list[str]:
    return sorted(base.environment.libraries.keys() | head.environment.libraries.keys())


def _incomparable(base: Report, head: Report, across_machines: bool) -> list[str]:
    """Once for the whole, instead of at every row."""
    said = []
    timed = [row for row in head.rows if row.latency is not None]
    reasons = dict.fromkeys(filter(None, (other_machine(head, base, row) for row in timed)))
    if reasons and not across_machines:
        said.append(f"latencies are not compared: {'; '.join(reasons)} (--across-machines compares ratios of one run)")
    elif reasons:
        said.append(f"latencies are of different machines, only ratios taken in one run are compared: {'; '.join(reasons)}")
    problem = other_data(head, base) if any(row.metrics for row in head.rows) else None
    return [*said, *([f"accuracies are not compared: {problem}"] if problem else [])]


def _verdict(found: Comparison) -> str:
    parts = []
    for outcome in ("regressed", "improved"):
        names = list(
            dict.fromkeys(
                f"{figure.metric} of {row.name}" for row in found.rows for figure in row.figures if figure.outcome == outcome
            )
        )
        if names:
            rest = [f"{len(names) - 3} more"] if len(names) > 3 else []
            parts.append(f"{len(names)} {outcome} ({figures.listed([*names[:3], *rest])})")
    statuses: tuple[RowStatus, ...] = ("broken", "removed", "added", "mended")
    for status in statuses:
        names = found.names(status)
        if names:
            rest = [f"{len(names) - 3} more"] if len(names) > 3 else []
            parts.append(f"rows {status}: {figures.listed([*names[:3], *rest])}")
    text = ", ".join(parts) or "nothing changed significantly"
    line = figures.gates_line(found.gates)
    return f"{line}: {text}" if line else text
