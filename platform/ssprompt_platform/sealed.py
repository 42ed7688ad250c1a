"""The data set as a whole study sees it: labels of the test split are out of reach but once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssprompt_core.data.dataset import SegmentationDataset, Split


class SealedDataset(SegmentationDataset):
    """A data set whose test labels nobody may read.

    Images, ids and digests of the test split stay readable: encoding and the identity of a study
    need them. Data is sealed right after it was checked
    (:func:`ssprompt_platform.prepare.prepare`), and :func:`ssprompt_platform.scoring.score_test`
    alone opens it.

    Args:
        dataset: The data set, checked.
    """

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.name = dataset.name
        self.class_names = dataset.class_names
        self.thing_classes = dataset.thing_classes
        self.__unsealed = dataset
        self._test = frozenset(dataset.ids("test"))

    def ids(self, split: Split) -> tuple[str, ...]:
        """Image ids of one split."""
        return self.__unsealed.ids(split)

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """The RGB image, uint8 ``[H, W, 3]``."""
        return self.__unsealed.image(image_id)

    def label(self, image_id: str) -> NDArray[np.uint8]:
        """The class map, uint8 ``[H, W]``.

        Raises:
            PermissionError: The image belongs to the test split.
        """
        self._refuse(image_id)
        return self.__unsealed.label(image_id)

    def digest(self, image_id: str) -> str:
        """SHA-256 (hex) of the image content."""
        return self.__unsealed.digest(image_id)

    def label_digest(self, image_id: str) -> str:
        """SHA-256 (hex) for the class map: whether it was changed, and nothing else of it."""
        return self.__unsealed.label_digest(image_id)

    def classes_present(self, image_id: str) -> frozenset[int]:
        """Classes with at least one pixel in the image's label.

        Raises:
            PermissionError: The image belongs to the test split.
        """
        self._refuse(image_id)
        return self.__unsealed.classes_present(image_id)

    def open_test(self) -> SegmentationDataset:
        """The data set with its test labels, for the one scoring of a final fit."""
        return self.__unsealed

    def _refuse(self, image_id: str) -> None:
        if image_id in self._test:
            raise PermissionError(
                f"the label of the test image {image_id} was asked for outside the scoring of a "
                "final fit, which is the only place that may read it"
            )
