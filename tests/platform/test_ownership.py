"""One process runs a study at a time: tried with real second processes, kill -9 included."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from ssprompt_core.errors import UserError
from ssprompt_platform.ownership import holder, lost, next_free, owned
from ssprompt_platform.storage import (
    Place,
    StudyFolder,
    child_names,
    read_json,
    storage_root,
    write_json,
)

HOLD = """
import sys
from ssprompt_platform.ownership import owned
from ssprompt_platform.storage import StudyFolder, storage_root
with owned(StudyFolder(storage_root(sys.argv[1]), sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A storage root of either kind."""
    if request.param == "disk":
        return tmp_path / "runs"
    return storage_root(request.getfixturevalue("s3_bucket"))


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


def waits_for_nothing(sentence: str) -> None:
    raise AssertionError(sentence)


def test_a_second_process_is_refused_and_told_who_runs_the_study(root: Place) -> None:
    folder = StudyFolder(root, "s")
    with another_process(folder) as process:
        write_json(folder.record, {})
        told = holder(folder)
        assert told is not None
        assert (told["pid"], told["host"]) == (process.pid, socket.gethostname())
        assert set(told) == {"host", "pid", "since"}
        with pytest.raises(UserError) as caught, owned(folder, waits_for_nothing):
            raise AssertionError("two processes hold one study")
        message = str(caught.value)
        assert f"study s is being run by process {process.pid} on host" in message
        assert told["since"] in message
        with owned(StudyFolder(root, "other")) as other:
            assert not lost(other)
            assert lost(folder)
        process.communicate(timeout=60)
    assert holder(folder) is None
    with owned(folder):
        pass


def test_a_killed_process_holds_nothing(root: Place) -> None:
    folder = StudyFolder(root, "s")
    with another_process(folder) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
        assert holder(folder) is None
        with owned(folder, waits_for_nothing) as held:
            assert held == folder
            told = holder(folder)
            assert told is not None
            assert told["pid"] == os.getpid()


def test_the_lock_is_not_handed_on_to_children(root: Place) -> None:
    folder = StudyFolder(root, "s")
    with owned(folder):
        write_json(folder.record, {})
        child = subprocess.Popen(["sleep", "60"])
    try:
        assert holder(folder) is None
    finally:
        child.kill()
        child.wait()


def test_nothing_is_left_of_a_study_that_did_not_begin(root: Place) -> None:
    folder = StudyFolder(root, "s")
    with pytest.raises(UserError, match="mistake"), owned(folder):
        raise UserError("mistake")
    assert not folder.path.exists()
    with owned(folder):
        write_json(folder.record, {})
    assert child_names(folder.path) == {".lock", "study.json"}


def test_the_lock_of_an_ended_study_names_nobody(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path, "s")
    with owned(folder):
        write_json(folder.record, {})
    assert isinstance(folder.lock, Path)
    assert folder.lock.read_text() == ""


def test_two_studies_that_begin_in_one_second_have_two_ids(root: Place) -> None:
    made = StudyFolder(root, "smoke-20260101-000000", made=True)
    with another_process(made), owned(made) as second:
        assert second.study_id == "smoke-20260101-000000-2"
        write_json(second.record, {})
        with owned(made) as third:
            assert third.study_id == "smoke-20260101-000000-3"
    # and one that was begun and has ended meanwhile
    done = StudyFolder(root, "smoke-20260101-000001", made=True)
    write_json(done.record, {"of": "another"})
    with owned(done) as other:
        assert other.study_id == "smoke-20260101-000001-2"
    assert read_json(done.record) == {"of": "another"}


def test_free_ids_are_counted_up(root: Place) -> None:
    folder = StudyFolder(root, "s", made=True)
    assert next_free(folder) == folder
    for name in ("s", "s-2"):
        write_json(root / name / "study.json", {})
    assert next_free(folder).study_id == "s-3"


def test_studies_that_begin_at_once_have_an_id_each(root: Place) -> None:
    made = StudyFolder(root, "smoke-20260101-000000", made=True)
    together = threading.Barrier(4)

    def begin() -> str:
        with owned(made) as held:
            write_json(held.record, {})
            # all are held at one moment
            together.wait(timeout=60)
            return held.study_id

    with ThreadPoolExecutor(4) as pool:
        begun = [pool.submit(begin) for _ in range(4)]
    first = made.study_id
    ids = {each.result() for each in begun}
    assert first in ids
    assert len(ids) == 4
