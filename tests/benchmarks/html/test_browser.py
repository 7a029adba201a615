"""The page in Chromium: nothing leaves it, charts and tables answer to mouse and keyboard, and it fits where it is read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from accel.benchmarks.html.page import render
from accel.report import Report

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run"]
MEASURED = 10


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests of this file: it takes a second or more to start."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET, timeout=60_000)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(rich: Report, tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [row.model_copy(update={"layers": row.layers[:18]}) for row in rich.rows]  # enough for a second table
    return written(rich.model_copy(update={"rows": rows}), tmp_path_factory.mktemp("page"))


def written(report: Report, folder: Path) -> str:
    path = folder / "report.html"
    path.write_text(render(report), encoding="utf-8")
    return path.as_uri()


@contextmanager
def opened(chromium: Any, address: str, width: int = 1280, **settings: Any) -> Iterator[Any]:
    """The page, and at the end the promise that it was silent and asked for nothing but itself."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, **settings)
    said: list[str] = []
    asked: list[str] = []
    try:
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        yield page
    finally:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address]


@pytest.fixture(scope="module")
def page(chromium: Any, address: str) -> Iterator[Any]:
    with opened(chromium, address) as found:
        yield found


def test_the_charts_show_each_measured_row(page: Any, rich: Report) -> None:
    for name in ("latency", "size"):
        chart = page.locator(f'[data-chart="{name}"]')
        frame = chart.locator("svg").bounding_box()
        marks = chart.locator("a.mark")
        assert marks.count() == MEASURED
        for index in range(MEASURED):
            box = marks.nth(index).locator(".hit").bounding_box()
            assert frame["x"] <= box["x"] + box["width"] / 2 <= frame["x"] + frame["width"]
            assert frame["y"] <= box["y"] + box["height"] / 2 <= frame["y"] + frame["height"]
        shown = marks.evaluate_all("all => all.map(one => getComputedStyle(one).visibility + getComputedStyle(one).fill)")
        assert all(one.startswith("visiblergb") for one in shown)


def test_a_mark_tells_its_figures_by_mouse_and_by_keyboard(page: Any) -> None:
    mark = page.locator('[data-chart="latency"] a.mark[data-row="9"]')
    tip = page.locator("#tip")
    assert tip.is_hidden()
    mark.locator(".hit").hover()
    assert "openvino-int8-pruned" in tip.inner_text()
    assert "p50 0.184 ms" in tip.inner_text()
    page.mouse.move(5, 5)
    assert tip.is_hidden()
    page.locator('[data-chart="latency"] a.mark').first.focus()
    assert "eager fp32" in tip.inner_text()
    page.keyboard.press("Tab")
    assert "onnxruntime-cpu fp32 baseline" in tip.inner_text()
    assert page.evaluate("document.activeElement.dataset.row") == "2"
    box = tip.bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 1280
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.keyboard.press("Enter")
    page.wait_for_url("**#row-2")


def column(page: Any, head: str) -> list[float | None]:
    found: list[float | None] = page.locator("#results table").first.evaluate(
        """(table, head) => {
            const heads = [...table.tHead.rows[0].cells].map(cell => cell.textContent.trim());
            return [...table.tBodies[0].rows].map(row => row.cells[heads.indexOf(head)]?.dataset.value)
              .map(value => value === undefined || value === "" ? null : Number(value));
        }""",
        head,
    )
    return found


def in_order(values: list[float | None], down: bool) -> bool:
    known = [value for value in values if value is not None]
    return known == sorted(known, reverse=down) and values[len(known) :] == [None] * (len(values) - len(known))


def test_tables_sort_by_mouse_and_by_keyboard(page: Any) -> None:
    head = page.locator("#results thead th", has_text=re.compile("^p50")).first
    button = head.get_by_role("button")
    before = column(page, "p50")
    assert not in_order(before, down=False)
    button.click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert in_order(column(page, "p50"), down=False)
    assert column(page, "p50").count(None) == 4  # the unstable one, and those that were not timed, last
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    assert in_order(column(page, "p50"), down=True)
    button.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#results thead th[aria-sort]").all_inner_texts() == ["speed"]
    assert in_order(column(page, "speed"), down=False)
    page.keyboard.press("Space")
    assert in_order(column(page, "speed"), down=True)
    assert "speed" in page.locator("#said").text_content()
    assert sorted(column(page, "p50"), key=str) == sorted(before, key=str)


def test_a_reason_in_place_of_figures_sorts_last(chromium: Any, rich: Report, tmp_path: Path) -> None:
    """It stands in the first column of figures, and is no number."""
    failed = [row for row in rich.rows if row.status in ("failed", "skipped")]
    rows = [row for row in rich.rows if row.status not in ("failed", "skipped")]
    assert failed
    mixed = rich.model_copy(update={"rows": [*rows[5:7], *failed, *rows[:5], *rows[7:]]})
    with opened(chromium, written(mixed, tmp_path)) as page:
        head = page.locator("#results thead th").nth(1)
        name = head.inner_text()
        for down in (False, True):
            head.get_by_role("button").click()
            assert in_order(column(page, name), down=down)


