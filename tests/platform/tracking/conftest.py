"""One MLflow database for all tests of tracking: MLflow takes seconds to make one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tracked import EXPERIMENT


@pytest.fixture(scope="session")
def _empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def own_uri(_empty_database: Path, tmp_path: Path) -> str:
    """A database where a study in the root ``tmp_path`` looks for one by itself."""
    shutil.copy(_empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="session")
def sqlite_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    artifacts = (folder / "mlflow-artifacts").as_uri()
    MlflowClient(uri).create_experiment(EXPERIMENT, artifact_location=artifacts)
    return uri


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssprompt_platform.tracking.delivery._HURRIED_PAUSE", 0.02)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """MLflow's client is told to be short of patience by variables of the process."""
    before = dict(os.environ)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)
