"""Checks everything that a study needs before anything of it is written."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from ssprompt_core.errors import UserError
from ssprompt_core.models.official import check_official
from ssprompt_core.text.classes import ClassTexts
from ssprompt_platform.cluster import local_machine, resolve_resources
from ssprompt_platform.config.schema import Config
from ssprompt_platform.data_lock import DataLock
from ssprompt_platform.doctor import check_storage
from ssprompt_platform.embeddings import EmbeddingStore
from ssprompt_platform.encoded import missing_images
from ssprompt_platform.estimate import estimate, trial_count
from ssprompt_platform.identity import check_resume, find_study, identity
from ssprompt_platform.plan import StudyPlan, make_plan
from ssprompt_platform.protocol import score_counts
from ssprompt_platform.sealed import SealedDataset
from ssprompt_platform.sources import SegmenterSource, build_dataset, embed_class_names
from ssprompt_platform.storage import StorageError, StudyFolder, storage_root, work_root


@dataclass(frozen=True)
class Prepared:
    """A study that can run: every input was read and found right.

    Attributes:
        config: The checked configuration.
        folder: Where the study is kept; perhaps not made yet.
        dataset: The data, its test labels sealed.
        source: The segmenter.
        texts: Embedded class names.
        store: Image embeddings.
        plan: The work.
        lock: Digests of the data.
        fingerprints: Identity of data and weights.
    """

    config: Config
    folder: StudyFolder
    dataset: SealedDataset
    source: SegmenterSource
    texts: ClassTexts
    store: EmbeddingStore
    plan: StudyPlan
    lock: DataLock
    fingerprints: dict[str, str]


def prepare_checked(config: Config) -> Prepared:
    """See that a study's storage works, and check all inputs.

    Raises:
        UserError: Something is wrong, the storage included; nothing was written.
    """
    try:
        if not config.study.dry_run:
            check_storage(storage_root(config.storage.root))
        return prepare(config)
    except StorageError as error:
        raise UserError(str(error)) from error


def prepare(config: Config) -> Prepared:
    """Read and check all inputs.

    Raises:
        UserError: Something is wrong; the message names it.
    """
    check_resume(config)
    root = storage_root(config.storage.root)
    # a dry run writes nothing, not even the caches of made images and embedded names
    cache = None if config.study.dry_run else root
    # made images are made again as fast as they are fetched: they stay on this machine
    unsealed = build_dataset(config.data, None if cache is None else work_root(cache) / "data")
    plan = make_plan(config, unsealed)
    dataset = SealedDataset(unsealed)
    source = SegmenterSource.of(config.model)
    segmenter = source.build()
    check_official(source.name, source.checkpoint)
    texts = embed_class_names(
        config.model.text_encoder,
        dataset.class_names,
        None if cache is None else cache / "texts",
    )
    store = EmbeddingStore(
        root / "embeddings",
        segmenter.fingerprint,
        dtype=config.storage.embeddings,
        precision=config.model.precision,
    )
    lock = DataLock.of(dataset, validation=config.study.selection == "holdout")
    fingerprints = identity(lock, segmenter.fingerprint, texts.fingerprint)
    folder = find_study(config, fingerprints)
    return Prepared(config, folder, dataset, source, texts, store, plan, lock, fingerprints)


def describe(prepared: Prepared, console: Console) -> None:
    """Print what the study would do and how long it would take, for a dry run."""
    config, plan, dataset = prepared.config, prepared.plan, prepared.dataset
    resources = resolve_resources(config.train, [local_machine()])
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
        ("trials", _trials(config, plan)),
        ("selected on", _selected(config, plan)),
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
        f"measured on a few CPU steps here{_saved(config)}",
        highlight=False,
        soft_wrap=True,
    )


def _trials(config: Config, plan: StudyPlan) -> str:
    count, each = trial_count(config, plan), config.search.trials
    if config.study.mode == "pareto":
        return f"{count} ({each} for each method, over all K)"
    return f"{count} ({each} for each of {len(plan.searched)} method x K)"


def _selected(config: Config, plan: StudyPlan) -> str:
    if not plan.folds:
        return "nothing: no hyperparameter is searched"
    counts = ", ".join(
        f"{score_counts(plan, k)[0]} at K = {k}" for k in sorted(set(config.study.shots))
    )
    what = {
        "extra_shots": "more labelled images of the train pool",
        "cv": "support images, in folds",
        "holdout": "images of the validation split",
    }[config.study.selection]
    return f"{what}: {counts} (draw 0)"


def _saved(config: Config) -> str:
    """What the estimate of the search does not know."""
    budget = config.search.budget
    ends = [
        name
        for name, given in (
            ("pruning", config.search.pruning.over != "none"),
            ("search.budget", budget.gpu_hours or budget.min_gain),
        )
        if given and config.search.trials
    ]
    return (
        f"; at most, since {' and '.join(ends)} may end trials or the search early" if ends else ""
    )
