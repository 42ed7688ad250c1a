"""Whether MLflow answers, is of a fitting version and takes runs and artifacts."""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from ssprompt_core.errors import UserError
from ssprompt_platform.doctor.bucket_probe import BucketProbe, seconds_ahead
from ssprompt_platform.doctor.findings import (
    Finding,
    State,
    Subject,
    clock,
    fail,
    of_sentence,
    ok,
    warn,
)
from ssprompt_platform.doctor.folder_probe import probe_folder
from ssprompt_platform.doctor.probes import PROBE
from ssprompt_platform.servers.database import check_database
from ssprompt_platform.storage import S3Path
from ssprompt_platform.tracking.target import check_target, target_of

SECONDS = 5.0
"""How long an answer is waited for."""
_CLOCK_SECONDS = 300.0
"""Times of runs are told by this machine; a larger difference would puzzle."""
_HTTP = ("http://", "https://")


def mlflow(subject: Subject) -> Iterator[Finding]:
    """The tracking server or database of a study."""
    tracking = subject.config.tracking
    target = target_of(tracking.uri, tracking.experiment, subject.root)
    try:
        check_target(target, must_answer=False)
    except UserError as error:
        yield of_sentence("MLflow", str(error))
        return
    if target.served:
        findings = list(_server(target.uri, _Down(tracking.must_answer)))
        yield from findings
        if findings[0].state is not State.OK:
            return
    elif target.uri.startswith("sqlite:"):
        path = Path(target.uri.removeprefix("sqlite:///"))
        finding = _sqlite(path)
        yield finding
        if finding.state is not State.OK or not path.is_file():
            return
    else:
        try:
            check_database(target.uri, target.given_by)
        except UserError as error:
            yield _Down(tracking.must_answer).finding(str(error), "start the database")
            return
        yield ok("MLflow", f"the database of {target.given_by} answers")
    yield from _experiment(target.uri, subject)


@dataclass(frozen=True)
class _Down:
    """What it means that nobody answers.

    Attributes:
        fatal: Whether the study must find MLflow when it begins (``tracking.must_answer``).
    """

    fatal: bool

    def finding(self, found: str, mend: str) -> Finding:
        """The line about it."""
        later = "; until then values wait on disk, and jobs/tracking.py sync sends them"
        either = ", or let values wait on disk until it answers: tracking.must_answer=false"
        state = State.FAIL if self.fatal else State.WARN
        return Finding("MLflow", state, found, mend + (either if self.fatal else later))


def _server(uri: str, down: _Down) -> Iterator[Finding]:
    """Whether a server answers, as what, and when it thinks it is."""
    where = shown(uri)
    before = time.time()
    try:
        health = _get(uri, "/health")
        version = _get(uri, "/version")
    except requests.RequestException as error:
        found = f"{where} does not answer ({type(error).__name__})"
        yield down.finding(found, "start it (make mlflow), or mend tracking.uri")
        return
    after = time.time()
    if health.status_code in (401, 403):
        what = (
            "sends everybody away (HTTP 403)" if health.status_code == 403 else "asks who you are"
        )
        yield fail(
            "MLflow",
            f"{where} {what}",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN; "
            "a server started with --allowed-hosts must name this one",
        )
        return
    if health.status_code != 200 or health.text.strip() != "OK":
        yield fail(
            "MLflow",
            f"what answers at {where} is no MLflow (HTTP {health.status_code})",
            "mend tracking.uri: http://host:5000",
        )
        return
    yield _version(where, version.text.strip() if version.status_code == 200 else "")
    ahead = seconds_ahead(version.headers.get("date"), before, after)
    if ahead is not None:
        yield clock("MLflow clock", ahead, where, _CLOCK_SECONDS)


def _version(where: str, there: str) -> Finding:
    import mlflow as client

    here = client.__version__
    found = f"{where} answers: MLflow {there or 'of an unknown version'}, here {here}"
    if there and there.split(".")[:2] != here.split(".")[:2]:
        # both speak, but not of everything
        return Finding(
            "MLflow",
            State.OK,
            f"{found}; use the same version on both sides if runs lack something",
        )
    return ok("MLflow", found)


def _sqlite(path: Path) -> Finding:
    """Whether a file takes what MLflow writes; it is made by the first study."""
    name = "MLflow"
    try:
        probe_folder(path.parent, "tracking.uri")
    except UserError as error:
        return of_sentence(name, str(error))
    if not path.is_file():
        return ok(name, f"the sqlite file {path} will be made")
    try:
        # an own connection for the lock alone: nothing is written
        with closing(sqlite3.connect(path, timeout=SECONDS, isolation_level=None)) as base:
            base.execute("BEGIN IMMEDIATE")
            base.execute("ROLLBACK")
    except sqlite3.Error as error:
        return fail(
            name,
            f"the sqlite file {path} cannot be written: {error}",
            "end what holds it (fuser), mend its mode, or restore it from a copy",
        )
    return ok(name, f"the sqlite file {path} takes writes")


