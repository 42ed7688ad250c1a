"""Studies whose process died: what they had to tell is told, and their runs are marked killed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssprompt_platform.ownership import holder
from ssprompt_platform.storage import (
    Place,
    StorageError,
    StudyFolder,
    read_json,
    work_root,
    write_json,
)
from ssprompt_platform.tracking.delivery import Delivery, waiting
from ssprompt_platform.tracking.journal import NAME, header
from ssprompt_platform.tracking.runs import STUDY_TAG, UID_TAG
from ssprompt_platform.tracking.state import has_open_runs, positions
from ssprompt_platform.tracking.target import Target, target_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FOLDER = "tracking"
NAMED = "target.json"
ROOT_TAG = "study.root"
_PAGE = 200


@dataclass(frozen=True)
class Kept:
    """A journal on this machine.

    Attributes:
        study: Its study.
        folder: Where the journal lies.
        uid: Of the study, as the journal has it.
        target: The MLflow that it is to be told to.
    """

    study: StudyFolder
    folder: Path
    uid: str
    target: Target

    @property
    def memory(self) -> Path:
        """What is remembered of its delivery."""
        return self.folder / f"sent-{self.target.mark}.db"

    @property
    def waiting(self) -> int:
        """Events that were not told yet."""
        told = positions(self.memory)
        return waiting(self.folder / NAME, told["values"], told["files"])

    @property
    def open_runs(self) -> bool:
        """Whether runs of it have no end in MLflow, as far as is known here."""
        return has_open_runs(self.memory)

    def delivery(self) -> Delivery:
        """What delivers it; all of its events are of other processes."""
        return Delivery(self.folder, self.target, self.study.study_id)


def journals(root: Place, uri: str = "") -> list[Kept]:
    """Every journal that this machine has of a storage root's studies.

    Args:
        root: The storage root.
        uri: Address to tell instead of that which each study named.
    """
    found = []
    for path in sorted(work_root(root).glob(f"*/{FOLDER}*/{NAME}")):
        study, first = StudyFolder(root, path.parent.parent.name), header(path)
        if first is None:
            continue
        told = _named(path.with_name(NAMED))
        target = target_of(uri or told.get("uri", ""), told.get("experiment", "ssprompt"), root)
        found.append(Kept(study, path.parent, str(first.get("uid")), target))
    return found


def name_target(folder: Path, target: Target, root: Place) -> None:
    """Keep beside a journal what MLflow it is told to, so that others can tell what it left.

    An address with a password is not kept: the environment has to name it again. Nor is the
    database of a folder's own, which moves with the folder.
    """
    own = not target.given_by and isinstance(root, Path)
    uri = "" if own or target.shown != target.uri else target.uri
    write_json(folder / NAMED, {"uri": uri, "experiment": target.experiment})


def _named(path: Path) -> dict[str, str]:
    try:
        return {str(name): str(value) for name, value in read_json(path).items()}
    except (OSError, ValueError):
        return {}


def held(study: StudyFolder) -> bool:
    """Whether a process runs a study; where the storage does not say, one may."""
    try:
        return holder(study) is not None
    except StorageError:
        return True


def chores(root: Place, own: StudyFolder, delivery: Delivery) -> Iterator[None]:
    """Tell what other studies of the root left untold, and close what they left open.

    Where anything of that does not work now, it is left for the next time.
    """
    for kept in journals(root):
        if kept.study.study_id == own.study_id and kept.folder == own.work / FOLDER:
            continue
        if (kept.waiting or kept.open_runs) and not held(kept.study):
            yield from _finish(kept)
    client = delivery.client
    if client is not None:
        for _ in mark_dead(client, delivery.experiment, root, but=own.study_id):
            yield


def _finish(kept: Kept) -> Iterator[None]:
    other = kept.delivery()
    try:
        while other.work():
            yield
        if other.done and not held(kept.study):
            other.close_left_open()
    except Exception:  # noqa: BLE001  (no matter of the study that runs: sync tells what is wrong)
        return
    finally:
        other.close()


def mark_dead(client: MlflowClient, experiment: str, root: Place, but: str = "") -> Iterator[str]:
    """Mark runs as killed whose study no process runs, whether its journal is here or not.

    Args:
        client: Of MLflow.
        experiment: Id of the experiment.
        root: The storage root of the studies.
        but: A study that is left alone.

    Yields:
        Name of each study that had such runs.

    Raises:
        Exception: Whatever MLflow raised.
    """
    query = (
        f"attributes.status = 'RUNNING' AND tags.kind = 'study' "
        f"AND tags.`{ROOT_TAG}` = '{root_tag(root)}'"
    )
    for run in client.search_runs([experiment], query, max_results=_PAGE):
        study = StudyFolder(root, run.data.tags.get(STUDY_TAG, ""))
        if study.study_id not in ("", but) and not held(study):
            _kill(client, experiment, run)
            yield study.study_id


def root_tag(root: Place) -> str:
    """Names a storage root to everyone who uses the same MLflow."""
    text = f"{socket.gethostname()}:{root}" if isinstance(root, Path) else str(root)
    return text.replace("'", "_").replace("`", "_")


def _kill(client: MlflowClient, experiment: str, study: Run) -> None:
    uid = study.data.tags.get(UID_TAG, "")
    query = f"attributes.status = 'RUNNING' AND tags.`{UID_TAG}` = '{uid}'"
    while uid and (runs := client.search_runs([experiment], query, max_results=_PAGE)):
        for run in runs:
            client.set_terminated(run.info.run_id, status="KILLED")
    client.set_terminated(study.info.run_id, status="KILLED")
