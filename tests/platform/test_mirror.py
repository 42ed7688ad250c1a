"""A file's copy in a bucket: what is copied, and which of two a run begins with."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from botocore.exceptions import ConnectionClosedError
from s3_faults import before_send, lose_the_answer, lose_the_request

from ssprompt_platform.servers.seaweed import S3Server
from ssprompt_platform.storage import Place, S3Path, StorageError
from ssprompt_platform.storage.mirror import Mirror

PATIENCE = 60.0

UPLOAD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from s3_faults import before_send, send_half
from ssprompt_platform.storage import S3Path
kept, parts = [], []
def cut(request):
    kept.append(send_half(request))
    print("half", flush=True)
    sys.stdin.read()
def third(request):
    parts.append(request)
    if len(parts) == 3:
        cut(request)
with before_send("PutObject", cut), before_send("UploadPart", third, times=9):
    S3Path.parse(sys.argv[3]).upload(Path(sys.argv[2]))
"""


@pytest.fixture
def place(s3_bucket: str) -> S3Path:
    return S3Path.parse(s3_bucket) / "s" / "optuna.db"


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return tmp_path / "work" / "optuna.db"


class Database:
    """A growing sqlite database, as a search writes it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(path)
        self.connection.execute("create table if not exists trials (number integer)")

    def add(self, number: int) -> None:
        with self.connection:
            self.connection.execute("insert into trials values (?)", (number,))


@pytest.fixture
def database(local: Path) -> Iterator[Database]:
    database = Database(local)
    yield database
    database.connection.close()


def trials(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        return [row[0] for row in connection.execute("select number from trials order by number")]


def copied(place: S3Path, tmp_path: Path) -> list[int]:
    """Trials of the copy in the bucket."""
    place.download(tmp_path / "copy.db")
    return trials(tmp_path / "copy.db")


def polled(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_database_is_copied_while_it_grows_and_at_the_end(
    local: Path, place: S3Path, tmp_path: Path
) -> None:
    mirror = Mirror(local, place, every=0.01, lineage="uid")
    mirror.fetch()
    database = Database(local)
    with mirror:
        mirror.touch()
        for number in range(3):
            database.add(number)
            mirror.touch()
        polled(place.is_file)
        database.add(3)
        mirror.touch()
    # it is open still, and what is not committed is not copied
    database.connection.execute("insert into trials values (99)")
    assert copied(place, tmp_path) == [0, 1, 2, 3]
    database.connection.close()


def test_a_database_with_changes_beside_it_is_copied_whole(
    local: Path, place: S3Path, database: Database, tmp_path: Path
) -> None:
    database.connection.execute("pragma journal_mode = wal")
    database.add(1)
    assert local.with_name("optuna.db-wal").stat().st_size > 0
    with Mirror(local, place) as mirror:
        mirror.touch()
    assert copied(place, tmp_path) == [1]


def test_copies_are_whole_while_others_write(
    local: Path, place: S3Path, database: Database, tmp_path: Path
) -> None:
    """Rows come in twos: a copy that is of one moment has an even number of them."""
    stop = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(local)) as connection:
            number = 0
            while not stop.wait(0.002):
                with connection:
                    connection.executemany(
                        "insert into trials values (?)", [(number,), (number + 1,)]
                    )
                number += 2

    writer = threading.Thread(target=write)
    writer.start()
    sizes = []
    try:
        for _ in range(5):
            with Mirror(local, place) as mirror:
                mirror.touch()
            sizes.append(len(copied(place, tmp_path)))
    finally:
        stop.set()
        writer.join()
    assert all(size % 2 == 0 for size in sizes)
    assert sizes == sorted(sizes)


def test_what_did_not_change_is_not_copied(local: Path, place: S3Path, database: Database) -> None:
    copies = []

    def counted() -> bool:
        copies.append(1)
        return True

    with Mirror(local, place, every=0.01, allowed=counted):
        database.add(1)
    assert copies == []
    with Mirror(local, place, every=0.01, allowed=counted) as mirror:
        mirror.touch()
        polled(place.is_file)
    assert copies == [1]


def test_touch_before_there_is_a_file_is_no_mistake(local: Path, place: S3Path) -> None:
    with Mirror(local, place) as mirror:
        mirror.touch()
    assert not place.is_file()


def test_other_files_are_copied_as_they_are(tmp_path: Path, place: S3Path) -> None:
    local = tmp_path / "journal.jsonl"
    with Mirror(local, place) as mirror:
        local.write_text('{"a": 1}\n')
        mirror.touch()
    assert place.read_text() == '{"a": 1}\n'


def test_a_local_place_needs_no_copy(tmp_path: Path) -> None:
    local = tmp_path / "optuna.db"
    local.write_text("content")
    with Mirror(local, local) as mirror:
        mirror.fetch()
        mirror.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["optuna.db"]
    assert local.read_text() == "content"


def run_once(local: Path, place: Place, number: int, lineage: str = "uid") -> list[int]:
    """A run that begins with what is there, adds a trial and ends; the trials it began with."""
    with Mirror(local, place, lineage=lineage) as mirror:
        mirror.fetch()
        begun = trials(local) if local.is_file() else []
        database = Database(local)
        database.add(number)
        database.connection.close()
        mirror.touch()
    return begun


def killed_run(local: Path, place: Place, number: int, lineage: str = "uid") -> list[int]:
    """The same, killed before its trial was copied."""
    Mirror(local, place, lineage=lineage).fetch()
    begun = trials(local) if local.is_file() else []
    database = Database(local)
    database.add(number)
    database.connection.close()
    return begun


def test_a_run_begins_with_the_buckets_copy(place: S3Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here" / "optuna.db", tmp_path / "there" / "optuna.db"
    assert run_once(here, place, 1) == []
    # another machine goes on, and this one again, whose own file is old by then
    assert run_once(there, place, 2) == [1]
    assert run_once(here, place, 3) == [1, 2]
    assert run_once(here, place, 4) == [1, 2, 3]


def test_what_this_machine_added_to_the_buckets_copy_stays(place: S3Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here" / "optuna.db", tmp_path / "there" / "optuna.db"
    # also where there was no copy yet
    assert killed_run(here, place, 1) == []
    assert killed_run(here, place, 2) == [1]
    assert run_once(here, place, 3) == [1, 2]
    assert killed_run(here, place, 4) == [1, 2, 3]
    assert killed_run(here, place, 5) == [1, 2, 3, 4]
    # but not where another machine wrote meanwhile
    assert run_once(there, place, 6) == [1, 2, 3]
    assert killed_run(here, place, 7) == [1, 2, 3, 6]


def test_a_file_of_another_lineage_goes(place: S3Path, tmp_path: Path) -> None:
    here = tmp_path / "here" / "optuna.db"
    assert killed_run(here, place, 1, "old") == []
    assert run_once(here, place, 2, "new") == []
    # the study was removed from the bucket, and one of the same id begun
    place.unlink()
    assert killed_run(here, place, 3, "newest") == []


def test_nothing_is_left_beside_a_file_that_goes(local: Path, place: S3Path) -> None:
    """Sqlite would take it for a part of the new database."""
    local.parent.mkdir()
    beside = [local.with_name(local.name + end) for end in ("-wal", "-shm", "-journal")]
    for path in (local, *beside):
        path.write_text("old")
    place.write_bytes(b"new")
    Mirror(local, place).fetch()
    assert local.read_text() == "new"
    assert not any(path.exists() for path in beside)
    # one that another program put there is taken as it is
    local.write_text("new and more")
    Mirror(local, place).fetch()
    assert local.read_text() == "new and more"
    place.write_bytes(b"newer")
    Mirror(local, place).fetch()
    assert local.read_text() == "newer"


@pytest.mark.parametrize("arrived", [True, False])
def test_a_copy_of_unknown_fate_is_known_again(
    place: S3Path, tmp_path: Path, arrived: bool
) -> None:
    """The file is known to be made from the copy before, or from the one that was under way."""
    here = tmp_path / "here" / "optuna.db"
    run_once(here, place, 1)

    class KilledError(Exception):
        pass

    def kill(request: object) -> None:
        with suppress(ConnectionClosedError):
            (lose_the_answer if arrived else lose_the_request)(request)
        raise KilledError

    database = Database(here)
    database.add(2)
    database.connection.close()
    mirror = Mirror(here, place, lineage="uid")
    mirror.touch()
    with before_send("PutObject", kill), pytest.raises(KilledError):
        mirror.close()
    assert killed_run(here, place, 3) == [1, 2]


def test_who_lost_the_study_copies_no_more(
    local: Path, place: S3Path, database: Database, tmp_path: Path
) -> None:
    allowed = True
    mirror = Mirror(local, place, allowed=lambda: allowed)
    mirror.touch()
    mirror.close()
    allowed = False
    database.add(1)
    mirror = Mirror(local, place, allowed=lambda: allowed)
    mirror.touch()
    mirror.close()
    assert copied(place, tmp_path) == []


def test_failures_are_tried_again_and_told_at_the_end(
    local: Path, place: S3Path, database: Database, tmp_path: Path, s3_server: S3Server
) -> None:
    tries = threading.Semaphore(0)
    upload = S3Path.upload

    def counted(path: S3Path, *arguments: object) -> None:
        tries.release()
        upload(path, *arguments)  # type: ignore[arg-type]

    nowhere = S3Path("no-such-bucket-here", "optuna.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Path, "upload", counted)
        mirror = Mirror(local, nowhere, every=0.01)
        mirror.touch()
        for _ in range(3):
            assert tries.acquire(timeout=PATIENCE)
        with pytest.raises(StorageError, match="no-such-bucket-here"):
            mirror.close()
    mirror = Mirror(local, nowhere)
    mirror.touch()
    # what ended a block is what is told
    with pytest.raises(ValueError, match="mine"), mirror:
        raise ValueError("mine")


def test_a_database_that_cannot_be_read_is_told(local: Path, place: S3Path) -> None:
    local.parent.mkdir()
    local.write_bytes(b"SQLite format 3\0 and then nothing of the kind")
    mirror = Mirror(local, place)
    mirror.touch()
    with pytest.raises(StorageError, match="optuna.db could not be copied"):
        mirror.close()


@pytest.mark.parametrize("megabytes", [1, 40])
@pytest.mark.parametrize("before", [None, b"the one before"])
def test_an_upload_that_is_cut_off_never_appears(
    place: S3Path, tmp_path: Path, megabytes: int, before: bytes | None
) -> None:
    """Small ones go in one request, large ones in parts."""
    if before is not None:
        place.write_bytes(before)
    source = tmp_path / "large.bin"
    source.write_bytes(bytes(megabytes << 20))
    process = subprocess.Popen(
        [sys.executable, "-c", UPLOAD, str(Path(__file__).parents[1]), str(source), str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.communicate()
    if before is None:
        assert not place.is_file()
        assert not place.exists()
    else:
        assert place.read_bytes() == before
    # and is in nobody's way
    place.upload(source)
    assert place.head()["ContentLength"] == megabytes << 20
