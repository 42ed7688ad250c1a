"""What lies below a storage root and belongs to nobody; says of the rest why it is kept."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from ssprompt_core.errors import UserError
from ssprompt_platform.config.schema import Config
from ssprompt_platform.doctor.probes import PROBE
from ssprompt_platform.doctor.tracking import shown
from ssprompt_platform.storage import Place, S3Path, StudyFolder, child_names
from ssprompt_platform.storage_admin.bucket import head_of, uploads
from ssprompt_platform.storage_admin.listing import Amount, Entry, entries, measured, parts_below
from ssprompt_platform.storage_admin.mlflow_runs import Known, ask, is_there, owner_of
from ssprompt_platform.storage_admin.studies import (
    DATA,
    EMBEDDINGS,
    TEXTS,
    Study,
    studies,
)
from ssprompt_platform.tracking.target import ARTIFACTS, tracking_uri

_HEAD_BYTES = 16384
"""Of an Arrow file: its schema, in which the encoder is named, comes first."""
_ARROW_MAGIC = 8
_OF_A_STUDY = frozenset(
    {
        "data-lock.json", "draws", "optuna.db", "optuna.db-journal", "optuna.db-wal",
        "optuna.db-shm", "trials", "spent.json", ".lock", "lock.json", "report", "ray", "best.json",
        "fits", "pictures", "tables", "tracking", "analysis.md",
    }
)  # fmt: skip
"""Everything that lies directly in a study's folder but its record and results."""
_HALF_WRITTEN = re.compile(r"\..*-[a-z0-9_]{8}(\.\w+)?")
"""Names of temporary files of this program; a killed process leaves them."""


@dataclass
class Garbage:
    """Things of one kind that belong to nobody.

    Attributes:
        kind: What they are.
        why: Why they are nobody's.
        found: Files or objects, each old enough.
        uploads: Interrupted uploads: key and id.
        young: Of the same, what is too young to be touched.
    """

    kind: str
    why: str
    found: list[Entry] = field(default_factory=list)
    uploads: list[tuple[str, str]] = field(default_factory=list)
    upload_bytes: int = 0
    young: Amount = field(default_factory=Amount)

    @property
    def amount(self) -> Amount:
        """How much it is."""
        return measured(self.found) + Amount(len(self.uploads), self.upload_bytes)


@dataclass
class Found:
    """What a search for garbage came to.

    Attributes:
        garbage: By kind.
        kept: Sentences on what cannot be told and is kept.
        studies: Names of the studies that were looked at.
        asked: The MLflows that were asked, as they may be shown.
    """

    garbage: list[Garbage]
    kept: list[str]
    studies: frozenset[str]
    asked: list[str]

    @property
    def total(self) -> Amount:
        """Of all kinds."""
        return sum((garbage.amount for garbage in self.garbage), Amount())


