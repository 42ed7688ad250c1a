"""Where a study keeps things, and the two ways it writes them: whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def storage_root(configured: str) -> Path:
    """Resolve ``storage.root``; under a Ray job, relative roots lie below ``~/ssprompt``.

    A Ray job runs in a temporary copy of its working directory that is deleted later, so results
    must not be written there.
    """
    root = Path(configured).expanduser()
    if not root.is_absolute() and in_ray_job():
        return Path.home() / "ssprompt" / root
    return root.absolute()


def in_ray_job() -> bool:
    """Whether this process was started by ``ray job submit``."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


@dataclass(frozen=True)
class StudyFolder:
    """The places of one study below the storage root.

    Attributes:
        root: The storage root.
        study_id: Name of the study's folder in it.
        made: Whether the id was made from name and time, for a study that is not begun yet.
    """

    root: Path
    study_id: str
    made: bool = False

    @property
    def path(self) -> Path:
        """Everything that belongs to this study alone."""
        return self.root / self.study_id

    @property
    def record(self) -> Path:
        """Configuration and identity of data and model, written when the study begins."""
        return self.path / "study.json"

    @property
    def draws(self) -> Path:
        """Support draws, one JSON each."""
        return self.path / "draws"

    @property
    def optuna(self) -> Path:
        """History of the search (sqlite)."""
        return self.path / "optuna.db"

    @property
    def trials(self) -> Path:
        """Progress of search trials: a folder each, named by the trial's key."""
        return self.path / "trials"

    @property
    def spent(self) -> Path:
        """What the search has used of its budget so far."""
        return self.path / "spent.json"

    @property
    def lock(self) -> Path:
        """Held by the process that runs the study."""
        return self.path / ".lock"

    @property
    def report(self) -> Path:
        """The page, its figures and its tables."""
        return self.path / "report"

    @property
    def tune(self) -> Path:
        """Ray Tune's and Ray Train's own files: checkpoints and logs."""
        return self.path / "ray"

    @property
    def best(self) -> Path:
        """Chosen hyperparameters per method and K."""
        return self.path / "best.json"

    @property
    def fits(self) -> Path:
        """Finished final fits: a JSON and a safetensors file each."""
        return self.path / "fits"

    @property
    def pictures(self) -> Path:
        """Learning curve and overlays."""
        return self.path / "pictures"

    @property
    def results(self) -> Path:
        """The machine-readable result."""
        return self.path / "results.json"

    @property
    def latest(self) -> Path:
        """Copy of the last finished study's results."""
        return self.root / "latest" / "results.json"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary neighbour of ``path``, then put it in place at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, record: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(record, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(text))


def read_json(path: Path) -> Any:
    """Read what :func:`write_json` wrote."""
    return json.loads(path.read_text())
