"""Writes learned prompts as an MLflow model: images in, class maps out, in any clean process."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Object, Property, Schema
from PIL import Image, ImageDraw

import ssprompt_core
from ssprompt_core.errors import UserError
from ssprompt_core.methods.saved import SavedPrompts, load_prompts
from ssprompt_platform.sources import SegmenterSource
from ssprompt_platform.storage import write_json
from ssprompt_platform.use.class_maps import class_records

MOST_BYTES = 64 * 2**20
"""Weights up to this size are copied into a model, larger ones are named by it."""

_SCRIPT = "ssprompt_platform.use.served_model"
_PACKAGES = ("numpy", "pandas", "pillow", "safetensors", "segment-anything", "torch", "torchvision")

_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "mask_png"),
            ColSpec(
                Array(
                    Object(
                        [
                            Property("id", DataType.long),
                            Property("name", DataType.string),
                            Property("share", DataType.double),
                        ]
                    )
                ),
                "classes",
            ),
        ]
    ),
)


def write_model(
    folder: Path, prompts: Path, checkpoint: Path | None = None, *, study_id: str = ""
) -> None:
    """Write an MLflow model with the ``python_function`` flavour, whole or not at all.

    It holds the prompts, the core package and a script, and no pickle. Weights are in it where they
    ship with the core package, or are safetensors of at most :data:`MOST_BYTES`; that they fit the
    prompts is tried. Others are named, to be given when the model is loaded.

    Args:
        folder: Where to write; must not exist, or be an empty folder.
        prompts: The learned-prompt file.
        checkpoint: Weights of the segmenter, file or folder, as ``model.checkpoint`` of the study;
            None where they ship with the core package, or are not at hand.
        study_id: The study that the prompts are of; empty where there is none.

    Raises:
        UserError: The prompts cannot be read, the weights are missing or others than the prompts
            need, or the folder is taken.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists, but a model must be written to a new folder")
    saved = load_prompts(prompts)
    about = describe(saved, checkpoint, study_id=study_id)
    if about["checkpoint"] is None:
        saved.model(SegmenterSource(saved.segmenter.name, checkpoint).build())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        parts, model = Path(temporary) / "parts", Path(temporary) / "model"
        (parts / "empty").mkdir(parents=True)
        artifacts = {"about": parts / "about.json", "prompts": parts / "prompts.safetensors"}
        write_json(artifacts["about"], about)
        shutil.copyfile(prompts, artifacts["prompts"])
        if checkpoint is not None and about["checkpoint"] is None:
            artifacts["weights"] = parts / "weights"
            artifacts["weights"].mkdir()
            for name, source in weight_files(checkpoint).items():
                shutil.copyfile(source, artifacts["weights"] / name)
        with _quietly():
            _save(model, artifacts, about, nothing=parts / "empty")
        model.rename(folder)


def describe(
    prompts: SavedPrompts, checkpoint: Path | None = None, *, study_id: str = ""
) -> dict[str, Any]:
    """What a model says of itself in its metadata, as JSON values.

    Args:
        prompts: The prompts in it.
        checkpoint: Weights of the segmenter, where they do not ship with the core package.
        study_id: The study that the prompts are of; empty where there is none.

    Returns:
        Method, K, draw, data set, mIoU, classes by id and the segmenter; ``checkpoint`` is None
        where the model holds the weights, else the name of the file that it needs and its SHA-256
        (hex), each empty where it is not known.

    Raises:
        UserError: The checkpoint does not exist.
    """
    info, segmenter = prompts.info, prompts.segmenter
    return {
        "study_id": study_id,
        "method": info.method,
        "shots": info.shots,
        "draw": info.draw,
        "seed": info.seed,
        "dataset": info.dataset,
        "miou": info.metrics.get("miou"),
        "split": info.metrics.get("split"),
        "classes": class_records(info.class_names, info.thing_classes),
        "prompts": {"file": prompts.path.name, "sha256": prompts.checksum},
        "segmenter": {"name": segmenter.name, "fingerprint": segmenter.fingerprint},
        "checkpoint": _needed(segmenter.name, checkpoint),
    }


