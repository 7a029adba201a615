"""Every rendering of a report: which files a format is made of, and the text of each. Light until one is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from accel.report import Report

Render = Callable[[Report], str]


def _markdown(report: Report) -> str:
    from accel.benchmarks.markdown import render

    return render(report)


def _html(report: Report) -> str:
    from accel.benchmarks.html.page import render

    return render(report)


def _junit(report: Report) -> str:
    from accel.benchmarks.junit import render

    return render(report)


def _smaller(report: Report) -> str:
    from accel.benchmarks.bench_json import smaller_is_better

    return smaller_is_better(report)


def _bigger(report: Report) -> str:
    from accel.benchmarks.bench_json import bigger_is_better

    return bigger_is_better(report)


def _bencher(report: Report) -> str:
    from accel.benchmarks.bench_json import bencher

    return bencher(report)


FORMATS: Mapping[str, Mapping[str, Render]] = {
    "json": {"report.json": Report.json_text},
    "md": {"report.md": _markdown},
    "html": {"report.html": _html},
    "junit": {"junit.xml": _junit},
    "github-action-benchmark": {"benchmark-smaller-is-better.json": _smaller, "benchmark-bigger-is-better.json": _bigger},
    "bencher": {"bencher.json": _bencher},
}
"""What a recipe may name in ``report.formats``, and the files that come of it in the output folder."""


def files(formats: Iterable[str], report: Report) -> Iterator[tuple[str, str]]:
    """Name and text of every file of ``formats``, ``report.json`` first and in any case. KeyError for a format not in FORMATS.

    All are made from what a reader of ``report.json`` would have, so that rendering it again gives the same bytes.
    """
    stored = Report.model_validate_json(report.json_text())
    for form in dict.fromkeys(["json", *formats]):
        for name, render in FORMATS[form].items():
            yield name, render(stored)
