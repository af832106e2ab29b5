"""The saved report, read as people read it: in a browser, with and without scripts, by hand and by keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .conftest import HOSTILE_FILE, HOSTILE_MODULE, Opened, browser_program, unavailable

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

Visit = Callable[..., Opened]

WRONG_LINK = ".canvas svg .v-disagree a"

# The ratio of luminances that WCAG 2 defines, of each text with what lies behind it; the drawing has its own colours.
CONTRASTS = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => rgb.slice(0, 3)
    .map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = channels(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || element.closest("svg, script, style") || !element.getClientRects().length) continue;
    const pair = [luminance(channels(getComputedStyle(element).color)), luminance(behind(element))];
    found.push([(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), element.textContent.slice(0, 40)]);
  }
  return found;
}"""

BACKGROUND = "() => getComputedStyle(document.body).backgroundColor"


def faint(page: Page) -> list[Any]:
    """Texts with less contrast than the 4.5 that WCAG 2 asks for."""
    measured = page.evaluate(CONTRASTS)
    assert len(measured) > 50
    return [entry for entry in measured if entry[0] < 4.5]


def excess_width(page: Page) -> int:
    """How many pixels the page is wider than the window."""
    width: int = page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    return width


def hacked(page: Page) -> bool:
    """Whether a name was executed; images that cannot be loaded say so a moment later."""
    page.wait_for_timeout(200)
    result: bool = page.evaluate("() => 'hacked' in window")
    return result


def planted(report: Path, mark: str, instead: str, folder: Path) -> Path:
    """A copy of a report with one place changed."""
    text = report.read_text(encoding="utf-8")
    assert mark in text
    copy = folder / "planted.html"
    copy.write_text(text.replace(mark, instead, 1), encoding="utf-8")
    return copy


# ------------------------------------------------------------------------------------------------- the page


def test_the_page_opens_in_peace_and_asks_for_nothing(report: Path, visit: Visit) -> None:
    opened = visit(report)
    opened.page.wait_for_load_state("networkidle")
    assert opened.requests == [report.as_uri()]
    assert not opened.complaints


def test_twin_requests_and_errors_are_noticed(report: Path, visit: Visit, tmp_path: Path) -> None:
    asking = '<script>throw new Error("planted")</script><img src="other.png"></main>'
    opened = visit(planted(report, "</main>", asking, tmp_path))
    opened.page.wait_for_load_state("networkidle")
    assert any("planted" in text for text in opened.complaints)
    # The page's own content policy refuses the picture; that it was asked for is said on the console.
    assert any("other.png" in text for text in [*opened.complaints, *opened.requests])


def test_the_verdict_comes_first(report: Path, visit: Visit) -> None:
    page = visit(report).page
    assert page.title().startswith("FAIL")
    assert page.locator("body").inner_text().lstrip().startswith("FAIL")
    box = page.locator(".verdict .word").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 150


def test_findings_show_the_code(report: Path, visit: Visit) -> None:
    page = visit(report).page
    finding = page.locator("article.finding.error").first
    assert "GC101" in page.locator("#findings ~ section .rule").first.inner_text()
    lines = finding.locator(".code-line").all_inner_texts()
    assert any("Cube.apply(x)" in line for line in lines)
    assert any("def backward(ctx, cotangent):" in line for line in lines)
    assert "small_model.py" in finding.inner_text()
    assert page.evaluate("() => document.querySelector('#findings').getBoundingClientRect().top") < 800


def test_all_of_it_can_be_read_without_scripts(report: Path, visit: Visit) -> None:
    page = visit(report, java_script_enabled=False).page
    assert page.locator("body").inner_text().lstrip().startswith("FAIL")
    for section in ("findings", "gradients", "graph", "nodes", "circumstances"):
        assert page.locator(f"#{section}").is_visible()
    assert page.locator(".canvas svg").is_visible()
    assert page.get_by_text("first.weight").first.is_visible()
    assert page.locator(".code-line", has_text="def backward").first.is_visible()
    for control in page.locator("[data-needs-script]").all():
        assert not control.is_visible()
    numbers = page.locator("article.finding details").first
    numbers.locator("summary").click()
    assert numbers.locator("dl, pre").first.is_visible()


def test_a_link_to_a_node_works_without_scripts(report: Path, visit: Visit) -> None:
    page = visit(report, java_script_enabled=False).page
    page.locator("article.finding a", has_text="node").first.click()
    assert "#node-" in page.url
    assert page.locator("tr:target").is_visible()


# ------------------------------------------------------------------------------------------------- the graph


def details_of(page: Page, link: Locator) -> Locator:
    """What the row of a node says once it is opened."""
    href = link.get_attribute("href")
    assert href is not None
    return page.locator(f"{href} details > ul")


def assert_details(page: Page, link: Locator) -> None:
    details = details_of(page, link)
    details.wait_for(state="visible")
    box = details.bounding_box()
    assert box is not None
    assert 0 <= box["y"] < page.evaluate("() => innerHeight")
    assert "Cube" in page.locator("tr:target").inner_text()
    assert "small_model.py" in page.locator("tr:target").inner_text()
    assert "disagree" in details.inner_text()


