"""Reads and writes of files and objects alike: whole or not at all, and nowhere else."""

from __future__ import annotations

import errno
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ssprompt_platform.storage import (
    Place,
    S3Object,
    S3Path,
    StorageError,
    child_names,
    local_file,
    local_tree,
    read_json,
    remove,
    remove_tree,
    s3_client,
    storage_root,
    write_bytes,
    write_json,
    write_text,
    write_whole,
)


@pytest.fixture
def prefix(s3_bucket: str) -> S3Path:
    return S3Path.parse(s3_bucket)


@pytest.fixture(params=["disk", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A storage root of either kind."""
    if request.param == "disk":
        return tmp_path / "root"
    return storage_root(request.getfixturevalue("s3_bucket"))


def test_both_kinds_of_places_keep_alike(root: Place) -> None:
    place = root / "deep" / "down" / "record.json"
    write_json(place, {"a": [1, "ü"]})
    assert read_json(place) == {"a": [1, "ü"]}
    write_text(place, "text")
    assert place.read_text() == "text"
    with pytest.raises(ValueError, match="Expecting"):
        read_json(place)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(place, {"a": float("nan")})
    write_bytes(place, b"\0\1")
    assert place.read_bytes() == b"\0\1"
    write_bytes(place, b"")
    assert place.read_bytes() == b""
    assert child_names(root) == {"deep"}
    assert child_names(root / "nothing") == set()
    remove(place)
    remove(place)
    assert not place.is_file()
    with pytest.raises(FileNotFoundError):
        read_json(place)
    remove_tree(root)
    remove_tree(root)
    assert not root.exists()


def test_a_write_that_fails_leaves_what_was_there(root: Place) -> None:
    place = root / "s" / "table.parquet"

    def fail(path: Path) -> None:
        assert path.suffix == ".parquet"
        path.write_text("half")
        raise RuntimeError("while writing")

    with pytest.raises(RuntimeError, match="while writing"):
        write_whole(place, fail)
    assert child_names(place.parent) == set()
    write_text(place, "before")
    with pytest.raises(RuntimeError, match="while writing"):
        write_whole(place, fail)
    assert place.read_text() == "before"
    assert child_names(place.parent) == {"table.parquet"}


def test_a_full_disk_is_the_storages_fault(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=r"table\.json cannot be written: the disk is full"):
        write_whole(tmp_path / "table.json", fail)


def test_files_and_trees_are_lent(root: Place) -> None:
    write_text(root / "s" / "a.txt", "a")
    write_text(root / "s" / "deep" / "b.txt", "b")
    with local_file(root / "s" / "a.txt") as path:
        assert path.name == "a.txt"
        assert path.read_text() == "a"
    with pytest.raises(FileNotFoundError), local_file(root / "s" / "nothing") as path:
        path.read_text()
    with local_tree(root / "s") as folder:
        assert (folder / "a.txt").read_text() == "a"
        assert (folder / "deep" / "b.txt").read_text() == "b"


@pytest.mark.parametrize("key", ["/etc/evil", "../evil", "deep/../../evil"])
def test_a_tree_leads_nowhere_else(prefix: S3Path, key: str) -> None:
    """A key may be any text; other programs write such ones."""
    strange = S3Path(prefix.bucket, f"{prefix.key}/s/{key}")
    objects = [strange, prefix / "s" / "a.txt"]

    def walk(path: S3Path) -> list[S3Object]:
        moment = datetime.now(UTC)
        return [S3Object(each, 1, moment, "etag") for each in objects]

    fetched: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        # this server refuses to keep such a key, others do not
        patch.setattr(S3Path, "walk", walk)
        patch.setattr(S3Path, "download", lambda path, local: fetched.append(local))
        with pytest.raises(StorageError, match="evil"), local_tree(prefix / "s"):
            raise AssertionError("lent")
    assert fetched == []


def test_markers_of_folders_are_no_files(prefix: S3Path) -> None:
    """Consoles of S3 show a folder where such an object is."""
    client = s3_client()
    for key in (f"{prefix.key}/s/", f"{prefix.key}/s/deep/"):
        client.put_object(Bucket=prefix.bucket, Key=key, Body=b"")
    (prefix / "s" / "deep" / "a.txt").write_bytes(b"a")
    with local_tree(prefix / "s") as folder:
        assert [path.name for path in folder.rglob("*") if path.is_file()] == ["a.txt"]
    assert child_names(prefix / "s") == {"deep"}
    assert [found.path for found in prefix.walk()] == [prefix / "s" / "deep" / "a.txt"]
    remove_tree(prefix)
    assert client.list_objects_v2(Bucket=prefix.bucket)["KeyCount"] == 0
