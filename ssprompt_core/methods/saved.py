"""Learned prompts as a file that needs nothing but its segmenter to predict."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, TypeVar, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ssprompt_core.errors import UserError
from ssprompt_core.methods.model import FewShotModel
from ssprompt_core.methods.prompted import PromptedModel
from ssprompt_core.methods.registry import METHODS, build_model
from ssprompt_core.methods.settings import MethodSettings
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.prompts.semantic import TextPrompts
from ssprompt_core.prompts.spatial import GridPrompts
from ssprompt_core.prompts.ssprompt import SSPrompt
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.text.encoder import TextEncoder

FORMAT = 1
"""Version of the file's layout; files of a later one are refused."""

_KEY = "ssprompt"
_LEFT_OUT = ("semantic.text", "semantic.map")


@dataclass(frozen=True, kw_only=True)
class SegmenterInfo:
    """The one model that prompts fit; see :class:`Segmenter` for the fields.

    Attributes:
        name: Registry name.
        fingerprint: SHA-256 (hex) of weights and preprocessing.
        preprocessing: Constants of the preprocessing.
        embed_dim: Length ``D`` of a prompt token.
        image_channels: Channels of an image embedding.
        grid_size: ``h = w`` of an image embedding.
        image_size: Side of the encoder's input.
    """

    name: str
    fingerprint: str
    preprocessing: dict[str, Any]
    embed_dim: int
    image_channels: int
    grid_size: int
    image_size: int

    @classmethod
    def of(cls, segmenter: Segmenter) -> Self:
        """Describe a segmenter."""
        values = {
            field.name: getattr(segmenter, field.name)
            for field in fields(cls)
            if field.name != "preprocessing"
        }
        return cls(preprocessing=segmenter.preprocessing(), **values)

    def __str__(self) -> str:
        return f"'{self.name}' (fingerprint {self.fingerprint[:12]})"


@dataclass(frozen=True, kw_only=True)
class PromptInfo:
    """What a learned-prompt file says of its prompts.

    Attributes:
        method: A key of ``METHODS``.
        hyperparameters: The fields of :class:`MethodSettings` that the method uses.
        class_names: The ``C`` class names; a name's place is its class.
        thing_classes: Indices of countable classes; empty where the data set does not say.
        text_encoder: Name of the encoder that embedded the names.
        text_encoder_fingerprint: Its SHA-256 (hex).
        dataset: Name of the data set that was learned on.
        support: The images learned from: image id -> SHA-256 (hex) of the content.
        shots: Labelled images per class, ``K``.
        draw: Number of the support draw.
        seed: Seed of the fit.
        metrics: Scores on other images than those of ``support``: ``split``, ``images``, ``miou``
            in [0, 1], and ``iou``, a list by class with null where no label shows the class.
        versions: Package -> version.
    """

    method: str
    hyperparameters: dict[str, Any]
    class_names: tuple[str, ...]
    thing_classes: tuple[int, ...] = ()
    text_encoder: str
    text_encoder_fingerprint: str
    dataset: str
    support: dict[str, str]
    shots: int
    draw: int
    seed: int
    metrics: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class SavedPrompts:
    """A learned-prompt file that was read and found whole.

    Attributes:
        path: The file.
        info: What it says of the prompts.
        segmenter: The model that they fit.
        checksum: SHA-256 (hex) of everything in the file.
        tensors: ``resolved.spatial`` and ``resolved.semantic``: the prompts as the decoder gets
            them; other ``resolved.*``: the frozen tokens of the class names, weights and points;
            ``prompts.*``: what they were made of; other names: the state of a method without
            prompts.
    """

    path: Path
    info: PromptInfo
    segmenter: SegmenterInfo
    checksum: str
    tensors: dict[str, Tensor]

    def model(self, segmenter: Segmenter) -> FewShotModel:
        """The fitted model again, to predict with; no text encoder takes part.

        Args:
            segmenter: The one that the prompts were learned for; the model lives on its device.

        Raises:
            UserError: The segmenter is another one, or the tensors do not fit the method.
        """
        if segmenter.fingerprint != self.segmenter.fingerprint:
            raise UserError(
                f"{self.path} needs the segmenter {self.segmenter} that it was learned for, but "
                f"was given {SegmenterInfo.of(segmenter)}"
            )
        settings, names = MethodSettings(**self.info.hyperparameters), self.info.class_names
        try:
            if "resolved.spatial" in self.tensors:
                model: FewShotModel = self._prompted(segmenter, settings)
            else:
                texts = ClassTexts(names, torch.empty(0), torch.empty(0), _no_encoder, "")
                model = build_model(self.info.method, settings, segmenter, texts, seed=0)
                model.load_state_dict(self.tensors)
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self.path} does not fit the method {self.info.method}: {reason}"
            ) from error
        return model.requires_grad_(False)

    def _prompted(self, segmenter: Segmenter, settings: MethodSettings) -> PromptedModel:
        device = next(segmenter.parameters()).device
        spatial_ND, semantic_CD = (
            self.tensors[f"resolved.{side}"].to(device) for side in ("spatial", "semantic")
        )
        count = len(self.info.class_names)
        if semantic_CD.shape != (count, self.segmenter.embed_dim):
            raise RuntimeError(f"class tokens of shape {tuple(semantic_CD.shape)}, {count} classes")
        prompts = SSPrompt(_FixedSpatial(spatial_ND), _FixedSemantic(semantic_CD))
        return PromptedModel(segmenter, prompts, settings, count)


