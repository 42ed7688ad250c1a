"""One process runs a study at a time: tried with real second processes, kill -9 included."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ssprompt_core.errors import UserError
from ssprompt_platform.ownership import holder, next_free, owned
from ssprompt_platform.storage import StudyFolder, write_text

HOLD = """
import sys
from pathlib import Path
from ssprompt_platform.ownership import owned
from ssprompt_platform.storage import StudyFolder
with owned(StudyFolder(Path(sys.argv[1]), sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(folder: StudyFolder) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the study until its input is closed or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.root), folder.study_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_second_process_is_refused_and_told_who_runs_the_study(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    with another_process(folder) as process:
        write_text(folder.record, "{}")
        told = holder(folder)
        assert told is not None
        assert (told["pid"], told["host"]) == (process.pid, socket.gethostname())
        with pytest.raises(UserError) as caught, owned(folder):
            raise AssertionError("two processes hold one study")
        message = str(caught.value)
        assert f"study s is being run by process {process.pid} on host" in message
        assert told["since"] in message
        with owned(StudyFolder(tmp_path, "other")):
            pass
        process.communicate(timeout=60)
    assert holder(folder) is None
    with owned(folder):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    with another_process(folder) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        assert holder(folder) is None
        with owned(folder) as held:
            assert held == folder
            told = holder(folder)
            assert told is not None
            assert told["pid"] == os.getpid()


def test_the_lock_is_not_handed_on_to_children(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    with owned(folder):
        write_text(folder.record, "{}")
        child = subprocess.Popen(["sleep", "60"])
    try:
        assert holder(folder) is None
    finally:
        child.kill()
        child.wait()


def test_nothing_is_left_of_a_study_that_did_not_begin(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    folder = StudyFolder(root, "s")
    with pytest.raises(UserError, match="mistake"), owned(folder):
        raise UserError("mistake")
    assert list(root.iterdir()) == []
    with owned(folder):
        write_text(folder.record, "{}")
    assert sorted(path.name for path in folder.path.iterdir()) == [".lock", "study.json"]
    assert folder.lock.read_text() == ""


def test_two_studies_that_begin_in_one_second_have_two_ids(tmp_path: Path) -> None:
    made = StudyFolder(tmp_path, "smoke-20260101-000000", made=True)
    with another_process(made), owned(made) as second:
        assert second.study_id == "smoke-20260101-000000-2"
        write_text(second.record, "{}")
        with owned(made) as third:
            assert third.study_id == "smoke-20260101-000000-3"
    # and one that was begun and has ended meanwhile
    done = StudyFolder(tmp_path, "smoke-20260101-000001", made=True)
    write_text(done.record, "{}")
    with owned(done) as other:
        assert other.study_id == "smoke-20260101-000001-2"
    assert done.record.is_file()


def test_free_ids_are_counted_up(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s", made=True)
    assert next_free(folder) == folder
    for name in ("s", "s-2"):
        (tmp_path / name).mkdir()
    assert next_free(folder).study_id == "s-3"
