"""Learned-prompt files for tests of the jobs that use them: random, so made in no time."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import torch
from samples import ROOT

from ssprompt_core.methods import METHODS, MethodSettings, build_model
from ssprompt_core.methods.saved import PromptInfo, save_prompts
from ssprompt_core.models.registry import build_segmenter
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.text.registry import build_text_encoder

NAMES = ("ground", "box", "ball")
"""Classes of ``samples.write_image_folder``."""


def load_job(name: str) -> ModuleType:
    """A job as a module, to be called without a process of its own."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "jobs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_prompts(
    path: Path,
    method: str = "linear_probe",
    *,
    names: Sequence[str] = NAMES,
    things: Sequence[int] = (1, 2),
    seed: int = 0,
    support: Mapping[str, str] | None = None,
) -> Path:
    """Write prompts of the small SAM; the linear probe has random weights that find every class."""
    texts = ClassTexts.of(lambda: build_text_encoder("small"), names)
    settings = MethodSettings(num_prompts=4)
    model = build_model(method, settings, build_segmenter("small"), texts, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    if method == "linear_probe":
        for parameter in model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
    info = PromptInfo(
        method=method,
        hyperparameters={n: getattr(settings, n) for n in METHODS[method].hyperparameters},
        class_names=tuple(names),
        thing_classes=tuple(things),
        text_encoder=texts.encoder,
        text_encoder_fingerprint=texts.fingerprint,
        dataset="elsewhere",
        support=dict(support or {}),
        shots=2,
        draw=seed,
        seed=seed,
        metrics={"split": "test", "images": 3, "miou": 0.25 * (seed + 1), "iou": [None] * 3},
        versions={},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_prompts(path, model, info)
    return path


def other_checkpoint(path: Path) -> Path:
    """Weights of the small SAM that differ from the shipped ones, with their card."""
    import hashlib
    import json

    from safetensors.torch import save_file

    from ssprompt_core.models.small_sam import load_weights

    state = {name: tensor + 1e-3 for name, tensor in load_weights().items()}
    save_file(state, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps({"sha256": digest}))
    return path
