"""The top of the page: what came out, in a sentence, a sign and four figures; then the gates."""

from __future__ import annotations

from accel.benchmarks import figures
from accel.benchmarks.html.cells import is_unclear, speedup_to
from accel.benchmarks.html.markup import short, shown
from accel.benchmarks.html.tables import MISSING, Cell, Column, table, words
from accel.benchmarks.verdict import own_baseline, yardstick, yardstick_name
from accel.report import Gate, Report, Row

SIGNS = {"pass": "✓", "fail": "✗", "inconclusive": "?"}


def verdict(text: str) -> str:
    """The one sentence: its figures strong, what they are of and held against lighter."""
    strong, colon, rest = text.partition(": ")
    return f"{shown(strong + colon.rstrip(), 2000)} <span>{shown(rest, 2000)}</span>" if rest else shown(text, 2000)


def banner(report: Report) -> str:
    """Gates in one line: a sign and a word, then how many of which verdict. Empty without gates."""
    gates = report.gates
    if not gates:
        return ""
    failed = [gate for gate in gates if gate.failed]
    counts = {verdict: sum(gate.verdict == verdict for gate in gates) for verdict in SIGNS}
    verdict = "fail" if failed else "inconclusive" if counts["inconclusive"] else "pass"
    told = [f"{counts['pass']} of {len(gates)} gates {'passes' if counts['pass'] == 1 else 'pass'}"]
    told += [f"{counts[other]} {other}" for other in ("fail", "inconclusive") if counts[other]]
    line = ", ".join(told).replace(" fail", " failed")
    reasons = "".join(f"<li>{shown(gate.text)}</li>" for gate in failed[:5])
    more = f"<li>and {len(failed) - 5:,} more</li>" if len(failed) > 5 else ""
    return (
        f'<div class="banner {verdict}"><span class="sign" aria-hidden="true">{SIGNS[verdict]}</span>'
        f"<div><strong>{verdict.upper()}</strong> <span>{line}</span>"
        f"{f'<ul>{reasons}{more}</ul>' if failed else ''}</div></div>"
    )


def tiles(report: Report) -> str:
    """The best row's speed, size, accuracy and latency, each with what it is held against."""
    best = next((row for row in report.rows if row.name == report.verdict.row), None)
    if best is None:
        return ""
    vs = yardstick(report.rows)
    found = [_speed(best, vs), _size(best, vs, report), _accuracy(best), _latency(best)]
    parts = [
        f'<div class="tile"><dt>{shown(head)}</dt><dd><b>{value}</b> <small>{below}</small></dd></div>'
        for head, value, below in filter(None, found)
    ]
    return f'<dl class="tiles">{"".join(parts)}</dl>' if parts else ""


Tile = tuple[str, str, str]


def _speed(best: Row, vs: Row | None) -> Tile | None:
    found = speedup_to(best, vs)
    if found is None or vs is None:
        return None
    head, against = "speed", f"against {short(vs.name, 32)}, the {yardstick_name(vs)}"
    if found.unstable is not None:
        return head, "unstable", shown(found.unstable)
    value, _, interval = figures.ratio(found.ratio).partition(" ")
    word = "not significant" if is_unclear(found.ratio) else "faster" if found.ratio.value >= 1 else "as fast"
    return head, f"{shown(value)} <i>{word}</i>", f"{shown(interval.strip('()'))}, {against}"


def _size(best: Row, vs: Row | None, report: Report) -> Tile | None:
    compared = vs if vs is not None and vs.size_bytes else own_baseline(best, report.rows)
    if not best.size_bytes:
        return None
    if compared is None or not compared.size_bytes or compared.name == best.name:
        return "size", figures.size(best.size_bytes), "all files that ship"
    value, _, word = figures.smaller(compared.size_bytes, best.size_bytes).partition(" ")
    change = f"{figures.size(compared.size_bytes)} to {figures.size(best.size_bytes)}"
    return "size", f"{value} <i>{word}</i>", f"{change}, all files that ship"


def _accuracy(best: Row) -> Tile | None:
    if not best.metrics:
        return None
    metric = best.metrics[0]
    head = figures.label(metric.name)
    if metric.difference is None:
        return head, figures.metric_value(metric), f"{metric.n:,} samples"
    text, _, interval = figures.metric_difference(metric).partition(" (")
    value, _, unit = text.partition(" ")
    below = ", ".join(filter(None, [interval.rstrip(")"), f"{figures.metric_value(metric)} of {metric.n:,} samples"]))
    return head, f"{shown(value)} <i>{shown(unit)}</i>", shown(below)


def _latency(best: Row) -> Tile | None:
    latency = best.latency
    if latency is None:
        return None
    below = f"median of {latency.queries:,} queries, batch {latency.batch_size}, threads {latency.threads}"
    if latency.unstable is not None:
        return "latency", "unstable", shown(latency.unstable)
    value, _, unit = figures.milliseconds(latency.p50_ms).partition(" ")
    return "latency", f"{value} <i>{unit}</i>", below


def gates(report: Report) -> str:
    """Every gate with its limit, what was found and the place in the recipe. Empty without gates."""
    if not report.gates:
        return ""
    columns = [
        Column("gate"),
        Column("verdict"),
        Column("row"),
        Column("limit"),
        Column("found", numeric=True, note="with its 95 % interval, in the unit of the limit"),
        Column("against"),
        Column("in words"),
        Column("recipe line", numeric=True),
    ]
    rows = [_gate(gate) for gate in report.gates]
    caption = "A verdict is taken from the interval, not from the point: inconclusive where the interval holds the limit."
    return table("gates", caption, columns, rows)


def _gate(gate: Gate) -> list[Cell]:
    found = gate.found
    cell = MISSING
    if found is not None:
        bounds = "" if found.low is None or found.high is None else f"<small>{found.low:.4g} to {found.high:.4g}</small>"
        cell = Cell(f"{found.value:.4g}{bounds}", found.value)
    fails = " <small>fails the run</small>" if gate.failed and gate.verdict == "inconclusive" else ""
    sign = f'<span class="chip {gate.verdict}"><span aria-hidden="true">{SIGNS[gate.verdict]}</span> {gate.verdict}</span>'
    return [
        Cell(f"{short(gate.name)}<small>{gate.kind}</small>", gate.name),
        Cell(sign + fails, {"fail": 0.0, "inconclusive": 1.0, "pass": 2.0}[gate.verdict]),
        words(short(gate.row)) if gate.row is not None else MISSING,
        words(shown(gate.limit)),
        cell,
        words(short(gate.vs)) if gate.vs is not None else MISSING,
        words(shown(gate.text)),
        Cell(f"{gate.line}:{gate.column}", float(gate.line)) if gate.line else MISSING,
    ]
