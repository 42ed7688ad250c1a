"""Submits a study to a Ray cluster as a job: what is sent, by which token, what comes back."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import ray
import requests
from packaging.version import InvalidVersion, Version
from ray.job_submission import JobStatus, JobSubmissionClient

from ssprompt_core.errors import UserError
from ssprompt_platform.config import load_config
from ssprompt_platform.tracking.secrets import Censor

SENT = ("ssprompt_core", "platform", "jobs")
"""Folders of the project that a study needs; nothing else of it is sent."""
JOB = "jobs/tune_shots.py"
_NOT_SENT = ("__pycache__", "*.pyc", "*.egg-info", ".*")
_STUDY_FOLDER = "submitted"
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PATIENCE = 120.0
"""Seconds without any answer of the cluster after which a job is not followed any more."""
_LOST, _STOPPED_HERE = 1, 130


@dataclass(frozen=True)
class Cluster:
    """Where jobs go.

    Attributes:
        address: ``http://`` or ``https://`` address of the cluster's dashboard.
        token: Of the cluster; empty: it asks for none.
        token_source: Where the token was found, for people.
    """

    address: str
    token: str = field(default="", repr=False)
    token_source: str = ""

    @classmethod
    def of(cls, address: str, token_file: str = "") -> Cluster:
        """Fill in what is not given from the environment, as Ray's own commands do.

        Args:
            address: From the command line; empty: ``RAY_API_SERVER_ADDRESS`` or ``RAY_ADDRESS``.
            token_file: File of the token; empty: ``RAY_AUTH_TOKEN``, the file that
                ``RAY_AUTH_TOKEN_PATH`` names, or ``~/.ray/auth_token`` where it is there.

        Raises:
            UserError: There is no address, it is of another kind, or there is no such token.
        """
        found = address or next(filter(None, map(os.environ.get, _ADDRESS_VARIABLES)), "")
        if not found:
            raise UserError(
                "no cluster is named; write --address http://HOST:8265, or set RAY_ADDRESS to that"
            )
        parts = urlsplit(found)
        if parts.username or parts.password:
            raise UserError("an address holds no credentials; give the token by --token-file")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                f"--address is '{found}', but jobs go to the dashboard: http://HOST:8265 (under "
                "Kubernetes: kubectl port-forward service/NAME-head-svc 8265)"
            )
        return cls(found.rstrip("/"), *_token(token_file))

    @property
    def exposed(self) -> bool:
        """Whether the token crosses a network that others may read."""
        parts = urlsplit(self.address)
        return bool(self.token) and parts.scheme == "http" and parts.hostname not in _LOOPBACK


@dataclass(frozen=True)
class Submission:
    """What is sent.

    Attributes:
        entrypoint: The command line of the job.
        sources: Files that are uploaded: name there, and file here.
        notes: What the user should know before it runs.
    """

    entrypoint: str
    sources: dict[str, Path]
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.sources.values())


def plan_submission(words: Sequence[str], project: Path, cluster: Cluster) -> Submission:
    """Check the words of a study and collect what its job needs; nothing is sent.

    Args:
        words: As for ``jobs/tune_shots.py``; ``study=`` may be a file of this machine.
        project: Folder of the project.
        cluster: Where it goes.

    Raises:
        UserError: A word is wrong, or holds what looks like a credential.
    """
    config = load_config(words, project / "jobs" / "studies")
    for word in words:
        _refuse_secrets(word.partition("=")[0], word, cluster)
    sources = dict(_sources(project))
    sent = []
    for word in words:
        key, _, value = word.partition("=")
        if key == "study" and value.endswith((".yaml", ".yml")):
            path = Path(value)
            _refuse_secrets(str(path), path.read_text(), cluster)
            name = f"{_STUDY_FOLDER}/{path.name}"
            sources[name], word = path, f"study={name}"
        sent.append(word)
    return Submission(shlex.join(["python", JOB, *sent]), sources, tuple(_notes(config, cluster)))


def submit(submission: Submission, cluster: Cluster, submission_id: str = "") -> str:
    """Upload what the cluster lacks and start the job.

    Returns:
        The job's submission id.

    Raises:
        UserError: The cluster does not answer, refuses the token, runs another Ray, or knows the
            id already.
    """
    with _told(cluster), tempfile.TemporaryDirectory(prefix="ssprompt-submit-") as folder:
        client = _client(cluster)
        for name, source in submission.sources.items():
            copy = Path(folder) / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
        # neither a token nor any other secret: all of this is shown by the dashboard
        runtime_env = {"working_dir": folder, "env_vars": {"PYTHONPATH": "platform:."}}
        try:
            return str(
                client.submit_job(
                    entrypoint=submission.entrypoint,
                    runtime_env=runtime_env,
                    submission_id=submission_id or None,
                )
            )
        except RuntimeError as error:
            if submission_id and submission_id in str(error):
                raise UserError(
                    f"the cluster knows a job {submission_id} already; follow it by --follow "
                    f"{submission_id}, or give another --submission-id"
                ) from error
            raise


def follow(
    cluster: Cluster,
    job: str,
    write: Callable[[str], object],
    patience: float = _PATIENCE,
) -> int:
    """Show what a job prints until it ends.

    A connection that breaks is made again, and nothing is shown twice.

    Args:
        cluster: Where it runs.
        job: Its submission id.
        write: Shows text as it comes.
        patience: Seconds without any answer after which it is given up.

    Returns:
        The job's exit code; 1 where it has none, or where the cluster does not answer any more.

    Raises:
        UserError: The cluster does not answer at the start, refuses the token, or has no such job.
    """
    with _told(cluster, job):
        client = _client(cluster)
        client.get_job_info(job)
    shown, since = 0, time.monotonic()
    while True:
        before = shown
        try:
            for text in _texts(client, job, shown):
                shown += len(text)
                write(text)
            details = client.get_job_info(job)
        except (OSError, RuntimeError, aiohttp.ClientError, requests.RequestException):
            # a shaky network, a head that starts again, a port-forward that was cut
            details = None
        if details is not None and JobStatus(details.status).is_terminal():
            # what was printed between the last look and the end
            for text in _texts(client, job, shown):
                write(text)
            return _exit_code(details, write)
        if details is not None or shown > before:
            since = time.monotonic()
        if time.monotonic() - since > patience:
            write(
                f"\nlost: {cluster.address} did not answer for {patience:.0f} seconds; the job may "
                "go on without being watched\n"
            )
            return _LOST
        time.sleep(min(2.0, patience / 10))


def stop(cluster: Cluster, job: str) -> bool:
    """Ask a job to end; its study can be continued.

    Returns:
        Whether it was running.

    Raises:
        UserError: The cluster does not answer, refuses the token, or has no such job.
    """
    with _told(cluster, job):
        return bool(_client(cluster).stop_job(job))


def _token(token_file: str) -> tuple[str, str]:
    """The token and where it was found."""
    given = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    named = token_file or ("" if given else os.environ.get("RAY_AUTH_TOKEN_PATH", ""))
    if given and not token_file:
        return given, "RAY_AUTH_TOKEN"
    default = Path.home() / ".ray" / "auth_token"
    path = Path(named) if named else default
    try:
        token = path.read_text().strip()
    except FileNotFoundError:
        if named:
            raise UserError(f"there is no token file {path}") from None
        if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
            raise UserError(
                "RAY_AUTH_MODE is token, but there is no token; set RAY_AUTH_TOKEN, or name its "
                "file by --token-file"
            ) from None
        return "", ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the token file {path} is not readable: {type(error).__name__}") from error
    if not token or any(character.isspace() for character in token):
        raise UserError(f"the token file {path} does not hold one token and nothing else")
    return token, str(path)


def _sources(project: Path) -> Iterator[tuple[str, Path]]:
    for name in SENT:
        for path in sorted((project / name).rglob("*")):
            own = path.relative_to(project)
            unwanted = any(Path(part).match(w) for part in own.parts for w in _NOT_SENT)
            if path.is_file() and not unwanted:
                yield str(own), path


def _refuse_secrets(name: str, text: str, cluster: Cluster) -> None:
    if Censor().text(text) != text or (cluster.token and cluster.token in text):
        raise UserError(
            f"{name} holds what looks like a credential, and the cluster keeps and shows what a "
            "job is made of; give it to the cluster's pods by their environment (a Secret)"
        )


def _notes(config: Any, cluster: Cluster) -> Iterator[str]:
    if not config.storage.root.startswith("s3://"):
        yield (
            f"storage.root={config.storage.root} is a folder of the cluster's head: lost with it, "
            "and not seen by workers on other machines; use s3://bucket/prefix"
        )
    if cluster.exposed:
        yield (
            "the token crosses the network unencrypted; go through a port-forward, or through "
            "https://"
        )


def _client(cluster: Cluster) -> JobSubmissionClient:
    """Connect, and refuse another minor version of Ray.

    Raises:
        UserError: The versions differ.
    """
    headers = {"Authorization": f"Bearer {cluster.token}"} if cluster.token else None
    with _own_address():
        client = JobSubmissionClient(cluster.address, headers=headers)
    there = str(getattr(client, "_server_ray_version", "") or "")
    try:
        same = Version(there).release[:2] == Version(ray.__version__).release[:2]
    except InvalidVersion:
        same = False
    if not same:
        raise UserError(
            f"the cluster runs Ray {there or '(unknown)'}, but this project needs "
            f"{ray.__version__}; start the cluster from an image of that version"
        )
    return client


@contextmanager
def _own_address() -> Iterator[None]:
    """Ray's client prefers the environment to what it is given."""
    kept = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _texts(client: JobSubmissionClient, job: str, skip: int) -> Iterator[str]:
    """What the job prints, from the character ``skip`` on, until the stream ends."""
    stream = client.tail_job_logs(job).__aiter__()
    with asyncio.Runner() as runner:
        while True:
            try:
                text = runner.run(_next(stream))
            except StopAsyncIteration:
                return
            if len(text) > skip:
                yield text[skip:]
            skip = max(0, skip - len(text))


