"""The MLflow UI of a finished study in a real browser: what one sees who opens it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from finished_studies import metrics_by_key, runs_by_key
from mlflow.entities import Run
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route, expect
from served_study import TRIALS, ServedStudy

from ssprompt_platform.search.records import read_trials
from ssprompt_platform.storage import read_json

pytestmark = pytest.mark.e2e

SCORE, LOSS, TEST = "selection.miou", "train.loss", "test.miou.mean"
SEARCHED = ["num_prompts", "lr_embedding", "lr_weight"]
SHOWN = [SCORE, TEST, "method", "shots", *SEARCHED, "differs"]
"""Headings of the study's view, in their order."""
FINALS = [f"{method}-k{shots}-final" for method in ("zero_shot", "ssprompt") for shots in (1, 2)]
FINAL = "ssprompt-k2-final"
CLASSES = ["ground", "box", "ball"]
SIDE, GAP = 64, 4
"""Pixels of a picture of the study, and between two of them."""
WINDOW = {"width": 1400, "height": 900}
WAIT = 30_000
"""Milliseconds for whatever a page shows: the UI is large, and processors may be few."""

# the assistant of a first visit covers a quarter of the window; frames of others have no storage
AT_REST = """try {
  localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
} catch (error) {}"""
OF_MLFLOW = re.compile(r"users/current$|ResizeObserver loop")
"""What the UI complains of itself: a server without accounts, a chart that is laid out twice."""
ROWS = """rows => {
  const found = {};
  for (const row of rows)
    for (const cell of row.querySelectorAll('[role=gridcell]'))
      (found[row.getAttribute('row-id')] ??= {})[cell.getAttribute('col-id')] =
        (cell.querySelector('a') ?? cell).innerText.trim();
  return Object.values(found);
}"""
HEADINGS = """all => all
  .filter(e => /^(metrics|params|tags)\\.`/.test(e.getAttribute('col-id') ?? ''))
  .map(e => [e.innerText.trim(), e.getBoundingClientRect().left])
  .sort((one, other) => one[1] - other[1])"""
POINTS = "plot => plot.data.map(line => [line.name, line.x, line.y])"


@dataclass(frozen=True)
class Ui:
    """A finished study, and where the UI shows it.

    Attributes:
        uri: Of the MLflow server.
        view: The address that the study printed.
        runs: Its runs by key.
        steps: Their metrics by key and name: steps with values.
        results: What the study found.
        best: Keys of its complete trials, the best one first.
    """

    uri: str
    view: str
    runs: dict[str, Run]
    steps: dict[str, dict[str, list[tuple[int, float]]]]
    results: dict[str, Any]
    best: list[str]

    @property
    def experiment(self) -> str:
        return str(self.runs["study"].info.experiment_id)

    def run(self, key: str, tab: str = "") -> str:
        """Address of a run's page."""
        return f"{self.uri}/#/experiments/{self.experiment}/runs/{self.id(key)}{tab}"

    def id(self, key: str) -> str:
        return str(self.runs[key].info.run_id)


@pytest.fixture(scope="module")
def ui(served: ServedStudy) -> Ui:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in served.environment.items():
            patch.setenv(name, value)
        results = read_json(served.bucket.results)
        trials = [trial for trial in read_trials(served.bucket) if trial.state == "complete"]
    assert results["study"]["mlflow_view"].startswith(served.uri)
    return Ui(
        uri=served.uri,
        view=results["study"]["mlflow_view"],
        runs=runs_by_key(served.bucket, served.client),
        steps=metrics_by_key(served.bucket, served.client),
        results=results,
        best=[trial.key for trial in sorted(trials, key=lambda trial: -(trial.value or 0))],
    )


@pytest.fixture
def page(browser: Browser, ui: Ui) -> Iterator[Page]:
    """A page of a first visit; it fails where it complains or asks anybody but the server."""
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(f"{message.text} {message.location['url']}")

    def answer(route: Route) -> None:
        if route.request.url.startswith((f"{ui.uri}/", "data:", "blob:")):
            route.continue_()
        else:
            complaints.append(f"asked for {route.request.url}")
            route.abort()

    context = browser.new_context(viewport=WINDOW)  # type: ignore[arg-type]
    context.set_default_timeout(WAIT)
    context.add_init_script(AT_REST)
    context.on("console", note)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    context.route("**/*", answer)
    yield context.new_page()
    context.close()
    assert [text for text in complaints if not OF_MLFLOW.search(text)] == []


