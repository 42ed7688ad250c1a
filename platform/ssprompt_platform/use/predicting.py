"""Segments a folder of images with saved prompts; no Ray, resumable image by image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssprompt_core.data.folder import IMAGE_SUFFIXES, files_by_stem
from ssprompt_core.data.pictures import read_picture
from ssprompt_core.errors import UserError
from ssprompt_core.evaluate import predict
from ssprompt_core.methods.model import FewShotModel
from ssprompt_core.methods.saved import SavedPrompts, load_prompts
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_platform.progress import Progress
from ssprompt_platform.storage import read_json, write_json
from ssprompt_platform.use.class_maps import (
    class_records,
    coco_annotations,
    read_mask,
    write_mask,
    write_overlay,
)
from ssprompt_platform.use.learned import resolve_batch, resolve_device, segmenter_of

_READERS = 4
"""Threads that read images while the model works on the batch before."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What to segment, with what, and what to write.

    Attributes:
        prompts: The learned-prompt file.
        images: Folder of images; folders in it are left alone.
        output: Folder of the results.
        checkpoint: Weights of the segmenter, where it does not ship with them.
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: Images at once; 0 leaves it open.
        overlays: Whether to write pictures with the classes over the image.
        coco: Whether to write ``coco.json``.
        limit: Only this many images, the first by name; None: all.
        overwrite: Whether files that exist are made anew.
    """

    prompts: Path
    images: Path
    output: Path
    checkpoint: Path | None = None
    device: str = "auto"
    batch_size: int = 0
    overlays: bool = False
    coco: bool = False
    limit: int | None = None
    overwrite: bool = False


@dataclass
class PredictReport:
    """What a run did.

    Attributes:
        predicted: Images segmented now.
        skipped: Images that an earlier run had segmented.
        unreadable: A sentence for each image that could not be read.
    """

    predicted: int = 0
    skipped: int = 0
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Folder:
    """The places of the results."""

    path: Path

    @property
    def record(self) -> Path:
        return self.path / "prediction.json"

    @property
    def coco(self) -> Path:
        return self.path / "coco.json"

    def mask(self, stem: str) -> Path:
        return self.path / "masks" / f"{stem}.png"

    def overlay(self, stem: str) -> Path:
        return self.path / "overlays" / f"{stem}.png"


def predict_folder(options: PredictOptions, progress: Progress) -> PredictReport:
    """Segment every image of a folder that has no mask yet.

    ``masks/NAME.png`` (pixel value = class), ``overlays/NAME.png`` and ``coco.json`` are written,
    and ``prediction.json``: the classes and which prompts made it all.

    Raises:
        UserError: The prompts, the model, the images or the output folder are not right; nothing
            was written.
    """
    prompts = load_prompts(options.prompts)
    if options.limit is not None and options.limit < 1:
        raise UserError(f"--limit is {options.limit}, but must be at least 1")
    everything = files_by_stem(options.images, "--images", IMAGE_SUFFIXES)
    images = dict(list(everything.items())[: options.limit])
    folder, device = _Folder(options.output), resolve_device(options.device)
    record = _record(prompts, options.images)
    stale = _check_output(folder, record, images, overwrite=options.overwrite)
    with progress.timed("load model"):
        segmenter = segmenter_of(prompts, options.checkpoint).to(device)
        batch_size = resolve_batch(options.batch_size, segmenter)
        model = prompts.model(segmenter)
    try:
        # before the new record: a run that is broken off must not pass old masks off as its own
        for path in stale:
            path.unlink(missing_ok=True)
        write_json(folder.record, record)
    except OSError as error:
        raise UserError(f"--output is '{folder.path}', which cannot be written: {error}") from error
    waiting = {
        stem: path
        for stem, path in images.items()
        if options.overwrite or not folder.mask(stem).is_file()
    }
    report = PredictReport(skipped=len(images) - len(waiting))
    with progress.phase("predicting", len(waiting)) as advance:
        for batch in _read_ahead(segmenter, list(waiting.items()), batch_size):
            good = [item for item in batch if isinstance(item, _Read)]
            report.unreadable += [str(item) for item in batch if isinstance(item, UserError)]
            _predict_batch(model, good, folder, device)
            report.predicted += len(good)
            advance(len(batch))
    done = {stem: path for stem, path in images.items() if folder.mask(stem).is_file()}
    if options.overlays:
        _write_overlays(done, folder, prompts, progress, overwrite=options.overwrite)
    if options.coco:
        masked = {stem: path for stem, path in everything.items() if folder.mask(stem).is_file()}
        _write_coco(masked, folder, record["classes"], progress)
    return report


def _record(prompts: SavedPrompts, images: Path) -> dict[str, Any]:
    info = prompts.info
    return {
        "images": str(images.resolve()),
        "prompts": {"file": prompts.path.name, "sha256": prompts.checksum},
        "method": info.method,
        "segmenter": {
            "name": prompts.segmenter.name,
            "fingerprint": prompts.segmenter.fingerprint,
        },
        "classes": class_records(info.class_names, info.thing_classes),
    }


def _check_output(
    folder: _Folder, record: Mapping[str, Any], images: Mapping[str, Path], *, overwrite: bool
) -> list[Path]:
    """Refuse to mix predictions of several prompts, or to write over files of another origin.

    Returns:
        With ``overwrite`` the files of another origin, which must go.
    """
    if folder.path.exists() and not folder.path.is_dir():
        raise UserError(f"--output is '{folder.path}', which is not a folder")
    targets = [folder.coco]
    for stem in images:
        targets += [folder.mask(stem), folder.overlay(stem)]
    if not folder.record.is_file():
        for path in targets:
            if path.exists() and not overwrite:
                raise UserError(
                    f"{path} exists, but was not made by this job; choose another --output or give "
                    "--overwrite"
                )
        return targets
    other = _other_origin(folder, record)
    if other and not overwrite:
        raise UserError(f"{other}; choose another --output or give --overwrite")
    return [folder.coco, *folder.path.glob("masks/*.png"), *folder.path.glob("overlays/*.png")] * (
        other is not None
    )


def _other_origin(folder: _Folder, record: Mapping[str, Any]) -> str | None:
    """Say what the folder holds, where that is not what this run would make."""
    try:
        before = read_json(folder.record)
        prompts, images = before["prompts"], before["images"]
        same, name = prompts["sha256"] == record["prompts"]["sha256"], prompts["file"]
    except (ValueError, LookupError, TypeError):
        return f"{folder.record} is damaged"
    held = f"--output is '{folder.path}', which holds predictions of other"
    if not same:
        return f"{held} prompts ({name})"
    return None if images == record["images"] else f"{held} images ({images})"


@dataclass(frozen=True)
class _Read:
    """An image as the encoder takes it, and what is needed to go back to its own size."""

    stem: str
    x_3SS: Tensor
    size: tuple[int, int]


def _read(segmenter: Segmenter, stem: str, path: Path) -> _Read | UserError:
    try:
        image_HW3 = read_picture(path)
        x_3SS = segmenter.preprocess(image_HW3)
    except UserError as error:
        return error
    except ValueError:
        height, width = image_HW3.shape[:2]
        # a side of less than half a pixel is none
        return UserError(f"{path} is {width} x {height} pixels, too narrow for the model")
    return _Read(stem, x_3SS, (image_HW3.shape[0], image_HW3.shape[1]))


def _read_ahead(
    segmenter: Segmenter, images: Sequence[tuple[str, Path]], batch_size: int
) -> Iterator[list[_Read | UserError]]:
    """Batches of images, each read in threads while the one before is worked on."""
    with ThreadPoolExecutor(_READERS) as pool:
        ahead: list[Future[_Read | UserError]] = []
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            now, ahead = ahead, [pool.submit(_read, segmenter, *item) for item in batch]
            if now:
                yield [future.result() for future in now]
        yield [future.result() for future in ahead]


def _predict_batch(
    model: FewShotModel, images: Sequence[_Read], folder: _Folder, device: str
) -> None:
    if not images:
        return
    x_B3SS = torch.stack([image.x_3SS for image in images]).to(device)
    embeddings_BDhw = model.segmenter.encode_images(x_B3SS)
    sizes = [image.size for image in images]
    maps = predict(model, embeddings_BDhw, sizes, batch_size=len(images), device=device)
    for image, label_HW in zip(images, maps, strict=True):
        write_mask(folder.mask(image.stem), label_HW)


def _write_overlays(
    done: Mapping[str, Path],
    folder: _Folder,
    prompts: SavedPrompts,
    progress: Progress,
    *,
    overwrite: bool,
) -> None:
    waiting = [stem for stem in done if overwrite or not folder.overlay(stem).is_file()]
    with progress.phase("overlays", len(waiting)) as advance:
        for stem in waiting:
            picture_HW3, mask_HW = read_picture(done[stem]), read_mask(folder.mask(stem))
            if picture_HW3.shape[:2] != mask_HW.shape:
                raise UserError(
                    f"{folder.mask(stem)} is not of the size of {done[stem]}, which has changed "
                    "since; give --overwrite"
                )
            write_overlay(folder.overlay(stem), picture_HW3, mask_HW, prompts.info.class_names)
            advance(1)


def _write_coco(
    done: Mapping[str, Path],
    folder: _Folder,
    categories: Sequence[Mapping[str, Any]],
    progress: Progress,
) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with progress.phase("coco.json", len(done)) as advance:
        for number, (stem, path) in enumerate(done.items(), start=1):
            label_HW = read_mask(folder.mask(stem))
            height, width = label_HW.shape
            images.append({"id": number, "file_name": path.name, "height": height, "width": width})
            for annotation in coco_annotations(number, label_HW):
                annotations.append({"id": len(annotations) + 1, **annotation})
            advance(1)
        # COCO's own readers know no colours and no foreground: further keys do not disturb them
        write_json(
            folder.coco,
            {"images": images, "annotations": annotations, "categories": list(categories)},
        )