async def _next(stream: Any) -> str:
    return str(await stream.__anext__())


def _exit_code(details: Any, write: Callable[[str], object]) -> int:
    status, code = JobStatus(details.status), details.driver_exit_code
    if status == JobStatus.SUCCEEDED:
        return 0
    if status == JobStatus.STOPPED:
        write("\nthe job was stopped\n")
        return _STOPPED_HERE
    if code is None:
        # it did not get as far as the study: the environment, or the head, failed
        message = " ".join((details.message or "no reason was told").split())
        write(f"\nthe job failed before its study began: {Censor().text(message)[:1000]}\n")
        return 1
    # a process that a signal ended has the signal's negative number
    return int(code) if code >= 0 else 128 - int(code)


@contextmanager
def _told(cluster: Cluster, job: str = "") -> Iterator[None]:
    """Errors of the way to the cluster, as one sentence."""
    try:
        yield
    except UserError:
        raise  # a ValueError, and told already
    except ray.exceptions.AuthenticationError as error:
        if not cluster.token:
            raise UserError(
                f"{cluster.address} asks for a token; set RAY_AUTH_TOKEN, or name its file by "
                "--token-file"
            ) from error
        raise UserError(
            f"{cluster.address} refuses the token of {cluster.token_source}; it must be the one "
            "that the cluster was started with"
        ) from error
    except requests.exceptions.SSLError as error:
        raise UserError(
            f"no TLS connection to {cluster.address}; check http:// or https://, and its "
            "certificate (REQUESTS_CA_BUNDLE)"
        ) from error
    except (ConnectionError, requests.ConnectionError, requests.Timeout) as error:
        raise UserError(
            f"nothing answers at {cluster.address}; start the cluster or the port-forward, or "
            "correct --address"
        ) from error
    except (requests.RequestException, ValueError, KeyError) as error:
        raise UserError(
            f"what answers at {cluster.address} is no dashboard of Ray; --address is "
            "http://HOST:8265"
        ) from error
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if job and ("404" in text or "does not exist" in text):
            raise UserError(f"{cluster.address} has no job {job}") from error
        raise UserError(
            f"{cluster.address} did not take the job: {Censor().text(text)[:300]}"
        ) from error
