"""The lease of a study in a bucket: one owner of many, and what other hosts do."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from other_host import PATIENCE, OtherHost, beats_of, generations, polled

from ssprompt_core.errors import UserError
from ssprompt_platform.ownership import Terms, holder, lost, owned
from ssprompt_platform.ownership.lease_objects import LeaseObjects
from ssprompt_platform.storage import (
    S3Path,
    StudyFolder,
    storage_root,
    write_json,
)

QUICK = Terms(length=60, beat=0.02)

RACE = """
import sys, threading
from ssprompt_core.errors import UserError
from ssprompt_platform.ownership import owned
from ssprompt_platform.storage import StudyFolder, storage_root
folder = StudyFolder(storage_root(sys.argv[1]), "s")
start, done = threading.Barrier(9), threading.Event()
def tell(line):
    # one write a line: threads share the output
    sys.stdout.write(f"{line}\\n")
    sys.stdout.flush()
def contend():
    start.wait()
    try:
        with owned(folder, tell):
            tell("held")
            done.wait()
    except UserError as error:
        tell(f"refused: {error}")
threads = [threading.Thread(target=contend) for _ in range(8)]
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.readline()
start.wait()
sys.stdin.readline()
done.set()
"""


@pytest.fixture
def folder(s3_bucket: str) -> StudyFolder:
    return StudyFolder(storage_root(s3_bucket), "s")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets time pass for the server, as far as this process can tell."""
    date, passed = LeaseObjects._date, [0.0]

    def dated(objects: LeaseObjects, answer: Any) -> Any:
        return date(objects, answer) + timedelta(seconds=passed[0])

    def wait(seconds: float) -> None:
        passed[0] += seconds

    monkeypatch.setattr(LeaseObjects, "_date", dated)
    return wait


def test_of_sixteen_at_once_one_gets_the_study(folder: StudyFolder) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(folder.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        told = []
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        for process in processes:
            assert process.stdout is not None
            told += [(process.pid, process.stdout.readline().strip()) for _ in range(8)]
        winners = [pid for pid, line in told if line == "held"]
        assert len(winners) == 1
        for _, line in told:
            if line != "held":
                assert f"study s is being run by process {winners[0]} on host" in line
        who = holder(folder)
        assert who is not None
        assert who["pid"] == winners[0]
        for process in processes:
            process.communicate("\n", timeout=PATIENCE)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert generations(folder) == []


def test_every_owner_makes_the_next_generation_and_removes_those_before(
    folder: StudyFolder,
) -> None:
    write_json(folder.record, {})
    for generation in (1, 2):
        with owned(folder):
            assert generations(folder) == [generation]
        assert generations(folder) == [generation]
        assert holder(folder) is None
    # and a number that went up is not used again
    other = OtherHost(folder)
    other.takes(5)
    other.objects.write(5, None)
    with owned(folder):
        assert generations(folder) == [6]


def test_a_sign_of_life_of_another_host_refuses_the_study(folder: StudyFolder) -> None:
    other, said = OtherHost(folder), []
    other.takes(1)

    def say(sentence: str) -> None:
        said.append(sentence)
        other.beats()

    with pytest.raises(UserError) as caught, owned(folder, say, QUICK):
        raise AssertionError("two processes hold one study")
    assert "study s is being run by process 77 on host far since 2026-01-01T00" in str(caught.value)
    [sentence] = said
    assert sentence.startswith("study s was run by process 77 on host far, last seen ")
    assert sentence.endswith(" s unless it shows a sign of life")
    assert generations(folder) == [1]


def test_another_hosts_lease_is_taken_once_it_ran_out(
    folder: StudyFolder, later: Callable[[float], None]
) -> None:
    other, said = OtherHost(folder), []
    other.takes(1)

    def say(sentence: str) -> None:
        said.append(sentence)
        later(60)

    with owned(folder, say, QUICK):
        assert generations(folder) == [2]
    [sentence] = said
    told = re.fullmatch(
        r"study s was run by process 77 on host far, last seen (\d+) s ago; taking it over in "
        r"(\d+) s unless it shows a sign of life",
        sentence,
    )
    assert told is not None
    assert int(told[1]) + int(told[2]) == 60
    # long ago: at once, and nobody holds it
    other.takes(1)
    assert holder(folder) is None
    with owned(folder, said.append):
        pass
    assert said == [sentence]


def test_the_servers_clocks_alone_count(folder: StudyFolder) -> None:
    """Time that passes there, told in whole seconds."""
    OtherHost(folder).takes(1)
    with owned(folder, terms=Terms(length=1, beat=0.1)):
        assert generations(folder) == [2]


def test_a_given_back_lease_is_not_waited_for(folder: StudyFolder) -> None:
    other, said = OtherHost(folder), []
    other.takes(1)

    def say(sentence: str) -> None:
        said.append(sentence)
        other.objects.write(1, None)

    with owned(folder, say, QUICK):
        assert generations(folder) == [2]
    assert len(said) == 1


def test_a_made_id_does_not_wait_for_another_host(folder: StudyFolder) -> None:
    OtherHost(folder).takes(1)
    made = StudyFolder(folder.root, "s", made=True)
    with owned(made, terms=QUICK) as held:
        assert held.study_id == "s-2"


def test_a_lease_that_is_no_json_runs_out_as_any(
    folder: StudyFolder, later: Callable[[float], None]
) -> None:
    assert isinstance(folder.lock, S3Path)
    (folder.lock / "0000000001").write_bytes(b"no JSON")
    (folder.lock / "note.txt").write_bytes(b"no lease")
    assert holder(folder) == {}
    said = []

    def say(sentence: str) -> None:
        said.append(sentence)
        later(60)

    with owned(folder, say, QUICK):
        pass
    assert said[0].startswith("study s was run by another process, last seen ")


def test_an_owner_shows_signs_of_life(folder: StudyFolder) -> None:
    with owned(folder, terms=QUICK):
        polled(lambda: beats_of(folder) > 2)
        assert not lost(folder)
