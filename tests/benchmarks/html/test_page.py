"""The page as a document: whole, the same each time, small, and deaf to what others wrote into the report."""

from __future__ import annotations

import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from accel.benchmarks.html.page import render
from accel.machine import Environment
from accel.report import Layer, Report, Sample, Verdict, read

HOSTILE = (
    "x</script></title></style><script>window.pwned=1</script><img src=x onerror=window.pwned=1>"
    '"\' onmouseover="window.pwned=1" [a](javascript:window.pwned=1) `b` **c** | d\n::error file=a::b\n##[error]c '
    "\x1b[31mred\x1b[0m \u202eright to left \u2028 javascript:window.pwned=1 &lt;b&gt; " + "A" * 10_000
)
ALLOWED = {
    *("html", "head", "meta", "title", "style", "link", "body", "a", "header", "div", "p", "b", "fieldset", "legend", "label"),
    *("input", "span", "h1", "h2", "h3", "nav", "ul", "li", "main", "section", "table", "caption", "thead", "tbody", "tfoot"),
    *("tr", "th", "td", "small", "dl", "dt", "dd", "i", "strong", "figure", "figcaption", "svg", "path", "line", "rect"),
    *("circle", "polygon", "text", "details", "summary", "code", "pre", "img", "footer", "script"),
}


