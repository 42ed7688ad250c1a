"""The script that an MLflow model of learned prompts is loaded by: images in, class maps out.

:func:`ssprompt_platform.use.served.write_model` copies it into the model, beside the core package.
It knows nothing of the platform: a model needs neither Ray nor what draws figures.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
from pathlib import Path
from threading import Lock
from typing import Any, cast

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray
from PIL import Image

from ssprompt_core.data.pictures import UNREADABLE, read_picture
from ssprompt_core.errors import UserError
from ssprompt_core.evaluate import predict
from ssprompt_core.methods.saved import SavedPrompts, load_prompts
from ssprompt_core.models.registry import build_segmenter
from ssprompt_core.models.segmenter import Segmenter

_COLUMN = "image"
_SETTINGS = {
    "checkpoint": "SSPROMPT_CHECKPOINT",
    "device": "SSPROMPT_DEVICE",
    "max_pixels": "SSPROMPT_MAX_PIXELS",
}
"""Keys of ``model_config`` -> environment variables that are read where a key is empty."""


class LearnedPrompts(PythonModel):  # type: ignore[misc]
    """Segments the pictures of a table, one a row, with one file of learned prompts."""

    def load_context(self, context: Any) -> None:
        """Read the prompts and build the model that they fit.

        Args:
            context: MLflow's. Artifacts: ``prompts``, ``about`` and, where the model holds the
                segmenter's weights, ``weights``. ``model_config``: ``checkpoint``, ``device`` and
                ``max_pixels``.

        Raises:
            MlflowException: The weights are missing or not those that the prompts were learned
                for, or a setting is wrong; one sentence.
        """
        artifacts = {name: Path(path) for name, path in context.artifacts.items()}
        about = json.loads(artifacts["about"].read_text(encoding="utf-8"))
        self._names = [entry["name"] for entry in about["classes"]]
        self._palette = [part for entry in about["classes"] for part in entry["color"]]
        # a server answers requests in several threads, but there is one model on one device
        self._lock = Lock()
        config = context.model_config or {}
        try:
            self._device = _device(*_setting(config, "device", "auto"))
            self._max_pixels = _whole_number(*_setting(config, "max_pixels", 50_000_000))
            prompts = load_prompts(artifacts["prompts"])
            segmenter = _segmenter(prompts, config, artifacts.get("weights"), about["checkpoint"])
            self._model = prompts.model(segmenter.to(self._device))
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def predict(self, context: Any, model_input: pd.DataFrame) -> pd.DataFrame:
        """Segment each picture by itself: no row changes what another one gives.

        Args:
            context: MLflow's; not used.
            model_input: Column ``image``. A row holds the bytes of a picture file, these as base64
                text, or pixels: RGB, uint8 ``[H, W, 3]``.

        Returns:
            A row for each. ``mask_png``: a palette PNG of the picture's size as base64 text; a
            pixel's value is its class id. ``classes``: a list by id of ``id``, ``name`` and
            ``share``, the part of all pixels, in [0, 1].

        Raises:
            MlflowException: A row holds no picture; one sentence that names the row.
        """
        try:
            pictures = [
                self._prepared(cell, f"row {number} of '{_COLUMN}'")
                for number, cell in enumerate(model_input[_COLUMN])
            ]
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        rows = [self._answer(x_3SS, size) for x_3SS, size in pictures]
        return pd.DataFrame(rows, columns=["mask_png", "classes"])

    def _prepared(self, cell: Any, place: str) -> tuple[torch.Tensor, tuple[int, int]]:
        """A picture as the encoder takes it, ``[3, S, S]``, and its height and width."""
        image_HW3 = _pixels(cell, place, self._max_pixels)
        height, width = image_HW3.shape[:2]
        try:
            return self._model.segmenter.preprocess(image_HW3), (height, width)
        except ValueError as error:
            # a side of less than half a pixel is none
            raise UserError(
                f"{place} is {width} x {height} pixels, too narrow for the model"
            ) from error

    def _answer(self, x_3SS: torch.Tensor, size: tuple[int, int]) -> dict[str, Any]:
        with self._lock:
            embedding_1Dhw = self._model.segmenter.encode_images(x_3SS[None].to(self._device))
            (label_HW,) = predict(
                self._model, embedding_1Dhw, [size], batch_size=1, device=self._device
            )
        counts = np.bincount(label_HW.ravel(), minlength=len(self._names)).tolist()
        mask, content = Image.fromarray(label_HW), io.BytesIO()
        mask.putpalette(self._palette)
        mask.save(content, format="PNG")
        return {
            "mask_png": base64.b64encode(content.getvalue()).decode("ascii"),
            "classes": [
                {"id": c, "name": name, "share": count / label_HW.size}
                for c, (name, count) in enumerate(zip(self._names, counts, strict=True))
            ],
        }


class _Sent(io.BytesIO):
    """Content of a picture file that messages call by its place in the table."""

    def __init__(self, content: bytes, place: str) -> None:
        super().__init__(content)
        self._place = place

    def __repr__(self) -> str:
        return self._place


def _pixels(cell: Any, place: str, max_pixels: int) -> NDArray[np.uint8]:
    """What a row shows, RGB, uint8 ``[H, W, 3]``."""
    if isinstance(cell, np.ndarray):
        if cell.dtype != np.uint8 or cell.ndim != 3 or cell.shape[2] != 3 or not cell.size:
            raise UserError(
                f"{place} is an array of {cell.dtype} {list(cell.shape)}, but pixels must be "
                "uint8 [height, width, 3], in the order red, green, blue"
            )
        _check_size(place, cell.shape[1], cell.shape[0], max_pixels)
        return cell
    if not isinstance(cell, str | bytes | bytearray):
        raise UserError(
            f"{place} is of type {type(cell).__name__}, but must be a picture file's bytes, these "
            "as base64 text, or an array of pixels"
        )
    content = _content(cell, place)
    try:
        with Image.open(_Sent(content, place)) as picture:
            width, height = picture.size
    except UNREADABLE as error:
        raise UserError(f"{place} is not a readable image: {error}") from error
    # before it is unpacked: a small file can hold a picture that fills the memory
    _check_size(place, width, height, max_pixels)
    # it opens what Pillow does, and names it in its messages
    return read_picture(cast(Path, _Sent(content, place)))


def _content(cell: str | bytes | bytearray, place: str) -> bytes:
    """The bytes of a picture file, whether they came as they are or as base64."""
    raw = cell.encode("ascii", "replace") if isinstance(cell, str) else bytes(cell)
    try:
        # MLflow decodes the base64 of some forms of JSON and leaves that of others as it is; no
        # picture file is made of base64's letters alone
        return base64.b64decode(raw.translate(None, b" \t\r\n"), validate=True)
    except binascii.Error as error:
        if isinstance(cell, str):
            raise UserError(f"{place} is text that is not base64 ({error})") from error
        return raw


def _check_size(place: str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise UserError(
            f"{place} is {width} x {height} pixels, but this model takes at most {max_pixels} in a "
            f"picture; reduce it, or load the model with a larger {_SETTINGS['max_pixels']}"
        )


def _setting(config: dict[str, Any], key: str, default: Any) -> tuple[Any, str]:
    """A setting of the one who loads the model, and where it was made."""
    variable = _SETTINGS[key]
    if config.get(key):
        return config[key], f"model_config['{key}']"
    return os.environ.get(variable) or default, variable


def _device(wanted: Any, source: str) -> str:
    available = torch.cuda.is_available()
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(f"{source} is '{wanted}', but must be auto, cpu or cuda")
    if wanted == "cuda" and not available:
        raise UserError(f"{source} is cuda, but torch finds no GPU here; use auto or cpu")
    return "cuda" if wanted != "cpu" and available else "cpu"


def _whole_number(value: Any, source: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise UserError(f"{source} is '{value}', but must be a whole number of at least 1")
    return number


def _segmenter(
    prompts: SavedPrompts,
    config: dict[str, Any],
    held: Path | None,
    needed: dict[str, str] | None,
) -> Segmenter:
    """The segmenter that the prompts name, with its weights.

    Args:
        prompts: The prompts.
        config: ``model_config``.
        held: Folder of weights in the model; None where they ship with the core package or must
            be given.
        needed: File and SHA-256 of weights that must be given; None where none must.
    """
    given, source = _setting(config, "checkpoint", "")
    if needed is None and not config.get("checkpoint"):
        # the variable is meant for models that hold no weights
        given, source = _weights(held), "the model"
    elif not given:
        name = needed["file"] if needed and needed["file"] else "its checkpoint"
        digest = f" (SHA-256 {needed['sha256']})" if needed and needed["sha256"] else ""
        raise UserError(
            f"this model needs the weights of the segmenter {prompts.segmenter}, which it does not "
            f"hold; set {_SETTINGS['checkpoint']}, or model_config['checkpoint'] of load_model, to "
            f"the path of {name}{digest}"
        )
    try:
        return build_segmenter(prompts.segmenter.name, Path(given) if given else None)
    except UserError as error:
        raise UserError(
            f"this model needs the segmenter {prompts.segmenter}, whose weights {source} names; "
            f"{error}"
        ) from error


def _weights(held: Path | None) -> Path | None:
    """What a segmenter is built from: the file of the small one, else the folder."""
    if held is None:
        return None
    single = held / "weights.safetensors"
    return single if single.is_file() else held


mlflow.models.set_model(LearnedPrompts())
