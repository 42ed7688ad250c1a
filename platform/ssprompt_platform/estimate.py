"""How long a study will take, from a few measured steps of each method on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_core.evaluate import evaluate
from ssprompt_core.methods import METHODS, build_model
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.train.fit import FitSettings, LabelledEmbeddings, fit
from ssprompt_platform.bench import fit_settings
from ssprompt_platform.config.schema import Config, TrainConfig
from ssprompt_platform.plan import StudyPlan
from ssprompt_platform.search.space import Space, fit_overrides, method_settings, search_space
from ssprompt_platform.sources import SegmenterSource

_STEPS = 2
_START_SECONDS = 25.0
"""Ray, MLflow and the two phases' workers, once per study."""


@dataclass(frozen=True)
class Estimate:
    """Seconds expected, over all workers; of the search without what pruning saves."""

    encode: float
    search: float
    final: float
    start: float = _START_SECONDS

    @property
    def total(self) -> float:
        """Of the whole study."""
        return self.encode + self.search + self.final + self.start


def estimate(
    config: Config,
    plan: StudyPlan,
    dataset: SegmentationDataset,
    source: SegmenterSource,
    texts: ClassTexts,
    images_to_encode: int,
    workers: int,
) -> Estimate:
    """Time the encoder on one image and each method on a few steps, and multiply.

    Epochs that are searched count as the default setting has them.
    """
    torch.set_num_threads(config.train.cpus_per_worker)
    segmenter = source.build()
    image_id = dataset.ids("train")[0]
    begun = time.perf_counter()
    x_B3SS = segmenter.preprocess(dataset.image(image_id))[None]
    embedding_BDhw = segmenter.encode_images(x_B3SS).float()
    encode = time.perf_counter() - begun
    label = dataset.label(image_id)
    data = LabelledEmbeddings(
        embeddings=embedding_BDhw, labels=[label], sizes=[(label.shape[0], label.shape[1])]
    )
    train, search = config.train, config.search
    per_search = per_final = 0.0
    for method in config.study.methods:
        space = search_space(method, search.space, train)
        model = build_model(method, method_settings(space.default), segmenter, texts, seed=0)
        begun = time.perf_counter()
        evaluate(model, data, len(dataset.class_names), batch_size=1, device="cpu")
        score = time.perf_counter() - begun
        step = 0.0
        if METHODS[method].uses_support:
            batch = LabelledEmbeddings(
                embeddings=embedding_BDhw.expand(train.batch_size, -1, -1, -1),
                labels=[label] * train.batch_size,
                sizes=data.sizes * train.batch_size,
            )
            begun = time.perf_counter()
            fit(model, batch, _measured(train, space))
            step = (time.perf_counter() - begun) / _STEPS
        epochs = fit_overrides(space.default).get("epochs")
        steps = (epochs or train.epochs) * train.steps_per_epoch
        fits = sum(key.method == method for key in plan.fits)
        per_final += fits * (steps * step + len(plan.test_ids) * score)
        trial_steps = (epochs or search.epochs or train.epochs) * train.steps_per_epoch
        per_search += search_seconds(config, plan, method, trial_steps * step, score)
    seconds = per_search / workers
    if search.budget.minutes:
        seconds = min(seconds, 60 * search.budget.minutes)
    return Estimate(
        encode=encode * images_to_encode / workers,
        search=seconds,
        final=per_final / workers,
    )


def trial_count(config: Config, plan: StudyPlan) -> int:
    """Trials of the whole search, at most."""
    if config.study.mode == "pareto":
        return config.search.trials * len({group.method for group in plan.searched})
    return config.search.trials * len(plan.searched)


def search_seconds(
    config: Config, plan: StudyPlan, method: str, fit_seconds: float, score_seconds: float
) -> float:
    """Of all trials of a method; where K is searched, each K is taken equally often.

    Args:
        config: The configuration.
        plan: The work.
        method: What is searched.
        fit_seconds: Of one fit.
        score_seconds: Of scoring one image.
    """
    shots = [group.shots for group in plan.searched if group.method == method]
    once = sum(
        fit_seconds + len(fold.score_ids) * score_seconds
        for (_, k), folds in plan.folds.items()
        if k in shots
        for fold in folds
    )
    times = config.search.trials
    return once * times / (len(shots) or 1) if config.study.mode == "pareto" else once * times


def _measured(train: TrainConfig, space: Space) -> FitSettings:
    """Settings of the few steps that are measured."""
    # measured on the CPU, which has no fp16
    precision = "fp32" if train.precision == "fp16" else train.precision
    as_set = replace(train, precision=precision, **fit_overrides(space.default))
    # scoring the support images once an epoch is not part of a step
    return replace(fit_settings(as_set, "cpu", 1, 0), steps_per_epoch=_STEPS, patience=0)