def _experiment(uri: str, subject: Subject) -> Iterator[Finding]:
    """Whether the experiment is there and takes what a study tells."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    wanted = subject.config.tracking.experiment
    name = "MLflow experiment"
    try:
        with impatient():
            client = MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(wanted)
            if found is not None and found.lifecycle_stage == "active":
                client.set_experiment_tag(
                    found.experiment_id, "doctor.seconds", f"{time.time():.0f}"
                )
    except (MlflowException, requests.RequestException) as error:
        yield _refused(name, wanted, error)
        return
    if found is None:
        yield ok(name, f"'{wanted}' will be made by the study")
        place = ""
    elif found.lifecycle_stage != "active":
        yield fail(
            name,
            f"'{wanted}' is deleted, but keeps its name",
            f"mlflow experiments restore --experiment-id {found.experiment_id}, or choose "
            "another tracking.experiment",
        )
        return
    else:
        place = str(found.artifact_location)
        yield ok(name, f"'{wanted}' takes tags; its artifacts go to {shown(place)}")
    yield from _artifacts(uri, place, subject)


def _refused(name: str, wanted: str, error: Exception) -> Finding:
    text = str(error)
    if "out-of-date database schema" in text:
        return fail(
            name,
            "the database was made by another version of MLflow",
            "make a copy of it, then: mlflow db upgrade <tracking.uri>",
        )
    code = str(getattr(error, "error_code", "")) or type(error).__name__
    return fail(
        name,
        f"'{wanted}' cannot be read or written ({code})",
        "give your user the permission EDIT on it, or choose another tracking.experiment",
    )


def _artifacts(uri: str, place: str, subject: Subject) -> Iterator[Finding]:
    """Whether artifacts can be written where the experiment's go."""
    name = "MLflow artifacts"
    proxied = place.startswith("mlflow-artifacts:") or (not place and uri.startswith(_HTTP))
    if proxied:
        yield _through_server(name, uri)
        return
    root = str(subject.root)
    local = place.removeprefix("file://") if place.startswith(("file:", "/")) else ""
    if not place or place.startswith(root) or local.startswith(f"{root}/"):
        return  # the storage root was tried already
    try:
        if place.startswith("s3://"):
            probe = BucketProbe(S3Path.parse(place))
            for step in (probe.write, probe.delete):
                step()
        elif local:
            probe_folder(Path(unquote(local)), f"artifacts of {subject.config.tracking.experiment}")
            if uri.startswith(_HTTP):
                yield warn(
                    name,
                    f"the server keeps them in {local}, a folder that every client "
                    "and the server must share",
                    "mlflow server --artifacts-destination "
                    "s3://bucket/prefix, and another tracking.experiment",
                )
                return
        else:
            yield ok(name, f"{place.partition(':')[0]}: is not tried from here")
            return
    except UserError as error:
        yield of_sentence(name, str(error))
        return
    yield ok(name, f"{shown(place)} takes them")


def _through_server(name: str, uri: str) -> Finding:
    """Hand an artifact to the server, which puts it where it keeps them, and take it away."""
    path = f"/api/2.0/mlflow-artifacts/artifacts/{PROBE}{secrets.token_hex(8)}/probe.txt"
    try:
        put = requests.put(f"{uri.rstrip('/')}{path}", data=b"probe", timeout=30, **_login())
        if put.ok:
            requests.delete(f"{uri.rstrip('/')}{path}", timeout=30, **_login())
            return ok(name, "the server takes them and hands them on")
        found = f"the server cannot keep them (HTTP {put.status_code})"
    except requests.RequestException as error:
        found = f"the server does not take them ({type(error).__name__})"
    return warn(
        name,
        found,
        "look into its log, and check --artifacts-destination and the credentials of the server",
    )


def _get(uri: str, path: str) -> requests.Response:
    return requests.get(f"{uri.rstrip('/')}{path}", timeout=SECONDS, **_login())


def _login() -> dict[str, Any]:
    """What MLflow's own client takes from the environment to say who it is."""
    user, password = (os.environ.get(f"MLFLOW_TRACKING_{it}") for it in ("USERNAME", "PASSWORD"))
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    verify: Any = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or (
        os.environ.get("MLFLOW_TRACKING_INSECURE_TLS") != "true"
    )
    if user and password:
        return {"auth": (user, password), "verify": verify}
    return {"headers": {"Authorization": f"Bearer {token}"} if token else {}, "verify": verify}


def shown(address: str) -> str:
    """An address without user, password and query."""
    parts = urlsplit(address)
    if "@" not in parts.netloc and not parts.query:
        return address
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


@contextmanager
def impatient(seconds: float = SECONDS) -> Iterator[None]:
    """Let MLflow's client give up soon: it was written to wait for minutes.

    Args:
        seconds: How long it waits for one answer.
    """
    patience = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": f"{seconds:.0f}",
    }
    before = {name: os.environ.get(name) for name in patience}
    os.environ.update(patience)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
