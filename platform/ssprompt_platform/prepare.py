"""Checks everything that a study needs before anything of it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_core.models.official import check_official
from ssprompt_core.text.classes import ClassTexts
from ssprompt_platform.cluster import local_resources, resolve_resources
from ssprompt_platform.config.schema import Config
from ssprompt_platform.embeddings import EmbeddingStore
from ssprompt_platform.encode import missing_images
from ssprompt_platform.estimate import estimate
from ssprompt_platform.identity import check_unchanged, identity, study_folder
from ssprompt_platform.plan import StudyPlan, make_plan
from ssprompt_platform.search.space import search_space
from ssprompt_platform.sources import (
    SegmenterSource,
    build_dataset,
    embed_class_names,
)
from ssprompt_platform.storage import StudyFolder


@dataclass(frozen=True)
class Prepared:
    """A study that can run: every input was read and found right.

    Attributes:
        config: The checked configuration.
        folder: Where the study is kept; perhaps not made yet.
        dataset: The data.
        source: The segmenter.
        texts: Embedded class names.
        store: Image embeddings.
        plan: The work.
        fingerprints: Identity of data and weights.
    """

    config: Config
    folder: StudyFolder
    dataset: SegmentationDataset
    source: SegmenterSource
    texts: ClassTexts
    store: EmbeddingStore
    plan: StudyPlan
    fingerprints: dict[str, str]


def prepare(config: Config) -> Prepared:
    """Read and check all inputs.

    Raises:
        UserError: Something is wrong; the message names it.
    """
    folder = study_folder(config)
    for method in config.study.methods:
        search_space(method, config.search.space)
    # a dry run writes nothing, not even the caches of made images and embedded names
    cache: Path | None = None if config.study.dry_run else folder.root
    dataset = build_dataset(config.data, cache and cache / "data")
    plan = make_plan(config, dataset)
    source = SegmenterSource.of(config.model)
    segmenter = source.build()
    check_official(source.name, source.checkpoint)
    texts = embed_class_names(
        config.model.text_encoder, dataset.class_names, cache and cache / "texts"
    )
    store = EmbeddingStore(folder.root / "embeddings", segmenter.fingerprint)
    fingerprints = identity(dataset, segmenter.fingerprint, texts.fingerprint)
    check_unchanged(folder, config, fingerprints)
    return Prepared(config, folder, dataset, source, texts, store, plan, fingerprints)


def describe(prepared: Prepared, console: Console) -> None:
    """Print what the study would do and how long it would take, for a dry run."""
    config, plan, dataset = prepared.config, prepared.plan, prepared.dataset
    resources = resolve_resources(config.train, local_resources())
    images = plan.image_ids()
    missing = missing_images(dataset, images, prepared.store)
    console.print(
        f"study {prepared.folder.study_id} (dry run, nothing is written)", highlight=False
    )
    for name, value in (
        ("data set", f"{dataset.name}, {len(dataset.class_names)} classes, "
                     f"{len(dataset.ids('train'))} images in the train pool"),
        ("model", f"{config.model.name}, text encoder {config.model.text_encoder}"),
        ("methods", ", ".join(config.study.methods)),
        ("shots", ", ".join(f"K = {k}" for k in sorted(config.study.shots))),
        ("images encoded", f"{len(missing)} ({len(images)} used, {len(images) - len(missing)} "
                           "stored already)"),
        ("trials", f"{len(plan.searched) * config.search.trials} "
                   f"({config.search.trials} for each of {len(plan.searched)} method x K)"),
        ("final fits", f"{len(plan.fits)} over {len(plan.draws)} support draws"),
        ("scored on", f"{len(plan.test_ids)} test images, once per final fit"),
        ("workers", f"{resources.workers} x ({resources.cpus_per_worker} CPUs, "
                    f"{resources.gpus_per_worker:g} GPUs)"),
        ("storage", str(prepared.folder.path)),
    ):  # fmt: skip
        console.print(f"  {name:<15} {value}", highlight=False, soft_wrap=True)
    seconds = estimate(
        config, plan, dataset, prepared.source, prepared.texts, len(missing), resources.workers
    )
    console.print(
        f"  {'seconds':<15} about {seconds.total:.0f} (start {seconds.start:.0f}, encode "
        f"{seconds.encode:.0f}, search {seconds.search:.0f}, final {seconds.final:.0f}), "
        "measured on a few CPU steps here",
        highlight=False,
        soft_wrap=True,
    )
