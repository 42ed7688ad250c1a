"""Predicted class maps as files: PNGs with a palette, pictures to look at, and COCO's JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ssprompt_core.data.pictures import UNREADABLE
from ssprompt_core.errors import UserError
from ssprompt_platform.report.figures import colour_labels, tint
from ssprompt_platform.storage import write_whole

_LEAST_SIDE, _LARGEST_SIDE = 480, 1600
_FONT, _GAP = 16, 8


def palette(num_classes: int) -> NDArray[np.uint8]:
    """The colour of each class in all pictures of the project, uint8 ``[C, 3]``."""
    colours: NDArray[np.uint8] = colour_labels(np.arange(num_classes, dtype=np.uint8))
    return colours


def write_mask(path: Path, label_HW: NDArray[np.uint8]) -> None:
    """Write a class map as a palette PNG whose pixel values are classes, whole or not at all."""
    picture = Image.fromarray(label_HW)
    picture.putpalette(palette(256).tobytes())
    write_whole(path, lambda temporary: picture.save(temporary, format="PNG"))


def read_mask(path: Path) -> NDArray[np.uint8]:
    """The class map that :func:`write_mask` wrote, uint8 ``[H, W]``.

    Raises:
        UserError: The file is damaged or is no palette PNG.
    """
    try:
        with Image.open(path) as picture:
            mode, label_HW = picture.mode, np.asarray(picture)
    except UNREADABLE as error:
        raise UserError(f"{path} is damaged ({error}); give --overwrite to make it anew") from error
    if mode != "P":
        raise UserError(f"{path} is not a palette PNG; give --overwrite to make it anew")
    return label_HW


def write_overlay(
    path: Path, image_HW3: NDArray[np.uint8], label_HW: NDArray[np.uint8], names: Sequence[str]
) -> None:
    """Write the classes over the picture, with a legend of those that occur, as a PNG.

    Small pictures are enlarged and large ones reduced, to be looked at rather than measured.

    Args:
        path: Where to write.
        image_HW3: The picture.
        label_HW: Its class map.
        names: The class names.
    """
    size = _size_to_look_at(image_HW3.shape[1], image_HW3.shape[0])
    # enlarged pixels stay pixels: a picture must not show more than the model saw
    smooth = Image.Resampling.NEAREST if size[0] > image_HW3.shape[1] else Image.Resampling.BICUBIC
    picture = np.asarray(Image.fromarray(image_HW3).resize(size, smooth))
    classes = np.asarray(Image.fromarray(label_HW).resize(size, Image.Resampling.NEAREST))
    counts = np.bincount(label_HW.ravel(), minlength=len(names)).tolist()
    entries = [
        (tuple(palette(256)[c].tolist()), f"{names[c]} {_share(count / label_HW.size)}")
        for c, count in enumerate(counts)
        if count
    ]
    blended = Image.fromarray(tint(picture, classes))
    finished = _with_legend(blended, entries)
    write_whole(path, lambda temporary: finished.save(temporary, format="PNG"))


def _size_to_look_at(width: int, height: int) -> tuple[int, int]:
    longest = max(width, height)
    if longest <= _LARGEST_SIDE:
        factor = max(1, -(-_LEAST_SIDE // longest))
        return width * factor, height * factor
    scale = _LARGEST_SIDE / longest
    return max(1, round(width * scale)), max(1, round(height * scale))


def _share(part: float) -> str:
    return f"{part:.0%}" if part >= 0.005 else "<1%"


def _with_legend(
    picture: Image.Image, entries: Sequence[tuple[tuple[int, ...], str]]
) -> Image.Image:
    """The picture on a white page, below it a coloured square and a text for each entry."""
    font = ImageFont.load_default(_FONT)
    width, line = max(picture.width, _LEAST_SIDE // 2), _FONT + _GAP
    places, x, y = [], _GAP, picture.height + _GAP
    for _, text in entries:
        needed = line + int(font.getlength(text)) + 2 * _GAP
        if x > _GAP and x + needed > width:
            x, y = _GAP, y + line
        places.append((x, y))
        x += needed
    page = Image.new("RGB", (width, y + line), "white")
    page.paste(picture, (0, 0))
    draw = ImageDraw.Draw(page)
    for (colour, text), (x, y) in zip(entries, places, strict=True):
        draw.rectangle((x, y, x + _FONT, y + _FONT), fill=colour)
        draw.text((x + line, y), text, fill="black", font=font)
    return page


def class_records(names: Sequence[str], things: Iterable[int]) -> list[dict[str, Any]]:
    """Id (the pixel value), name, colour and kind of each class, as COCO's categories.

    Args:
        names: The ``C`` class names.
        things: Indices of countable classes; empty where nothing says which are.
    """
    countable = frozenset(things)
    return [
        {"id": c, "name": name, "color": palette(256)[c].tolist()}
        | ({"isthing": int(c in countable)} if countable else {})
        for c, name in enumerate(names)
    ]


def coco_annotations(image_number: int, label_HW: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """One COCO annotation for each class in a map: its mask as compressed RLE, area and box.

    Args:
        image_number: The ``image_id``.
        label_HW: The class map.

    Returns:
        Annotations without the ``id`` that numbers those of all images.
    """
    annotations = []
    for c in np.unique(label_HW).tolist():
        # the encoder reads columns, as COCO's format does
        rle = pycocotools.mask.encode(np.asfortranarray(label_HW == c, np.uint8))
        annotations.append(
            {
                "image_id": image_number,
                "category_id": c,
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                "area": int(pycocotools.mask.area(rle)),
                "bbox": pycocotools.mask.toBbox(rle).tolist(),
                "iscrowd": 0,
            }
        )
    return annotations
