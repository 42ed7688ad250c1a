"""Objects of a real server under pathlib's names."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ResponseStreamingError
from botocore.response import StreamingBody
from s3_faults import before_send, lose_the_request

from ssprompt_core.errors import UserError
from ssprompt_platform.servers.seaweed import S3Server
from ssprompt_platform.storage import (
    S3Path,
    StorageError,
    arrow_filesystem,
    child_names,
    s3_client,
)

AWKWARD = ("a b", "plus+and&", "100%", "%2F", "näme", "hash#", "quest?", "'q\"", "~tilde", "🙂")


@pytest.fixture
def prefix(s3_bucket: str) -> S3Path:
    return S3Path.parse(s3_bucket)


@pytest.mark.parametrize(
    ("url", "bucket", "key"),
    [
        ("s3://bucket/a/prefix", "bucket", "a/prefix"),
        ("s3://bucket/a/prefix/", "bucket", "a/prefix"),
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://bucket/a b+c%20", "bucket", "a b+c%20"),
    ],
)
def test_addresses_are_read(url: str, bucket: str, key: str) -> None:
    path = S3Path.parse(url)
    assert (path.bucket, path.key) == (bucket, key)
    assert S3Path.parse(str(path)) == path
    assert path.as_uri() == str(path)


@pytest.mark.parametrize(
    "url",
    [
        "s3:/bucket",
        "s3://",
        "s3:///key",
        "http://bucket/key",
        "s3://bucket/a//b",
        "s3://bucket/../b",
        "s3://bucket/./b",
        "s3://bucket/a?b=c",
        "s3://bucket/a#b",
        "s3://bucket:9000/key",
        "s3://[bucket/key",
        "s3://bucket/a\0b",
        "s3://bucket/a\nb",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UserError):
        S3Path.parse(url)


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(UserError, match="AWS_SECRET_ACCESS_KEY") as caught:
        S3Path.parse("s3://AKIAKEY:geheim@bucket/key")
    assert "geheim" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


def test_names_are_those_of_pathlib() -> None:
    path = S3Path("bucket") / "runs" / "s/study.json"
    posix = Path("/runs/s/study.json")
    assert str(path) == "s3://bucket/runs/s/study.json"
    for attribute in ("name", "stem", "suffix"):
        assert getattr(path, attribute) == getattr(posix, attribute)
    assert path.parent == S3Path("bucket", "runs/s")
    assert path.parent.parent.parent == S3Path("bucket")
    assert path.relative_to(S3Path("bucket", "runs")) == Path("s/study.json")
    assert path.relative_to(S3Path("bucket")) == Path("runs/s/study.json")
    for other in (S3Path("bucket", "run"), S3Path("other", "runs"), path):
        with pytest.raises(ValueError, match="does not lie below"):
            path.relative_to(other)
    assert sorted([path, path.parent]) == [path.parent, path]


@pytest.mark.parametrize("name", ["", ".", "..", "a/../b", "/a", "a//b", "a/", "a\0b"])
def test_a_name_leads_downwards(name: str) -> None:
    with pytest.raises(ValueError, match="no name of an object"):
        S3Path("bucket", "runs") / name


def test_an_object_is_written_read_and_removed(prefix: S3Path) -> None:
    path = prefix / "s" / "study.json"
    assert not path.is_file()
    assert not path.exists()
    path.write_bytes(b"one")
    assert path.is_file()
    assert path.exists()
    assert not path.is_dir()
    assert (path.parent.is_dir(), path.parent.is_file(), path.parent.exists()) == (
        True,
        False,
        True,
    )
    path.write_bytes("zwei ü".encode())
    assert path.read_bytes() == "zwei ü".encode()
    assert path.read_text() == "zwei ü"
    moved = path.replace(prefix / "s" / "before.json")
    assert moved.read_text() == "zwei ü"
    assert not path.is_file()
    moved.unlink()
    assert not moved.is_file()
    moved.unlink(missing_ok=True)


def test_a_prefix_is_not_what_begins_like_it(prefix: S3Path) -> None:
    (prefix / "study-2" / "a").write_bytes(b"")
    study = prefix / "study"
    assert not study.exists()
    assert list(study.iterdir()) == []
    assert list(study.walk()) == []
    study.remove_tree()
    assert (prefix / "study-2" / "a").is_file()


def test_what_is_missing_is_said(prefix: S3Path, tmp_path: Path) -> None:
    path = prefix / "nothing"
    for operation in (
        path.read_bytes,
        path.read_text,
        path.head,
        path.unlink,
        lambda: path.download(tmp_path / "file"),
        lambda: path.replace(prefix / "other"),
    ):
        with pytest.raises(FileNotFoundError, match=f"there is no {path}"):
            operation()
    assert list(tmp_path.iterdir()) == []


def test_no_bucket_is_not_no_object(s3_bucket: str, tmp_path: Path) -> None:
    path = S3Path("no-such-bucket-here") / "s"
    for operation in (
        path.read_bytes,
        lambda: path.write_bytes(b""),
        lambda: path.create(b""),
        path.exists,
        path.is_dir,
        lambda: list(path.iterdir()),
        lambda: list(path.glob("*.json")),
        path.remove_tree,
    ):
        with pytest.raises(StorageError, match="no-such-bucket-here"):
            operation()


def test_what_is_refused_is_not_absent(
    prefix: S3Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (prefix / "a").write_bytes(b"content")
    for name, value in s3_server.read_only.items():
        monkeypatch.setenv(name, value)
    assert (prefix / "a").read_bytes() == b"content"
    for write in (
        lambda: (prefix / "a").write_bytes(b"other"),
        lambda: (prefix / "b").create(b"other"),
        lambda: (prefix / "a").unlink(missing_ok=True),
        prefix.remove_tree,
    ):
        with pytest.raises(StorageError):
            write()
    assert (prefix / "a").read_bytes() == b"content"
    secret = secrets.token_hex(20)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    for read in (
        (prefix / "a").is_file,
        (prefix / "missing").is_file,
        (prefix / "a").read_bytes,
        lambda: list(prefix.iterdir()),
        lambda: list(prefix.walk()),
        lambda: child_names(prefix),
    ):
        with pytest.raises(StorageError) as caught:
            read()
        assert secret not in str(caught.value)


def test_of_several_that_create_one_succeeds(prefix: S3Path) -> None:
    path, start = prefix / "only", threading.Barrier(6)

    def create(number: int) -> bool:
        start.wait()
        return path.create(str(number).encode())

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(create, range(6)))
    assert sum(made) == 1
    assert path.read_text() == str(made.index(True))
    assert not path.create(b"later")


@pytest.mark.parametrize("name", AWKWARD)
def test_any_name_comes_back_as_it_was(prefix: S3Path, name: str) -> None:
    path = prefix / name / name
    path.write_bytes(name.encode())
    assert path.read_bytes() == name.encode()
    assert list(prefix.iterdir()) == [prefix / name]
    assert list((prefix / name).iterdir()) == [path]
    assert [found.path for found in prefix.walk()] == [path]
    assert list(prefix.glob("*/*")) == [path]
    moved = path.replace(prefix / name / "moved")
    assert moved.read_bytes() == name.encode()
    prefix.remove_tree()
    assert list(prefix.walk()) == []


def test_listings_are_whole(prefix: S3Path) -> None:
    """A server gives at most a thousand names a page, and removes as many a request."""
    names = [f"{number:04d}.json" for number in range(1003)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: (prefix / "many" / name).write_bytes(b"1"), names))
    (prefix / "many" / "0500" / "study.json").write_bytes(b"22")
    many = prefix / "many"
    below = list(many.iterdir())
    assert sorted(path.name for path in below) == sorted([*names, "0500"])
    assert child_names(many) == {*names, "0500"}
    assert len(list(many.walk())) == 1004
    assert [path.name for path in many.glob("*.json")] == names
    assert list(prefix.glob("many/*/study.json")) == [many / "0500" / "study.json"]
    many.remove_tree()
    assert list(many.walk()) == []


def test_globs_find_what_is_there(prefix: S3Path) -> None:
    for name in ("a/study.json", "b/other.json", "c.json", "d/e/study.json", ".f.json"):
        (prefix / name).write_bytes(b"")
    assert list(prefix.glob("*/study.json")) == [prefix / "a" / "study.json"]
    assert [path.name for path in prefix.glob("*.json")] == [".f.json", "c.json"]
    assert list(prefix.glob("c.json")) == [prefix / "c.json"]
    assert list(prefix.glob("x.json")) == []
    assert [path.name for path in prefix.glob("?")] == ["a", "b", "d"]


def test_a_listing_tells_size_and_change(prefix: S3Path) -> None:
    (prefix / "a").write_bytes(b"123")
    [before] = prefix.walk()
    (prefix / "a").write_bytes(b"456")
    [after] = prefix.walk()
    assert (before.size, after.size) == (3, 3)
    assert before.etag != after.etag
    assert before.modified <= after.modified
    assert after.modified.tzinfo is not None


def test_large_files_go_and_come_in_parts(prefix: S3Path, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(secrets.token_bytes(20 << 20))
    path = prefix / "large"
    path.upload(source, {"of": "mine"})
    path.download(back)
    assert back.read_bytes() == source.read_bytes()
    assert path.read_bytes() == source.read_bytes()
    assert path.head()["Metadata"] == {"of": "mine"}
    path.upload(source)
    assert path.head()["Metadata"] == {}


def test_an_answer_that_is_cut_off_is_asked_for_again(
    prefix: S3Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (prefix / "a").write_bytes(b"content")
    read, cuts = StreamingBody.read, [0]

    def cut(body: StreamingBody, amt: int | None = None) -> bytes:
        cuts[0] += 1
        if cuts[0] in failing:
            raise ResponseStreamingError(error="cut off")
        return bytes(read(body, amt))

    monkeypatch.setattr(StreamingBody, "read", cut)
    failing = {1, 2}
    assert (prefix / "a").read_bytes() == b"content"
    failing = set(range(100))
    with pytest.raises(StorageError):
        (prefix / "a").read_bytes()


def test_a_broken_connection_is_made_again(prefix: S3Path) -> None:
    with before_send("PutObject", lose_the_request):
        (prefix / "a").write_bytes(b"content")
    with before_send("ListObjectsV2", lose_the_request):
        assert child_names(prefix) == {"a"}


def test_a_server_that_comes_back_was_only_slow(prefix: S3Path, s3_server: S3Server) -> None:
    (prefix / "a").write_bytes(b"content")
    s3_server.kill()
    asked = threading.Event()
    with before_send("GetObject", lambda _: asked.set()), ThreadPoolExecutor(1) as pool:
        answer = pool.submit((prefix / "a").read_bytes)
        assert asked.wait(60)
        s3_server.start()
        assert answer.result() == b"content"


def test_a_server_that_stays_away_is_told(prefix: S3Path, s3_server: S3Server) -> None:
    s3_server.kill()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssprompt_platform.storage.clients.ATTEMPTS", 1)
        impatient = s3_client(1)
        patch.setattr("ssprompt_platform.storage.s3.s3_client", lambda: impatient)
        for operation in (
            prefix.read_bytes,
            lambda: (prefix / "a").write_bytes(b""),
            (prefix / "a").is_file,
            lambda: list(prefix.iterdir()),
        ):
            with pytest.raises(StorageError, match=str(prefix)):
                operation()


def test_arrow_reads_the_same_storage(prefix: S3Path) -> None:
    (prefix / "a b").write_bytes(b"content")
    with arrow_filesystem().open_input_stream(f"{prefix.bucket}/{prefix.key}/a b") as stream:
        assert stream.read() == b"content"
