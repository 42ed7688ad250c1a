"""A study in a bucket that is lost, and a storage that is: other owners, outages, lost answers."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from other_host import OtherHost, beats_of, generations, interrupted, polled
from s3_faults import before_send, lose_the_answer, lose_the_request

from ssprompt_core.errors import UserError
from ssprompt_platform.config.schema import Config
from ssprompt_platform.failures import StoppedStudyError, stops_named
from ssprompt_platform.ownership import LostOwnershipError, Terms, holder, lease, lost, owned
from ssprompt_platform.ownership import owner as owners
from ssprompt_platform.ownership.lease_objects import LeaseObjects
from ssprompt_platform.servers.seaweed import S3Server
from ssprompt_platform.storage import S3Path, StorageError, StudyFolder, storage_root, write_json

QUICK = Terms(length=60, beat=0.02)


@pytest.fixture
def folder(s3_bucket: str) -> StudyFolder:
    return StudyFolder(storage_root(s3_bucket), "s")


@pytest.fixture(params=["heard", "ignored"])
def ctrl_c(request: pytest.FixtureRequest) -> Iterator[str]:
    """Whether SIGINT is heard: a process that a shell started in the background ignores it."""
    heard = request.param == "heard"
    before = signal.signal(signal.SIGINT, signal.default_int_handler if heard else signal.SIG_IGN)
    yield request.param
    signal.signal(signal.SIGINT, before)


def test_an_owner_stops_when_another_process_took_the_study(
    folder: StudyFolder, ctrl_c: str
) -> None:
    def work() -> None:
        write_json(folder.record, {})
        other = OtherHost(folder)
        other.takes(2)
        try:
            interrupted()
        finally:
            assert lost(folder)
            other.objects.remove(1)

    with (
        pytest.raises(LostOwnershipError) as caught,
        owned(folder, terms=QUICK),
        stops_named(Config(), folder),
    ):
        work()
    assert str(caught.value) == (
        "study s was taken over by process 77 on host far since 2026-01-01T00:00:00+00:00, and "
        "goes on there; this process had shown no sign of life for 60 s"
    )
    assert isinstance(caught.value, StorageError)
    assert isinstance(caught.value.__cause__, StoppedStudyError)
    # and leaves the other's lease alone
    told = holder(folder)
    assert told is not None
    assert told["host"] == "far"
    assert generations(folder) == [2]


@pytest.mark.parametrize("ctrl_c", ["heard"], indirect=True)
@pytest.mark.parametrize("removed", [True, False])
def test_an_owner_stops_when_its_lease_is_gone_or_anothers(
    folder: StudyFolder, ctrl_c: str, removed: bool
) -> None:
    other = OtherHost(folder)

    def work() -> None:
        # as someone may do by hand, between two beats or within one
        while not lost(folder):
            if removed:
                other.objects.remove(1)
            else:
                other.objects.write(1, other.content)
        interrupted()

    with pytest.raises(LostOwnershipError) as caught, owned(folder, terms=QUICK):
        work()
    assert ("is gone" if removed else "by process 77 on host far") in str(caught.value)


def test_a_study_that_ended_when_it_was_lost_is_lost(folder: StudyFolder) -> None:
    def run() -> str:
        with owned(folder, terms=QUICK):
            OtherHost(folder).takes(2)
            polled(lambda: lost(folder))
        return "not lost"

    # no signal reaches another thread than the main one
    with ThreadPoolExecutor(1) as pool, pytest.raises(LostOwnershipError, match="host far"):
        pool.submit(run).result()


def test_an_outage_longer_than_the_lease_loses_nothing(
    folder: StudyFolder, s3_server: S3Server
) -> None:
    terms, said = Terms(length=0.2, beat=0.05), []
    with owned(folder, said.append, terms):
        write_json(folder.record, {})
        polled(lambda: beats_of(folder) > 0)
        s3_server.kill()
        time.sleep(2 * terms.length)
        s3_server.start()
        before = beats_of(folder)
        polled(lambda: beats_of(folder) > before)
        assert not lost(folder)
        s3_server.kill()
    assert len(said) == 1
    assert said[0].startswith("study s could not be given back (")
    assert "to other hosts it seems to be run for 0.2 s more" in said[0]


def test_a_storage_that_was_away_tells_no_owner_dead(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner could not tell of its life either: it gets the time of two beats."""
    other, waited = OtherHost(folder), []
    other.takes(1)

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        other.beats()

    monkeypatch.setattr(lease, "time", SimpleNamespace(sleep=sleep))
    with (
        before_send("ListObjectsV2", lose_the_request),
        pytest.raises(UserError, match="study s is being run by"),
        owned(folder, terms=Terms(length=0, beat=3)),
    ):
        raise AssertionError("two processes hold one study")
    assert waited == [6]


def test_an_owner_whose_answers_are_lost_owns(folder: StudyFolder) -> None:
    with before_send("PutObject", lose_the_answer), owned(folder):
        assert generations(folder) == [1]
    # both tries of a beat come to nothing, as far as this process knows
    with owned(folder, terms=QUICK), before_send("PutObject", lose_the_answer, times=2):
        before = beats_of(folder)
        polled(lambda: beats_of(folder) > before + 4)
        assert not lost(folder)


def test_a_request_that_was_long_under_way_wins_nothing(folder: StudyFolder) -> None:
    """Others took and gave back the study between its look and its request."""
    other = OtherHost(folder)
    with (
        before_send("PutObject", lambda _: other.takes(2)),
        pytest.raises(UserError, match="by process 77 on host far"),
        owned(folder, terms=QUICK),
    ):
        raise AssertionError("two processes hold one study")
    assert generations(folder) == [2]


def test_a_server_that_knows_no_conditions_leaves_one_owner(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both make the object; the one that is overwritten sees it, at once or at its next beat."""
    other = OtherHost(folder)
    created = LeaseObjects.create

    def create(objects: LeaseObjects, generation: int, content: dict[str, Any]) -> str | None:
        etag = created(objects, generation, content)
        other.objects.write(generation, other.content)
        return etag

    monkeypatch.setattr(LeaseObjects, "create", create)
    with pytest.raises(UserError, match="77 on host far"), owned(folder, terms=QUICK):
        raise AssertionError("two processes hold one study")
    assert generations(folder) == [1]


def test_a_bucket_that_is_not_there_is_said(folder: StudyFolder) -> None:
    nowhere = StudyFolder(S3Path("no-such-bucket-here", "studies"), "s")
    with pytest.raises(StorageError, match="no-such-bucket-here"), owned(nowhere):
        raise AssertionError("owned in no bucket")
    with pytest.raises(StorageError):
        holder(nowhere)


def test_a_process_is_seen_from_its_own_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"pid": os.getpid(), "space": owners.process_space()}
    assert owners.lives_here(here) is True
    for other in ({**here, "space": "other"}, {"pid": here["pid"]}, {**here, "pid": None}):
        assert owners.lives_here(other) is None
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert owners.lives_here({**here, "pid": ended.pid}) is False

    def forbidden(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", forbidden)
    assert owners.lives_here(here) is True
    # a system that names no boot
    monkeypatch.setattr(owners, "process_space", lambda: "")
    assert owners.lives_here({**here, "space": ""}) is None
