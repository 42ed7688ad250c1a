"""The user's own data: a folder of images, a folder of label PNGs and a list of classes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssprompt_core.data.dataset import IGNORE, SegmentationDataset, Split
from ssprompt_core.data.pictures import UNREADABLE, picture_digest, read_picture
from ssprompt_core.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class FolderDataset(SegmentationDataset):
    """Images and label PNGs that share file stems.

    A label is a single-channel (grey or palette) PNG whose pixel values are class ids: the line
    numbers of the class list, from 0.

    Args:
        images: Folder of images (JPEG, PNG, BMP, TIFF, WebP).
        labels: Folder of label PNGs, one per image, named like it.
        class_names: The ``C`` class names, or a text file with one a line: ``name``, or the id and
            the name (``0 road``). A name's place in the list is its label value.
        ignore_ids: Label values that mean "no class" (255 always does). An ignored id may have a
            line in the class list; it is then left out of the classes.
        test: File stems of the test split, or a text file with one a line. Empty: a seeded
            random share of the images, ``test_fraction``.
        test_fraction: Share of the images in the test split where ``test`` is empty, in (0, 1).
        seed: Seed of that random split.
        name: What tables call the data set.

    Raises:
        UserError: A folder or file is missing or empty, an image has no label or cannot be read,
            sizes differ, or a label value is neither a class nor ignored. Everything is read
            once here, so that a study never meets a bad file after it has begun.
    """

    def __init__(
        self,
        images: Path,
        labels: Path,
        class_names: Sequence[str] | Path,
        *,
        ignore_ids: Sequence[int] = (),
        test: Sequence[str] | Path = (),
        test_fraction: float = 0.33,
        seed: int = 0,
        name: str = "folder",
    ) -> None:
        self.name = name
        listed = _read_class_list(class_names) if isinstance(class_names, Path) else class_names
        self._ignore = frozenset({*ignore_ids, IGNORE})
        kept = [class_id for class_id in range(len(listed)) if class_id not in self._ignore]
        self.class_names = _check_names([listed[class_id] for class_id in kept])
        self._class_of_id = {class_id: c for c, class_id in enumerate(kept)}
        self._images = files_by_stem(images, "data.images", IMAGE_SUFFIXES)
        self._labels = files_by_stem(labels, "data.labels", (".png",))
        self._digests: dict[str, str] = {}
        self._label_digests: dict[str, str] = {}
        self._present: dict[str, frozenset[int]] = {}
        for stem in self._images:
            self._check(stem, labels)
        self._splits = self._split(test, test_fraction, seed)

    def ids(self, split: Split) -> tuple[str, ...]:
        """Image ids (file stems) of one split; a folder has no ``val`` split."""
        return self._splits.get(split, ())

    def image(self, image_id: str) -> NDArray[np.uint8]:
        """The RGB image, turned as its EXIF says, uint8 ``[H, W, 3]``."""
        return read_picture(self._images[image_id])

    def label(self, image_id: str) -> NDArray[np.uint8]:
        """The class map, uint8 ``[H, W]``; ignored values are 255."""
        return self._classes(_read_label(self._labels[image_id]))

    def digest(self, image_id: str) -> str:
        """SHA-256 of the image file's bytes, and of how it is turned."""
        return self._digests[image_id]

    def label_digest(self, image_id: str) -> str:
        """SHA-256 of the class map (known from the first reading)."""
        return self._label_digests[image_id]

    def classes_present(self, image_id: str) -> frozenset[int]:
        """Classes with at least one pixel in the image's label (known from the first reading)."""
        return self._present[image_id]

    def _check(self, stem: str, labels: Path) -> None:
        path = self._images[stem]
        if stem not in self._labels:
            raise UserError(f"{path} has no label: {labels / (stem + '.png')} does not exist")
        height, width = read_picture(path).shape[:2]
        self._digests[stem] = picture_digest(path)
        values = _read_label(self._labels[stem])
        if values.shape != (height, width):
            raise UserError(
                f"{self._labels[stem]} is {values.shape[1]} x {values.shape[0]} pixels, but its "
                f"image is {width} x {height}; they must agree"
            )
        found = {int(v) for v in np.unique(values)} - self._ignore
        bad = sorted(found - self._class_of_id.keys())
        if bad:
            raise UserError(
                f"{self._labels[stem]} contains label id {bad[0]}, but data.classes names ids "
                f"up to {max(self._class_of_id)}; add the class or list the id in data.ignore_ids"
            )
        self._present[stem] = frozenset(self._class_of_id[v] for v in found)
        content = hashlib.sha256(f"{height} {width}\n".encode())
        content.update(self._classes(values).tobytes())
        self._label_digests[stem] = content.hexdigest()

    def _classes(self, values: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Class map of a label file's values."""
        table = np.full(int(values.max()) + 1, IGNORE, np.uint8)
        for class_id, c in self._class_of_id.items():
            if class_id < len(table):
                table[class_id] = c
        classes: NDArray[np.uint8] = table[values]
        return classes

    def _split(
        self, test: Sequence[str] | Path, test_fraction: float, seed: int
    ) -> dict[str, tuple[str, ...]]:
        stems = tuple(self._images)
        if isinstance(test, Path):
            test = _read_lines(test, "data.test_list")
        if not test:
            if not 0 < test_fraction < 1:
                raise UserError(f"data.test_fraction must lie in (0, 1), found {test_fraction}")
            count = max(1, round(len(stems) * test_fraction))
            order = np.random.default_rng([seed]).permutation(len(stems))
            test = [stems[i] for i in order[:count]]
        unknown = [stem for stem in test if stem not in self._images]
        if unknown:
            raise UserError(f"data.test_list names '{unknown[0]}', but no image has that file stem")
        chosen = frozenset(test)
        train = tuple(stem for stem in stems if stem not in chosen)
        if not train:
            raise UserError(
                f"data.test_list takes all {len(stems)} images, none is left to train on"
            )
        return {"train": train, "test": tuple(stem for stem in stems if stem in chosen)}


def _check_names(names: list[str]) -> tuple[str, ...]:
    if len(names) < 2:
        raise UserError(f"data.classes names {len(names)} class(es), at least 2 are needed")
    if len(names) > IGNORE:
        raise UserError(f"data.classes names {len(names)} classes, at most {IGNORE} fit")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"data.classes names '{name}' twice; each class needs its own name")
    return tuple(names)


