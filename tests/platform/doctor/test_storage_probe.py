"""What keeps a study from its storage is told before it begins: real servers, real disks."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from servers import S3Server, free_ports
from small_disks import fill, mounted

from ssprompt_core.errors import UserError
from ssprompt_platform.doctor import check_storage
from ssprompt_platform.doctor.bucket_probe import BucketProbe, seconds_ahead
from ssprompt_platform.doctor.folder_probe import probe_folder, sentence_of_file
from ssprompt_platform.servers.seaweed import PORTS
from ssprompt_platform.storage import S3Path, s3_client


def told(root: Path | S3Path) -> str:
    with pytest.raises(UserError) as caught:
        check_storage(root)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        assert not os.environ.get(name) or os.environ[name] not in sentence
    return sentence


@pytest.fixture
def root(s3_bucket: str) -> S3Path:
    return S3Path.parse(s3_bucket)


def everything(root: S3Path) -> list[Any]:
    answer = s3_client().list_object_versions(Bucket=root.bucket)
    return [*answer.get("Versions", ()), *answer.get("DeleteMarkers", ())]


def test_a_bucket_that_is_fine_stays_as_it_is(root) -> None:
    check_storage(root)
    assert everything(root) == []


def test_a_bucket_with_versions_keeps_none_of_the_probe(root) -> None:
    s3_client().put_bucket_versioning(
        Bucket=root.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    check_storage(root)
    assert everything(root) == []


def test_a_bucket_itself_may_be_the_root(root) -> None:
    check_storage(S3Path(root.bucket))
    assert everything(root) == []


def test_the_requests_of_a_check_are_few(root, monkeypatch) -> None:
    asked = []
    client = s3_client(attempts=2)
    client.meta.events.register("before-send.s3", lambda request, **_: asked.append(request.method))
    try:
        check_storage(root)
    finally:
        # the client is kept for the process
        s3_client.__globals__["_client"].cache_clear()
    assert asked == ["PUT", "PUT", "GET", "GET", "DELETE"]


def test_a_wrong_key(root, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY0000000000")
    assert "the server does not know the access key" in told(root)


def test_a_wrong_secret(root, monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    assert "the signature does not match" in told(root)


def test_a_wrong_bucket_names_the_one_that_was_meant(root) -> None:
    sentence = told(S3Path(f"{root.bucket}x", "studies"))
    assert "there is no such bucket" in sentence
    assert f"jobs/storage.py init s3://{root.bucket}x" in sentence
    assert f"(did you mean '{root.bucket}'?)" in sentence


def test_a_bucket_that_may_only_be_read(root, s3_server, monkeypatch) -> None:
    for name, value in s3_server.read_only.items():
        monkeypatch.setenv(name, value)
    assert "these credentials may not write there (PutObject: access denied)" in told(root)


def test_a_server_that_is_down(root, s3_server) -> None:
    s3_server.kill()
    sentence = told(root)
    assert f"nothing answers at {s3_server.endpoint} (connection refused)" in sentence
    s3_server.start()
    check_storage(root)


def test_a_server_whose_disk_is_full(tmp_path, monkeypatch) -> None:
    with mounted(tmp_path / "disk", "size=96m") as disk:
        server = S3Server(disk / "s3", free_ports(PORTS))
        server.start()
        try:
            for name, value in server.environment.items():
                monkeypatch.setenv(name, value)
            monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
            place = S3Path(server.bucket, "studies")
            check_storage(place)
            fill(disk)
            assert "full disk is the usual cause" in told(place)
            (disk / "filler").unlink()
            check_storage(place)
        finally:
            server.kill()


def test_the_cache_of_a_bucket_is_tried_too(root, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SSPROMPT_CACHE", str(tmp_path / "file" / "cache"))
    assert told(root).startswith("SSPROMPT_CACHE: ")


def test_the_clock_of_the_server_is_noted(root) -> None:
    probe = BucketProbe(root)
    probe.write()
    assert probe.ahead is not None
    assert abs(probe.ahead) < 5
    probe.cleanup()
    assert everything(root) == []


@pytest.mark.parametrize(
    ("date", "ahead"),
    [
        ("Thu, 01 Jan 1970 00:01:00 GMT", 0.0),  # 60 s, asked between 60.2 and 60.4
        ("Thu, 01 Jan 1970 00:02:00 GMT", 59.6),
        ("Thu, 01 Jan 1970 00:00:30 GMT", -29.2),
        ("yesterday", None),
        (None, None),
    ],
)
def test_clocks_are_compared_as_far_as_that_is_certain(date, ahead) -> None:
    found = seconds_ahead(date, 60.2, 60.4)
    assert found == (None if ahead is None else pytest.approx(ahead))


def test_a_folder_that_is_not_there_is_not_made(tmp_path) -> None:
    check_storage(tmp_path / "new" / "root")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_stays_as_it_is(tmp_path) -> None:
    (tmp_path / "study").mkdir()
    check_storage(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


def test_a_file_is_no_root(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    assert "a part of the path is a file" in told(tmp_path / "file" / "runs")
    assert "a part of the path is a file" in told(tmp_path / "file")


def test_a_path_that_is_too_long(tmp_path) -> None:
    assert "a part of the path is too long" in told(tmp_path / ("x" * 300) / "runs")


def test_a_disk_that_is_read_only(tmp_path) -> None:
    with mounted(tmp_path / "disk", "ro,size=96m") as disk:
        sentence = told(disk / "runs")
    assert sentence == (
        f"storage.root: {disk / 'runs'} cannot be used: it is on a read-only file system; choose "
        "another folder, or mount it for writing"
    )


def test_a_disk_that_is_full(tmp_path) -> None:
    with mounted(tmp_path / "disk", "size=96m") as disk:
        check_storage(disk / "runs")
        fill(disk)
        assert f"storage.root: the disk of {disk / 'runs'} is full (0 MiB free" in told(
            disk / "runs"
        )


def test_a_disk_that_says_full_only_when_it_is_written(tmp_path, monkeypatch) -> None:
    """As with a quota, of which the free space of a disk tells nothing."""
    with mounted(tmp_path / "disk", "size=96m") as disk:
        fill(disk)
        monkeypatch.setattr("ssprompt_platform.doctor.folder_probe.LEAST_FREE", 0)
        assert "its disk is full; free space there" in told(disk / "runs")
        assert [path.name for path in disk.iterdir()] == ["filler"]


def test_a_folder_of_somebody_else(tmp_path) -> None:
    if os.geteuid() == 0:
        error = PermissionError(errno.EACCES, "Permission denied")
        sentence = sentence_of_file(error, tmp_path, "storage.root")
    else:
        tmp_path.chmod(0o555)
        sentence = told(tmp_path / "runs")
    assert "may not write there; choose another folder, or change its owner" in sentence


def test_a_file_system_without_locks(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("ssprompt_platform.doctor.folder_probe.fcntl.flock", refuse)
    with pytest.raises(UserError, match="has no file locks"):
        probe_folder(tmp_path, "storage.root")
    assert list(tmp_path.iterdir()) == []
