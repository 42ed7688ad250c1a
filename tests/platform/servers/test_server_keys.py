"""Keys of the S3 server: random, kept, for their owner alone, and never in an error's text."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from ssprompt_core.errors import UserError
from ssprompt_platform.servers.keys import (
    ADMIN_FILE,
    IDENTITIES_FILE,
    READER_FILE,
    Identities,
    Keys,
    read_environment,
)

ENDPOINT = "http://127.0.0.1:8333"
FILES = [ADMIN_FILE, READER_FILE, IDENTITIES_FILE]


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    for name in FILES:
        # one that somebody made readable is replaced, not written into
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o666)
    Identities(Keys.random(), Keys.random()).write(tmp_path, ENDPOINT)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in FILES] == [0o600] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_keys_are_random_and_stay(tmp_path: Path) -> None:
    first = Identities.of(tmp_path)
    assert len({*vars(first.admin).values(), *vars(first.read_only).values()}) == 4
    assert Identities.of(tmp_path) != first
    first.write(tmp_path, ENDPOINT)
    assert Identities.of(tmp_path) == first


def test_no_printed_form_shows_a_secret() -> None:
    keys = Keys.random()
    assert keys.access in repr(keys)
    assert keys.secret not in f"{keys} {keys!r} {Identities(keys, keys)}"


def test_a_shell_reads_the_file(tmp_path: Path) -> None:
    identities = Identities.of(tmp_path)
    identities.write(tmp_path, ENDPOINT)
    words = subprocess.run(
        ["bash", "-c", f"set -a; source {tmp_path / ADMIN_FILE}; env"],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    ).stdout.splitlines()
    expected = identities.admin.environment(ENDPOINT)
    assert {f"{name}={value}" for name, value in expected.items()} <= set(words)
    assert read_environment(tmp_path / ADMIN_FILE) == expected


def test_the_server_gets_one_identity_that_may_only_read(tmp_path: Path) -> None:
    Identities.of(tmp_path).write(tmp_path, ENDPOINT)
    admin, reader = json.loads((tmp_path / IDENTITIES_FILE).read_text())["identities"]
    assert "Write" in admin["actions"]
    assert reader["actions"] == ["Read", "List"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("AWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY hushhush\n", "line 2 is not of the form"),
        ("AWS_ACCESS_KEY_ID=hushhush\n", "has no AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_broken_file_is_named_and_not_shown(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / ADMIN_FILE).write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        Identities.of(tmp_path)
    assert str(tmp_path / ADMIN_FILE) in str(caught.value)
    assert "hushhush" not in str(caught.value)
