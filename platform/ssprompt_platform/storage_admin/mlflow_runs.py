"""Which runs and models MLflow knows: artifacts of others are nobody's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import requests
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from ssprompt_core.errors import UserError
from ssprompt_platform.doctor.tracking import SECONDS, impatient, shown
from ssprompt_platform.servers.database import check_database
from ssprompt_platform.tracking.runs import STUDY_TAG, UID_TAG

Kind = Literal["run", "model"]

_PAGE = 1000
_ANSWER_SECONDS = 60.0
"""A page of runs takes a while on a large database."""
_SQLITE = "sqlite:///"
_RUN = re.compile(r"[0-9a-f]{32}")
_MODEL = re.compile(r"m-[0-9a-f]{32}")
_DEEPEST = 2
"""Folders above a run's own: a server puts the experiment's id there."""


@dataclass
class Known:
    """What MLflow knows.

    Attributes:
        runs: Ids of runs that are there, with what names the study that each is of.
        deleted: Ids of runs that were deleted and could still be restored.
        models: Ids of models that are there, with the run that each came from.
        held: Ids of runs and models that a version of a registered model needs.
        studies: Names and identities of all studies that some run, deleted or not, is of.
        complete: Whether nobody else is to be asked.
    """

    runs: dict[str, frozenset[str]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    models: dict[str, str] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    studies: set[str] = field(default_factory=set)
    complete: bool = True

    def merge(self, other: Known) -> None:
        """Add what another MLflow knows."""
        self.runs |= other.runs
        self.deleted |= other.deleted
        self.models |= other.models
        self.held |= other.held
        self.studies |= other.studies

    def has(self, identity: str) -> bool:
        """Whether a run or model is there, or is needed by a registered one."""
        return identity in self.runs or identity in self.models or identity in self.held

    def knows(self, identity: str) -> bool:
        """Whether it was ever heard of."""
        return self.has(identity) or identity in self.deleted

    def of_study(self, name: str) -> set[str]:
        """Ids of a study's runs and of the models that came from them.

        Args:
            name: The study's identity, or, of one that has none, its id.
        """
        runs = {run for run, names in self.runs.items() if name in names}
        return runs | {model for model, run in self.models.items() if run in runs}


def owner_of(parts: tuple[str, ...]) -> tuple[Kind, str] | None:
    """The run or model that an artifact belongs to, by its path; None: not to be told.

    Args:
        parts: Names from the place of artifacts on.
    """
    for depth, name in enumerate(parts[: _DEEPEST + 1]):
        below = parts[depth + 1 : depth + 3]
        if _RUN.fullmatch(name) and below[:1] == ("artifacts",):
            return "run", name
        if name == "models" and len(below) == 2 and _MODEL.fullmatch(below[0]):
            return "model", below[0]
    return None


def ask(uris: Iterable[str]) -> Known:
    """Ask every MLflow what it knows.

    Args:
        uris: Tracking servers or databases.

    Raises:
        UserError: One of them does not answer: then nobody's and somebody's cannot be told apart.
    """
    known = Known()
    for uri in dict.fromkeys(uris):
        known.merge(_ask(uri))
    return known


def is_there(uri: str) -> bool:
    """Whether there may be an MLflow: a sqlite file that was never made knows nothing."""
    return not uri.startswith(_SQLITE) or Path(uri.removeprefix(_SQLITE)).is_file()


def _ask(uri: str) -> Known:
    try:
        _check(uri)
        with impatient(_ANSWER_SECONDS):
            return _everything(MlflowClient(tracking_uri=uri, registry_uri=uri))
    except (
        MlflowException,
        SQLAlchemyError,
        requests.RequestException,
    ) as error:
        raise UserError(
            f"MLflow at {shown(uri)} does not tell its runs ({type(error).__name__}), without "
            "which no artifact can be called nobody's; start it, or name others with --uri"
        ) from None


def _check(uri: str) -> None:
    """Fail soon: MLflow's own client would try for minutes."""
    if uri.startswith(("http://", "https://")):
        requests.get(f"{uri.rstrip('/')}/health", timeout=SECONDS).raise_for_status()
    elif not uri.startswith(_SQLITE):
        check_database(uri, "tracking.uri")
    elif not is_there(uri):
        raise UserError(f"--uri {uri}: there is no such file")


def _everything(client: MlflowClient) -> Known:
    known = Known()
    found = list(
        _pages(
            lambda token: client.search_experiments(
                view_type=ViewType.ALL, max_results=_PAGE, page_token=token
            )
        )
    )
    gone = {each.experiment_id for each in found if each.lifecycle_stage != "active"}
    for experiment in found:
        _runs(client, experiment.experiment_id, known)
        if experiment.experiment_id not in gone:
            _models(client, experiment.experiment_id, known)
    _registered(client, known)
    return known


def _runs(client: MlflowClient, experiment: str, known: Known) -> None:
    for run in _pages(
        lambda token: client.search_runs(
            [experiment], run_view_type=ViewType.ALL, max_results=_PAGE, page_token=token
        )
    ):
        names = {run.data.tags[tag] for tag in (STUDY_TAG, UID_TAG) if tag in run.data.tags}
        known.studies |= names
        if run.info.lifecycle_stage == "active":
            known.runs[run.info.run_id] = frozenset(names)
        else:
            known.deleted.add(run.info.run_id)


def _models(client: MlflowClient, experiment: str, known: Known) -> None:
    for model in _pages(
        lambda token: client.search_logged_models([experiment], max_results=_PAGE, page_token=token)
    ):
        known.models[model.model_id] = model.source_run_id or ""


def _registered(client: MlflowClient, known: Known) -> None:
    """What a registered version is loaded from stays, whatever became of its run."""
    for version in _pages(
        lambda token: client.search_model_versions(max_results=_PAGE, page_token=token)
    ):
        told = " ".join(str(t) for t in (version.run_id, version.source, version.model_id) if t)
        known.held |= set(re.findall(r"m-[0-9a-f]{32}|(?<![0-9a-f])[0-9a-f]{32}", told))


def _pages(page: Callable[[str | None], Any]) -> Iterator[Any]:
    token: str | None = None
    while True:
        found = page(token)
        yield from found
        token = found.token
        if not token:
            return
