"""The report in a real browser: nothing is loaded, everything shows, nothing is wider than it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hostile_study import hostile_study
from playwright.sync_api import Browser, Page, sync_playwright
from study_folder import write_study

from ssprompt_platform.report.compare import compare
from ssprompt_platform.report.gather import gather
from ssprompt_platform.report.page import write_comparison, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SECTIONS = [
    "answer", "labels", "next-label", "scores", "differences", "classes", "predictions", "search",
    "effects", "price", "cost", "protocol", "settings", "environment",
]  # fmt: skip
AT_LEAST = {
    "finished": 17, "pareto": 13, "searching": 5, "begun": 0, "hostile": 15, "comparison": 2,
}  # fmt: skip
"""Figures of each page."""


@dataclass
class Opened:
    """A page and what the browser said while it was opened."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        if os.environ.get("SSPROMPT_REQUIRE_ALL"):
            pytest.fail("chromium is not installed; on Debian: apt install chromium")
        pytest.skip("chromium is not installed; on Debian: apt install chromium")
    with sync_playwright() as driver:
        # root, as in a container, has no sandbox
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    finished = gather(write_study(root, "finished", trials=12, failed=[("spa", 4, 1)]))
    other = gather(write_study(root, "other", trials=0, better=0.03, remarks=["Seen before."]))
    few = ("zero_shot", "ssprompt")
    pareto = gather(
        write_study(root, "pareto", methods=few, mode="pareto", trials=12, remarks=["A holdout."])
    )
    return {
        "finished": write_page(finished),
        "pareto": write_page(pareto),
        "searching": write_page(
            gather(write_study(root, "searching", methods=few, stage="searching"))
        ),
        "begun": write_page(gather(write_study(root, "begun", stage="begun"))),
        "hostile": write_page(hostile_study(root)),
        "comparison": write_comparison(compare(finished, other), root / "comparison.html"),
    }


def opened(browser: Browser, path: Path, width: int) -> Opened:
    page = browser.new_page(viewport={"width": width, "height": 900})
    found = Opened(page)
    page.on("console", lambda message: found.complaints.append(message.text))
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("request", lambda request: found.requests.append(request.url))
    page.goto(path.as_uri())
    return found


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", AT_LEAST)
def test_the_page_shows_all_and_loads_nothing(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    found = opened(browser, pages[name], width)
    page = found.page
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert found.complaints == []
    assert [url for url in found.requests if not url.startswith(("data:", "file:"))] == []
    # the page itself, and nothing beside it
    assert [url for url in found.requests if url.startswith("file:")] == [pages[name].as_uri()]
    sizes = page.evaluate(
        "[...document.images].map(i => [i.complete, i.naturalWidth, i.naturalHeight, i.alt, "
        "i.getBoundingClientRect().width])"
    )
    for complete, wide, high, alt, shown in sizes:
        assert complete
        assert min(wide, high) > 100
        assert len(alt) > 20
        assert shown >= 300
    figures = page.locator("figure.drawn").count()
    assert len(sizes) == figures
    assert figures >= AT_LEAST[name]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # wide things scroll inside themselves: no other box is cut off or reaches beyond the window
    beyond = page.evaluate(
        "w => [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, .sheet, "
        "pre') && e.getBoundingClientRect().right > w + 0.5).map(e => e.outerHTML.slice(0, 120))",
        width,
    )
    assert beyond == []
    page.close()


def test_a_finished_study_has_every_section_in_order(
    browser: Browser, pages: dict[str, Path]
) -> None:
    page = opened(browser, pages["finished"], 1280).page
    assert page.eval_on_selector_all("main > section", "all => all.map(s => s.id)") == SECTIONS
    links = page.eval_on_selector_all("nav a", "all => all.map(a => a.getAttribute('href'))")
    assert links == [f"#{name}" for name in SECTIONS]
    page.click("nav a[href='#price']")
    assert abs(page.locator("#price").bounding_box()["y"]) < 100  # type: ignore[index]
    page.close()


def test_the_text_is_large_enough_and_stands_out(browser: Browser, pages: dict[str, Path]) -> None:
    """Body text of 16 pixels at any width, and a contrast of 4.5 in light and in dark."""
    for scheme in ("light", "dark"):
        page = opened(browser, pages["pareto"], 400).page
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        looks = page.evaluate(
            """() => ['section > p', 'figcaption', 'td', '.notice.remark', 'nav a'].map(name => {
              const own = getComputedStyle(document.querySelector(name));
              let box = document.querySelector(name);
              while (getComputedStyle(box).backgroundColor === 'rgba(0, 0, 0, 0)')
                box = box.parentElement;
              return [parseFloat(own.fontSize), own.color, getComputedStyle(box).backgroundColor];
            })"""
        )
        assert looks[0][0] == 16
        for size, ink, paper in looks:
            assert size >= 13
            assert contrast(ink, paper) >= 4.5, (scheme, ink, paper)
        page.close()


def contrast(ink: str, paper: str) -> float:
    """Contrast of two ``rgb(r, g, b)`` as WCAG 2 defines it."""
    levels = []
    for colour in (ink, paper):
        parts = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        levels.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(levels) + 0.05) / (min(levels) + 0.05)


def test_tables_sort_by_a_click_with_empty_cells_last(
    browser: Browser, pages: dict[str, Path]
) -> None:
    page = opened(browser, pages["finished"], 1280).page
    table = page.locator("#search table")
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    column = table.locator("th").all_inner_texts().index("mIoU")

    def values() -> list[float | None]:
        texts = table.locator(f"tbody tr td:nth-child({column + 1})").all_inner_texts()
        return [None if text == "\N{EN DASH}" else float(text) for text in texts]

    before = values()
    failed = before.count(None)
    assert failed == 9
    known = sorted(value for value in before if value is not None)
    button = table.get_by_role("button", name="mIoU")
    button.click()
    assert values() == known + [None] * failed
    button.click()
    assert values() == known[::-1] + [None] * failed
    table.get_by_role("button", name="K", exact=True).click()
    place = table.locator("th").all_inner_texts().index("K")
    texts = table.locator(f"tbody tr td:nth-child({place + 1})").all_inner_texts()
    assert [int(text) for text in texts] == sorted(int(text) for text in texts)
    page.close()


def test_nothing_from_the_data_is_taken_for_markup(
    browser: Browser, pages: dict[str, Path]
) -> None:
    page = opened(browser, pages["hostile"], 1280).page
    assert page.title().startswith('"><img src=x')
    assert page.locator("script").count() == 1
    assert page.locator("style").count() == 1
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("h1").inner_text().startswith('"><img src=x')
    page.close()


def test_the_policy_stops_what_the_page_did_not_bring(
    browser: Browser, pages: dict[str, Path]
) -> None:
    """A script and a picture from elsewhere, put in afterwards, are refused by the browser."""
    found = opened(browser, pages["finished"], 1280)
    found.page.evaluate(
        """() => {
          const script = document.createElement('script');
          script.textContent = 'document.title = "taken over"';
          document.body.append(script);
          const image = new Image();
          image.src = 'http://127.0.0.1:9/x.png';
          document.body.append(image);
        }"""
    )
    found.page.wait_for_timeout(200)
    assert found.page.title() == "finished"
    assert len([c for c in found.complaints if "Content Security Policy" in c]) == 2
    found.page.close()


def test_print_opens_what_is_folded(browser: Browser, pages: dict[str, Path]) -> None:
    page = opened(browser, pages["finished"], 1280).page
    assert page.locator("details[open]").count() == 0
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0
    assert len(page.pdf(format="A4")) > 100_000
    page.close()
