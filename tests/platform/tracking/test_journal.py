from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ssprompt_platform.tracking.journal import NAME, Journal, count, header, number, read


def kinds(folder: Path) -> list[str]:
    return [line.event["event"] for line in read(folder / NAME, 0, 100) if line.event]


def test_events_are_there_when_the_call_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "t", "u")
    journal.append("run", key="study", name="größe\n")
    journal.append("metrics", key="study", values=[["a", 1, number(float("nan"))]])
    first, second, third = read(journal.path, 0, 100)
    assert first.event is not None
    assert (first.event["uid"], first.begin, first.end) == ("u", 0, second.begin)
    assert second.event is not None
    assert second.event["name"] == "größe\n"
    assert third.event is not None
    assert third.event["values"] == [["a", 1, "nan"]]
    assert third.end == journal.size == journal.path.stat().st_size
    assert [e.begin for e in read(journal.path, second.begin, 1)] == [second.begin]
    assert count(journal.path, second.begin) == 2


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_half_written_last_line_is_dropped(cut: int, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "t", "u")
    journal.append("session")
    journal.append("run", key="a" * 100)
    journal.close()
    with journal.path.open("r+b") as file:
        file.truncate(journal.size - cut)
    assert kinds(tmp_path / "t") == ["journal", "session"]
    again = Journal(tmp_path / "t", "u")
    again.append("end", key="b")
    assert kinds(tmp_path / "t") == ["journal", "session", "end"]


def test_a_long_half_line_is_dropped_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "t", "u")
    with journal.path.open("ab") as file:
        file.write(b'{"event":"text","text":"' + b"x" * 200_000)
    assert Journal(tmp_path / "t", "u").size == journal.size


def test_nothing_but_a_half_line(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b'{"at":1,"ev')
    assert header(tmp_path / NAME) is None
    journal = Journal(tmp_path, "u")
    assert kinds(tmp_path) == ["journal"]
    assert header(journal.path) is not None


def test_a_journal_of_another_study_gives_way(tmp_path: Path) -> None:
    Journal(tmp_path / "t", "one").append("session")
    Journal(tmp_path / "t", "two")
    assert kinds(tmp_path / "t") == ["journal"]
    assert kinds(tmp_path / "t-one") == ["journal", "session"]
    # and again, where one of that name lies there already
    Journal(tmp_path / "t", "one")
    Journal(tmp_path / "t", "three")
    assert kinds(tmp_path / "t-one-2") == ["journal"]


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, "u")
    original = os.write

    def half(handle: int, content: memoryview) -> int:
        if handle != journal._handle:
            return original(handle, content)
        if len(content) > 10:
            return original(handle, bytes(content[:10]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        journal.append("text", text="x" * 1)
    monkeypatch.undo()
    journal.append("session")
    assert kinds(tmp_path) == ["journal", "session"]


def test_a_line_that_is_no_event_is_told_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "u")
    with journal.path.open("ab") as file:
        file.write(b"\xff\xfe garbage\n[1]\n" + json.dumps({"at": 1}).encode() + b"\n")
    lines = read(journal.path, 0, 10)
    assert [line.event is None for line in lines] == [False, True, True, True]
