"""Where a study keeps things."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ssprompt_platform.storage.places import Place
from ssprompt_platform.storage.s3 import S3Path

_REMOTE = "s3://"
OPTUNA = "optuna.db"


def storage_root(configured: str) -> Place:
    """Resolve ``storage.root``: a bucket's prefix, or a folder.

    Under a Ray job, relative folders lie below ``~/ssprompt``: it runs in a temporary copy of its
    working directory that is deleted later, so results must not be written there.

    Raises:
        UserError: It begins with ``s3://`` and is no S3 address.
    """
    if configured.startswith(_REMOTE):
        return S3Path.parse(configured)
    return local_root(configured)


def local_root(configured: str) -> Path:
    """Resolve a folder of this machine as :func:`storage_root` does."""
    root = Path(configured).expanduser()
    if not root.is_absolute() and in_ray_job():
        return Path.home() / "ssprompt" / root
    return root.absolute()


def in_ray_job() -> bool:
    """Whether this process was started by ``ray job submit``."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def cache_folder() -> Path:
    """Folder on this machine's disk for copies of what lies in a bucket; ``$SSPROMPT_CACHE``."""
    given, base = os.environ.get("SSPROMPT_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(given) if given else Path(base or "~/.cache") / "ssprompt"
    return folder.expanduser().absolute()


def work_root(root: Place) -> Path:
    """Folder on this machine's disk that belongs to a storage root; a local root itself."""
    if isinstance(root, Path):
        return root
    return cache_folder() / "roots" / hashlib.sha256(str(root).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StudyFolder:
    """The places of one study below the storage root.

    Attributes:
        root: The storage root.
        study_id: Name of the study's folder in it.
        made: Whether the id was made from name and time, for a study that is not begun yet.
    """

    root: Place
    study_id: str
    made: bool = False

    @property
    def path(self) -> Place:
        """Everything that belongs to this study alone."""
        return self.root / self.study_id

    @property
    def record(self) -> Place:
        """Configuration and identity of data and model, written when the study begins."""
        return self.path / "study.json"

    @property
    def data_lock(self) -> Place:
        """Digest of every image and label, as they were when the study began."""
        return self.path / "data-lock.json"

    @property
    def draws(self) -> Place:
        """Support draws, one JSON each."""
        return self.path / "draws"

    @property
    def work(self) -> Path:
        """Folder for what must be a file of the driver's machine; a local study's own folder."""
        return work_root(self.root) / self.study_id

    @property
    def optuna(self) -> Path:
        """History of the search (sqlite), on the driver's machine."""
        return self.work / OPTUNA

    @property
    def optuna_copy(self) -> Place:
        """The same in the storage; a local study has no other copy."""
        return self.path / OPTUNA

    @property
    def trials(self) -> Place:
        """Progress of search trials: a folder each, named by the trial's key."""
        return self.path / "trials"

    @property
    def spent(self) -> Place:
        """What the search has used of its budget so far."""
        return self.path / "spent.json"

    @property
    def lock(self) -> Place:
        """Held by the process that runs the study."""
        return self.path / ".lock"

    @property
    def report(self) -> Place:
        """The page, its figures and its tables."""
        return self.path / "report"

    @property
    def tune(self) -> Place:
        """Ray Tune's and Ray Train's own files: checkpoints and logs."""
        return self.path / "ray"

    @property
    def best(self) -> Place:
        """Chosen hyperparameters per method and K."""
        return self.path / "best.json"

    @property
    def fits(self) -> Place:
        """Finished final fits: a JSON and a safetensors file each."""
        return self.path / "fits"

    @property
    def pictures(self) -> Place:
        """Learning curve and overlays."""
        return self.path / "pictures"

    @property
    def results(self) -> Place:
        """The machine-readable result."""
        return self.path / "results.json"

    @property
    def latest(self) -> Place:
        """Copy of the last finished study's results."""
        return self.root / "latest" / "results.json"
