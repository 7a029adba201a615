"""Accuracy in detail: the classes that lost most, and the samples on which rows and reference differ most."""

from __future__ import annotations

from accel.benchmarks.html import cells
from accel.benchmarks.html.markup import short, shown, thumbnail
from accel.benchmarks.html.tables import Cell, Column, figure, table
from accel.report import Differing, Report, Row, Sample

CLASSES = 10
MOST_CLASSES = 40
VISIBLE = 12
MOST = 100
THUMBNAILS = 400_000
"""Characters of all thumbnails together; the page stays under 1 MB. Those of the samples that differ least go first."""


def classes(report: Report) -> str:
    """A table for each row that has them, the best one's open. Empty where none has."""
    found = [(index, row) for index, row in enumerate(report.rows, 1) if row.classes]
    opened = next((row.name for _, row in found if row.name == report.verdict.row), found[0][1].name if found else "")
    return "\n".join(_classes(row, index, report, row.name == opened) for index, row in found)


def class_name(report: Report, label: int | None) -> str:
    """The class's name as markup, its number where it has none."""
    if label is None:
        return "unknown"
    if 0 <= label < len(report.classes) and report.classes[label].strip():
        return short(report.classes[label], 30)
    return f"class {label}"


def _classes(row: Row, number: int, report: Report, opened: bool) -> str:
    columns = [
        Column("class"),
        Column("samples", numeric=True),
        Column("reference", numeric=True),
        Column("here", numeric=True),
        Column("change", numeric=True),
        Column("", sorts=False),
        Column("significant", note="McNemar's exact test at 5 %, corrected for the number of classes (Holm)"),
    ]
    largest = max(abs(found.value - found.reference) for found in row.classes) or 1.0
    rows = []
    for found in row.classes[:MOST_CLASSES]:
        change = found.value - found.reference
        rows.append(
            [
                Cell(class_name(report, found.label), kind="words"),
                figure(f"{found.n:,}", found.n),
                figure(f"{100 * found.reference:.2f} %", found.reference),
                figure(f"{100 * found.value:.2f} %", found.value),
                figure(f"{100 * change:+.2f} points", change),
                Cell(cells.bar(abs(change) / largest, "loss" if change < 0 else ""), kind="wide"),
                Cell("yes" if found.significant else "no", kind="words"),
            ]
        )
    caption = f"{short(row.name)}: top-1 by class, those that lost most first"
    parts = [table(f"classes-{number}", caption, columns, rows[:CLASSES], compact=True)]
    if len(rows) > CLASSES:
        rest = table(f"classes-{number}-rest", f"{short(row.name)}: the other classes", columns, rows[CLASSES:], compact=True)
        left = len(row.classes) - len(rows)
        more = f"<p>{left:,} more in report.json.</p>" if left else ""
        parts.append(f"<details><summary>The other {len(row.classes) - CLASSES:,} classes</summary>{rest}{more}</details>")
    lost = sum(found.value < found.reference for found in row.classes)
    significant = sum(found.significant and found.value < found.reference for found in row.classes)
    about = f"{lost:,} {'class' if lost == 1 else 'classes'} lost, {significant:,} of them significantly"
    return cells.folded(short(row.name, 80), about, "".join(parts), opened)


def differing(report: Report) -> str:
    """A card for each sample, those that differ most first; its image stands in the page once, for all rows."""
    samples = {sample.index: sample for sample in report.samples}
    named: dict[int, list[tuple[int, Row, Differing]]] = {}
    for index, row in enumerate(report.rows, 1):
        for found in row.differing:
            named.setdefault(found.sample, []).append((index, row, found))
    if not named:
        return ""
    order = sorted(named, key=lambda sample: (-max(found.distance for *_, found in named[sample]), sample))
    cards, left, dropped = [], THUMBNAILS, 0
    for sample in order[:MOST]:
        known = samples.get(sample, Sample(index=sample, label=None))
        image = thumbnail(known.thumbnail)
        if image is not None and len(image) > left:
            image, dropped = None, dropped + 1
        left -= len(image or "")
        cards.append(_card(known, image, named[sample], report))
    words = "Distance: half the sum of the absolute differences of the two softmax outputs, 0 to 1."
    parts = [f"<p>{words} ✓ and ✗: right and wrong by the label.</p>"]
    parts.append(f'<ul class="cards">{"".join(cards[:VISIBLE])}</ul>')
    if len(cards) > VISIBLE:
        rest = "".join(cards[VISIBLE:])
        parts.append(
            f'<details><summary>{len(order) - VISIBLE:,} more samples</summary><ul class="cards">{rest}</ul></details>'
        )
    if len(order) > MOST or dropped:
        parts.append(f"<p>Left out of this page: {len(order[MOST:]):,} samples, {dropped:,} more images; see report.json.</p>")
    return "\n".join(parts)


def _card(sample: Sample, image: str | None, found: list[tuple[int, Row, Differing]], report: Report) -> str:
    label = class_name(report, sample.label)
    picture = '<span class="noimage" aria-hidden="true">no image</span>'
    if image is not None:
        picture = f'<img src="{image}" alt="sample {sample.index}" decoding="async">'
    reference = found[0][2].reference
    lines = [
        f"<tr><td>{short(row.name, 32)}</td><td>{_answer(each.predicted, sample.label, report)}</td>"
        f'<td class="n">{each.distance:.2f}</td></tr>'
        for _, row, each in found
    ]
    return (
        f'<li class="card"><div>{picture}<p><b>{label}</b> <small>sample {sample.index}</small>'
        f"<small>reference says {_answer(reference, sample.label, report)}</small></p></div>"
        '<table class="plain"><thead><tr><th scope="col">row</th><th scope="col">says</th>'
        f'<th scope="col" class="n">distance</th></tr></thead><tbody>{"".join(lines)}</tbody></table></li>'
    )


def _answer(predicted: int, label: int | None, report: Report) -> str:
    name = class_name(report, predicted)
    if label is None:
        return name
    right = predicted == label
    sign, word = ("✓", "right") if right else ("✗", "wrong")
    return f'{name} <span class="{word}" role="img" aria-label="{word}">{sign}</span>'


def notes(report: Report) -> str:
    """What was dropped, in words: shown where images were not what they should be."""
    bad = [
        shown(sample.index) for sample in report.samples if sample.thumbnail is not None and thumbnail(sample.thumbnail) is None
    ]
    return f"<p>Images left out, not a data address of a PNG, JPEG or WebP: samples {', '.join(bad[:20])}.</p>" if bad else ""