def test_trials_and_final_fits_are_below_their_study(page: Page, ui: Ui) -> None:
    runs = f"{ui.uri}/#/experiments/{ui.experiment}/runs?workflowType=machine_learning"
    uid = ui.runs["study"].data.tags["study.uid"]
    ended = f"tags.`study.uid` = '{uid}' AND attributes.status = 'FINISHED'"
    page.goto(f"{runs}&searchFilter={quote(ended)}")
    names = page.locator("[role=gridcell][col-id='attributes.`Run Name`']")
    see(names.get_by_text("one", exact=True))
    # everything has ended well, or it would not be among them
    see(page.get_by_text(f"{TRIALS + len(FINALS) + 1} matching runs"))
    (study,) = page.locator("[role=row][row-id]").evaluate_all(ROWS)
    assert study["attributes.`Run Name`"] == "one"
    names.get_by_role("button").click()
    see(names.nth(1))
    shown = page.locator("[role=row][row-id]").evaluate_all(ROWS)
    children = [row["attributes.`Run Name`"] for row in shown]
    assert sorted(children) == sorted(["one", *ui.best, *FINALS])
    assert study["attributes.`Dataset`"].startswith("data (train)")
    assert study["attributes.`Source`"] == "tune_shots.py"


def test_the_link_of_the_study_shows_what_differs_and_the_best_first(page: Page, ui: Ui) -> None:
    page.goto(ui.view)
    see(page.get_by_text("You're viewing a shared view"))
    see(page.get_by_text(f"{TRIALS + len(FINALS) + 1} matching runs"))
    # without the address's word for it the UI is one for language models, without a registry
    see(page.get_by_role("link", name="Model registry"))
    headings = page.locator("[role=columnheader]").evaluate_all(HEADINGS)
    assert [text for text, _ in headings] == SHOWN
    assert headings[-1][1] < WINDOW["width"], "every hyperparameter is seen without scrolling"
    rows = page.locator("[role=row][row-id]").evaluate_all(ROWS)
    trials = rows[: len(ui.best)]
    assert [row["attributes.`Run Name`"] for row in trials] == ui.best
    for row in trials:
        run = ui.runs[row["attributes.`Run Name`"]]
        assert float(row[f"metrics.`{SCORE}`"]) == run.data.metrics[SCORE]
        for name in ("method", "shots", *SEARCHED):
            assert row[f"params.`{name}`"] == run.data.params[name]
        differs = dict(part.split("=") for part in row["tags.`differs`"].split())
        assert sorted(differs) == sorted(["K", *SEARCHED])
        assert differs["K"] == run.data.params["shots"]
    finals = {row["attributes.`Run Name`"]: row for row in rows[len(ui.best) :]}
    for row in ui.results["rows"]:
        shown = finals[f"{row['method']}-k{row['shots']}-final"]
        assert float(shown[f"metrics.`{TEST}`"]) == row["mean"]


def test_the_charts_of_the_link_begin_with_all_trials_in_one(page: Page, ui: Ui) -> None:
    page.goto(f"{ui.view}&compareRunsMode=CHART")
    see(page.get_by_text("Parallel Coordinates"))
    axes = cards(page).first.locator("svg .label")
    see(axes)
    assert axes.all_text_contents() == ["method", "shots", *SEARCHED, SCORE]
    lines = chart(page, LOSS).evaluate(POINTS)
    assert {name for name, _, _ in lines} == set(ui.best)
    for name, x, y in lines:
        assert list(zip(x, y, strict=True)) == ui.steps[name][LOSS]


def test_runs_can_be_compared(page: Page, ui: Ui) -> None:
    chosen = [key for key in ui.best if "-k1-" in key]
    ids = json.dumps([ui.id(key) for key in chosen])
    experiments = json.dumps([ui.experiment])
    page.goto(f"{ui.uri}/#/compare-runs?runs={quote(ids)}&experiments={quote(experiments)}")
    see(page.get_by_text(f"Comparing {len(chosen)} Runs from 1 Experiment"))
    plot = page.locator(".js-plotly-plot").first
    see(plot)
    (axes,) = plot.evaluate("plot => plot.data.map(one => one.dimensions.map(d => d.label))")
    # the metric is that which was told first
    assert axes == [*sorted(SEARCHED), LOSS]
    table = page.locator("table").filter(has_text="lr_embedding").first
    assert "weight_granularity" in first_cells(table)
    page.get_by_role("switch", name="Parameters - Show diff only").click()
    expect(table.get_by_text("weight_granularity")).to_have_count(0)
    assert first_cells(table) == sorted(SEARCHED)
    values = table.locator("tr", has_text="lr_embedding").locator("td").all_inner_texts()
    assert values == [ui.runs[key].data.params["lr_embedding"] for key in chosen]
    for key in chosen:
        see(page.get_by_text(key, exact=True))
    see(page.get_by_text(SCORE, exact=True))


def test_the_study_tells_its_answer_its_data_and_its_model(page: Page, ui: Ui) -> None:
    page.goto(ui.run("study"))
    see(page.get_by_role("heading", name="one"))
    expect(page.get_by_test_id("key-value-Status")).to_contain_text("Finished")
    expect(page.get_by_test_id("key-value-Source")).to_contain_text("tune_shots.py")
    see(page.get_by_text("data (train)"))
    see(page.get_by_text(f"Parameters ({len(ui.runs['study'].data.params)})"))
    tables = [page.get_by_role("table").filter(has_text=head) for head in ("Metric", "Parameter")]
    metrics, params = map(pairs, tables)
    assert {name: float(value) for name, value in metrics.items()} == {
        f"{row['method']}.test.miou": row["mean"] for row in ui.results["rows"] if row["shots"] == 2
    }
    assert params["study.methods"] == "['zero_shot', 'ssprompt']"
    for row in ui.results["rows"]:
        see(page.get_by_text(f"{row['mean']:.3f}").first)
    page.get_by_role("link", name="ssprompt-smoke").first.click()
    see(page.get_by_text("draw 0 of the study one"))


