"""The lock of a data set: what every image and label was when a study began."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ssprompt_core.data.dataset import SegmentationDataset, Split

SCHEMA = 1
"""Version of ``data-lock.json``."""


@dataclass(frozen=True)
class DataLock:
    """Digests of a data set; no label is opened for them.

    Attributes:
        name: Of the data set.
        classes: Class names by label id.
        splits: By split and image id: SHA-256 (hex) of the image and of its label.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[Split, dict[str, tuple[str, str]]]

    @classmethod
    def of(cls, dataset: SegmentationDataset, *, validation: bool = False) -> DataLock:
        """Lock a data set, sealed or not.

        Args:
            dataset: The data.
            validation: Whether the study uses the validation split too.
        """
        splits: list[Split] = ["train", "test"]
        if validation:
            splits.append("val")
        return cls(
            dataset.name,
            tuple(dataset.class_names),
            {
                split: {
                    image_id: (dataset.digest(image_id), dataset.label_digest(image_id))
                    for image_id in dataset.ids(split)
                }
                for split in splits
            },
        )

    def fingerprint(self, splits: Sequence[Split]) -> str:
        """SHA-256 over classes, images and labels of some splits."""
        digest = hashlib.sha256("\n".join(self.classes).encode())
        for split in splits:
            for image_id, (image, label) in self.splits[split].items():
                digest.update(f"\n{split} {image_id} {image} {label}".encode())
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """As ``data-lock.json`` keeps it."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "classes": list(self.classes),
            "splits": {
                split: {
                    image_id: {"image": image, "label": label}
                    for image_id, (image, label) in images.items()
                }
                for split, images in self.splits.items()
            },
        }
