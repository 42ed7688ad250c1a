"""How long a study will take, from a few measured steps of each method on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_core.evaluate import evaluate
from ssprompt_core.methods import METHODS, MethodSettings, build_model
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.train.fit import LabelledEmbeddings, fit
from ssprompt_platform.bench import fit_settings
from ssprompt_platform.config.schema import Config
from ssprompt_platform.plan import StudyPlan
from ssprompt_platform.search.space import default_setting, search_space
from ssprompt_platform.sources import SegmenterSource

_STEPS = 2
_START_SECONDS = 25.0
"""Ray, MLflow and the two phases' workers, once per study."""


@dataclass(frozen=True)
class Estimate:
    """Seconds expected, over all workers."""

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
    """Time the encoder on one image and each method on a few steps, and multiply."""
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
    # measured on the CPU, which has no fp16
    measured = replace(train, precision="fp32" if train.precision == "fp16" else train.precision)
    # scoring the support images once an epoch is not part of a step
    settings = replace(fit_settings(measured, "cpu", 1, 0), steps_per_epoch=_STEPS, patience=0)
    steps_final = train.epochs * train.steps_per_epoch
    steps_trial = (search.epochs or train.epochs) * train.steps_per_epoch
    per_search = per_final = 0.0
    for method in config.study.methods:
        model = build_model(
            method,
            MethodSettings(**default_setting(method, search_space(method, search.space))),
            segmenter,
            texts,
            seed=0,
        )
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
            fit(model, batch, settings)
            step = (time.perf_counter() - begun) / _STEPS
        fits = sum(key.method == method for key in plan.fits)
        per_final += fits * (steps_final * step + len(plan.test_ids) * score)
        for group in plan.searched:
            if group.method == method:
                images = sum(
                    len(ids) for (_, k), ids in plan.search_ids.items() if k == group.shots
                )
                per_search += search.trials * (search.draws * steps_trial * step + images * score)
    return Estimate(
        encode=encode * images_to_encode / workers,
        search=per_search / workers,
        final=per_final / workers,
    )
