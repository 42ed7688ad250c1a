"""Every option of a study, grouped by role: type, default, meaning and bounds in one place."""

# ruff: noqa: RUF009  (each of the calls below returns a dataclass field)
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _option(
    default: Any, meaning: str, *, choices: tuple[str, ...] = (), low: float | None = None
) -> Any:
    """A dataclass field that knows its meaning (for ``--help``), choices and lower bound."""
    metadata = {"meaning": meaning, "choices": choices, "low": low}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class StudyConfig:
    """What is compared: methods, shots and seeds."""

    name: str = _option("", "name in tables and MLflow; empty: the name of the study file")
    id: str = _option(
        "",
        "identity; an id given again continues or extends that study; empty: the unfinished study "
        "of this very configuration, or a new one, named by name and UTC time",
    )
    methods: list[str] = _option(
        ["zero_shot", "linear_probe", "xy_points", "spa", "sem", "ssprompt"],
        "rows of the table",
    )
    shots: list[int] = _option([1, 4, 16], "values of K: labelled images per class")
    draws: int = _option(5, "support draws per K that the final score is over", low=1)
    seed: int = _option(0, "seed of draws, fits and search", low=0)
    mode: str = _option(
        "per_shot",
        "one search per method and K, or one per method in which K is searched too (maximise "
        "mIoU, minimise labelled images)",
        choices=("per_shot", "pareto"),
    )
    selection: str = _option(
        "extra_shots",
        "what hyperparameters are chosen on: min(K, 4) more labelled images per class; cv: folds "
        "inside the K shots; holdout: the data set's whole validation split, and tables say so",
        choices=("extra_shots", "cv", "holdout"),
    )
    folds: int = _option(
        5, "cv: folds of the support images; where there are fewer images, each is a fold", low=2
    )
    resume: str = _option(
        "auto",
        "auto: continue the study where it was begun; never: begin a new one, whose id must be "
        "new; must: only continue one",
        choices=("auto", "never", "must"),
    )
    dry_run: bool = _option(False, "print the resolved study and run nothing")


@dataclass
class DataConfig:
    """Which images and labels."""

    kind: str = _option(
        "procedural", "the embedded data set or a folder", choices=("procedural", "folder")
    )
    images: str | None = _option(None, "folder: folder of images")
    labels: str | None = _option(None, "folder: folder of label PNGs with the images' stems")
    classes: str | None = _option(
        None, "folder: text file with one class name a line, line number = label id"
    )
    ignore_ids: list[int] = _option([], "folder: label ids that belong to no class")
    test_list: str | None = _option(
        None, "folder: text file with the file stems of the test split; empty: a random share"
    )
    test_fraction: float = _option(0.33, "folder: share of the random test split")
    seed: int = _option(0, "procedural: which scenes; folder: the random test split", low=0)
    train_images: int = _option(600, "procedural: images in the train pool", low=1)
    val_images: int = _option(100, "procedural: images in the validation split", low=1)
    test_images: int = _option(200, "procedural: images in the test split", low=1)
    max_test_images: int = _option(
        0, "score on a seeded sample of this many test images; 0: on all", low=0
    )


@dataclass
class ModelConfig:
    """Which frozen model."""

    name: str = _option("small", "segmenter: small, vit_b, vit_l, vit_h or transformers")
    checkpoint: str | None = _option(
        None, "checkpoint file of a vit_* segmenter, or folder of a transformers one"
    )
    text_encoder: str = _option(
        "small",
        "small, minilm (from its package), a folder in the transformers layout (CLIP, SigLIP, "
        "sentence encoders), or hub:owner/name, which may download",
    )
    precision: str = _option(
        "fp32",
        "in which the image encoder computes: bf16 and fp16 (on a GPU) are faster, and give other "
        "embeddings",
        choices=("fp32", "bf16", "fp16"),
    )


