"""Requests, retries, errors and failures of S3 are counted as they happen, on a real server."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from s3_faults import before_send, lose_the_request
from servers import S3Server

from ssprompt_platform.metrics import s3
from ssprompt_platform.storage import S3Path, StorageError
from ssprompt_platform.storage.clients import ATTEMPTS, s3_client

Told = Counter[tuple[str, ...]]


@pytest.fixture
def told(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Told:
    """What is counted, by metric and labels; to watch a client twice changes nothing."""
    counted: Told = Counter()

    def count(metric: Any, by: float = 1.0, **labels: str) -> None:
        counted[(metric.name, *labels.values())] += int(by)

    monkeypatch.setattr(s3, "count", count)
    for attempts in (1, ATTEMPTS):
        s3.watch(s3_client(attempts))
    return counted


@pytest.fixture
def place(s3_bucket: str, told: Told) -> S3Path:
    return S3Path.parse(s3_bucket) / "metrics"


def test_requests_are_counted_and_absence_is_no_error(place: S3Path, told: Told) -> None:
    told.clear()
    (place / "a").write_bytes(b"content")
    assert (place / "a").read_bytes() == b"content"
    assert not (place / "b").is_file()
    assert not (place / "a").create(b"other")
    assert told == {
        ("s3_requests", "PutObject"): 2,
        ("s3_requests", "GetObject"): 1,
        ("s3_requests", "HeadObject"): 1,
    }


def test_a_lost_connection_is_an_error_and_a_retry_but_no_failure(
    place: S3Path, told: Told
) -> None:
    (place / "a").write_bytes(b"content")
    told.clear()
    with before_send("GetObject", lose_the_request, times=2):
        assert (place / "a").read_bytes() == b"content"
    assert told == {
        ("s3_requests", "GetObject"): 3,
        ("s3_retries", "GetObject"): 2,
        ("s3_errors", "GetObject", "connection"): 2,
    }


def test_refused_requests_are_failures(
    place: S3Path, told: Told, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.read_only.items():
        monkeypatch.setenv(name, value)
    s3.watch(s3_client())
    told.clear()
    with pytest.raises(StorageError):
        (place / "a").write_bytes(b"other")
    assert told == {
        ("s3_requests", "PutObject"): 1,
        ("s3_errors", "PutObject", "refused"): 1,
        ("s3_failures", "PutObject", "refused"): 1,
    }


def test_a_server_that_is_gone_is_a_failure(
    place: S3Path, told: Told, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.kill()
    impatient = s3_client(1)
    told.clear()
    with pytest.raises(Exception, match="endpoint"):
        impatient.get_object(Bucket=place.bucket, Key=place.key)
    assert told == {
        ("s3_requests", "GetObject"): 1,
        ("s3_errors", "GetObject", "connection"): 1,
        ("s3_failures", "GetObject", "connection"): 1,
    }


@pytest.mark.parametrize(
    ("status", "kind"),
    [(200, ""), (304, ""), (404, ""), (412, ""), (400, "client"), (403, "refused"),
     (429, "throttled"), (503, "throttled"), (500, "server"), (507, "server")],
)  # fmt: skip
def test_kinds_are_few(status: int, kind: str) -> None:
    assert s3._kind_of_status(status) == kind
