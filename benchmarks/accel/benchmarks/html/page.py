"""``report.html`` from a report: one file that works offline and asks for nothing. Light: no numpy.

The same ``report.json`` gives the same bytes. Style and script are inside and allowed by their hashes alone; images are data
addresses; everything else is refused by the page's own policy (https://www.w3.org/TR/CSP3/).
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

from accel.benchmarks.html import (
    distributions,
    kept,
    layers,
    measured,
    opening,
    palette,
    pareto,
    points,
    results,
    roofline,
    samples,
)
from accel.benchmarks.html.markup import moment, shown
from accel.report import Report


@dataclass(frozen=True)
class Section:
    """``html`` is markup; a section without any is left out."""

    identity: str
    title: str
    html: str


def render(report: Report) -> str:
    """The whole page. It needs no script to be read; with it, tables sort and marks have tooltips."""
    report = Report.model_validate_json(report.json_text())  # what a reader of the file would have: no tuples, no paths
    style = palette.variables() + _packaged("style.css")
    script = _packaged("script.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    sections = [section for section in _sections(report) if section.html]
    links = "".join(f'<li><a href="#{section.identity}">{section.title}</a></li>' for section in sections)
    body = "\n".join(
        f'<section id="{section.identity}" aria-labelledby="{section.identity}-title">'
        f'<h2 id="{section.identity}-title">{section.title}</h2>\n{section.html}\n</section>'
        for section in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="robots" content="noindex">
<link rel="icon" href="data:,">
<title>{shown(report.name, 100)} · accel report</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#results">Skip to the results</a>
<header>
<div class="top">
<p class="eyebrow"><b>{shown(report.name, 100)}</b> accel report, {shown(moment(report.created), 40)}</p>
{_THEME}
</div>
<h1>{opening.verdict(report.verdict.text)}</h1>
{opening.banner(report)}
{opening.tiles(report)}
{measured.warnings(report)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{body}
</main>
<footer><p>accel {shown(report.accel_version, 60)}, {shown(report.created, 60)}. Made from report.json, which has every
figure in full; this page asks nothing of the network.</p></footer>
<div id="tip" hidden></div>
<p id="said" class="unseen" role="status"></p>
<script>{script}</script>
</body>
</html>
"""


_THEME = (
    '<fieldset class="theme"><legend class="unseen">Colours</legend>'
    '<label><input type="radio" name="theme" id="theme-system" checked autocomplete="off"><span>System</span></label>'
    '<label><input type="radio" name="theme" id="theme-light" autocomplete="off"><span>Light</span></label>'
    '<label><input type="radio" name="theme" id="theme-dark" autocomplete="off"><span>Dark</span></label></fieldset>'
)


def _sections(report: Report) -> list[Section]:
    return [
        Section("gates", "Gates", opening.gates(report)),
        Section("results", "Results", results.results(report)),
        Section("pareto", "Accuracy against latency and size", pareto.charts(report)),
        Section("latency", "Spread of latencies", distributions.distributions(report)),
        Section("points", "Scenarios and settings", points.points(report)),
        Section("roofline", "How far from the machine's limit", roofline.roofline(report)),
        Section("layers", "Layers: precision and time", layers.layers(report)),
        Section("kept", "Layers kept in floating point", kept.kept(report)),
        Section("classes", "Accuracy by class", samples.classes(report)),
        Section("samples", "Samples that differ most", samples.differing(report) + samples.notes(report)),
        Section("measured", "How it was measured", measured.measured(report)),
        Section("steps", "Steps", measured.steps(report)),
        Section("notes", "Notes", measured.notes(report)),
        Section("deployment", "Deployment", measured.deployment(report)),
    ]


def _packaged(name: str) -> str:
    return (files("accel.benchmarks.html") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a policy names the content of an element."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
