"""What a study costs in storage, by kind, and what all of a root does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from ssprompt_core.errors import UserError, nearest
from ssprompt_platform.storage import Place, S3Path, StorageError, StudyFolder
from ssprompt_platform.storage_admin.bucket import former_versions
from ssprompt_platform.storage_admin.listing import Amount, Tally, entries, parts_below
from ssprompt_platform.storage_admin.mlflow_runs import Known, ask, is_there, owner_of
from ssprompt_platform.storage_admin.studies import (
    DATA,
    EMBEDDINGS,
    TEXTS,
    Study,
    read_study,
    studies,
    study_ids,
)
from ssprompt_platform.tracking.target import ARTIFACTS

_SHARED = {EMBEDDINGS: "embeddings", TEXTS: "class names", DATA: "made images"}
_KINDS = {
    "trials": "checkpoints",
    "ray": "checkpoints",
    "fits": "fits",
    "report": "report",
    "pictures": "report",
    "tables": "report",
    "analysis.md": "report",
    "tracking": "tracking",
}
_SEARCH = ("optuna", "best.json", "spent.json")
RECORD, SEARCH, OTHER, LOST = "record", "search", "other", "artifacts of no study"


@dataclass
class StudyUsage:
    """What one study takes.

    Attributes:
        study: Of which.
        own: What lies in its folder, by kind.
        former: Former versions of it, which a bucket keeps; None: not to be told, or a disk.
        artifacts: Of its runs and models in MLflow; None: MLflow was not to be asked.
        embeddings: Of all its images, shared with other studies; None: not to be told.
    """

    study: Study
    own: Tally = field(default_factory=Tally)
    former: Amount | None = None
    artifacts: Amount | None = None
    embeddings: Amount | None = None

    @property
    def total(self) -> Amount:
        """What would be free without the study, but for shared embeddings."""
        return self.own.total + (self.former or Amount()) + (self.artifacts or Amount())


@dataclass
class Usage:
    """What a root holds.

    Attributes:
        studies: Those that were asked for.
        shared: What belongs to no single study, by kind; empty where one study was asked for.
        remarks: Sentences on what is missing in the numbers.
    """

    studies: list[StudyUsage]
    shared: Tally
    remarks: list[str]

    @property
    def total(self) -> Amount:
        """Of everything in it."""
        return sum((each.total for each in self.studies), self.shared.total)


def measure(
    root: Place,
    study_id: str | None = None,
    uris: Sequence[str] = (),
    artifacts: Sequence[Place] = (),
) -> Usage:
    """Measure a study, or everything below a root.

    Args:
        root: The storage root.
        study_id: Of the study; None: of all, and what they share.
        uris: MLflow servers or databases, in place of those that the studies name.
        artifacts: Further places where MLflow keeps artifacts.

    Raises:
        UserError: There is no such study.
        StorageError: A bucket did not answer, or refused.
    """
    if study_id is None:
        chosen = list(studies(root))
    else:
        try:
            chosen = [read_study(StudyFolder(root, study_id))]
        except (FileNotFoundError, ValueError):
            hint = nearest(study_id, sorted(study_ids(root)))
            raise UserError(f"there is no study {study_id} in {root}{hint}") from None
    usage = Usage([StudyUsage(study) for study in chosen], Tally(), [])
    places = list(dict.fromkeys([root / ARTIFACTS, *artifacts]))
    _measure_folders(root, usage, places, whole=study_id is None)
    _measure_artifacts(usage, places, uris, whole=study_id is None)
    if isinstance(root, S3Path):
        _measure_versions(root, usage)
    return usage


def kind_of(name: str) -> str:
    """The kind of what lies under this name in a study's folder."""
    if name.startswith(_SEARCH):
        return SEARCH
    return _KINDS.get(name, RECORD)


def _measure_folders(root: Place, usage: Usage, artifacts: Sequence[Place], whole: bool) -> None:
    by_id = {each.study.study_id: each for each in usage.studies}
    keys = {name: each.study.embedding_keys() for name, each in by_id.items() if each.study.digests}
    for name in keys:
        by_id[name].embeddings = Amount()
    # one walk over everything, or one each over what a study has
    starts = [root] if whole else [*(root / name for name in by_id), root / EMBEDDINGS]
    apart = tuple(f"{place}/" for place in artifacts)
    for entry in (entry for start in starts for entry in entries(start)):
        if str(entry.place).startswith(apart):
            continue  # counted by run
        parts = parts_below(entry.place, root)
        if len(parts) > 1 and parts[0] in by_id:
            by_id[parts[0]].own.add(kind_of(parts[1]), entry.size)
            continue
        if parts[0] == EMBEDDINGS:
            for name, of_study in keys.items():
                amount = by_id[name].embeddings
                if entry.place.stem in of_study and amount is not None:
                    amount.add(entry.size)
        if whole:
            kind = _SHARED.get(parts[0], OTHER) if len(parts) > 1 else OTHER
            usage.shared.add("MLflow's database" if parts[0].startswith("mlflow.db") else kind,
                             entry.size)  # fmt: skip


def _measure_artifacts(
    usage: Usage, places: Sequence[Place], uris: Sequence[str], whole: bool
) -> None:
    sizes: dict[str, Amount] = defaultdict(Amount)
    for place in places:
        for entry in entries(place):
            owner = owner_of(parts_below(entry.place, place))
            sizes[owner[1] if owner else ""].add(entry.size)
    # where there are none, nobody need be asked
    known = _ask(usage, uris) if sizes else Known()
    if known is not None:
        for each in usage.studies:
            own = known.of_study(each.study.name_in_mlflow)
            each.artifacts = sum((sizes.pop(o) for o in own if o in sizes), Amount())
    rest = sum(sizes.values(), Amount())
    if whole and rest.objects:
        usage.shared.add("artifacts" if known is None else LOST, rest.bytes, rest.objects)


def _ask(usage: Usage, uris: Sequence[str]) -> Known | None:
    named = [each.study.tracking_uri for each in usage.studies if each.study.record]
    asked = [uri for uri in (uris or named) if is_there(uri)]
    if not asked:
        usage.remarks.append(
            "no MLflow is here to tell whose artifacts are whose; name it with --uri"
        )
        return None
    try:
        return ask(asked)
    except UserError as error:
        usage.remarks.append(str(error))
        return None


def _measure_versions(root: S3Path, usage: Usage) -> None:
    by_id = {each.study.study_id: each for each in usage.studies}
    whole_prefix = f"{root.key}/" if root.key else ""
    starts = [root] if len(by_id) != 1 else [root / name for name in by_id]
    try:
        for each in usage.studies:
            each.former = Amount()
        for start in starts:
            for key, size in former_versions(start):
                name = key.removeprefix(whole_prefix).partition("/")[0]
                former = by_id[name].former if name in by_id else None
                if former is not None:
                    former.add(size)
                else:
                    usage.shared.add("former versions", size)
    except StorageError as error:
        for each in usage.studies:
            each.former = None
        usage.remarks.append(f"former versions are not counted: {error}")
