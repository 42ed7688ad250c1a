"""Which study a command means: a new one, an unfinished one, or one that is extended."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from ssprompt_core.data.support import SupportDraw
from ssprompt_core.errors import UserError, nearest
from ssprompt_platform.changes import Change, changes_of, refusal, told
from ssprompt_platform.config.load import to_dict
from ssprompt_platform.config.schema import Config
from ssprompt_platform.data_lock import DataLock
from ssprompt_platform.ownership import holder, next_free
from ssprompt_platform.plan import StudyPlan
from ssprompt_platform.storage import (
    StudyFolder,
    read_json,
    remove,
    storage_root,
    write_json,
    write_text,
)


@dataclass(frozen=True)
class Begun:
    """What became of a study's record.

    Attributes:
        kind: Whether the study was begun, goes on as it was, or goes on with more of it.
        sentence: The same for the user.
    """

    kind: Literal["new", "continued", "extended"]
    sentence: str


def identity(lock: DataLock, segmenter: str, text_encoder: str) -> dict[str, str]:
    """Fingerprints of what a study's numbers come from besides its configuration.

    A validation split has a fingerprint of its own, so that studies that differ in its use alone
    are known to have the same test images.

    Args:
        lock: Of the data.
        segmenter: Fingerprint of the segmenter.
        text_encoder: Fingerprint of the text encoder.
    """
    prints = {
        "data": lock.fingerprint(("train", "test")),
        "segmenter": segmenter,
        "text_encoder": text_encoder,
    }
    return prints | ({"validation": lock.fingerprint(("val",))} if "val" in lock.splits else {})


def check_resume(config: Config) -> None:
    """Check ``study.resume`` against the studies that there are; needs no data.

    Raises:
        UserError: A study that must be there is not, or one that must not be there is.
    """
    root, study = storage_root(config.storage.root), config.study
    if not study.id:
        if study.resume == "must" and not any(_continues(f, config) for f in _studies(config)):
            raise UserError(_nothing_to_continue(config))
        return
    begun = StudyFolder(root, study.id).record.is_file()
    if study.resume == "never" and begun:
        raise UserError(
            f"study.resume is never, but the study {study.id} was begun already; continue it with "
            "study.resume=auto, or choose another study.id"
        )
    if study.resume == "must" and not begun:
        known = [folder.study_id for folder in _studies(config)]
        raise UserError(
            f"study.resume is must, but there is no study {study.id} in {root}"
            f"{nearest(study.id, known)}; begin it with study.resume=auto"
        )


def find_study(config: Config, fingerprints: Mapping[str, str]) -> StudyFolder:
    """The folder of the study that a configuration means; nothing is written.

    With ``study.id`` that study, begun or not. Without it the newest unfinished study of the same
    name, configuration, data and weights that no process runs, or a new one, named by the time.

    Raises:
        UserError: ``study.resume`` forbids it, or the study was begun with other settings, data or
            weights and the changes do more than extend it; the message names every change.
    """
    check_resume(config)
    root, study = storage_root(config.storage.root), config.study
    if study.id:
        folder = StudyFolder(root, study.id)
        if folder.record.is_file():
            check_unchanged(folder, config, fingerprints)
        return folder
    if study.resume != "never":
        unfinished = [f for f in _studies(config) if _continues(f, config, fingerprints)]
        if unfinished:
            return max(unfinished, key=lambda f: (str(_record(f)["begun"]), f.study_id))
    if study.resume == "must":
        raise UserError(_nothing_to_continue(config))
    # the name may hold what a folder's may not
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in study.name)
    made = f"{name.lstrip('-_.') or 'study'}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return next_free(StudyFolder(root, made, made=True))


def check_unchanged(folder: StudyFolder, config: Config, fingerprints: Mapping[str, str]) -> None:
    """Refuse to continue a study with settings, data or weights that do more than extend it.

    Raises:
        UserError: The message shows every change.
    """
    if folder.record.is_file():
        _compare(folder, config, fingerprints)


def begin(
    folder: StudyFolder,
    config: Config,
    plan: StudyPlan,
    fingerprints: Mapping[str, str],
    *,
    facts: Mapping[str, Any],
    protocol: Sequence[str],
    remarks: Sequence[str],
    lock: DataLock | None = None,
) -> Begun:
    """Write the study's record and its support draws, if it is new or extended.

    The record is written last: a study whose beginning was interrupted is begun again.

    Args:
        folder: Of the study, held by this process.
        config: The configuration.
        plan: The work.
        fingerprints: Identity of data and weights.
        facts: What tables and pictures need to know of data and plan.
        protocol: Sentences on what is done and on which images.
        remarks: Sentences that every table and figure must carry.
        lock: Of the data; kept with the study.

    Raises:
        UserError: The study was begun otherwise; see :func:`find_study`.
        RuntimeError: The support draws that the study was begun with cannot be made again.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if not folder.record.is_file():
        _write_draws(folder, plan)
        if lock is not None:
            write_json(folder.data_lock, lock.to_dict())
        # tells this study from another one that had its id before
        uid = uuid.uuid4().hex
        fresh = {"uid": uid, "fingerprints": dict(fingerprints), "begun": now, "extensions": []}
        _write(folder, fresh, config, facts, protocol, remarks)
        return Begun("new", f"study {folder.study_id} begins in {folder.path}")
    changes = _compare(folder, config, fingerprints)
    _check_draws(folder, plan)
    record = _record(folder)
    # a study that an earlier version began has none
    record.setdefault("uid", uuid.uuid4().hex)
    if lock is not None and not folder.data_lock.is_file():
        write_json(folder.data_lock, lock.to_dict())
    if not changes:
        # what is free to change, as the number of workers, is kept as it was last
        _write(folder, record, config, facts, protocol, remarks)
        return Begun("continued", _continued(folder, config, record))
    number = len(record["extensions"]) + 1
    after_scores = any(
        # a killed process may leave a temporary file, which begins with a dot
        not file.name.startswith(".") and not file.name.endswith(".failed.json")
        for file in folder.fits.glob("*.json")
    )
    if folder.results.is_file():
        # the study is unfinished again; what it ended with before is kept
        write_json(folder.path / f"results-before-{number}.json", read_json(folder.results))
        remove(folder.results)
    _write_draws(folder, plan)
    record["extensions"].append(
        {
            "at": now,
            "changes": {change.key: [change.before, change.now] for change in changes},
            "after_scores": after_scores,
        }
    )
    _write(folder, record, config, facts, protocol, remarks)
    seen = ", when it had scored on the test images already" if after_scores else ""
    return Begun(
        "extended", f"study {folder.study_id} is extended{seen}: {'; '.join(map(told, changes))}"
    )


