"""Scores saved prompts on another data set whose classes have the same names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssprompt_core.data.dataset import IGNORE, SegmentationDataset, Split
from ssprompt_core.errors import UserError, nearest
from ssprompt_core.evaluate import evaluate
from ssprompt_core.methods.saved import SavedPrompts, load_prompts
from ssprompt_core.metrics.iou import iou_per_class
from ssprompt_core.train.data import LabelledEmbeddings
from ssprompt_platform.config.load import load_config
from ssprompt_platform.config.schema import Config
from ssprompt_platform.plan import scored_ids
from ssprompt_platform.progress import Progress
from ssprompt_platform.report.tables import mean_ci95, versions
from ssprompt_platform.sources import build_dataset
from ssprompt_platform.storage import write_json
from ssprompt_platform.use.learned import resolve_batch, resolve_device, segmenter_of

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class TransferOptions:
    """What is scored on what.

    Attributes:
        prompts: Learned-prompt files of one segmenter.
        words: ``study=<name or path>`` and ``data.key=value``, as a study takes them.
        split: ``test``, or ``all`` images of the data set.
        checkpoint: Weights of the segmenter, where it does not ship with them.
        device: ``auto``, ``cpu`` or ``cuda``.
        batch_size: Images at once; 0 leaves it open.
        output: Where the JSON goes; None: nowhere.
        overwrite: Whether that file is written anew where it exists.
    """

    prompts: Sequence[Path]
    words: Sequence[str]
    split: str = "test"
    checkpoint: Path | None = None
    device: str = "auto"
    batch_size: int = 0
    output: Path | None = None
    overwrite: bool = False


def evaluate_prompts(options: TransferOptions, studies: Path, progress: Progress) -> dict[str, Any]:
    """Score the files, show a table, write the JSON and return its content.

    Args:
        options: What is scored on what.
        studies: Folder of the named study files.
        progress: Where progress and table are shown.

    Raises:
        UserError: A file, the data set or their classes are not right; nothing was written.
    """
    if options.output and options.output.exists() and not options.overwrite:
        raise UserError(f"--output is {options.output}, which exists; give --overwrite or another")
    if options.output:
        _check_writable(options.output)
    files = [load_prompts(path) for path in options.prompts]
    config = load_config(_checked(options.words), studies)
    with progress.timed("read data"):
        dataset = build_dataset(config.data, None)
        orders = [class_order(prompts, dataset) for prompts in files]
        image_ids = _image_ids(config, dataset, options.split)
    with progress.timed("load model"):
        device = resolve_device(options.device)
        segmenter = segmenter_of(files[0], options.checkpoint).to(device)
        models = [prompts.model(segmenter) for prompts in files]
        batch_size = resolve_batch(options.batch_size, segmenter)
    confusions_FCC = torch.zeros(len(files), *(2 * [len(dataset.class_names)]), dtype=torch.int64)
    with progress.phase("scoring", len(image_ids)) as advance:
        for start in range(0, len(image_ids), batch_size):
            batch = image_ids[start : start + batch_size]
            x_B3SS = torch.stack([segmenter.preprocess(dataset.image(i)) for i in batch])
            # encoded once for all files: it is by far the most expensive part
            embeddings_BDhw = segmenter.encode_images(x_B3SS.to(device))
            labels = [dataset.label(image_id) for image_id in batch]
            sizes = [(label.shape[0], label.shape[1]) for label in labels]
            for confusion_CC, model, order in zip(confusions_FCC, models, orders, strict=True):
                data = LabelledEmbeddings(embeddings_BDhw, [order[x] for x in labels], sizes)
                scores = evaluate(
                    model, data, len(confusion_CC), batch_size=batch_size, device=device
                )
                confusion_CC += torch.as_tensor(scores.confusion)
            advance(len(batch))
    things, seen = _things(dataset, files[0]), _Seen(dataset, image_ids)
    records = [
        _file_record(prompts, iou_per_class(confusion_CC).tolist(), things, seen)
        for prompts, confusion_CC in zip(files, confusions_FCC, strict=True)
    ]
    result = {
        "schema": SCHEMA,
        "data": {
            "name": dataset.name,
            "split": options.split,
            "images": len(image_ids),
            "classes": list(dataset.class_names),
            "things": sorted(things),
            "config": asdict(config.data),
        },
        "segmenter": asdict(files[0].segmenter),
        "files": records,
        "groups": group_records(records),
        "versions": versions(),
    }
    if options.output:
        write_json(options.output, result)
    return result


def _check_writable(path: Path) -> None:
    """Refuse what cannot be written before the scoring, which may take hours."""
    if path.is_dir():
        raise UserError(f"--output is '{path}', which is a folder; name a file")
    above = path.absolute().parent
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"--output is '{path}', but {above} is not a folder to write into")


def class_order(prompts: SavedPrompts, dataset: SegmentationDataset) -> NDArray[np.uint8]:
    """Which class of the prompts each class of a data set is, by name.

    Args:
        prompts: The file.
        dataset: Its class names may come in another order.

    Returns:
        A table for label values, uint8 ``[256]``, which keeps "no class".

    Raises:
        UserError: The two have different classes; the message names them.
    """
    ours, theirs = prompts.info.class_names, dataset.class_names
    missing = [name for name in ours if name not in theirs]
    extra = [name for name in theirs if name not in ours]
    if missing or extra:
        parts = [
            f"{_listed(names)} only in {where}"
            for names, where in ((missing, "the prompts"), (extra, "the data set"))
            if names
        ]
        hint = nearest(missing[0], extra) if missing and extra else ""
        raise UserError(
            f"{prompts.path} and the data set '{dataset.name}' must have the same classes, but "
            f"{' and '.join(parts)}{hint}"
        )
    table = np.full(256, IGNORE, np.uint8)
    for c, name in enumerate(theirs):
        table[c] = ours.index(name)
    return table


def group_records(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over the files of each method and K, in the order of their appearance."""
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["method"], record["shots"]), []).append(record)
    return [
        {
            "method": method,
            "shots": shots,
            "files": len(members),
            **{key: spread(m[key] for m in members) for key in ("miou", "things", "stuff")},
            "iou": {name: spread(m["iou"][name] for m in members) for name in members[0]["iou"]},
            "learned_on": spread(m["learned_on"]["miou"] for m in members),
        }
        for (method, shots), members in groups.items()
    ]