@dataclass
class Dimension:
    """Where a hyperparameter is searched: ``choices``, or ``low`` to ``high``.

    ``points`` values of a range are what a grid takes; with ``when`` a hyperparameter is searched
    only where another one of the space has one of the named values (as in
    ``when: {embedding_init: [normal]}``), and has its default elsewhere.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: list[Any] | None = None
    points: int = 4
    when: dict[str, Any] | None = None


def _between(low: float, high: float, meaning: str) -> Any:
    return field(
        default_factory=lambda: Dimension(low=low, high=high, log=True),
        metadata={"meaning": meaning},
    )


def _one_of(choices: list[Any], meaning: str) -> Any:
    return field(
        default_factory=lambda: Dimension(choices=list(choices)), metadata={"meaning": meaning}
    )


def _unsearched(meaning: str) -> Any:
    return field(default=None, metadata={"meaning": f"{meaning}; empty: as in train"})


@dataclass
class SpaceConfig:
    """Search space; a method uses only those it has, and takes a single choice without search."""

    num_prompts: Dimension = _one_of([4, 9, 16], "number N of spatial prompts (grid points)")
    lr_embedding: Dimension = _between(0.03, 0.6, "learning rate of the prompt embeddings z")
    lr_weight: Dimension = _between(0.03, 0.6, "learning rate of the prompt weights w")
    lr_map: Dimension = _one_of(
        [0.001], "learning rate of the map from text to prompts, for models without native text"
    )
    lr_context: Dimension = _between(
        0.003, 0.3, "learning rate of the context tokens of token_context"
    )
    lr_points: Dimension = _between(0.001, 0.1, "learning rate of the points of xy_points")
    lr_probe: Dimension = _between(0.001, 0.1, "learning rate of linear_probe")
    weight_decay: Dimension = _between(1e-5, 1e-1, "weight decay of linear_probe")
    weight_granularity: Dimension = _one_of(
        ["prompt"], "one weight a prompt, or one a dimension of each prompt: prompt, dimension"
    )
    embedding_init: Dimension = _one_of(
        ["copy"], "start of z: near the default prompts, or at random: copy, normal, xavier"
    )
    context_length: Dimension = _one_of([4], "context tokens of token_context")
    decoding: Dimension = _one_of(
        ["per_class"],
        "one decoder pass a class (the reference), or one for all classes (fast): per_class, "
        "one_pass",
    )
    epochs: Dimension | None = _unsearched("epochs of a fit")
    ce_weight: Dimension | None = _unsearched("weight of the cross-entropy")
    dice_weight: Dimension | None = _unsearched("weight of dice")
    focal_weight: Dimension | None = _unsearched("weight of the focal loss")
    class_balance: Dimension | None = _unsearched("balance of the classes in the loss, 0 to 1")


@dataclass
class PruningConfig:
    """Ends trials early that others have beaten; they are told as pruned."""

    over: str = _option(
        "none",
        "epochs: asynchronous successive halving within the first fit of a trial; draws: racing, "
        "a paired test against the best trial after each support draw",
        choices=("none", "epochs", "draws"),
    )
    first_epoch: int = _option(2, "epochs: the first rung", low=1)
    factor: int = _option(
        3, "epochs: each rung is so many times the last; the best 1 in so many go on", low=2
    )
    p: float = _option(
        0.1, "draws: a trial ends where a one-sided paired t-test says with this p that it is worse"
    )


@dataclass
class BudgetConfig:
    """Ends the search, whichever comes first; what runs is finished and the final fits follow."""

    minutes: float = _option(
        0.0, "minutes of the search, over all parts of a study; 0: no end", low=0
    )
    gpu_hours: float = _option(0.0, "hours of GPUs in search trials; 0: no end", low=0)
    min_gain: float = _option(
        0.0,
        "a search of a method and K ends where no more than this is expected to be gained, in "
        "mIoU; 0: never",
        low=0,
    )


@dataclass
class SearchConfig:
    """How hyperparameters are searched, per method and K."""

    trials: int = _option(
        4,
        "trials per method and K (pareto: per method); the first is the default setting; "
        "0: no search",
        low=0,
    )
    draws: int = _option(1, "support draws that a trial is scored on", low=1)
    epochs: int = _option(0, "epochs of a trial's fit; 0: train.epochs", low=0)
    sampler: str = _option(
        "tpe",
        "how settings are proposed",
        choices=("tpe", "gp", "nsga2", "random", "grid", "sobol"),
    )
    startup_trials: int = _option(
        4,
        "tpe, gp: trials of a method and K before the first that learns from others; nsga2: trials "
        "of a generation",
        low=1,
    )
    together: int = _option(
        1,
        "trials of one method and K proposed and run at once; more use a large cluster better, "
        "but each learns from fewer",
        low=1,
    )
    warm_start: bool = _option(
        False, "try the best setting of a K at the next K (which then waits for it)"
    )
    enqueue: list[dict[str, Any]] = _option(
        [],
        "settings to try first, as in [{lr_embedding: 0.2, method: spa, shots: 4}]; without "
        "method or shots: for all",
    )
    max_concurrent: int = _option(0, "trials at once; 0: as many as the cluster holds", low=0)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    pruning: PruningConfig = field(default_factory=PruningConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)


@dataclass
class TrainConfig:
    """How a fit is trained and on which resources."""

    epochs: int = _option(10, "epochs of a fit", low=1)
    steps_per_epoch: int = _option(12, "optimiser steps an epoch", low=1)
    batch_size: int = _option(8, "images a step", low=1)
    micro_batch: int = _option(
        0,
        "images with gradient at once (gradient accumulation); 0: as memory and caches ask",
        low=0,
    )
    cells: int = _option(64, "embedding cells sampled per image and step; 0: all of them", low=0)
    ce_weight: float = _option(1.0, "weight of the cross-entropy", low=0)
    dice_weight: float = _option(1.0, "weight of dice", low=0)
    focal_weight: float = _option(0.0, "weight of the focal loss", low=0)
    focal_gamma: float = _option(
        2.0, "how much the focal loss neglects what is already right; 0: cross-entropy", low=0
    )
    class_balance: float = _option(
        0.0,
        "weights of the classes in cross-entropy and focal loss, 0 to 1; 0: each labelled pixel "
        "counts alike, 1: each class does",
        low=0,
    )
    warm_up: float = _option(
        0.05, "share of the steps over which the learning rates rise, 0 to 1", low=0
    )
    schedule: str = _option(
        "cosine",
        "learning rates after the warm-up: a fall to zero, or as they are",
        choices=("cosine", "constant"),
    )
    patience: int = _option(
        0,
        "epochs without a better mIoU on the support images themselves after which a fit ends "
        "and goes back to its best epoch (costs a pass over them an epoch); 0: never",
        low=0,
    )
    precision: str = _option("fp32", "arithmetic of the decoder", choices=("fp32", "bf16", "fp16"))
    compile: bool = _option(
        False,
        "train through torch.compile, which takes half a minute or so in each worker and a C++ "
        "compiler (without one: a warning); slower on a CPU",
    )
    device: str = _option(
        "auto", "auto: cuda where a worker has a GPU, else cpu", choices=("auto", "cpu", "cuda")
    )
    workers: int = _option(
        0, "workers that encode and run the final fits; 0: as many as fit", low=0
    )
    fits_together: int = _option(
        0,
        "final fits of one method and K, equal but for the support draw, that a worker trains as "
        "one batch, which gains with decoding=one_pass or on a GPU (equal up to rounding); "
        "0: 1 on a CPU, 8 on a GPU",
        low=0,
    )
    workers_per_trial: int = _option(
        1, "workers that share one search trial; more than 1 runs it on Ray Train", low=1
    )
    cpus_per_worker: int = _option(1, "CPUs (and torch threads) of a worker", low=1)
    gpus_per_worker: float | None = _option(
        None, "GPUs of a worker, fractions allowed; empty: the cluster's GPUs shared out", low=0
    )
    checkpoint_every: int = _option(5, "epochs between a trial's checkpoints; 0: none", low=0)
    eval_batch_size: int = _option(16, "images a step when encoding and scoring", low=1)


@dataclass
class StorageConfig:
    """Where everything is kept."""

    root: str = _option(
        "runs",
        "folder of embeddings, studies and MLflow, which a Ray job resolves below ~/ssprompt; or "
        "s3://bucket/prefix, with endpoint and credentials in the standard AWS_* variables",
    )
    embeddings: str = _option(
        "float32",
        "type of the stored image embeddings; float16 takes half the space and time to read",
        choices=("float32", "float16"),
    )


@dataclass
class TrackingConfig:
    """MLflow."""

    uri: str = _option(
        "",
        "tracking server or database; empty: MLFLOW_TRACKING_URI of the environment, else sqlite "
        "in the storage root (in the folder runs, where that is a bucket)",
    )
    experiment: str = _option("ssprompt", "MLflow experiment")
    must_answer: bool = _option(
        True,
        "refuse to begin where MLflow does not answer; false: values wait on disk until it does",
    )
    patience: float = _option(
        60.0, "seconds that the end of a study waits for an MLflow that does not get on", low=0
    )
    register: bool = _option(
        True, "register the best learned prompts, chosen by the search, as a version of a model"
    )
    model: str = _option(
        "", "name of that model in the registry; empty: ssprompt- and the study's name"
    )


@dataclass
class Config:
    """A whole study."""

    study: StudyConfig = field(default_factory=StudyConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
