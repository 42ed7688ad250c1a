"""The studies of a root, and what of the shared stores each of them refers to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssprompt_core.data.procedural import folder_name
from ssprompt_platform.config.schema import Config
from ssprompt_platform.embeddings import FLOAT32, FP32, EmbeddingStore
from ssprompt_platform.ownership import holder
from ssprompt_platform.storage import Place, StorageError, StudyFolder, read_json
from ssprompt_platform.texts import TextStore
from ssprompt_platform.tracking.target import tracking_uri

EMBEDDINGS, TEXTS, DATA = "embeddings", "texts", "data"
"""Names of the shared stores below a root; another one is that of MLflow's artifacts."""

State = Literal["finished", "running", "unfinished", "unreadable"]


@dataclass(frozen=True)
class Study:
    """What the record of a study tells.

    Attributes:
        folder: Where it is kept.
        record: Its ``study.json``; empty where that is not readable.
        digests: Of all images that it may use; None where it has no lock of its data.
    """

    folder: StudyFolder
    record: dict[str, Any]
    digests: frozenset[str] | None

    @property
    def study_id(self) -> str:
        """Its name below the root."""
        return self.folder.study_id

    @property
    def name_in_mlflow(self) -> str:
        """What its runs there are found by."""
        return str(self.record.get("uid", self.study_id))

    @property
    def begun(self) -> str:
        """When it was begun; empty: unknown."""
        return str(self.record.get("begun", ""))

    @property
    def encoder(self) -> str | None:
        """Fingerprint of its segmenter; None: unknown."""
        prints = self.record.get("fingerprints", {})
        return str(prints["segmenter"]) if "segmenter" in prints else None

    @property
    def tracking_uri(self) -> str:
        """Where its runs are kept."""
        config = Config()
        config.tracking.uri = str(self.option("tracking", "uri") or "")
        return tracking_uri(config, self.folder)

    def option(self, group: str, name: str) -> Any:
        """A value of its configuration; None: unknown."""
        return self.record.get("config", {}).get(group, {}).get(name)

    def embedding_keys(self) -> frozenset[str]:
        """Keys of the embeddings of all its images."""
        store = EmbeddingStore(
            Path(),
            self.encoder or "",
            dtype=self.option("storage", "embeddings") or FLOAT32,
            precision=self.option("model", "precision") or FP32,
        )
        return frozenset(store.key(digest) for digest in self.digests or ())

    def text_name(self) -> str | None:
        """Name of the file with its embedded class names; None: unknown."""
        encoder = self.record.get("fingerprints", {}).get("text_encoder")
        classes = self.record.get("facts", {}).get("classes")
        if encoder is None or classes is None:
            return None
        return TextStore(Path()).path(encoder, classes).name

    def data_name(self) -> str | None:
        """Name of the folder with its made images; None where it makes none or is unknown."""
        if self.option("data", "kind") != "procedural":
            return None
        return folder_name(int(self.option("data", "seed") or 0))


def studies(root: Place) -> Iterator[Study]:
    """All studies of a root that were begun, by name.

    Raises:
        StorageError: A bucket did not answer, or refused.
    """
    for study_id in sorted(study_ids(root)):
        yield read_study(StudyFolder(root, study_id))


def read_study(folder: StudyFolder) -> Study:
    """What is known of a study that was begun.

    Raises:
        FileNotFoundError: There is no such study.
        StorageError: A bucket did not answer, or refused.
    """
    try:
        record = dict(read_json(folder.record))
    except ValueError:
        return Study(folder, {}, None)
    return Study(folder, record, _digests(folder))


def study_ids(root: Place) -> frozenset[str]:
    """Names of the studies that were begun."""
    return frozenset(path.parent.name for path in root.glob("*/study.json"))


def state_of(study: Study) -> State:
    """How far a study is; asks who runs it."""
    if not study.record:
        return "unreadable"
    try:
        if holder(study.folder) is not None:
            return "running"
    except (OSError, StorageError):
        # a lock that cannot be read: whoever runs it is told elsewhere
        pass
    return "finished" if study.folder.results.is_file() else "unfinished"


def _digests(folder: StudyFolder) -> frozenset[str] | None:
    try:
        splits = read_json(folder.data_lock)["splits"]
        return frozenset(image["image"] for images in splits.values() for image in images.values())
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
