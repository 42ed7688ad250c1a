"""What a final fit keeps of a test image for pictures; knows neither cluster nor model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ShownImage:
    """A test image as pictures show it.

    Attributes:
        image_id: Of the test split.
        image: RGB, uint8 ``[H, W, 3]``.
        truth: The label, uint8 ``[H, W]`` of classes and 255.
        predicted: The predicted class map, uint8 ``[H, W]``.
        miou: Mean IoU of this image by itself, in [0, 1]; None where its label shows no class.
    """

    image_id: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    miou: float | None