def files_by_stem(folder: Path, field: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files of a folder by stem, in the order of their names.

    Args:
        folder: Where to look; folders in it are left alone.
        field: What messages call the folder.
        suffixes: Endings that count, in lower case.

    Raises:
        UserError: It is no folder, holds no such file, or two files share a stem.
    """
    if not folder.is_dir():
        raise UserError(f"{field} is '{folder}', which is not a folder")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes:
            if path.stem in files:
                raise UserError(f"{field} has both {files[path.stem].name} and {path.name}")
            files[path.stem] = path
    if not files:
        raise UserError(
            f"{field} is '{folder}', which holds no file ending in {'/'.join(suffixes)}"
        )
    return files


def _read_label(path: Path) -> NDArray[np.integer]:
    try:
        with Image.open(path) as picture:
            values = np.asarray(picture)
    except UNREADABLE as error:
        raise UserError(f"{path} is not a readable label PNG: {error}") from error
    if values.ndim != 2 or values.dtype == bool:
        raise UserError(
            f"{path} has the form {values.shape} of {values.dtype}, but a label PNG is grey or "
            "palette, one class id a pixel"
        )
    return values


def _read_lines(path: Path, field: str) -> list[str]:
    if not path.is_file():
        raise UserError(f"{field} is '{path}', which is not a file")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def _read_class_list(path: Path) -> list[str]:
    lines = _read_lines(path, "data.classes")
    numbered = [re.fullmatch(r"(\d+)[\s,:]+(.+)", line) for line in lines]
    if not all(numbered):
        return lines
    pairs = [(int(match[1]), match[2]) for match in numbered if match]
    for line, (class_id, _) in enumerate(pairs):
        if class_id != line:
            raise UserError(
                f"{path} numbers its line {line + 1} with id {class_id}; ids must run 0, 1, 2, ..."
            )
    return [name for _, name in pairs]
