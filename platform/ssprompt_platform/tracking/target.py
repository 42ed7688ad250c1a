"""Which MLflow a study is told to, and whether it answers."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from ssprompt_core.errors import UserError
from ssprompt_platform.servers.database import check_database
from ssprompt_platform.storage import Place, S3Path, StudyFolder, local_root
from ssprompt_platform.tracking.secrets import without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ssprompt_platform.config.schema import Config

DATABASE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"
VARIABLE = "MLFLOW_TRACKING_URI"
_OPTION = "tracking.uri"
_CONNECT_SECONDS = 5.0
_DATABASES = ("postgresql", "mysql", "mssql", "sqlite")
_CLIENT = {
    # MLflow's own patience is minutes for a request: here the values wait on disk instead
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "PGCONNECT_TIMEOUT": "5",
}
_TALKATIVE = {
    # its first words on a new database are about tables, not about the study
    "mlflow": logging.ERROR,
    "alembic": logging.WARNING,
    # an outage is told once, in a sentence; not with a traceback a try
    "mlflow.store": logging.CRITICAL,
    "urllib3.connectionpool": logging.ERROR,
    "sqlalchemy.pool": logging.CRITICAL,
}


@dataclass(frozen=True)
class Target:
    """An MLflow and the experiment in it.

    Attributes:
        uri: Tracking server or database; may hold a password that the environment gave.
        experiment: Name of the experiment.
        artifacts: Where a new experiment keeps its artifacts; None: where the server says.
        given_by: The option or variable that names the address; empty: nothing did.
    """

    uri: str
    experiment: str
    artifacts: str | None
    given_by: str

    @property
    def shown(self) -> str:
        """The address as it may be shown and kept."""
        return without_password(self.uri)

    @property
    def served(self) -> bool:
        """Whether it is a server; else this process writes to the database itself."""
        return self.uri.startswith(("http://", "https://"))

    @property
    def mark(self) -> str:
        """Names what is remembered of this target, the same for the same address."""
        text = f"{self.shown.rstrip('/')}\n{self.experiment}"
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def reachable(self) -> None:
        """Knock at its port, without a request; a file has none.

        Raises:
            ConnectionError: Nothing answers there; the message is half a sentence.
        """
        parts = urlsplit(self.uri)
        port = parts.port or {"http": 80, "https": 443, "mysql": 3306, "mssql": 1433}.get(
            parts.scheme.partition("+")[0], 5432
        )
        if not parts.hostname or _database(self.uri) == "sqlite":
            return
        place = f"{parts.hostname}:{port}"
        try:
            with socket.create_connection((parts.hostname, port), _CONNECT_SECONDS):
                return
        except socket.gaierror as error:
            raise ConnectionError(f"there is no host named '{parts.hostname}'") from error
        except TimeoutError as error:
            raise ConnectionError(
                f"{place} did not answer within {_CONNECT_SECONDS:g} seconds"
            ) from error
        except OSError as error:
            raise ConnectionError(f"nothing answers at {place}") from error

    def connect(self) -> MlflowClient:
        """A client; the import of MLflow takes a second, the first one of a database some more."""
        for name, value in _CLIENT.items():
            # what the user has set stays
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        # after the import, which sets levels of its own
        for name, level in _TALKATIVE.items():
            logging.getLogger(name).setLevel(level)
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)


def tracking_uri(config: Config, folder: StudyFolder) -> str:
    """Where MLflow keeps its runs; it may hold a password that the environment gave."""
    return target_of(config.tracking.uri, config.tracking.experiment, folder.root).uri


def target_of(uri: str, experiment: str, root: Place) -> Target:
    """The MLflow that options and environment name.

    Args:
        uri: ``tracking.uri``; where it is empty, ``MLFLOW_TRACKING_URI`` of the environment; where
            that is empty too, a sqlite file: in the storage root, or, where that is a bucket, in
            the folder ``runs``.
        experiment: ``tracking.experiment``.
        root: The storage root; a database that this process writes to itself keeps artifacts there.
    """
    variable = os.environ.get(VARIABLE, "").strip()
    given_by = _OPTION if uri else VARIABLE if variable else ""
    folder = local_root("runs") if isinstance(root, S3Path) else root
    resolved = uri or variable or f"sqlite:///{folder / DATABASE}"
    place = root / ARTIFACTS
    artifacts = place.as_uri() if isinstance(place, Path) else str(place)
    served = resolved.startswith(("http://", "https://", "databricks"))
    return Target(resolved, experiment, None if served else artifacts, given_by)


def check_target(target: Target, *, must_answer: bool) -> None:
    """Refuse an address that is wrong, or, where it must answer, one that does not.

    A sqlite file that is still to be made is not made here: that takes seconds, and can wait.

    Raises:
        UserError: The address is wrong, nobody answers there, or the answer is no MLflow's; or the
            experiment was deleted.
    """
    _check_form(target)
    if not must_answer or (_is_new_file(target) and not target.given_by):
        return
    try:
        target.reachable()
    except ConnectionError as error:
        raise UserError(
            f"{target.given_by} is {target.shown}, but {error}; mend it, start the server, or let "
            "values wait on disk until it answers: tracking.must_answer=false"
        ) from None
    name = target.given_by or target.shown
    if _database(target.uri):
        check_database(target.uri, name)
    _check_experiment(target, name)


def _check_form(target: Target) -> None:
    if not target.experiment.strip():
        raise UserError("tracking.experiment is empty, but must name an MLflow experiment")
    if target.given_by == _OPTION and target.shown != target.uri:
        raise UserError(
            f"tracking.uri is {target.shown}: its password would be kept with the study; leave it "
            "out and give it by the environment"
        )
    parts = urlsplit(target.uri)
    known = parts.scheme in ("http", "https") or _database(target.uri)
    if target.uri.startswith("databricks") or (known and "://" in target.uri):
        try:
            _ = parts.port
        except ValueError:
            raise UserError(
                f"{target.given_by} is {target.shown}, whose port is no number; write "
                "http://host:5000"
            ) from None
        if parts.scheme in ("http", "https") and not parts.hostname:
            raise UserError(f"{target.given_by} is {target.shown}, which names no host")
        return
    raise UserError(
        f"{target.given_by} is '{target.shown}', but must be the address of an MLflow server "
        "(http://host:5000) or of a database (postgresql://user@host/name, "
        "sqlite:////folder/mlflow.db); MLflow keeps no runs in folders any more"
    )


def _check_experiment(target: Target, name: str) -> None:
    from ssprompt_platform.tracking.faults import why

    try:
        found: Any = target.connect().get_experiment_by_name(target.experiment)
    except Exception as error:  # noqa: BLE001  (whatever MLflow raises: it cannot be used)
        raise UserError(f"{name} is {target.shown}, but {why(error, target)}") from None
    if found is not None and found.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking.experiment is '{target.experiment}', which was deleted in MLflow; choose "
            "another, or restore it: mlflow experiments restore --experiment-id "
            f"{found.experiment_id}"
        )


def _database(uri: str) -> str:
    """Kind of a database's address; empty for another one."""
    kind = urlsplit(uri).scheme.partition("+")[0]
    return kind if kind in _DATABASES else ""


def _is_new_file(target: Target) -> bool:
    if _database(target.uri) != "sqlite":
        return False
    path = unquote(urlsplit(target.uri).path)[1:]
    return bool(path) and not Path(path).exists()