def test_every_head_that_sorts_is_a_button(page: Any) -> None:
    bare = page.evaluate(
        """() => [...document.querySelectorAll("table.sortable")].filter(table => table.tBodies[0].rows.length > 1)
            .flatMap(table => [...table.tHead.rows[0].cells])
            .filter(th => !("fixed" in th.dataset) && !th.querySelector("button")).map(th => th.textContent)"""
    )
    assert bare == []


def test_whatever_can_be_focused_has_a_name(page: Any) -> None:
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("a, button, input, summary, [tabindex='0']")]
            .filter(one => !(one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.[0]?.textContent))
            .map(one => one.outerHTML.slice(0, 100))"""
    )
    assert nameless == []


def test_thumbnails_are_pictures(page: Any, rich: Report) -> None:
    page.evaluate("document.querySelectorAll('#samples details').forEach(one => { one.open = true; })")
    page.evaluate("Promise.all([...document.images].map(image => image.decode()))")
    sizes = page.evaluate("[...document.images].map(image => [image.naturalWidth, image.getBoundingClientRect().width])")
    assert len(sizes) == len(rich.samples)
    assert all(size == [32, 80] for size in sizes)


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    parts = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def ground(page: Any) -> float:
    return luminance(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))


LOW = """() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    for (; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
  };
  const texts = [...document.querySelectorAll("body *")].filter(one => !one.closest("svg, script, style, .unseen, #tip, .skip")
    && [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim()));
  return texts.flatMap(one => {
    const [dark, bright] = [light(getComputedStyle(one).color), light(behind(one))].sort((a, b) => a - b);
    const found = (bright + 0.05) / (dark + 0.05);
    return found < 4.5 ? [[one.tagName, one.className, one.textContent.slice(0, 30), found]] : [];
  });
}"""


def test_it_follows_the_system_and_the_switch_beats_it(chromium: Any, address: str) -> None:
    with opened(chromium, address, reduced_motion="reduce") as page:
        for scheme, other in (("light", "Dark"), ("dark", "Light")):
            page.emulate_media(color_scheme=scheme, media="screen")
            page.get_by_text("System", exact=True).click()
            assert (ground(page) < 0.1) == (scheme == "dark")
            assert page.evaluate(LOW) == []
            page.get_by_text(other, exact=True).click()
            assert (ground(page) < 0.1) == (scheme == "light")
            page.emulate_media(media="print")
            assert ground(page) > 0.9


def test_the_page_never_scrolls_sideways(chromium: Any, address: str) -> None:
    with opened(chromium, address) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        for width in (1280, 700, 360):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            inside = page.locator("#results .scroll").first.evaluate("box => box.scrollWidth - box.clientWidth")
            assert inside > 0  # the table does, in its own box
        page.locator('[data-chart="size"] a.mark').last.focus()
        box = page.locator("#tip").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360


def test_it_reads_without_script(chromium: Any, address: str) -> None:
    with opened(chromium, address, java_script_enabled=False) as page:
        assert page.locator("thead button").count() == 0
        assert page.locator("h1").inner_text().startswith("4.73x faster")
        assert page.locator("#row-9").is_visible()
        assert "0.184 ms" in page.locator("#row-9").inner_text()
        assert (
            page.locator('[data-chart="latency"] a.mark[data-row="9"] title').text_content().startswith("openvino-int8-pruned")
        )
        page.locator("#deployment summary").first.click()
        assert page.locator("#deployment pre").first.is_visible()
        page.get_by_text("Dark", exact=True).click()  # the switch is style alone


def test_a_script_is_copied(page: Any) -> None:
    page.locator("#deployment summary").first.click()
    page.locator("#deployment").get_by_role("button", name="Copy").click()
    # No wait_for_function: its second look is an eval, which the page's own policy forbids.
    page.locator(".copier button", has_text=re.compile("^(Copied|Selected)$")).wait_for()


def test_paper_shows_what_is_folded(page: Any) -> None:
    assert page.locator("details:not([open])").count() > 5
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0


def test_a_hostile_report_runs_nothing(chromium: Any, rich: Report, tmp_path: Path) -> None:
    text = '"><img src=x onerror="window.pwned=1"><script>window.pwned=1</script>javascript:window.pwned=1//' + "A" * 10_000
    rows = [
        row.model_copy(
            update={"name": f"{index}{text}", "layers": [layer.model_copy(update={"name": text}) for layer in row.layers[:20]]}
        )
        for index, row in enumerate(rich.rows)
    ]
    report = rich.model_copy(update={"rows": rows, "name": text, "classes": [text] * 10, "warnings": [text]})
    with opened(chromium, written(report, tmp_path), 360) as page:
        page.locator("a.mark").first.focus()
        assert "<img src=x" in page.locator("#tip").inner_text()
        page.locator("#results thead button").first.click()
        assert page.evaluate("window.pwned") is None
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_small_reports_open_too(chromium: Any, report: Report, tmp_path: Path) -> None:
    with opened(chromium, written(report, tmp_path)) as page:
        assert page.locator('[data-chart="latency"]').first.locator("a.mark").count() == 3
