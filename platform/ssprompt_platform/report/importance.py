"""Which hyperparameters mattered in a search: fANOVA over its finished trials, or why not."""

from __future__ import annotations

from dataclasses import dataclass

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from ssprompt_platform.report.thinned import evenly
from ssprompt_platform.search.records import DUPLICATE_OF, METHOD, SHOTS, read_studies
from ssprompt_platform.storage import StudyFolder

LEAST_TRIALS = 8
"""Finished trials below which nothing is said: the shares would be those of the noise."""

MOST_TRIALS = 250
"""The time of the analysis grows with the square of the trials."""


@dataclass(frozen=True)
class Importance:
    """Importance of hyperparameters by search.

    Attributes:
        shares: Search -> hyperparameter -> share of the scores' variance over its own range that
            it explains by itself, made to sum to 1 (functional ANOVA of a random forest, Hutter
            et al. 2014). Hyperparameters that only some trials have are left out.
        untold: Search -> why nothing can be said.
    """

    shares: dict[str, dict[str, float]]
    untold: dict[str, str]


def importances(folder: StudyFolder) -> Importance:
    """Importance in every search of a study."""
    found = Importance({}, {})
    for study in read_studies(folder).values():
        shots = study.user_attrs.get(SHOTS)
        name = f"{study.user_attrs[METHOD]}, " + ("all K" if shots is None else f"K = {shots}")
        answer = _shares(study)
        if isinstance(answer, str):
            found.untold[name] = answer
        else:
            found.shares[name] = answer
    return found


def _shares(study: optuna.Study) -> dict[str, float] | str:
    trials = [
        trial
        for trial in study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        if DUPLICATE_OF not in trial.user_attrs
    ]
    if len(trials) < LEAST_TRIALS:
        return f"{len(trials)} finished trials, fewer than {LEAST_TRIALS}"
    scores = [trial.values[0] for trial in trials]
    if max(scores) == min(scores):
        return "every trial has the same score"
    # an equal trial that was not run again would count twice: a study without such
    distinct = optuna.create_study(directions=study.directions)
    distinct.add_trials(evenly(trials, MOST_TRIALS))
    shares = get_param_importances(
        distinct, evaluator=FanovaImportanceEvaluator(seed=0), target=lambda trial: trial.values[0]
    )
    return shares or "no hyperparameter is common to all trials"
