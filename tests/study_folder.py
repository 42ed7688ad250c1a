"""Writes study folders as a study leaves them, with scores of a known law in place of training."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from ssprompt_core.data.support import SupportDraw
from ssprompt_core.methods import METHODS
from ssprompt_platform.config.load import to_dict
from ssprompt_platform.config.schema import Config
from ssprompt_platform.fit_files import fail, record_path, save_shown
from ssprompt_platform.plan import FitKey, Group
from ssprompt_platform.report.front import on_front
from ssprompt_platform.scoring import ShownImage
from ssprompt_platform.search.records import (
    CAUSE,
    DUPLICATE_OF,
    LABELLED,
    METHOD,
    SCORES,
    SECONDS,
    SHOTS,
    open_storage,
)
from ssprompt_platform.search.space import search_space
from ssprompt_platform.storage import StudyFolder, write_json, write_text

Stage = Literal["begun", "searching", "fitting", "finished"]

CLASSES = ("ground", "sky", "box", "ball")
THINGS = (2, 3)
BEGUN = datetime(2026, 3, 1, 9, 0)

# mIoU of a method at n labelled images a class: a - b n ** -c
LAWS: dict[str, tuple[float, float, float]] = {
    "zero_shot": (0.14, 0.0, 1.0),
    "linear_probe": (0.66, 0.22, 0.6),
    "spa": (0.30, 0.10, 0.5),
    "sem": (0.42, 0.20, 0.5),
    "ssprompt": (0.52, 0.26, 0.7),
}
PLANTED = {"num_prompts": 9, "lr_embedding": 0.2, "lr_weight": 0.1, "lr_probe": 0.01}
"""Where the search's score is best; learning rates further off cost more."""


def law(method: str, shots: float) -> float:
    """The mIoU that a method's draws are spread around."""
    a, b, c = LAWS[method]
    return float(a - b * shots**-c)


def write_study(
    root: Path,
    study_id: str = "made",
    *,
    methods: Sequence[str] = ("zero_shot", "linear_probe", "spa", "ssprompt"),
    shots: Sequence[int] = (1, 4, 16),
    draws: int = 5,
    trials: int = 6,
    mode: Literal["per_shot", "pareto"] = "per_shot",
    stage: Stage = "finished",
    failed: Sequence[tuple[str, int, int]] = (),
    things: bool = True,
    remarks: Sequence[str] = (),
    data: str = "scenes",
    test_images: int = 6,
    seed: int = 0,
    better: float = 0.0,
) -> StudyFolder:
    """Write a study's folder.

    Args:
        root: Storage root.
        study_id: Identity of the study.
        methods: Keys of :data:`LAWS`.
        shots: Values of K.
        draws: Support draws.
        trials: Of each search; 0: none. From four on one is pruned, one fails and one is a
            duplicate of the first.
        mode: One search per method and K, or one per method in which K is searched.
        stage: How far the study came: nothing done, half of the search, half of the fits, all.
        failed: Method, K and draw of fits that failed.
        things: Whether the data tells things from stuff.
        remarks: Sentences that tables must carry.
        data: Name of the data; its fingerprint follows from it.
        test_images: Images of the final score.
        seed: Seed of the study: of support images and of all spreads.
        better: What every method that learns gains on its law, on average over draws.
    """
    folder = StudyFolder(root, study_id)
    groups = [Group(method, k) for method in methods for k in shots]
    learning = [group for group in groups if METHODS[group.method].uses_support]
    searched = learning if trials else []
    fits = [FitKey(group.method, group.shots, d) for group in learning for d in range(draws)]
    fits += [FitKey(m, min(shots), 0) for m in methods if not METHODS[m].uses_support]
    config = Config()
    config.study.name = config.study.id = study_id
    config.study.methods, config.study.shots = list(methods), list(shots)
    config.study.draws, config.study.mode, config.study.seed = draws, mode, seed
    config.search.trials = trials
    config.storage.root = str(root)
    labelled = {k: (k + min(k, 4)) * len(CLASSES) * 0.75 for k in shots}
    write_json(
        folder.record,
        {
            "config": to_dict(config),
            "fingerprints": {"data": f"data of {data}", "segmenter": "seg", "text_encoder": "txt"},
            "begun": BEGUN.isoformat(),
            "extensions": [],
            "facts": {
                "data": data,
                "classes": list(CLASSES),
                "things": list(THINGS) if things else [],
                "train_pool": 200,
                "test_images": test_images,
                "test_ids": [f"test-{n}" for n in range(test_images)],
                "labelled": {str(k): labelled[k] for k in shots},
                "support_images": {str(k): [3 * k] * draws for k in shots},
                "model": "small",
                "text_encoder": "small",
                "groups": [[group.method, group.shots] for group in groups],
                "fits": [[key.method, key.shots, key.draw] for key in fits],
                "searched": [[group.method, group.shots] for group in searched],
            },
            "protocol": [
                "Every method is fitted on the same support images.",
                "The test split is scored once per final fit.",
            ],
            "remarks": list(remarks),
        },
    )
    for number in range(draws):
        support = {k: tuple(f"s{seed}-d{number}-i{n}" for n in range(3 * k)) for k in shots}
        draw = SupportDraw(seed + number, support, selection={})
        write_text(folder.draws / f"draw-{number}.json", draw.to_json() + "\n")
    if stage == "begun":
        return folder
    best = _search(folder, searched, labelled, config, half=stage == "searching")
    if stage == "searching":
        return folder
    # nothing is chosen where no trial ended well, or where K is searched and off the front
    chosen = {
        group: best.get(group, {}) for group in groups if group in best or group not in searched
    }
    write_json(folder.best, {group.name: setting for group, setting in chosen.items()})
    fits = [key for key in fits if key.group in chosen]
    done = fits[::2] if stage == "fitting" else fits
    for key in done:
        if (key.method, key.shots, key.draw) in failed:
            fail(folder.fits, key, chosen[key.group], "out of memory: 3 images a step did not fit")
            continue
        pictured = key.draw == 0 and (key.shots == max(shots) or key.group not in learning)
        _fit(folder, key, chosen[key.group], seed, test_images, better, pictured)
    return folder