class Search:
    """Looks for what nobody refers to.

    Args:
        root: The storage root.
        older_than: Age in seconds below which nothing is garbage: a study that runs or begins
            writes things before it refers to them.
        uris: MLflow servers or databases, in place of those that the studies name.
        artifacts: Further places where MLflow keeps artifacts.
    """

    def __init__(
        self,
        root: Place,
        older_than: float,
        uris: Sequence[str] = (),
        artifacts: Sequence[Place] = (),
    ) -> None:
        self.root = root
        self._before = time.time() - older_than
        self._uris = list(uris)
        self._artifacts = list(dict.fromkeys([root / ARTIFACTS, *artifacts]))
        self._kept: list[str] = []
        self._asked: list[str] = []

    def run(self) -> Found:
        """Look at everything.

        Raises:
            StorageError: A bucket did not answer, or refused.
        """
        known = list(studies(self.root))
        garbage = [
            *self._of_mlflow(known),
            self._embeddings(known),
            self._texts(known),
            self._made_images(known),
            self._leftovers(known),
            self._half_written(known),
        ]
        if isinstance(self.root, S3Path):
            garbage.append(self._uploads(self.root))
        names = frozenset(study.study_id for study in known)
        there = [each for each in garbage if each.amount.objects or each.young.objects]
        return Found(there, self._kept, names, self._asked)

    def _of_mlflow(self, known: Sequence[Study]) -> Iterator[Garbage]:
        owned: dict[str, list[Entry]] = defaultdict(list)
        kinds: dict[str, str] = {}
        for place in self._artifacts:
            for entry in entries(place):
                owner = owner_of(parts_below(entry.place, place))
                if owner is not None:
                    kinds[owner[1]] = owner[0]
                    owned[owner[1]].append(entry)
        if not owned:
            return
        told = self._ask(known, owned)
        if told is None:
            return
        for kind, deleted, why in (
            ("artifacts of deleted runs", True, "MLflow has the run in its trash"),
            ("artifacts of lost runs", False, "no MLflow knows the run"),
            ("artifacts of lost models", False, "no MLflow knows the model"),
        ):
            garbage = Garbage(kind, why)
            what = "model" if kind.endswith("models") else "run"
            for identity, found in owned.items():
                nobodys = kinds[identity] == what and not told.has(identity)
                if nobodys and (identity in told.deleted) is deleted and (deleted or told.complete):
                    self._sort(garbage, found)
            yield garbage

    def _ask(self, known: Sequence[Study], owned: Mapping[str, object]) -> Known | None:
        """What the MLflows know; None where that says nothing about artifacts here."""
        named = [study.tracking_uri for study in known if study.record]
        # where no study is left, what a new one would be told to
        named.append(tracking_uri(Config(), StudyFolder(self.root, "none")))
        uris = self._uris or [uri for uri in named if is_there(uri)]
        if not uris:
            self._kept.append(
                f"artifacts of {len(owned)} runs and models: there is no MLflow to ask; name "
                "theirs with --uri"
            )
            return None
        self._asked = [shown(uri) for uri in dict.fromkeys(uris)]
        try:
            told = ask(uris)
        except UserError as error:
            self._kept.append(f"artifacts of {len(owned)} runs and models: {error}")
            return None
        if not any(told.knows(identity) for identity in owned):
            # another server, or an empty database: its word would delete everything
            self._kept.append(
                f"artifacts of {len(owned)} runs and models: the MLflow that was asked knows none "
                "of them, so it is probably another one; name theirs with --uri"
            )
            return None
        elsewhere = [study for study in known if study.name_in_mlflow not in told.studies]
        if elsewhere and not self._uris:
            # its runs are kept where nobody was asked, or are still to be told
            told.complete = False
            self._keep(
                "artifacts of runs and models that no MLflow which was asked knows",
                elsewhere,
                "MLflow has none of their runs: name every MLflow with --uri",
            )
        return told

    def _embeddings(self, known: Sequence[Study]) -> Garbage:
        garbage = Garbage("embeddings", "no study has this image and this encoder")
        unknown = [study for study in known if study.encoder is None]
        if unknown:
            self._keep("embeddings", unknown, "their record does not name the encoder")
            return garbage
        referred = frozenset().union(*(study.embedding_keys() for study in known))
        unlocked = {study.encoder for study in known if study.digests is None}
        if unlocked:
            self._keep(
                "embeddings of the same encoder",
                [study for study in known if study.digests is None],
                "they have no data-lock.json that names their images",
            )
        found = (
            entry
            for entry in entries(self.root / EMBEDDINGS)
            if entry.place.suffix == ".arrow"
            and entry.place.stem not in referred
            and not _HALF_WRITTEN.fullmatch(entry.place.name)
            and not (unlocked and _encoder_of(entry.place) in {*unlocked, None})
        )
        self._sort_each(garbage, found)
        return garbage

    def _texts(self, known: Sequence[Study]) -> Garbage:
        garbage = Garbage("class names", "no study has these classes and this text encoder")
        unknown = [study for study in known if study.text_name() is None]
        if unknown:
            self._keep("embedded class names", unknown, "their record does not name their classes")
            return garbage
        referred = {study.text_name() for study in known}
        self._sort_each(
            garbage,
            (
                entry
                for entry in entries(self.root / TEXTS)
                if entry.place.suffix == ".safetensors" and entry.place.name not in referred
            ),
        )
        return garbage

    def _made_images(self, known: Sequence[Study]) -> Garbage:
        garbage = Garbage("made images", "no study uses this world of scenes")
        unknown = [study for study in known if study.option("data", "kind") is None]
        if unknown:
            self._keep("made images", unknown, "their record does not name their data")
            return garbage
        referred = {study.data_name() for study in known}
        folder = self.root / DATA
        for name in sorted(child_names(folder)):
            if name.startswith("procedural-") and name not in referred:
                self._sort(garbage, list(entries(folder / name)))
        return garbage

    def _leftovers(self, known: Sequence[Study]) -> Garbage:
        """Folders of studies whose beginning was interrupted, or of which little was deleted."""
        garbage = Garbage("studies without a record", "study.json is missing")
        begun = {study.study_id for study in known}
        for name in sorted(child_names(self.root) - begun):
            children = child_names(self.root / name)
            if not children or name in (EMBEDDINGS, TEXTS, DATA, ARTIFACTS, "latest"):
                continue
            ours = _OF_A_STUDY | _journals(children)
            if "results.json" in children and children - {"results.json"} <= ours:
                self._kept.append(
                    f"{self.root / name}: it has no study.json, but results; delete it yourself if "
                    "nobody needs them"
                )
            elif children <= ours:
                self._sort(garbage, list(entries(self.root / name)))
        return garbage

    def _half_written(self, known: Sequence[Study]) -> Garbage:
        """What killed processes left; only a disk has any, but for probes."""
        garbage = Garbage("half-written files", "the process that wrote them was killed")
        if isinstance(self.root, S3Path):
            names = (name for name in child_names(self.root) if name.startswith(PROBE))
            found = (entry for name in names for entry in [self._entry(self.root / name)] if entry)
        else:
            # what others keep beside the studies is theirs, and so is what lies in Ray's folders
            ours = {EMBEDDINGS, TEXTS, DATA, "latest", *(study.study_id for study in known)}
            found = (
                entry
                for entry in entries(self.root)
                for parts in [parts_below(entry.place, self.root)]
                if (parts[0].startswith(PROBE) and len(parts) == 1)
                or (
                    (len(parts) == 1 or parts[0] in ours)
                    and "ray" not in parts[1:2]
                    and _HALF_WRITTEN.fullmatch(parts[-1])
                )
            )
        self._sort_each(garbage, found)
        return garbage

    def _entry(self, place: S3Path) -> Entry | None:
        try:
            told = place.head()
        except FileNotFoundError:
            return None
        return Entry(place, told["ContentLength"], told["LastModified"].timestamp())

    def _uploads(self, root: S3Path) -> Garbage:
        garbage = Garbage("interrupted uploads", "they were begun and never ended")
        for upload in uploads(root):
            if upload.begun < self._before:
                garbage.uploads.append((upload.key, upload.identity))
                garbage.upload_bytes += upload.size
            else:
                garbage.young.add(upload.size)
        return garbage

    def _sort(self, garbage: Garbage, found: list[Entry]) -> None:
        """What belongs together goes together: all of it is old enough, or nothing."""
        if found and max(entry.modified for entry in found) < self._before:
            garbage.found += found
        else:
            garbage.young += measured(found)

    def _sort_each(self, garbage: Garbage, found: Iterable[Entry]) -> None:
        for entry in found:
            self._sort(garbage, [entry])

    def _keep(self, what: str, because_of: Sequence[Study], why: str) -> None:
        names = ", ".join(study.study_id for study in because_of[:3])
        more = f" and {len(because_of) - 3} more" if len(because_of) > 3 else ""
        self._kept.append(f"{what}: studies {names}{more} may need them; {why}")


def _journals(names: set[str]) -> set[str]:
    """Folders of what was to be told to MLflow, of this study and of former ones of its name."""
    return {name for name in names if re.fullmatch(r"tracking(-.+)?", name)}


def _encoder_of(place: Place) -> str | None:
    """The encoder of an embedding, read from the head of its file; None: not to be told."""
    try:
        # behind its mark an Arrow file is a stream, which begins with the schema
        schema = pa.ipc.read_schema(pa.py_buffer(head_of(place, _HEAD_BYTES)[_ARROW_MAGIC:]))
        return str(schema.metadata[b"encoder"].decode())
    except (pa.ArrowInvalid, OSError, KeyError, TypeError):
        return None
