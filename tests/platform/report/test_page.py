"""The report's page: one safe file that says what the study found, lacks and must be read with."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hostile_study import CLASSES, MISSING, REMARK, SCRIPT, hostile_study
from study_folder import write_study

from ssprompt_platform.report.compare import compare
from ssprompt_platform.report.gather import StudyData, gather
from ssprompt_platform.report.page import write_comparison, write_page
from ssprompt_platform.storage import read_json, write_json

FEW = ("zero_shot", "linear_probe", "ssprompt")


@dataclass
class Read(HTMLParser):
    """Elements and text of a page, as a browser's parser sees them."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    text: str = ""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags, self.captions, self.notices, self.sections, self.cells = [], [], [], [], []
        self._into: list[str] | None = None
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "section":
            self.sections.append(str(found["id"]))
        if tag == "figcaption":
            self._into = self.captions
            self.captions.append("")
        elif tag == "td":
            self._into = self.cells
            self.cells.append("")
        elif tag == "div" and str(found.get("class", "")).startswith("notice"):
            self._into = self.notices
            self.notices.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("figcaption", "td", "div"):
            self._into = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._into is not None:
            self._into[-1] += data

    def of(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    root = tmp_path_factory.mktemp("runs")
    return gather(write_study(root, methods=FEW, trials=6, failed=[("ssprompt", 4, 1)]))


@pytest.fixture(scope="module")
def page(study: StudyData) -> Path:
    return write_page(study)


@pytest.fixture(scope="module")
def read(page: Path) -> Read:
    return Read(page)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(hostile_study(tmp_path_factory.mktemp("hostile")))


def test_the_page_needs_nothing_but_itself(read: Read) -> None:
    for _, attributes in read.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert str(attributes.get(name) or "#").startswith(("#", "data:"))
        # the policy would stop these too
        assert not [name for name in attributes if name == "style" or name.startswith("on")]
    assert len(list(read.of("script"))) == len(list(read.of("style"))) == 1


def test_the_policy_names_the_page_s_own_style_and_script(page: Path, read: Read) -> None:
    (policy,) = (str(meta["content"]) for meta in read.of("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.read_text(), re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_every_figure_is_in_the_page_and_in_two_files(page: Path, read: Read) -> None:
    images = list(read.of("img"))
    names = {str(f["id"]).removeprefix("figure-") for f in read.of("figure") if "id" in f}
    assert len(images) == len(names) >= 12
    for suffix in ("png", "svg"):
        assert {path.stem for path in (page.parent / "figures").glob(f"*.{suffix}")} == names
    assert {"learning-curve", "paired-differences", "classes", "search-history"} <= names
    assert all(len(str(image["alt"])) > 20 for image in images)
    assert page.stat().st_size < 5e6


def test_the_same_study_gives_the_same_bytes(study: StudyData, page: Path, tmp_path: Path) -> None:
    again = write_page(study, tmp_path / "elsewhere")
    assert again == tmp_path / "elsewhere" / "index.html"
    assert again.read_bytes() == page.read_bytes()
    for path in (page.parent / "figures").iterdir():
        assert (again.parent / "figures" / path.name).read_bytes() == path.read_bytes()


def test_the_answer_names_the_best_method_with_its_interval(study: StudyData, read: Read) -> None:
    for k in (1, 4, 16):
        best = max((r for r in study.rows if r["shots"] == k), key=lambda row: row["mean"])
        low, high = best["ci95"]
        assert best["method"] == "linear_probe"
        assert f"K = {k} · " in read.text
        assert f"95 % interval [{low:.3f}, {high:.3f}], n = {len(best['draws'])}" in read.text
    told = [c for c in study.statistics["methods"] if c["significant"]]
    assert f"{len(told)} of {len(study.statistics['methods'])} comparisons tell" in read.text


def test_a_claim_is_made_only_where_a_difference_is_significant(tmp_path: Path) -> None:
    def claims(draws: int) -> str:
        data = gather(
            write_study(tmp_path, f"d{draws}", methods=("spa", "ssprompt"), shots=(16,),
                        draws=draws, trials=0)
        )  # fmt: skip
        (comparison,) = data.statistics["methods"]
        assert comparison["significant"] is (draws > 1)
        return Read(write_page(data)).text

    assert "Better than spa." in claims(5)
    alone = claims(1)
    assert "Better than" not in alone
    assert "Not told apart from spa." in alone
    assert "one draw, so no interval" in alone


def test_refusals_stand_in_the_table_of_labels(study: StudyData, read: Read) -> None:
    statuses = {
        answer["status"]
        for curve in study.statistics["curves"].values()
        for answer in curve.get("answers", ())
    }
    assert "answered" in statuses
    assert statuses & {"never", "beyond_reach"}
    said = {"never": "levels off", "beyond_reach": "beyond reach"}
    assert {word for word in said.values() if word in read.cells} == {
        word for status, word in said.items() if status in statuses
    }


def test_failed_trials_and_fits_are_told_with_their_cause(study: StudyData, read: Read) -> None:
    notices = " ".join(read.notices)
    assert study.failed[0]["cause"] in notices
    assert "1 of 5 final fits of ssprompt at K = 4 failed" in notices
    failed = [trial for trial in study.trials if trial.state == "failed"]
    assert f"Trials that failed: {len(failed)}" in notices
    assert str(failed[0].cause) in notices
    assert read.cells.count(f"failed{failed[0].cause}") == len(failed)


def test_remarks_are_in_a_banner_every_caption_and_every_figure(
    study: StudyData, page: Path, read: Read, tmp_path: Path
) -> None:
    remark = "Selected on the validation split."
    marked = write_page(replace(study, record={**study.record, "remarks": [remark]}), tmp_path)
    found = Read(marked)
    assert remark in found.notices[0]
    # versions are no scores: the last table alone is without
    assert [caption for caption in found.captions if remark not in caption] == read.captions[-1:]
    assert remark not in read.text
    for path in (tmp_path / "figures").iterdir():
        assert path.read_bytes() != (page.parent / "figures" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("stage", "has", "lacks"),
    [
        ("begun", {"answer", "search", "protocol"}, {"scores", "effects", "classes", "price"}),
        ("searching", {"answer", "search", "effects", "price"}, {"scores", "classes", "labels"}),
        ("fitting", {"scores", "classes", "differences"}, set()),
    ],
)  # fmt: skip
def test_an_unfinished_study_says_what_is_missing(
    tmp_path: Path, stage: str, has: set[str], lacks: set[str]
) -> None:
    data = gather(write_study(tmp_path, methods=FEW, stage=stage))  # type: ignore[arg-type]
    read = Read(write_page(data))
    assert "This study is not finished." in read.notices[0]
    assert data.missing
    assert all(sentence in read.text for sentence in data.missing)
    assert has <= set(read.sections)
    assert not lacks & set(read.sections)
    # the contents list what there is
    links = [str(a["href"]) for a in read.of("a")][1:]
    assert links == [f"#{name}" for name in read.sections]


def test_extensions_after_the_scores_were_seen_are_told(tmp_path: Path) -> None:
    folder = write_study(tmp_path, methods=("zero_shot",), shots=(1,), trials=0)
    extension = {
        "at": "2026-03-02T10:00:00+00:00", "changes": {"study.draws": [3, 5]}, "after_scores": False
    }  # fmt: skip
    for seen in (False, True):
        write_json(
            folder.record,
            {**read_json(folder.record), "extensions": [{**extension, "after_scores": seen}]},
        )
        read = Read(write_page(gather(folder)))
        assert "study.draws: 3 → 5" in read.text
        assert any("extended after test scores" in notice for notice in read.notices) is seen


def test_nothing_from_the_data_becomes_markup(hostile: Path) -> None:
    read, source = Read(hostile), hostile.read_text()
    assert SCRIPT not in source
    assert "<img src=x" not in source
    assert MISSING not in source
    assert len(list(read.of("script"))) == len(list(read.of("style"))) == 1
    assert REMARK in read.notices[0]
    assert MISSING in read.text
    assert read.text.count(SCRIPT) > 10
    for path in (hostile.parent / "figures").glob("*.svg"):
        assert "<script" not in path.read_text()
    assert len(CLASSES[-1]) > 200


def test_two_studies_side_by_side(study: StudyData, tmp_path: Path) -> None:
    better = gather(
        write_study(tmp_path, "better", methods=FEW, trials=0, better=0.2, remarks=["Seen."])
    )
    comparison = compare(study, better)
    page = write_comparison(comparison, tmp_path / "out" / "compare-better.html")
    read = Read(page)
    lost = sum(r["significant"] and r["difference"] < 0 for r in comparison.rows)
    assert lost > 0
    assert f"made is better in 0 and better in {lost};" in read.text
    assert all(f"{note}" in read.text for note in comparison.notes)
    assert "search.trials" in read.text
    assert all("better: Seen." in caption for caption in read.captions[:-1])
    assert {path.name for path in (tmp_path / "out" / "figures").iterdir()} == {
        f"compare-better-{name}.{suffix}" for name in ("differences", "curves")
        for suffix in ("png", "svg")
    }  # fmt: skip