def flat_config(config: Config) -> dict[str, Any]:
    """The configuration with dotted keys."""
    return dict(flat(to_dict(config)))


def _compare(
    folder: StudyFolder, config: Config, fingerprints: Mapping[str, str]
) -> tuple[Change, ...]:
    """The changes since the study was begun, all of them extensions."""
    record = _record(folder)
    if "facts" not in record:
        raise UserError(
            f"the study {folder.study_id} was begun by an earlier version of this program, which "
            "recorded less of it; choose another study.id"
        )
    changes = changes_of(dict(flat(record["config"])), flat_config(config))
    known = record["fingerprints"]
    # one that only one side has goes with a changed option, which is told as such
    others = [what for what, value in fingerprints.items() if known.get(what, value) != value]
    if others or not all(change.extends for change in changes):
        raise UserError(refusal(folder.study_id, changes, others))
    return changes


def _nothing_to_continue(config: Config) -> str:
    return (
        f"study.resume is must, but {storage_root(config.storage.root)} holds no unfinished study "
        f"'{config.study.name}' with this configuration, data and weights that no process runs; "
        "name one by study.id, or begin one with study.resume=auto"
    )


def _continues(
    folder: StudyFolder, config: Config, fingerprints: Mapping[str, str] | None = None
) -> bool:
    """Whether this is the same study, unfinished, and nobody runs it."""
    try:
        record = _record(folder)
    except UserError:  # whoever names that study is told
        return False
    return (
        "facts" in record
        and record["config"]["study"]["name"] == config.study.name
        and not folder.results.is_file()
        and not changes_of(dict(flat(record["config"])), flat_config(config))
        and (fingerprints is None or record["fingerprints"] == dict(fingerprints))
        and holder(folder) is None
    )


def _studies(config: Config) -> Iterator[StudyFolder]:
    """The studies of the storage root that were begun."""
    root = storage_root(config.storage.root)
    for study_id in sorted(path.parent.name for path in root.glob("*/study.json")):
        yield StudyFolder(root, study_id)


def _record(folder: StudyFolder) -> dict[str, Any]:
    try:
        record = read_json(folder.record)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{folder.record} is not readable JSON ({error}); restore it, or move its folder away"
        ) from error
    return dict(record)


def _write(
    folder: StudyFolder,
    record: Mapping[str, Any],
    config: Config,
    facts: Mapping[str, Any],
    protocol: Sequence[str],
    remarks: Sequence[str],
) -> None:
    write_json(
        folder.record,
        {
            **record,
            "config": to_dict(config),
            "facts": dict(facts),
            "protocol": list(protocol),
            "remarks": list(remarks),
        },
    )


def _write_draws(folder: StudyFolder, plan: StudyPlan) -> None:
    for number, draw in enumerate(plan.draws):
        write_text(folder.draws / f"draw-{number}.json", draw.to_json() + "\n")


def _check_draws(folder: StudyFolder, plan: StudyPlan) -> None:
    """What was fitted on before must be what would be fitted on now."""
    for number, draw in enumerate(plan.draws):
        path = folder.draws / f"draw-{number}.json"
        if not path.is_file():
            continue
        before = SupportDraw.from_json(path.read_text())
        for old, new in ((before.support, draw.support), (before.selection, draw.selection)):
            if any(old[k] != new[k] for k in old.keys() & new.keys()):
                raise RuntimeError(
                    f"{path} holds another support draw than seed {draw.seed} gives now"
                )


def _continued(folder: StudyFolder, config: Config, record: Mapping[str, Any]) -> str:
    if folder.results.is_file():
        return f"study {folder.study_id} is finished; its results are only written again"
    if config.study.id:
        return f"study {folder.study_id}, begun {record['begun']}, goes on"
    return (
        f"study {folder.study_id}, begun {record['begun']} with the same configuration, is not "
        "finished and goes on; study.resume=never begins a new one"
    )


def flat(group: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a configuration's nested dictionaries."""
    for key, value in group.items():
        if isinstance(value, Mapping) and value and key != "when":
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
