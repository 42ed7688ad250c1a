"""The study that all peers run: images and settings in a folder, and one trial of it.

What a user without the platform would write too: only the core is used, so that the ways differ in
how trials are run and in nothing else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ssprompt_core.evaluate import evaluate
from ssprompt_core.methods import MethodSettings, build_model
from ssprompt_core.models.registry import build_segmenter
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.text.registry import build_text_encoder
from ssprompt_core.train.fit import FitSettings, LabelledEmbeddings, fit

BATCH = 16
"""Images encoded and scored at once, as in a study."""
LOW, HIGH, FIRST = 0.1, 0.6, 0.3
"""Range of both learning rates, and their value in the first trial, of which all know the score."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A search for the learning rates of ssprompt; travels between processes as JSON.

    Attributes:
        folder: Holds ``images``, ``labels`` and ``classes.txt``.
        model: Name of the segmenter.
        checkpoint: Its weights; None for the small one.
        shots: K.
        support: File stems of the images that a trial is fitted on.
        selection: Of those that it is scored on.
        num_prompts: N.
        epochs: Of a trial's fit.
        steps: Optimiser steps an epoch.
        batch_size: Images a step.
        cells: Embedding cells sampled per image and step.
        seed: Of every fit.
        trials: How many are run.
    """

    folder: str
    model: str
    checkpoint: str | None
    shots: int
    support: Sequence[str] = ()
    selection: Sequence[str] = ()
    num_prompts: int = 9
    epochs: int
    steps: int
    batch_size: int
    cells: int
    seed: int = 0
    trials: int

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Problem:
        """Read what :meth:`write` wrote."""
        return cls(**json.loads(path.read_text()))

    @property
    def class_names(self) -> list[str]:
        """Names of the classes by id."""
        return (Path(self.folder) / "classes.txt").read_text().split("\n")[:-1]


@dataclass(frozen=True)
class Encoded:
    """What trials share, encoded once by whoever calls :func:`encode`."""

    segmenter: Segmenter
    texts: ClassTexts
    support: LabelledEmbeddings
    selection: LabelledEmbeddings


def encode(problem: Problem) -> Encoded:
    """Build the frozen model and encode all images of the search."""
    checkpoint = Path(problem.checkpoint) if problem.checkpoint else None
    segmenter = build_segmenter(problem.model, checkpoint)
    encoder = build_text_encoder("small")
    texts = ClassTexts.of(lambda: encoder, problem.class_names)
    images, labels = [], []
    for stem in (*problem.support, *problem.selection):
        images.append(segmenter.preprocess(_read(problem, "images", stem)))
        labels.append(_read(problem, "labels", stem))
    batches = torch.split(torch.stack(images), BATCH)
    embeddings = torch.cat([segmenter.encode_images(x_B3SS) for x_B3SS in batches])
    sizes = [(label.shape[0], label.shape[1]) for label in labels]
    fitted = len(problem.support)
    return Encoded(
        segmenter,
        texts,
        LabelledEmbeddings(embeddings[:fitted], labels[:fitted], sizes[:fitted]),
        LabelledEmbeddings(embeddings[fitted:], labels[fitted:], sizes[fitted:]),
    )


def run_trial(problem: Problem, data: Encoded, lr_embedding: float, lr_weight: float) -> float:
    """Fit and score one setting; returns the mIoU on the selection images."""
    settings = MethodSettings(
        num_prompts=problem.num_prompts, lr_embedding=lr_embedding, lr_weight=lr_weight
    )
    model = build_model("ssprompt", settings, data.segmenter, data.texts, seed=problem.seed)
    fit(
        model,
        data.support,
        FitSettings(
            epochs=problem.epochs,
            steps_per_epoch=problem.steps,
            batch_size=problem.batch_size,
            cells=problem.cells,
            seed=problem.seed,
        ),
    )
    classes = len(problem.class_names)
    return evaluate(model, data.selection, classes, batch_size=BATCH, device="cpu").miou


@dataclass(frozen=True)
class Done:
    """What a peer hands back: when each trial ended (seconds of the epoch), and its score."""

    ended: list[float]
    scores: list[float]

    def write(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Done:
        """Read what :meth:`write` wrote."""
        return cls(**json.loads(path.read_text()))

    def add(self, score: float) -> None:
        """A trial ends now."""
        self.ended.append(time.time())
        self.scores.append(score)


def _read(problem: Problem, kind: str, stem: str) -> NDArray[np.uint8]:
    with Image.open(Path(problem.folder) / kind / f"{stem}.png") as picture:
        return np.array(picture)