def test_the_graph_is_drawn_and_marks_the_wrong_node(report: Path, visit: Visit) -> None:
    page = visit(report).page
    drawing = page.locator(".canvas svg")
    box = drawing.bounding_box()
    assert box is not None
    assert box["width"] > 100
    assert box["height"] > 100
    assert drawing.locator(".node").count() >= 8
    assert drawing.locator(".edge path").count() >= 7
    # Leaves whose gradient is wrong are marked as well, but only operations have details to open.
    assert page.locator(WRONG_LINK).count() == 1
    assert "CubeBackward" in page.locator(WRONG_LINK).inner_html()


def test_a_node_opens_by_click(report: Path, visit: Visit) -> None:
    page = visit(report).page
    link = page.locator(WRONG_LINK)
    assert not details_of(page, link).is_visible()
    link.click()
    assert_details(page, link)


def test_a_node_opens_by_keyboard(report: Path, visit: Visit) -> None:
    page = visit(report).page
    link = page.locator(WRONG_LINK)
    page.locator(".canvas").focus()
    for _ in range(page.locator(".canvas svg a").count()):
        page.keyboard.press("Tab")
        if link.evaluate("link => link === document.activeElement"):
            break
    else:
        pytest.fail("Tab does not reach the wrong node")
    assert link.evaluate("link => link.matches(':focus-visible')")
    page.keyboard.press("Enter")
    assert_details(page, link)


def test_the_drawing_can_be_zoomed(report: Path, visit: Visit) -> None:
    page = visit(report).page

    def width() -> float:
        box = page.locator(".canvas svg").bounding_box()
        assert box is not None
        return box["width"]

    before = width()
    page.get_by_role("button", name="zoom in").click()
    assert width() == pytest.approx(1.3 * before, rel=0.01)
    page.get_by_role("button", name="zoom out").click()
    assert width() == pytest.approx(before, rel=0.01)


def test_nodes_can_be_filtered(report: Path, visit: Visit) -> None:
    page = visit(report).page
    rows = page.locator("#node-table tbody tr:visible")
    everything = rows.count()
    box = page.get_by_role("searchbox", name="filter the nodes")
    box.fill("cubebackward")
    assert 1 <= rows.count() < everything
    box.fill("")
    assert rows.count() == everything


# -------------------------------------------------------------------------------------- names that are attacks


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_hostile_names_are_shown_and_not_executed(hostile_report: Path, visit: Visit, scripts: bool) -> None:
    opened = visit(hostile_report, java_script_enabled=scripts)
    text = opened.page.locator("body").inner_text()
    assert HOSTILE_MODULE in text
    assert HOSTILE_FILE in text
    assert opened.page.locator("img").count() == 0
    assert opened.page.locator("script").count() == 1
    if scripts:
        assert not hacked(opened.page)
    assert opened.requests == [hostile_report.as_uri()]
    assert not opened.complaints


def test_hostile_nodes_open_all_the_same(hostile_report: Path, visit: Visit) -> None:
    page = visit(hostile_report).page
    link = page.locator(WRONG_LINK)
    link.click()
    details_of(page, link).wait_for(state="visible")
    assert HOSTILE_MODULE in page.locator("tr:target").inner_text()
    assert not hacked(page)


@pytest.mark.parametrize("attack", ["<script>hacked=1</script>", "<img src=x onerror=hacked=1>"])
def test_twin_what_is_not_escaped_is_executed(
    report: Path, visit: Visit, tmp_path: Path, attack: str
) -> None:
    assert hacked(visit(planted(report, "</header>", f"{attack}</header>", tmp_path)).page)


# --------------------------------------------------------------------------------------------- how it is read


@pytest.mark.parametrize(("scheme", "bright"), [("light", True), ("dark", False)])
def test_both_colour_schemes_can_be_read(report: Path, visit: Visit, scheme: str, bright: bool) -> None:
    page = visit(report, color_scheme=scheme).page
    red, green, blue = (int(part) for part in page.evaluate(BACKGROUND)[4:-1].split(","))
    assert (red + green + blue > 600) == bright
    assert (red + green + blue < 150) != bright
    assert not faint(page)


def test_twin_faint_text_is_found(report: Path, visit: Visit, tmp_path: Path) -> None:
    weak = '<p style="color: #999; background: #fff">hard to read</p></main>'
    assert [entry[1] for entry in faint(visit(planted(report, "</main>", weak, tmp_path)).page)] == [
        "hard to read"
    ]


@pytest.mark.parametrize("name", ["report", "hostile_report", "long_report"])
@pytest.mark.parametrize("opened", [False, True], ids=["as it is", "all details open"])
def test_a_narrow_window_scrolls_in_one_direction(
    request: pytest.FixtureRequest, visit: Visit, name: str, opened: bool
) -> None:
    page = visit(request.getfixturevalue(name), viewport={"width": 400, "height": 800}).page
    if opened:
        page.evaluate("() => document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert excess_width(page) <= 0


def test_twin_a_wide_element_is_found(report: Path, visit: Visit, tmp_path: Path) -> None:
    wide = planted(report, "</main>", '<div style="width: 500px">wide</div></main>', tmp_path)
    assert excess_width(visit(wide, viewport={"width": 400, "height": 800}).page) >= 100


# ------------------------------------------------------------------------------------------ without a browser


def test_without_a_browser_the_tests_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRADCHECK_REQUIRE_BROWSER", raising=False)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert browser_program() is None
    with pytest.raises(pytest.skip.Exception, match="no browser here"):
        unavailable("no browser here")


def test_where_a_browser_is_promised_its_absence_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADCHECK_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="no browser here, and GRADCHECK_REQUIRE_BROWSER=1"):
        unavailable("no browser here")
