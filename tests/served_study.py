"""A study on real servers that are killed (-9) under it, and the same study on a disk."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from job_process import Job, job
from mlflow import MlflowClient
from samples import write_image_folder
from secret_scan import CANARIES, leaks

from ssprompt_platform.servers.mlflow_server import MlflowServer
from ssprompt_platform.servers.seaweed import S3Server
from ssprompt_platform.storage import S3Path, StudyFolder

WORDS = [
    "study=smoke", "study.methods=[zero_shot,ssprompt]", "study.shots=[1,2]", "study.draws=2",
    "search.trials=6", "search.space.num_prompts.choices=[2,4]", "study.id=one",
    "train.epochs=3", "train.steps_per_epoch=2", "train.batch_size=2", "train.checkpoint_every=1",
]  # fmt: skip
TRIALS = 12
DOWN_SECONDS = 3.0


@dataclass
class ServedStudy:
    """What became of the study on the disk and of the one on servers.

    Attributes:
        disk: The undisturbed study.
        bucket: The one on servers.
        client: Of the MLflow server that has its runs.
        uri: Of that server.
        said: What it printed.
        second: What a second process printed that was to run it too.
        leaked: Places that hold a secret.
        environment: What a reader of the bucket needs.
    """

    disk: StudyFolder
    bucket: StudyFolder
    client: MlflowClient
    uri: str
    said: str
    second: str
    leaked: list[str]
    environment: dict[str, str]


@pytest.fixture(scope="session")
def served(
    s3_server: S3Server, mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory
) -> ServedStudy:
    """Run both; kill each server in the search, and the S3 server in the final fits."""
    folder = tmp_path_factory.mktemp("served")
    data = write_image_folder(folder / "data")
    disk = StudyFolder(folder / "runs", "one")
    with job([*WORDS, *data, f"storage.root={disk.root}"], folder / "disk.txt") as plain:
        plain.finish()
    own = {**s3_server.environment, "SSPROMPT_CACHE": f"{folder}/cache"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        root = S3Path(s3_server.bucket, "served")
        bucket = StudyFolder(root, "one")
        client = MlflowClient(mlflow_server.uri)
        # Ray's sockets have short names only
        with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as ray:
            environment = {**CANARIES, "RAY_TMPDIR": ray}
            words = [
                *WORDS, *data, f"storage.root={root}", f"tracking.uri={mlflow_server.uri}"
            ]  # fmt: skip
            with job(words, folder / "served.txt", environment) as running:
                second = _disturbed(running, bucket, s3_server, mlflow_server, words, folder)
                running.finish()
            said = (folder / "served.txt").read_text()
            leaked = leaks(
                [*CANARIES.values(), s3_server.environment["AWS_SECRET_ACCESS_KEY"]],
                folders=[Path(ray), folder, mlflow_server.folder],
                objects=[each.path for each in S3Path(s3_server.bucket).walk()],
            )
    return ServedStudy(disk, bucket, client, mlflow_server.uri, said, second, leaked, own)


def _disturbed(
    running: Job,
    bucket: StudyFolder,
    s3_server: S3Server,
    mlflow_server: MlflowServer,
    words: list[str],
    folder: Path,
) -> str:
    """Kill servers at three moments of the study; returns what a second process was told."""
    assert isinstance(bucket.path, S3Path)

    def count(prefix: S3Path, name: str) -> int:
        return sum(found.path.name == name for found in prefix.walk())

    def ended_trials() -> int:
        return count(bucket.path / "trials", "checkpoint.json")  # type: ignore[arg-type]

    def fits() -> int:
        return sum(found.path.suffix == ".json" for found in (bucket.path / "fits").walk())  # type: ignore[union-attr]

    said = folder / "second.txt"
    running.wait_for(lambda: int(bucket.record.is_file()), 1)
    with job(words, said, CANARIES) as second:
        second.finish(2)
    running.wait_for(ended_trials, 2)
    mlflow_server.kill()
    running.wait_for(ended_trials, 4)
    s3_server.kill()
    time.sleep(DOWN_SECONDS)
    s3_server.start()
    running.wait_for(ended_trials, 6)
    mlflow_server.start()
    running.wait_for(fits, 1)
    s3_server.kill()
    time.sleep(DOWN_SECONDS)
    s3_server.start()
    return said.read_text()