def _needed(segmenter: str, checkpoint: Path | None) -> dict[str, str] | None:
    """What the one who loads the model must give; None where the weights are in it."""
    if checkpoint is None:
        return None if segmenter == "small" else {"file": "", "sha256": ""}
    if not checkpoint.exists():
        raise UserError(
            f"checkpoint is '{checkpoint}', which does not exist, but must hold the weights of the "
            f"segmenter '{segmenter}'"
        )
    files = weight_files(checkpoint)
    if files and sum(path.stat().st_size for path in files.values()) <= MOST_BYTES:
        return None
    if checkpoint.is_dir():
        return {"file": checkpoint.name, "sha256": ""}
    with checkpoint.open("rb") as file:
        return {"file": checkpoint.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def weight_files(checkpoint: Path) -> dict[str, Path]:
    """The files that a model would hold of a checkpoint: safetensors, and JSON beside them.

    Args:
        checkpoint: File or folder of weights.

    Returns:
        Name in the model -> file; none where the weights are pickles, as official checkpoints are.
    """
    if checkpoint.is_dir():
        weights = sorted(checkpoint.glob("*.safetensors"))
        texts = sorted(checkpoint.glob("*.json")) if weights else []
        return {path.name: path for path in (*weights, *texts)}
    if checkpoint.suffix != ".safetensors":
        return {}
    # the small SAM's weights, beside which lies their card
    card = checkpoint.with_suffix(".json")
    cards = {"weights.json": card} if card.is_file() else {}
    return {"weights.safetensors": checkpoint} | cards


def _save(
    folder: Path, artifacts: Mapping[str, Path], about: Mapping[str, Any], *, nothing: Path
) -> None:
    script = importlib.util.find_spec(_SCRIPT)
    assert script is not None
    assert script.origin is not None
    needed = [*_PACKAGES, *(["transformers"] * (about["segmenter"]["name"] == "transformers"))]
    record = Model()
    mlflow.pyfunc.save_model(
        path=str(folder),
        mlflow_model=record,
        # run at loading, not pickled; its path is found without running it here twice
        python_model=script.origin,
        code_paths=[str(Path(ssprompt_core.__file__).parent)],
        # addresses, as MLflow reads a path with # or % in it as one
        artifacts={name: path.absolute().as_uri() for name, path in artifacts.items()},
        signature=_SIGNATURE,
        input_example=pd.DataFrame({"image": [_example()]}),
        pip_requirements=[_pinned(name) for name in needed],
        model_config={"checkpoint": "", "device": "", "max_pixels": 0},
        metadata=dict(about),
        # MLflow adds the lock file of a uv project that it finds in the working directory
        uv_project_path=nothing,
    )
    _forget_places(record)
    record.save(str(folder / "MLmodel"))


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep MLflow's remarks and progress bars over a few small files off a study's own output."""
    logger, bars = logging.getLogger("mlflow.pyfunc"), MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
    level, before = logger.level, bars.get_raw()
    logger.setLevel(logging.WARNING)
    bars.set(False)
    try:
        yield
    finally:
        logger.setLevel(level)
        bars.unset() if before is None else bars.set(before)


def _pinned(package: str) -> str:
    # a build such as 2.13.0+cpu is in no public index
    return f"{package}=={importlib.metadata.version(package).partition('+')[0]}"


def _example() -> bytes:
    """A small picture, as a PNG file."""
    picture = Image.new("RGB", (48, 32), (150, 190, 230))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 20, 48, 32), fill=(110, 140, 80))
    draw.ellipse((14, 8, 30, 24), fill=(200, 60, 50))
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def _forget_places(record: Model) -> None:
    """Leave out where on this machine the parts came from: nobody else has that."""
    flavour = record.flavors["python_function"]
    flavour["model_code_path"] = Path(flavour["model_code_path"]).name
    for artifact in flavour["artifacts"].values():
        artifact["uri"] = artifact["path"]
