"""What a search trial is made of: fits of the method on support draws, scored on their folds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ssprompt_core.methods import FewShotModel
from ssprompt_core.train.state import TrainState
from ssprompt_platform.bench import Bench
from ssprompt_platform.plan import Fold, StudyPlan, derive_seed
from ssprompt_platform.scoring import confusion
from ssprompt_platform.search.space import fit_overrides
from ssprompt_platform.search.trial import OnEpoch, TrialTask


@dataclass(frozen=True)
class TrainedWork:
    """Fits and scores with the frozen model; see :class:`ssprompt_platform.search.trial.Work`.

    Attributes:
        bench: Data without test labels, embeddings and model.
        all_folds: What is fitted and scored for each (draw number, K).
        draws: Support draws of the search.
        seed: Seed of the study: equal draws start every trial from equal numbers.
        rank: Of this worker among those that share the trial.
        world_size: How many share it.
    """

    bench: Bench
    all_folds: dict[tuple[int, int], tuple[Fold, ...]]
    draws: int
    seed: int
    rank: int = 0
    world_size: int = 1

    @classmethod
    def of(cls, bench: Bench, plan: StudyPlan, seed: int) -> TrainedWork:
        """The work of a study's search."""
        return cls(bench, plan.folds, 1 + max((draw for draw, _ in plan.folds), default=-1), seed)

    def shared(self, rank: int, world_size: int) -> TrainedWork:
        """The part of one of several workers that share a trial."""
        return replace(self, rank=rank, world_size=world_size)

    def folds(self, draw: int, shots: int) -> int:
        """Fits that the score of a draw is pooled over."""
        return len(self.all_folds[draw, shots])

    def fit(
        self, task: TrialTask, draw: int, fold: int, on_epoch: OnEpoch, state: TrainState | None
    ) -> FewShotModel:
        """Fit one fold of a support draw."""
        bench, shots = self.bench, task.group.shots
        # equal for all trials of a fold: settings are compared, not luck
        seed = derive_seed(self.seed, shots, draw, *([fold] if fold else []))
        model = bench.model(task.group, task.hyperparameters, seed)
        bench.fit(
            model,
            self.all_folds[draw, shots][fold].fit_ids,
            overrides=fit_overrides(task.hyperparameters),
            epochs=task.epochs,
            seed=seed,
            checkpoint_every=bench.train.checkpoint_every,
            report=lambda metrics, reached: on_epoch(metrics, reached, model),
            get_checkpoint=lambda: state,
        )
        return model

    def confusion(
        self, fitted: FewShotModel, task: TrialTask, draw: int, fold: int
    ) -> NDArray[np.int64]:
        """Confusion matrix ``[C, C]`` over the images that the fold is scored on."""
        ids = self.all_folds[draw, task.group.shots][fold].score_ids
        return confusion(self.bench, fitted, ids, self.rank, self.world_size)