def _score(method: str, shots: int, params: dict[str, Any], rng: np.random.Generator) -> float:
    """Score on the selection images: the law, less a price for every step off the optimum."""
    loss = 0.0
    for name, value in params.items():
        if name == "num_prompts":
            loss += 0.0 if value == PLANTED[name] else 0.03
        elif name in PLANTED:
            loss += 0.05 * np.log10(value / PLANTED[name]) ** 2
    return float(np.clip(law(method, shots) - loss + rng.normal(0, 0.005), 0.01, 0.99))


def _search(
    folder: StudyFolder,
    searched: Sequence[Group],
    labelled: dict[int, float],
    config: Config,
    half: bool,
) -> dict[Group, dict[str, Any]]:
    """Write the Optuna storage; return the best hyperparameters."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(folder.optuna)
    pareto = config.study.mode == "pareto"
    methods = dict.fromkeys(group.method for group in searched)
    cells: list[tuple[str, list[Group]]] = (
        [(f"{m}-pareto", [g for g in searched if g.method == m]) for m in methods]
        if pareto
        else [(group.name, [group]) for group in searched]
    )
    best: dict[Group, tuple[float, dict[str, Any]]] = {}
    clock = BEGUN
    for number, (name, groups) in enumerate(cells):
        study = optuna.create_study(
            storage=storage,
            study_name=f"{folder.study_id}/{name}",
            directions=["maximize", "minimize"] if pareto else ["maximize"],
        )
        study.set_user_attr(METHOD, groups[0].method)
        if not pareto:
            study.set_user_attr(SHOTS, groups[0].shots)
        space = search_space(groups[0].method, config.search.space, config.train).distributions
        rng = np.random.default_rng([config.study.seed, number])
        count = config.search.trials // 2 if half else config.search.trials
        made: list[FrozenTrial] = []
        for t in range(count):
            group = groups[t % len(groups)]
            trial = _trial(group, t, count, made, labelled, space, rng, pareto)
            trial.datetime_start = clock
            trial.datetime_complete = clock + timedelta(seconds=trial.user_attrs.get(SECONDS, 0.0))
            clock += timedelta(seconds=12)
            made.append(trial)
            if trial.state == TrialState.COMPLETE and DUPLICATE_OF not in trial.user_attrs:
                value = trial.values[0]
                if group not in best or value > best[group][0]:
                    best[group] = (value, _without_shots(trial.params))
        study.add_trials(made)
        if half and not number:
            # killed meanwhile: a trial without an end
            study.ask({**space, SHOTS: CategoricalDistribution([1])} if pareto else space)
    spent = {"minutes": 0.2 * len(cells), "gpu_hours": 0.0, "trial_seconds": 8.0 * len(cells)}
    write_json(folder.spent, {**spent, "ended_by": {}})
    for method in methods if pareto else ():
        own = [group for group in best if group.method == method]
        kept = on_front([(labelled[group.shots], best[group][0]) for group in own])
        for group, on in zip(own, kept, strict=True):
            if not on:
                del best[group]
    return {group: params for group, (_, params) in best.items()}


def _trial(
    group: Group,
    number: int,
    count: int,
    before: Sequence[FrozenTrial],
    labelled: dict[int, float],
    space: dict[str, BaseDistribution],
    rng: np.random.Generator,
    pareto: bool,
) -> FrozenTrial:
    """Of four and more the last three are pruned, failed, and equal to the first."""
    kinds = {count - 1: "duplicate", count - 2: "failed", count - 3: "pruned"}
    kind = kinds.get(number, "complete") if count >= 4 else "complete"
    params = {name: _drawn(distribution, rng) for name, distribution in space.items()}
    shots, value = group.shots, _score(group.method, group.shots, params, rng)
    state, rungs = TrialState.COMPLETE, {n: value * (1 - 0.6**n) for n in (1, 2, 4)}
    attributes: dict[str, Any] = {}
    if kind == "failed":
        state, rungs = TrialState.FAIL, {}
        attributes = {CAUSE: "the loss is not a number at epoch 3", SECONDS: 2.5}
    elif kind == "pruned":
        state, rungs = TrialState.PRUNED, {1: rungs[1]}
        attributes, value = {SECONDS: 4.0}, rungs[1]
    elif kind == "duplicate":
        twin, rungs = before[0], {}
        params, shots = _without_shots(twin.params), twin.params.get(SHOTS, shots)
        attributes, value = {DUPLICATE_OF: 0, SCORES: twin.user_attrs[SCORES]}, twin.values[0]
    else:
        attributes = {SECONDS: round(8 + 4 * float(rng.uniform()), 2), SCORES: [value]}
    attributes[LABELLED] = labelled[shots]
    if pareto:
        params = {**params, SHOTS: shots}
        space = {**space, SHOTS: CategoricalDistribution(list(labelled))}
    values = [value, labelled[shots]] if pareto else [value]
    # Optuna keeps no values of a failed trial, and none of a pruned one with two objectives
    untold = state == TrialState.FAIL or (pareto and state == TrialState.PRUNED)
    return create_trial(
        state=state,
        values=None if untold else values,
        params=params,
        distributions=space,
        user_attrs=attributes,
        intermediate_values={} if pareto else rungs,
    )


def _drawn(distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(rng.integers(len(distribution.choices)))]
    assert isinstance(distribution, FloatDistribution)
    low, high = np.log(distribution.low), np.log(distribution.high)
    return float(np.exp(rng.uniform(low, high)))


def _without_shots(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name != SHOTS}


def fit_record(
    key: FitKey, best: dict[str, Any], seed: int, test_images: int, better: float = 0.0
) -> dict[str, Any]:
    """The record of a finished fit; draws share a part of their luck, as real ones do."""
    uses_support = METHODS[key.method].uses_support
    luck = np.random.default_rng([seed, key.draw, key.shots]).normal(0, 0.02)
    rng = np.random.default_rng([seed, key.draw, key.shots, list(METHODS).index(key.method)])
    around = law(key.method, key.shots)
    if uses_support:
        around += luck + rng.normal(0, 0.01)
        # another study gains more on some draws than on others
        around += better * (1 + 0.3 * np.random.default_rng([seed, key.draw, 9]).normal())
    iou: list[float | None] = [
        float(np.clip(around + offset + 0.02 * rng.normal(), 0.01, 0.99))
        for offset in (0.1, 0.05, -0.05, -0.1)
    ]
    known = [value for value in iou if value is not None]
    epochs = range(1, 6) if uses_support else ()
    return {
        "status": "done",
        "method": key.method,
        "shots": key.shots,
        "draw": key.draw,
        "seed": 1000 + key.draw,
        "miou": float(np.mean(known)),
        "iou": iou,
        "image_miou": [
            float(np.clip(around + 0.1 * rng.normal(), 0, 1)) for _ in range(test_images)
        ],
        "hyperparameters": best,
        "trainable_parameters": 970 if uses_support else 0,
        "support_images": 3 * key.shots,
        "history": [
            {"epoch": float(epoch), "loss": float(np.exp(-0.3 * epoch)) + 0.2} for epoch in epochs
        ],
        "best_epoch": None,
        "stopped_early": False if uses_support else None,
        "seconds": {"fit": 1.5 * key.shots if uses_support else 0.0, "score": 0.8},
    }


def shown_images(key: FitKey, miou: float, count: int = 4, side: int = 24) -> list[ShownImage]:
    """Squares on a ground; a method predicts its share of each square right, by its mIoU."""
    shown = []
    for number in range(count):
        rng = np.random.default_rng([number])
        truth = np.zeros((side, side + 2 * number), np.uint8)
        for class_id in (1, 2, 3):
            y, x = rng.integers(0, side // 2, 2)
            truth[y : y + side // 3, x : x + side // 3] = class_id
        truth[-1] = 255
        predicted = np.where(rng.random(truth.shape) < miou, truth, 0).astype(np.uint8)
        predicted[-1] = 0
        image = (40 + 60 * np.minimum(truth, 3)[..., None] + rng.integers(0, 20, 3)).astype(
            np.uint8
        )
        shown.append(ShownImage(f"test-{number}", image, truth, predicted, miou))
    return shown


def _fit(
    folder: StudyFolder,
    key: FitKey,
    best: dict[str, Any],
    seed: int,
    test_images: int,
    better: float,
    pictured: bool,
) -> None:
    record = fit_record(key, best, seed, test_images, better)
    if pictured:
        save_shown(folder.fits, key, shown_images(key, record["miou"]))
    write_json(record_path(folder.fits, key), record)