def spread(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Mean, sample standard deviation, 95 % interval and number of values; None without any."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    mean, interval = mean_ci95(present)
    return {
        "mean": mean,
        "sd": float(np.std(present, ddof=1)) if interval else None,
        "ci95": list(interval) if interval else None,
        "n": len(present),
    }


def _checked(words: Sequence[str]) -> list[str]:
    for word in words:
        if not word.startswith(("data.", "study=")):
            raise UserError(
                f"'{word}' plays no part here; the data set is told by data.key=value words or by "
                "study=<name or path> (--data)"
            )
    return list(words)


def _image_ids(config: Config, dataset: SegmentationDataset, split: str) -> tuple[str, ...]:
    if split == "test":
        return scored_ids(config, dataset)
    ids = (*dataset.ids("train"), *dataset.ids("val"), *dataset.ids("test"))
    if not any(dataset.classes_present(image_id) for image_id in ids):
        raise UserError(f"no label of '{dataset.name}' shows any class, so nothing can be scored")
    return ids


def _things(dataset: SegmentationDataset, prompts: SavedPrompts) -> frozenset[str]:
    """Names of the countable classes: as the data set says, or else as the prompts' own did."""
    if dataset.thing_classes:
        return frozenset(dataset.class_names[c] for c in dataset.thing_classes)
    return frozenset(prompts.info.class_names[c] for c in prompts.info.thing_classes)


class _Seen:
    """Tells how much of a data set a file was learned on."""

    def __init__(self, dataset: SegmentationDataset, scored: Sequence[str]) -> None:
        splits: tuple[Split, ...] = ("train", "val", "test")
        self._pool = {image_id for split in splits for image_id in dataset.ids(split)}
        # drawing or reading an image again for every file would take long
        self._digest = cache(dataset.digest)
        self._scored = {self._digest(image_id) for image_id in scored}

    def counts(self, prompts: SavedPrompts) -> dict[str, int]:
        """Support images: all, those that the data set holds, those that were scored."""
        support = prompts.info.support
        scored = set(support.values()) & self._scored
        # elsewhere than among the scored images, by name: a renamed file is not looked for
        held = {d for i, d in support.items() if i in self._pool and self._digest(i) == d}
        return {
            "support_images": len(support),
            "of_them_in_this_data_set": len(held | scored),
            "of_them_scored_here": len(scored),
        }


def _file_record(
    prompts: SavedPrompts, iou: Sequence[float], things: frozenset[str], seen: _Seen
) -> dict[str, Any]:
    info = prompts.info
    by_name = {n: None if np.isnan(v) else v for n, v in zip(info.class_names, iou, strict=True)}
    return {
        "file": str(prompts.path),
        "sha256": prompts.checksum,
        "method": info.method,
        "shots": info.shots,
        "draw": info.draw,
        "seed": info.seed,
        "miou": _mean(by_name, frozenset(by_name)),
        "things": _mean(by_name, things) if things else None,
        "stuff": _mean(by_name, frozenset(by_name) - things) if things else None,
        "iou": by_name,
        "learned_on": {
            "dataset": info.dataset,
            **{key: info.metrics.get(key) for key in ("split", "images", "miou")},
            **seen.counts(prompts),
        },
    }


def _mean(iou: Mapping[str, float | None], names: frozenset[str]) -> float | None:
    present = [value for name, value in iou.items() if name in names and value is not None]
    return float(np.mean(present)) if present else None


def _listed(names: Sequence[str]) -> str:
    quoted = ", ".join(f"'{name}'" for name in names)
    return f"{quoted} {'is' if len(names) == 1 else 'are'}"