class _FixedSpatial(GridPrompts):
    """Spatial tokens as they were when the prompts were saved, ``[N, D]``."""

    def __init__(self, tokens_ND: Tensor) -> None:
        nn.Module.__init__(self)
        self.register_buffer("default", tokens_ND)


class _FixedSemantic(TextPrompts):
    """Class tokens as they were when the prompts were saved, ``[C, D]``."""

    def __init__(self, tokens_CD: Tensor) -> None:
        nn.Module.__init__(self)
        self.register_buffer("text", tokens_CD)
        self.map = None


def _no_encoder() -> TextEncoder:
    raise RuntimeError("the method reads class names, but its class tokens are missing")


def save_prompts(path: Path, model: FewShotModel, info: PromptInfo) -> None:
    """Write what a model learned, whole or not at all; equal models and infos give equal bytes.

    The text embeddings and the map ``D_text -> D`` are left out, which can be large: their product
    is written instead, the class names as frozen tokens.

    Args:
        path: A ``.safetensors`` file in an existing folder.
        model: The fitted model.
        info: What the file shall say.
    """
    tensors = {
        name: value.contiguous()
        for name, value in model.export().items()
        if not name.endswith(_LEFT_OUT)
    }
    if isinstance(model, PromptedModel):
        with torch.no_grad():
            # of TextPrompts itself: learned context is no part of the frozen names
            names_CD = TextPrompts.default(model.prompts.semantic).cpu()
        tensors["resolved.names"] = names_CD.clone().contiguous()
    record = {"info": asdict(info), "segmenter": asdict(SegmenterInfo.of(model.segmenter))}
    content = json.dumps(record, sort_keys=True, allow_nan=False)
    header = {"format": FORMAT, "sha256": _checksum(content, tensors), "content": content}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(header)})
        # safetensors makes files that their owner alone may read
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_prompts(path: Path) -> SavedPrompts:
    """Read a learned-prompt file.

    Raises:
        UserError: The file is missing, damaged, of another kind, or of a later format or method.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file, but must be a learned-prompt file (.safetensors)")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as a learned-prompt file; it is cut off, damaged or of another "
            f"kind ({error})"
        ) from error
    if _KEY not in metadata:
        raise UserError(
            f"{path} is a safetensors file without the entry '{_KEY}', so it holds no learned "
            "prompts, or those of a version that kept too little to be used"
        )
    header = _json_object(path, metadata[_KEY])
    version = header.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise UserError(
            f"{path} has format {version}, but this version reads formats up to {FORMAT}; update "
            "ssprompt"
        )
    content = header.get("content")
    if not isinstance(content, str) or header.get("sha256") != _checksum(content, tensors):
        raise UserError(f"{path} is damaged: its content is not what its checksum says")
    record = _json_object(path, content)
    info = _restore(path, PromptInfo, record.get("info"))
    segmenter = _restore(path, SegmenterInfo, record.get("segmenter"))
    _check_method(path, info)
    return SavedPrompts(path, info, segmenter, header["sha256"], tensors)


def _checksum(content: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(content.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _json_object(path: Path, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{path} is damaged: its metadata is not a JSON object")
    return record


_Info = TypeVar("_Info", PromptInfo, SegmenterInfo)


def _restore(path: Path, kind: type[_Info], record: Any) -> _Info:
    """A record of JSON values as its dataclass; every field must be there with its type."""
    values: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        value = record.get(name) if isinstance(record, dict) else None
        expected = get_origin(hint) or hint
        value = tuple(value) if expected is tuple and isinstance(value, list) else value
        if not isinstance(value, expected):
            raise UserError(f"{path} says {name}={value!r}, but must hold a {expected.__name__}")
        values[name] = value
    return kind(**values)


def _check_method(path: Path, info: PromptInfo) -> None:
    known = {field.name for field in fields(MethodSettings)}
    unknown = sorted(info.hyperparameters.keys() - known)
    if info.method not in METHODS or unknown:
        what = f"hyperparameter '{unknown[0]}'" if unknown else f"method '{info.method}'"
        raise UserError(f"{path} uses the {what}, which this version of ssprompt does not have")
    try:
        MethodSettings(**info.hyperparameters)
    except (UserError, TypeError) as error:
        raise UserError(f"{path} has wrong hyperparameters: {error}") from error
