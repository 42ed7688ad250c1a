"""A database that cannot be used is told in one sentence, without the password in its URL."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest
from servers import PostgresServer

from ssprompt_core.errors import UserError
from ssprompt_platform.servers.database import absolute, check_database, shown
from ssprompt_platform.servers.processes import LOOPBACK, free_ports

SECRET = "hushhush"


def complaint(url: str) -> str:
    with pytest.raises(UserError) as caught:
        check_database(url)
    # the errors below it too, which a traceback would show
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_database_that_answers(postgres_database: str, tmp_path: Path) -> None:
    check_database(postgres_database)
    check_database(f"sqlite:///{tmp_path}/new/mlflow.db")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"{SECRET}", "is no database URL"),
        (f"postgresql://me:{SECRET}@host:port/x", "is no database URL"),
        (f"postgres://me:{SECRET}@host/x", "'postgres', which SQLAlchemy does not know"),
        ("sqlite:////proc/self/mlflow.db", "the sqlite file /proc/self/mlflow.db cannot be used"),
        (f"postgresql://me:{SECRET}@nowhere.invalid/x", "no machine named 'nowhere.invalid'"),
    ],
)
def test_a_url_that_cannot_be_right(url: str, said: str) -> None:
    assert said in complaint(url)


def test_nobody_listens() -> None:
    port = free_ports(1)
    words = complaint(f"postgresql://me:{SECRET}@{LOOPBACK}:{port}/x")
    assert words.startswith(f"MLFLOW_BACKEND: no database answers at {LOOPBACK}:{port}")


def test_a_missing_driver_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    words = complaint(f"postgresql://me:{SECRET}@{LOOPBACK}/x")
    assert "driver 'psycopg', which is not installed" in words
    assert "'.[postgres]'" in words


def test_a_wrong_password_and_a_missing_database(postgres: PostgresServer) -> None:
    postgres.execute(f"create role guarded login password '{postgres.password}'")
    at = f"{LOOPBACK}:{postgres.port}"
    check_database(f"postgresql://guarded:{postgres.password}@{at}/postgres")
    words = complaint(f"postgresql://guarded:{SECRET}@{at}/postgres")
    assert f"the database at {at} refuses user 'guarded' or the password given" in words
    words = complaint(f"postgresql://guarded@{at}/postgres")
    assert "refuses user 'guarded'" in words
    words = complaint(f"postgresql://ssprompt:{SECRET}@{at}/absent")
    assert 'database "absent" does not exist' in words


def test_what_may_be_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(f"postgresql://me:{SECRET}@host/x") == "postgresql://me:***@host/x"
    assert SECRET not in shown(f"postgresql://host/x?user=me&password={SECRET}")
    monkeypatch.chdir(tmp_path)
    assert absolute("sqlite:///runs/a.db") == f"sqlite:///{tmp_path}/runs/a.db"
    assert absolute(f"postgresql://me:{SECRET}@h/x") == f"postgresql://me:{SECRET}@h/x"
