"""How far a journal has been told to one MLflow, and which runs it has there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Literal

Lane = Literal["values", "files"]
"""Runs, parameters and metrics are told in one lane, files in another: none waits for files."""

_TABLES = """
CREATE TABLE IF NOT EXISTS runs (key TEXT PRIMARY KEY, run_id TEXT NOT NULL, open INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class Sent:
    """The sender's memory, on disk: its size in the process does not grow with the trials.

    Every change is a transaction of sqlite's own: a kill leaves the one before or the one after.
    Should the file be lost or damaged, everything is told again, which changes nothing in MLflow.
    It is used by one thread at a time.

    Args:
        path: The file; there is one for each MLflow that a study was told to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._open()
        except sqlite3.DatabaseError:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._open()

    def _open(self) -> None:
        self._base = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self._base.execute("PRAGMA journal_mode=WAL")
        # a commit need not survive a power cut: what was told again changes nothing
        self._base.execute("PRAGMA synchronous=NORMAL")
        self._base.executescript(_TABLES)

    def position(self, lane: Lane) -> int:
        """Bytes of the journal that are told."""
        return int(self.fact(f"position.{lane}") or 0)

    def advance(self, lane: Lane, position: int, at: int) -> None:
        """Everything before ``position`` is told; the last of it happened at ``at`` (ms)."""
        with self._base:
            self._base.execute("BEGIN")
            self._set(f"position.{lane}", str(position))
            if lane == "values":
                self._set("at", str(at))

    def fact(self, name: str) -> str | None:
        """What is remembered under a name."""
        row = self._base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def remember(self, name: str, value: str) -> None:
        """Keep a fact."""
        self._set(name, value)

    def run(self, key: str) -> str | None:
        """Id of a run in MLflow, as far as known."""
        row = self._base.execute("SELECT run_id FROM runs WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def keep(self, key: str, run_id: str, *, is_open: bool) -> None:
        """Remember a run and whether it is open."""
        self._base.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (key, run_id, is_open))

    def open_runs(self) -> dict[str, str]:
        """Ids of the runs that were opened and not ended, by key."""
        rows = self._base.execute("SELECT key, run_id FROM runs WHERE open ORDER BY rowid")
        return {str(key): str(run_id) for key, run_id in rows}

    def forget(self) -> None:
        """Begin anew: MLflow has lost what it was told."""
        with self._base:
            self._base.execute("BEGIN")
            self._base.execute("DELETE FROM runs")
            self._base.execute("DELETE FROM facts")

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def _set(self, name: str, value: str) -> None:
        self._base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def positions(path: Path) -> dict[Lane, int]:
    """How far a journal was told, while another process may be telling it; 0 where nothing was."""
    found: dict[Lane, int] = {"values": 0, "files": 0}
    if not path.is_file():
        return found
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
            for lane in found:
                row = base.execute(
                    "SELECT value FROM facts WHERE name = ?", (f"position.{lane}",)
                ).fetchone()
                found[lane] = 0 if row is None else int(row[0])
    except sqlite3.DatabaseError:
        return {"values": 0, "files": 0}
    return found


def has_open_runs(path: Path) -> bool:
    """Whether runs are open in MLflow as far as this memory knows."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
            return base.execute("SELECT 1 FROM runs WHERE open LIMIT 1").fetchone() is not None
    except sqlite3.DatabaseError:
        return False
