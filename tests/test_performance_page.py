"""The page of figures: what parts measured, what failed, and that it is whole or not there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
from samples import ROOT

if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from benchmarks import performance
from benchmarks.parts.part import Part, run_part, shown

PART = Part(
    title="Steps",
    question="How long is a step?",
    columns=["way", "seconds", "steps"],
    rows=[["as it is", 0.01234, 12000], ["a|b", None, 3]],
    notes=["In turn."],
)
GOOD = f"""
import sys
from benchmarks.parts.part import Part, run_part

def measure(quick: bool) -> Part:
    print("measuring", quick)
    return Part(**{asdict(PART)!r})

if __name__ == "__main__":
    sys.exit(run_part(measure))
"""


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of three parts: a good one, one that fails, one that writes no table."""
    folder = tmp_path / "some_parts"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text("print('about to break')\nraise SystemExit(3)\n")
    (folder / "silent.py").write_text("print('no table')\n")
    monkeypatch.setattr(performance, "PACKAGE", "some_parts")
    monkeypatch.setattr(performance, "PARTS", ("good", "bad", "silent", "absent"))
    monkeypatch.setattr(performance, "PAGE", tmp_path / "page.md")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("some_parts")]:
        del sys.modules[name]


def test_a_part_is_markdown() -> None:
    assert PART.markdown() == [
        "## Steps",
        "",
        "How long is a step?",
        "",
        "| way | seconds | steps |",
        "|---|---:|---:|",
        "| as it is | 0.0123 | 12,000 |",
        "| a\\|b | - | 3 |",
        "",
        "In turn.",
        "",
    ]
    assert [shown(v) for v in (1234.5, 56.78, 9.876, 0.0, float("nan"))] == [
        "1,234",
        "56.8",
        "9.88",
        "0.00",
        "-",
    ]


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 2 cells below 3 columns"):
        Part("x", "y", ["a", "b", "c"], [["too", "short"]])


def test_a_part_hands_its_table_on_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "part.json"
    assert run_part(lambda quick: PART, ["--json", str(made), "--quick"]) == 0
    assert "| as it is | 0.0123 | 12,000 |" in capsys.readouterr().out
    assert Part.from_json(made.read_text()).markdown() == PART.markdown()
    assert [path.name for path in tmp_path.iterdir()] == ["part.json"]
    with pytest.raises(ValueError, match="not the JSON of a part"):
        Part.from_json(json.dumps({"title": "x"}))


def test_failed_parts_are_named_and_the_others_are_measured(
    parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert performance.main([]) == 1
    text = (parts / "page.md").read_text()
    assert "| as it is | 0.0123 | 12,000 |" in text
    assert "## bad: failed" in text
    assert "about to break\nit ended with code 3" in text
    assert "## silent: failed" in text
    assert "it wrote no table" in text
    assert "absent" not in text
    assert "`python benchmarks/performance.py`" in text
    said = capsys.readouterr().err
    assert "[2/3] bad: FAILED" in said
    assert "    measuring False" in said
    assert "failed: bad, silent" in said
    assert sorted(path.name for path in parts.iterdir()) == ["page.md", "some_parts"]


@pytest.mark.parametrize("words", [["--quick", "--only", "good"], ["--only", "good"]])
def test_what_is_not_whole_does_not_take_the_place_of_the_page(
    parts: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert performance.main(words) == 0
    out = capsys.readouterr().out
    assert "| as it is | 0.0123 | 12,000 |" in out
    assert ("quick run" in out) == ("--quick" in words)
    assert not (parts / "page.md").exists()
    assert performance.main([*words, "--output", str(parts / "other.md")]) == 0
    assert "| as it is | 0.0123 | 12,000 |" in (parts / "other.md").read_text()


def test_a_part_that_hangs_is_given_up(parts: Path) -> None:
    (parts / "some_parts" / "endless.py").write_text("while True:\n    pass\n")
    outcome = performance.run_part("some_parts.endless", quick=True, limit=0.5)
    assert outcome.part is None
    assert outcome.failure.endswith("it took longer than 0.5 seconds")


def test_a_page_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("old")

    def full(self: Path, text: str) -> int:
        with self.open("w") as file:
            file.write(text[:3])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="no space"):
        performance.write_whole(page, "a new page")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("page.md", "old")]


def test_every_part_has_its_prose() -> None:
    """The template tells of each part why it is measured."""
    template = performance.TEMPLATE.read_text()
    for name in performance.PARTS:
        assert f'"{name}": ' in template
    outcome = performance.Outcome("step", 60.0, PART)
    text = performance.page([outcome], datetime(2026, 1, 2, tzinfo=UTC), [], quick=False)
    assert "2026-01-02 00:00 UTC" in text
    assert text.index("mask decoder") < text.index("How long is a step?")
    assert "\n\n\n" not in text
    assert text.endswith("In turn.\n")
