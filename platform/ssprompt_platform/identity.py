"""Opens a study's folder: a new one, or the same study again if nothing that counts changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_core.errors import UserError
from ssprompt_platform.config.load import to_dict
from ssprompt_platform.config.schema import Config
from ssprompt_platform.plan import StudyPlan
from ssprompt_platform.storage import StudyFolder, read_json, storage_root, write_json, write_text

# what cannot change a number may change between two parts of a study
_FREE_KEYS = frozenset(
    {
        "study.dry_run",
        "storage.root",
        "tracking.uri",
        "tracking.experiment",
        "train.workers",
        "search.max_concurrent",
    }
)


def study_folder(config: Config) -> StudyFolder:
    """The places of the study; without ``study.id`` a new one, named by the time."""
    made = f"{config.study.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return StudyFolder(storage_root(config.storage.root), config.study.id or made)


def identity(dataset: SegmentationDataset, segmenter: str, text_encoder: str) -> dict[str, str]:
    """Fingerprints of what a study's numbers come from besides its configuration."""
    digest = hashlib.sha256("\n".join(dataset.class_names).encode())
    for split in ("train", "test"):
        for image_id in dataset.ids(split):
            digest.update(f"\n{split} {image_id} {dataset.digest(image_id)}".encode())
    return {"data": digest.hexdigest(), "segmenter": segmenter, "text_encoder": text_encoder}


def check_unchanged(folder: StudyFolder, config: Config, fingerprints: Mapping[str, str]) -> None:
    """Refuse to continue a study that was begun with other settings, data or weights.

    Raises:
        UserError: Something that counts differs; the message names the first difference.
    """
    if not folder.record.is_file():
        return
    record = read_json(folder.record)
    before, now = dict(_flat(record["config"])), dict(_flat(to_dict(config)))
    for key in sorted(before.keys() | now.keys()):
        if key in _FREE_KEYS or key == "study.id":
            continue
        if before.get(key) != now.get(key):
            raise UserError(
                f"study.id={folder.study_id} was begun with {key}={before.get(key)}, but it is now "
                f"{now.get(key)}; continue it unchanged or choose another study.id"
            )
    for what, value in fingerprints.items():
        if record["fingerprints"][what] != value:
            raise UserError(
                f"study.id={folder.study_id} was begun with another {what.replace('_', ' ')}: its "
                "content has changed; choose another study.id"
            )


def begin(
    folder: StudyFolder, config: Config, plan: StudyPlan, fingerprints: Mapping[str, str]
) -> None:
    """Write the study's record and its support draws, if it is new."""
    if folder.record.is_file():
        return
    for number, draw in enumerate(plan.draws):
        write_text(folder.draws / f"draw-{number}.json", draw.to_json() + "\n")
    write_json(
        folder.record,
        {
            "config": to_dict(config),
            "fingerprints": dict(fingerprints),
            "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def flat_config(config: Config) -> dict[str, Any]:
    """The configuration with dotted keys."""
    return dict(_flat(to_dict(config)))


def _flat(group: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in group.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