def hostile(report: Report, text: str = HOSTILE) -> Report:
    """Every text that others choose is ``text``; numbers and links between parts stay."""
    document = report.model_dump(mode="json")
    kept = {"schema_version", "thumbnail", "role", "status", "scenario", "verdict", "kind"}
    names: dict[str, str] = {}

    def changed(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name if key in _TYPED else f"{name}{text}": changed(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [changed(inner, key) for inner in value]
        if isinstance(value, str) and key not in kept:
            return names.setdefault(value, f"{len(names)}{text}")
        return value

    rows = [changed(row, "rows") | {"role": row["role"], "status": row["status"]} for row in document["rows"]]
    gates = [changed(gate, "gates") | {"kind": gate["kind"], "verdict": gate["verdict"]} for gate in document["gates"]]
    noise = changed(document["noise"], "noise") | {"verdict": "noisy"}
    verdict = {"text": text, "row": names.get(document["verdict"]["row"])}
    rest = {key: changed(value, key) for key, value in document.items() if key not in ("rows", "gates", "noise", "verdict")}
    for row, before in zip(rows, document["rows"], strict=True):
        for layer, was in zip(row["layers"], before["layers"], strict=True):
            layer["kind"] = f"{was['kind']}{text}"
    return Report.model_validate(rest | {"rows": rows, "gates": gates, "noise": noise, "verdict": verdict})


_TYPED = {
    *("rows", "gates", "noise", "steps", "data", "samples", "environment", "conditions", "peaks", "source", "gpus", "latency"),
    *("metrics", "difference", "bootstrap", "mcnemar", "speedups", "ratio", "fidelity", "files", "points", "roofline"),
    *("layers", "classes", "differing", "precision", "found", "throughput_per_s", "rate_per_s"),
}


def checked(tree: Callable[[str], Any], page: str) -> Any:
    """The page's tree: balanced, ids unique and there where they are named, heads scoped, nothing that reaches out."""
    root = tree(page)
    everything = root.all()
    assert {element.tag for element in everything} <= ALLOWED
    ids = [element.attributes["id"] for element in everything if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for element in everything:
        assert not any(name.startswith("on") or name == "style" for name in element.attributes), element.attributes
        for name in ("href", "src"):
            address = element.attributes.get(name, "#")
            assert address.startswith(("#", "data:image/")) or (element.tag, address) == ("link", "data:,")
            assert not address.startswith("#") or address == "#" or address[1:] in ids
        if (named := element.attributes.get("aria-labelledby")) is not None:
            assert named in ids
        if element.tag == "th":
            assert element.attributes.get("scope") in ("row", "col")
        if element.tag == "table" and "sortable" in element.attributes.get("class", ""):
            assert element.all("caption")
        if element.tag == "img":
            assert element.attributes["alt"]
    assert [len(root.all(tag)) for tag in ("script", "style", "h1", "main", "link")] == [1] * 5
    return root


def columns_of(row: Any) -> int:
    return sum(int(cell.attributes.get("colspan", 1)) for cell in row.children)


def test_the_verdict_comes_first_then_the_parts_in_order(rich: Report, tree: Callable[[str], Any]) -> None:
    root = checked(tree, render(rich))
    (heading,) = root.all("h1")
    assert heading.text() == rich.verdict.text
    assert [section.attributes["id"] for section in root.all("section")] == [
        *("gates", "results", "pareto", "latency", "points", "roofline", "layers", "classes", "samples"),
        *("measured", "steps", "notes", "deployment"),
    ]
    (banner,) = root.all(kind="banner")
    assert "fail" in banner.attributes["class"].split()
    assert "✗" in banner.text()
    assert "FAIL 2 of 4 gates pass, 1 failed, 1 inconclusive" in banner.text()
    (nav,) = root.all("nav")
    assert len(nav.all("a")) == 13


def test_lines_of_a_table_are_as_wide_as_its_head(rich: Report, tree: Callable[[str], Any]) -> None:
    for table in tree(render(rich)).all("table"):
        assert len({columns_of(row) for row in table.all("tr")}) == 1, table.attributes


def test_the_same_report_gives_the_same_bytes(rich: Report, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(rich.json_text(), encoding="utf-8")
    assert render(read(tmp_path / "report.json")) == render(rich)
    program = "import sys; sys.stdout.reconfigure(encoding='utf-8')\nfrom pathlib import Path\nfrom accel.report import read\n"
    program += f"from accel.benchmarks.html.page import render\nreport = read(Path({str(tmp_path)!r}) / 'report.json')\n"
    program += "print(render(report), end='')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, env={"PYTHONHASHSEED": "7"}, encoding="utf-8"
    )
    assert done.stdout == render(rich)


def test_ten_rows_with_six_images_each_are_under_a_megabyte(rich: Report) -> None:
    assert sum(row.status == "measured" for row in rich.rows) == 10
    big = "data:image/png;base64," + "A" * 12_000  # 60 different images, each larger than a 96 pixel JPEG
    rows, samples = [], []
    for index, row in enumerate(rich.rows):
        found = rich.rows[4].differing
        differing = [each.model_copy(update={"sample": 10 * index + place}) for place, each in enumerate(found)]
        rows.append(row.model_copy(update={"differing": differing}))
        samples += [Sample(index=each.sample, label=1, thumbnail=big) for each in differing]
    page = render(rich.model_copy(update={"rows": rows, "samples": samples}))
    assert page.count(big) == 33  # 400,000 characters
    assert "more images; see report.json" in page
    assert len(page.encode()) < 1_000_000


def test_a_report_with_next_to_nothing_is_a_page_too(rich: Report, tree: Callable[[str], Any]) -> None:
    bare = Report(
        accel_version="0", name="", created="now", seed=0, recipe_sha256=None, verdict=Verdict(text="nothing was measured"),
        environment=Environment(platform="", python="", cpu="", isa_flags=[], cores=1, memory_bytes=1, libraries={}), rows=[],
    )  # fmt: skip
    root = checked(tree, render(bare))
    assert [section.attributes["id"] for section in root.all("section")] == ["results", "measured"]
    for row in rich.rows:  # each alone: nothing needs another row
        checked(tree, render(bare.model_copy(update={"rows": [row]})))


def test_the_policy_allows_this_style_and_script_and_nothing_else(rich: Report, tree: Callable[[str], Any]) -> None:
    root = tree(render(rich))
    (policy,) = [each.attributes["content"] for each in root.all("meta") if "http-equiv" in each.attributes]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        (element,) = root.all(tag)
        hashed = b64encode(sha256(element.text().encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{hashed}'"
    assert not re.search(r"unsafe|https?:|\*", policy)


def test_no_address_leaves_the_page(rich: Report) -> None:
    page = render(rich)
    assert re.findall(r"https?://[^\s\"'<]+", page) == []
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|localStorage|sessionStorage|innerHTML|eval\(", page)


def lean(report: Report) -> Report:
    """One row of each kind, and as many layers as make a second table."""
    rows = [report.rows[index] for index in (0, 2, 5, 8, 10, 11, 12)]
    return report.model_copy(update={"rows": [row.model_copy(update={"layers": row.layers[:17]}) for row in rows]})


@pytest.mark.parametrize("text", [HOSTILE, "javascript:alert(1)", "\x00\x85", "<!--", "--></script>", "]]>", "&#60;b&#62;"])
def test_hostile_names_are_harmless(rich: Report, tree: Callable[[str], Any], text: str) -> None:
    page = render(hostile(lean(rich), text))
    root = checked(tree, page)
    (script,) = root.all("script")
    assert script.text() == files("accel.benchmarks.html").joinpath("script.js").read_text(encoding="utf-8")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069]", page)
    assert "::error" not in page
    assert "##[" not in page
    assert not any(line.lstrip().startswith("::") for line in page.splitlines())
    assert len(page.encode()) < 1_000_000


def test_a_long_layer_name_is_cut_and_its_title_too(rich: Report, tree: Callable[[str], Any]) -> None:
    name = "layer<b>" + "x" * 10_000
    row = rich.rows[0].model_copy(update={"layers": [Layer(name=name, kind="Conv", nodes=[name], precision="f32", ms=1.0)]})
    root = tree(render(rich.model_copy(update={"rows": [row]})))
    (section,) = [each for each in root.all("section") if each.attributes["id"] == "layers"]
    cut, node = section.all(kind="cut")
    assert cut.text().startswith("layer<b>xxx")
    assert (len(cut.text()), len(cut.attributes["title"])) == (60, 300)
    assert len(node.text()) == 48


QUICK = (Phase.explicit, Phase.reuse, Phase.generate)  # to shrink takes minutes


@settings(max_examples=15, deadline=None, phases=QUICK, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_text_keeps_the_page_whole(report: Report, tree: Callable[[str], Any], text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    checked(tree, render(hostile(report, text)))


@settings(max_examples=25, deadline=None, phases=QUICK, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=8, max_size=8))
def test_any_figure_is_drawn_somewhere(report: Report, tree: Callable[[str], Any], values: list[float]) -> None:
    rows = []
    for index, row in enumerate(report.rows):
        assert row.latency is not None
        times = [abs(value) for value in values]
        figures = {"p50_ms": times[index], "quantiles_ms": sorted(times), "restart_p50_ms": times}
        latency = row.latency.model_copy(update=figures)
        metric = row.metrics[0].model_copy(update={"name": "loss", "value": values[index + 3], "higher_is_better": False})
        rows.append(row.model_copy(update={"latency": latency, "metrics": [metric], "size_bytes": index * 10**14 + 1}))
    page = render(report.model_copy(update={"rows": rows}))
    checked(tree, page)
    page = page[page.index("<header>") :]
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', page)


def test_style_and_script_are_in_the_package() -> None:
    program = "from importlib.resources import files; "
    program += "print(*[(files('accel.benchmarks.html') / name).is_file() for name in ('style.css', 'script.js')])"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
        == ["True"] * 2
    )


def test_the_page_is_made_without_heavy_libraries() -> None:
    program = "import sys, accel.benchmarks.html.page; print([n for n in ('numpy', 'torch', 'onnx') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_many_layers_points_and_classes_keep_the_page_under_a_megabyte(rich: Report) -> None:
    rows = []
    for row in rich.rows:
        many = {"layers": row.layers * 8, "points": row.points * 20, "classes": row.classes * 100}
        rows.append(row.model_copy(update=many))
    page = render(rich.model_copy(update={"rows": rows}))
    assert "more in report.json" in page
    assert len(page.encode()) < 1_000_000
