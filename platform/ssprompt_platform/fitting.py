"""What a worker does with final fits: train them, alone or as one batch, score and keep them."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from ssprompt_core.methods import METHODS, FewShotModel
from ssprompt_core.methods.saved import save_prompts
from ssprompt_core.train.fit import FitResult
from ssprompt_core.train.state import TrainState
from ssprompt_core.train.together import fit_together
from ssprompt_platform import checkpoints
from ssprompt_platform.bench import Bench
from ssprompt_platform.causes import DivergedError, cause_of
from ssprompt_platform.config.schema import TrainConfig
from ssprompt_platform.fit_files import (
    Best,
    fail,
    prompts_path,
    record_path,
    running_path,
    save_shown,
    settled,
)
from ssprompt_platform.fit_info import describe_fit
from ssprompt_platform.plan import FitKey, StudyPlan, derive_seed
from ssprompt_platform.scoring import score_test
from ssprompt_platform.search.space import fit_overrides
from ssprompt_platform.storage import Place, StorageError, write_json, write_whole

WORST = 4
"""Test images of lowest score that are kept for pictures, beside those pictured for all methods."""
_TOGETHER = {"cpu": 1, "cuda": 8}
"""Fits of a batch where ``train.fits_together`` is 0. A CPU gains little or nothing by more, and
keeps equal bits by one: who shares a batch depends on what is left to do."""


@dataclass(frozen=True)
class FinalBench:
    """What the workers of the final run need.

    Attributes:
        bench: Data, embeddings and model.
        plan: Fits, support draws and test images.
        best: Chosen hyperparameters of every group.
        seed: Seed of the study.
        fits: Folder of the fits' files.
        pictured: Test images whose predictions are kept for pictures.
    """

    bench: Bench
    plan: StudyPlan
    best: Best
    seed: int
    fits: Place
    pictured: tuple[str, ...]

    def shows(self, key: FitKey) -> bool:
        """Whether pictures show this fit: draw 0 at the largest K, or a method without a K."""
        largest = max(group.shots for group in self.plan.groups)
        return key.draw == 0 and (key.shots == largest or not METHODS[key.method].uses_support)


def fits_together(train: TrainConfig, device: str) -> int:
    """How many fits of one method and K a worker trains as one batch, at most."""
    return train.fits_together or _TOGETHER.get(device, 1)


def try_fits(tools: FinalBench, keys: Sequence[FitKey]) -> None:
    """Do fits of one method and K as one batch; one that fails is recorded with its cause.

    Where the batch fails as a whole (its memory, or one of its fits), each goes on alone from its
    checkpoint, so that the cause is found and falls on nobody else.
    """
    if len(keys) > 1:
        _guarded(lambda: _run_fits(tools, keys))
    for key in keys:
        if not settled(tools.fits, key):
            try_fit(tools, key)


def try_fit(tools: FinalBench, key: FitKey) -> None:
    """Do a fit; one that raises is recorded as failed with its cause."""
    _record(tools, key, lambda: run_fit(tools, key))


def run_fit(tools: FinalBench, key: FitKey) -> None:
    """Fit, score once on the test split and keep the result; the JSON comes last.

    Raises:
        DivergedError: The loss became infinite or NaN.
    """
    under_way = _Fitting.begin(tools, key)
    fitted = None
    if under_way.uses_support:
        model, support_ids, named = under_way.to_train()
        fitted = tools.bench.fit(model, support_ids, **named)
    under_way.finish(fitted)


def _run_fits(tools: FinalBench, keys: Sequence[FitKey]) -> None:
    """Train fits as one batch, then score and keep each."""
    under_way = [_Fitting.begin(tools, key, share=len(keys)) for key in keys]
    fits = []
    for each in under_way:
        model, support_ids, named = each.to_train()
        fits.append(tools.bench.prepared(model, support_ids, **named))
    results = fit_together(fits)
    for each in under_way:
        each.stop_clock()
    for each, result in zip(under_way, results, strict=True):
        _record(tools, each.key, partial(each.finish, result))


def _record(tools: FinalBench, key: FitKey, do: Callable[[], None]) -> None:
    cause = _guarded(do)
    if cause is not None:
        fail(tools.fits, key, tools.best[key.group], cause)


def _guarded(do: Callable[[], None]) -> str | None:
    """Do something; return the cause where it fails by a fault of its own."""
    try:
        do()
        return None
    except StorageError:
        raise  # no fault of the fit: it goes on when the storage is back
    except Exception as error:  # noqa: BLE001  (whatever it is: kept and shown, the others go on)
        cause = cause_of(error)
    # the error is gone now, and with it the tensors that its traceback held
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return cause


@dataclass
class _Fitting:
    """A fit under way.

    Attributes:
        tools: Of the worker.
        key: Which fit it is.
        model: What is trained.
        seed: Of the fit.
        share: How many fits share the worker's time until the clock is stopped.
        history: What each epoch reported.
        state: What to go on from, or None.
        before: Seconds of the parts before this one, up to the state.
        since: When this part began, on the monotonic clock.
        stopped: When it ended, or None.
    """

    tools: FinalBench
    key: FitKey
    model: FewShotModel
    seed: int
    share: int
    history: list[dict[str, float | None]] = field(default_factory=list)
    state: TrainState | None = None
    before: float = 0.0
    since: float = field(default_factory=lambda: time.monotonic())
    stopped: float | None = None

    @classmethod
    def begin(cls, tools: FinalBench, key: FitKey, share: int = 1) -> _Fitting:
        """Make the model; take what a worker before left, if it had the same hyperparameters."""
        seed = derive_seed(tools.seed, key.shots, key.draw)
        model = tools.bench.model(key.group, tools.best[key.group], seed)
        found = checkpoints.load(running_path(tools.fits, key))
        if found is None or found[0]["hyperparameters"] != dict(tools.best[key.group]):
            return cls(tools, key, model, seed, share)
        progress, state = found
        return cls(tools, key, model, seed, share, progress["history"], state, progress["seconds"])

    @property
    def uses_support(self) -> bool:
        """Whether there is anything to fit."""
        return METHODS[self.key.method].uses_support

    @property
    def support_ids(self) -> Sequence[str]:
        """The labelled images."""
        return self.tools.plan.draws[self.key.draw].support[self.key.shots]

    def seconds_so_far(self) -> float:
        """Seconds of all parts; what a killed one did after its last checkpoint does not count."""
        until = time.monotonic() if self.stopped is None else self.stopped
        return self.before + (until - self.since) / self.share

    def stop_clock(self) -> None:
        """What follows is no time of training."""
        self.stopped = time.monotonic()

    def to_train(self) -> tuple[FewShotModel, Sequence[str], dict[str, Any]]:
        """What :meth:`Bench.fit` takes."""
        train, hyperparameters = self.tools.bench.train, self.tools.best[self.key.group]
        return (
            self.model,
            self.support_ids,
            {
                "overrides": fit_overrides(hyperparameters),
                "epochs": train.epochs,
                "seed": self.seed,
                "checkpoint_every": train.checkpoint_every,
                "report": self.report,
                "get_checkpoint": lambda: self.state,
            },
        )

    def report(self, metrics: dict[str, float], state: TrainState | None) -> None:
        """Keep history and state at every checkpoint."""
        # JSON has no NaN: a value of a diverged epoch becomes null
        self.history.append({k: v if math.isfinite(v) else None for k, v in metrics.items()})
        if state is not None:
            progress = {
                "hyperparameters": dict(self.tools.best[self.key.group]),
                "history": self.history,
                "seconds": self.seconds_so_far(),
            }
            checkpoints.save(running_path(self.tools.fits, self.key), progress, state)

    def finish(self, fitted: FitResult | None) -> None:
        """Score once on the test split and keep the result; the JSON comes last.

        Args:
            fitted: What training came to; None where there was nothing to train.

        Raises:
            DivergedError: The loss became infinite or NaN.
        """
        if fitted is not None and not math.isfinite(fitted.loss):
            raise DivergedError(fitted.epochs, fitted.loss)
        tools, key, model = self.tools, self.key, self.model
        bench, plan, hyperparameters = tools.bench, tools.plan, tools.best[key.group]
        fit_seconds = self.seconds_so_far()
        scoring = time.monotonic()
        shows = tools.shows(key)
        test = score_test(
            bench, model, plan.test_ids, tools.pictured if shows else (), WORST if shows else 0
        )
        scored = time.monotonic() - scoring
        if shows:
            save_shown(tools.fits, key, test.shown)
        info = describe_fit(
            bench,
            key,
            seed=self.seed,
            hyperparameters=hyperparameters,
            support_ids=self.support_ids if self.uses_support else (),
            test_ids=plan.test_ids,
            result=test.score,
        )
        write_whole(prompts_path(tools.fits, key), lambda path: save_prompts(path, model, info))
        write_json(
            record_path(tools.fits, key),
            {
                "method": key.method,
                "shots": key.shots,
                "draw": key.draw,
                "status": "done",
                "seed": self.seed,
                "miou": test.score.miou,
                "iou": _finite(test.score.iou),
                "image_miou": _finite(test.score.image_miou),
                "hyperparameters": dict(hyperparameters),
                "trainable_parameters": model.trainable_parameters(),
                "support_images": len(self.support_ids),
                "history": self.history,
                "best_epoch": None if fitted is None else fitted.best_epoch,
                "stopped_early": None if fitted is None else fitted.stopped,
                "seconds": {"fit": fit_seconds, "score": scored},
            },
        )
        checkpoints.clear(running_path(tools.fits, key))


def _finite(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """JSON has no NaN, which marks a class or image without a score: it becomes null."""
    return [None if np.isnan(value) else float(value) for value in values]