def test_the_pictures_of_a_final_fit_are_shown(page: Page, ui: Ui) -> None:
    page.goto(ui.run(FINAL, "/artifacts"))
    for name in ("prompts", "config.yaml", "split.json", "per-class.parquet"):
        see(page.get_by_text(name, exact=True))
    page.get_by_text("overlays", exact=True).click()
    page.get_by_text(re.compile(r"^frame\d\d\.png$")).first.click()
    picture = page.locator("img[src^='blob:']").first
    see(picture)
    # the picture, its label and the prediction
    width, height = picture.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert width >= 3 * SIDE + 2 * GAP
    assert height >= SIDE


def test_the_scores_of_classes_are_a_table(page: Page, ui: Ui) -> None:
    page.goto(ui.run(FINAL, "/artifacts/per-class.csv"))
    rows = page.locator("table tr")
    see(rows.filter(has_text=CLASSES[-1]))
    cells = [row.split() for row in rows.all_inner_texts() if row.split()]
    assert cells[0] == ["class", "draw", "0", "draw", "1"]
    assert [row[0] for row in cells[1:]] == CLASSES
    found = ui.runs[FINAL].data.metrics
    for name, *scores in cells[1:]:
        mean = sum(map(float, scores)) / len(scores)
        assert mean == pytest.approx(found[f"test.iou.{name}"], abs=1e-3)


def test_the_report_is_shown_whole(page: Page, ui: Ui) -> None:
    page.goto(ui.run("study", "/artifacts/report/index.html"))
    report = page.frame_locator("iframe.mlflow-html-iframe")
    see(report.locator("h1"))
    assert report.locator("h1").inner_text() == "smoke"
    sizes = report.locator("img").evaluate_all("all => all.map(image => image.naturalWidth)")
    assert len(sizes) > 5
    assert min(sizes) > 0
    # it may run its own script there, and nothing else
    table = report.locator("#search table")
    report.locator("#search details").evaluate_all("all => all.forEach(fold => fold.open = true)")
    column = table.locator("th").all_inner_texts().index("mIoU")
    table.get_by_role("button", name="mIoU").click()
    cells = table.locator(f"tbody tr td:nth-child({column + 1})").all_inner_texts()
    assert cells == sorted(cells)
    assert len(cells) == TRIALS


@pytest.mark.parametrize(
    ("key", "metric", "steps"),
    [
        ("ssprompt-k1-t000", LOSS, [1, 2, 3]),
        (FINAL, f"{LOSS}.draw1", [1, 2, 3]),
        (FINAL, "test.miou.draw", [0, 1]),
        ("study", "ssprompt.test.miou", [1, 2]),
    ],
)
def test_a_metric_is_a_curve(page: Page, ui: Ui, key: str, metric: str, steps: list[int]) -> None:
    page.goto(ui.run(key, "/model-metrics"))
    _, x, y = chart(page, metric).evaluate(POINTS)[0]
    assert x == steps
    assert list(zip(x, y, strict=True)) == ui.steps[key][metric]


def test_the_best_prompts_are_a_registered_model(page: Page, ui: Ui) -> None:
    page.goto(f"{ui.uri}/#/models/ssprompt-smoke")
    version = page.get_by_role("row").filter(has_text="study.id: one")
    see(version)
    for text in ("method: ssprompt", "shots: 2", "selection.miou: 0.", "@ best"):
        expect(version).to_contain_text(text)
    version.get_by_role("link", name=re.compile("^Version")).click()
    see(page.get_by_text("chosen by mIoU on the selection images"))
    for name in ("chosen.by", "method", "Inputs (1)", "Outputs (2)"):
        see(page.get_by_text(name, exact=True))
    page.get_by_role("link", name="one", exact=True).click()
    see(page.get_by_role("heading", name="one"))


def see(found: Locator) -> None:
    expect(found.first).to_be_visible(timeout=WAIT)


def cards(page: Page) -> Locator:
    return page.get_by_test_id("experiment-view-compare-runs-card")


def chart(page: Page, metric: str) -> Locator:
    """The chart of a metric; those that the window has no room for are not drawn."""
    page.get_by_placeholder("Search metric charts").fill(metric)
    title = page.get_by_text(metric, exact=True)
    plot = cards(page).filter(has=title).locator(".js-plotly-plot")
    see(plot)
    return plot.first


def first_cells(table: Locator) -> list[str]:
    return table.locator("tr th").all_inner_texts()


def pairs(table: Locator) -> dict[str, str]:
    """Rows of a table of two columns."""
    cells = table.first.get_by_role("cell").all_inner_texts()
    return dict(zip(cells[::2], cells[1::2], strict=True))
