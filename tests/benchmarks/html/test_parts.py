"""The tables and pictures of the page, each by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from accel.benchmarks.html import distributions, layers, measured, opening, points, results, roofline, samples
from accel.benchmarks.html.scales import Scale
from accel.benchmarks.html.tables import Cell, Column, table
from accel.report import Gate, Layer, Report, Row, Sample


def cells(root: Any, row: int) -> dict[str, Any]:
    """Of the first table: what stands under each head in a line of the body."""
    found = root.all("table")[0]
    heads = [head.text() for head in found.all("thead")[0].all("th")]
    return dict(zip(heads, found.all("tbody")[0].all("tr")[row].children, strict=False))


def test_a_table_keeps_values_beside_texts(tree: Callable[[str], Any]) -> None:
    columns = [Column("name"), Column("size", numeric=True), Column("picture", sorts=False)]
    root = tree(table("t", "About", columns, [[Cell("a"), Cell("1.5 MB", 1.5e6), Cell("x")], [Cell("b"), Cell("gone")]]))
    first, second = root.all("tbody")[0].all("tr")
    assert first.children[1].attributes["data-value"] == "1500000"
    assert second.children[1].attributes["colspan"] == "2"
    assert [head.attributes.get("data-fixed") for head in root.all("thead")[0].all("th")] == [None, None, ""]


def test_the_results_have_every_figure(rich: Report, tree: Callable[[str], Any]) -> None:
    found = cells(tree(results.results(rich)), 8)
    texts = {head: " ".join(cell.text().split()) for head, cell in found.items()}
    assert texts["row"].startswith("9 openvino-int8-pruned ★ best")
    assert texts["top-1"] == "92.14 %10,000 samples"
    assert texts["top-1 change"] == "-0.45 pointsCI -0.65 to -0.25p = 0.001 (+40 −85)"
    assert texts["p50"] == "0.184 msCI 0.183 to 0.185"
    assert texts["speed"] == "4.73x CI 4.66 to 4.80"
    assert (texts["size"], texts["gzipped"], texts["queries"]) == ("172 kB", "151 kB", "5,083")
    assert texts["executed precision"] == "INT8 21/21 operators, else fp32"
    assert texts["SQNR"] == "32.7 dB"
    assert found["p50"].attributes["data-value"] == "0.184"
    assert float(found["top-1 change"].attributes["data-value"]) == pytest.approx(-0.0045)


def test_unstable_is_a_word_with_its_reason_in_sight(rich: Report, tree: Callable[[str], Any]) -> None:
    root = tree(results.results(rich))
    found = cells(root, 5)
    for head in ("p50", "p90", "p99", "speed"):
        assert found[head].text() == "unstable"
        assert found[head].attributes["data-value"] == ""
        assert "moved by 14 %" in found[head].all("span")[0].attributes["title"]
    listed, more = root.all("ul", "reasons")
    assert listed.text().count("the median moved by 14 %") == more.text().count("the median moved by 14 %") == 1
    assert "latency and speed against openvino-cpu fp32 baseline: the median" in listed.text()
    assert "speed against eager fp32" in more.text()
    assert "0.610" not in root.text()
    assert "0.61 " not in distributions.distributions(rich)


@pytest.mark.parametrize(("row", "text"), [(10, "– skipped: no NVIDIA GPU"), (11, "✗ failed: compilation: RuntimeError")])
def test_rows_without_figures_give_their_reason(rich: Report, tree: Callable[[str], Any], row: int, text: str) -> None:
    line = tree(results.results(rich)).all("tbody")[0].all("tr")[row]
    assert line.children[1].text().startswith(text)
    assert line.children[1].attributes["colspan"] == "12"


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        ([("pass", False)], "PASS"),
        ([("pass", False), ("inconclusive", False)], "INCONCLUSIVE"),
        ([("pass", False), ("inconclusive", True)], "FAIL"),
        ([("fail", True), ("inconclusive", False)], "FAIL"),
    ],
)
def test_the_banner_says_the_worst(rich: Report, verdicts: list[tuple[Any, bool]], word: str) -> None:
    gates = [rich.gates[0].model_copy(update={"verdict": verdict, "failed": failed}) for verdict, failed in verdicts]
    assert f"<strong>{word}</strong>" in opening.banner(rich.model_copy(update={"gates": gates}))
    assert opening.banner(rich.model_copy(update={"gates": []})) == ""


def test_a_gate_without_anything_found(rich: Report, tree: Callable[[str], Any]) -> None:
    gate = Gate(name="g", metric="m", kind="size", limit="l", verdict="inconclusive", failed=True, text="no such row")
    report = rich.model_copy(update={"gates": [gate]})
    found = cells(tree(opening.gates(report)), 0)
    assert "fails the run" in found["verdict"].text()
    assert [found[head].text() for head in ("row", "found", "against", "recipe line")] == ["–"] * 4


def test_the_verdict_keeps_its_words() -> None:
    assert opening.verdict("2x faster, 3x smaller: a on b: c") == "2x faster, 3x smaller: <span>a on b: c</span>"
    assert opening.verdict("nothing was <measured>") == "nothing was &lt;measured&gt;"


def test_tiles_follow_the_rows_verdict(rich: Report, tree: Callable[[str], Any]) -> None:
    assert [tile.all("b")[0].text() for tile in tree(opening.tiles(rich)).all(kind="tile")] == [
        *("4.73x faster", "6.4x smaller", "-0.45 points", "0.184 ms")
    ]
    unstable = rich.model_copy(update={"verdict": rich.verdict.model_copy(update={"row": "onnxruntime-cpu-bf16"})})
    assert [tile.all("b")[0].text() for tile in tree(opening.tiles(unstable)).all(kind="tile")][::3] == ["unstable", "unstable"]


def test_density_counts_every_query_once() -> None:
    scale = Scale(0, 10, 0, 100)
    flat = distributions.density([float(value) for value in range(11)], scale, bins=10)
    assert flat[2:8] == pytest.approx([1.0] * 6)
    peak = distributions.density([5.0, 5.0, 5.0, 5.0], scale, bins=10)
    assert max(peak) == 1.0
    assert peak.index(1.0) in (4, 5)
    assert distributions.density([1.0, 200.0], scale, bins=10)[9] > 0


def test_points_are_by_scenario_and_setting(rich: Report, tree: Callable[[str], Any]) -> None:
    root = tree(points.points(rich))
    assert [heading.text() for heading in root.all("h3")] == ["Multi-stream", "Offline", "Server"]
    multi, offline, server = root.all("table")
    assert "throughput" not in multi.text() and "pinned" not in multi.text()
    assert [len(each.all("tbody")[0].all("tr")) for each in (multi, offline, server)] == [10, 20, 10]
    assert "the model's batch is fixed at 1" in offline.all("tbody")[0].all("tr")[-1].text()
    best = server.all("tbody")[0].all("tr")[8]
    assert best.text().count("unstable") == 4
    assert "moved by 31 %" in root.all("ul", "reasons")[0].text()
    assert "p99 within 5.00 ms" in server.text()


def test_roofline_has_bars_and_peaks(rich: Report, tree: Callable[[str], Any]) -> None:
    root = tree(roofline.roofline(rich))
    assert [tile.all("b")[0].text() for tile in root.all(kind="tile")] == [
        "102 Gop/s",
        "198 Gop/s",
        "402 Gop/s",
        "14.2 GB/s",
        "96 GB/s",
    ]
    found = cells(root, 8)
    assert found["share of the machine's best"].text() == "60.0 %"
    assert found[""].all("path")[0].attributes["d"] == "M0 4H60"
    assert cells(root, 5)["share of the machine's best"].text() == "unstable"


def test_fifteen_layers_and_the_rest_folded(rich: Report, tree: Callable[[str], Any]) -> None:
    parts = [part for part in tree(layers.layers(rich)).children if part.tag == "details"]
    assert [("open" in part.attributes) for part in parts] == [row.name == rich.verdict.row for row in rich.rows[:10]]
    first, rest = parts[8].all("table")
    assert [len(each.all("tbody")[0].all("tr")) for each in (first, rest)] == [15, 49]
    times = [float(row.children[3].attributes["data-value"]) for row in first.all("tbody")[0].all("tr")]
    assert times == sorted(times, reverse=True)


def test_shares_of_time_add_up_and_rare_kinds_go_together() -> None:
    found = [Layer(name=str(index), kind="abc"[index % 3], nodes=[], precision="f", ms=index + 1.0) for index in range(6)]
    parts = layers.shares(found, lambda layer: layer.kind, {"a": 0, "c": 1})
    assert [(name, count) for name, _, count in parts] == [("c", 2), ("a", 2), ("other", 2)]
    assert [share for _, share, _ in parts] == pytest.approx([9 / 21, 5 / 21, 7 / 21])
    untimed = [layer.model_copy(update={"ms": None}) for layer in found]
    assert [share for _, share, _ in layers.shares(untimed, lambda layer: layer.kind, {"a": 0})] == pytest.approx(
        [1 / 3, 2 / 3]
    )


def test_samples_say_label_reference_and_row(rich: Report, tree: Callable[[str], Any]) -> None:
    root = tree(samples.differing(rich))
    cards = root.all("li", "card")
    assert len(cards) == len({found.sample for row in rich.rows for found in row.differing})
    assert len(root.all("img")) == len(cards)
    largest = max((found for row in rich.rows for found in row.differing), key=lambda found: found.distance)
    assert f"sample {largest.sample}" in cards[0].text()
    assert "reference says" in cards[0].text() and "✗" in cards[0].text()


def test_an_image_from_elsewhere_is_dropped_and_said(rich: Report) -> None:
    bad = [sample.model_copy(update={"thumbnail": "https://example.org/x.png"}) for sample in rich.samples]
    report = rich.model_copy(update={"samples": bad})
    assert "<img" not in samples.differing(report)
    assert "example.org" not in samples.differing(report) + samples.notes(report)
    assert "Images left out" in samples.notes(report)


def test_classes_without_names_have_numbers(rich: Report) -> None:
    assert samples.class_name(rich, 3) == "cat"
    assert samples.class_name(rich, 99) == samples.class_name(rich.model_copy(update={"classes": []}), 99) == "class 99"
    assert samples.class_name(rich, -1) == "class -1"
    assert samples.class_name(rich, None) == "unknown"


def test_a_sample_that_the_report_does_not_hold_is_shown_without_image(rich: Report) -> None:
    text = samples.differing(rich.model_copy(update={"samples": [Sample(index=100, label=1)]}))
    assert "no image" in text and "<b>unknown</b>" in text


def test_how_it_was_measured(rich: Report, tree: Callable[[str], Any]) -> None:
    text = tree(measured.measured(rich)).text()
    for fact in (
        "6 restarts of 8 rounds", "quiet: openvino-int8-pruned against itself", "timed_inputs.image", "AMD EPYC",
        "other processes took 12 % of the cores", "3,391 MHz before", "1.004, the last third", "a301a301a301a301",
        "bd5c324", "changed since", "seed",
    ):  # fmt: skip
        assert fact in text, fact


def test_scripts_keep_their_lines(rich: Report, tree: Callable[[str], Any]) -> None:
    root = tree(measured.deployment(rich))
    assert root.all("pre")[0].text() == "import openvino\n\nif True:\n    print('hello')"
    assert "No script can be written" in root.text()


def test_a_built_row_without_anything_says_why(rich: Report) -> None:
    row = Row(name="x", role="result", backend="b", status="built", reason="cannot run here")
    assert "built only: cannot run here" in results.results(rich.model_copy(update={"rows": [*rich.rows, row]}))


def test_classes_say_how_much_and_whether_it_is_significant(rich: Report, tree: Callable[[str], Any]) -> None:
    parts = tree(samples.classes(rich)).children
    assert [part.all("summary")[0].text() for part in parts if "open" in part.attributes] == [
        "openvino-int8-pruned 10 classes lost, 1 of them significantly"
    ]
    found = next(part for part in parts if "open" in part.attributes)
    assert [row.children[-1].text() for row in found.all("tbody")[0].all("tr")].count("yes") == 1
