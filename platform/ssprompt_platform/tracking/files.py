"""Files of the runs, their data sets, and the model of a study: stored again, they are the same."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssprompt_platform.storage import Place, S3Path, local_file, local_tree
from ssprompt_platform.tracking.faults import SourceGoneError
from ssprompt_platform.tracking.runs import Runs

if TYPE_CHECKING:
    from mlflow import MlflowClient

KINDS = frozenset({"file", "tree", "text", "trial", "dataset", "model", "view"})
"""Events that are told in the lane of files."""

CONFIG = "config.yaml"
SPLIT = "split.json"


class Files:
    """Stores what events name.

    Args:
        client: Of MLflow.
        experiment: Id of the experiment.
        runs: The study's runs; a file's run is made before it.
        folder: Of the journal; what belongs to several runs lies there once.
    """

    def __init__(self, client: MlflowClient, experiment: str, runs: Runs, folder: Path) -> None:
        self._client, self._experiment, self._runs = client, experiment, runs
        self._folder = folder

    def apply(self, event: Mapping[str, Any]) -> None:
        """Store what one event names.

        Raises:
            SourceGoneError: A file is not there any more.
            LookupError: Its run was refused.
        """
        kind = event["event"]
        if kind == "view":
            self._client.set_experiment_tag(self._experiment, event["name"], event["state"])
            return
        run_id = self._runs.run_id(event["key"])
        if run_id is None:
            raise LookupError(f"the run '{event['key']}' was never made")
        if kind == "file":
            self._file(run_id, place_of(event["source"]), event["folder"])
        elif kind == "tree":
            self._tree(run_id, place_of(event["source"]), event["folder"])
        elif kind == "text":
            self._client.log_text(run_id, event["text"], event["path"])
        elif kind == "trial":
            self._trial(run_id, event)
        elif kind == "dataset":
            self._datasets(run_id, event)
        else:
            from ssprompt_platform.tracking.model import register

            register(self._client, self._experiment, run_id, event)

    def _file(self, run_id: str, place: Place, folder: str) -> None:
        with ExitStack() as stack:
            try:
                path = stack.enter_context(local_file(place))
            except FileNotFoundError:
                raise SourceGoneError(f"{place} is not there any more") from None
            if not path.is_file():
                raise SourceGoneError(f"{place} is not there any more")
            self._client.log_artifact(run_id, str(path), folder or None)

    def _tree(self, run_id: str, place: Place, folder: str) -> None:
        with local_tree(place) as path:
            if not path.is_dir() or not any(path.iterdir()):
                raise SourceGoneError(f"{place} is not there any more")
            self._client.log_artifacts(run_id, str(path), folder or None)

    def _trial(self, run_id: str, event: Mapping[str, Any]) -> None:
        """Configuration and split of a trial, from what its study has of them."""
        config, split = self._shared(event["config"]), self._shared(event["split"])
        with tempfile.TemporaryDirectory(prefix="ssprompt-") as folder:
            (Path(folder) / CONFIG).write_text(config + event["text"])
            (Path(folder) / SPLIT).write_text(split)
            self._client.log_artifacts(run_id, folder)

    def _shared(self, name: str) -> str:
        try:
            return (self._folder / name).read_text()
        except FileNotFoundError:
            raise SourceGoneError(f"{self._folder / name} is not there any more") from None

    def _datasets(self, run_id: str, event: Mapping[str, Any]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        self._client.log_inputs(
            run_id,
            [
                DatasetInput(
                    Dataset(**one["dataset"]), [InputTag("mlflow.data.context", one["context"])]
                )
                for one in event["inputs"]
            ],
        )


def place_of(text: str) -> Place:
    """A place from its text."""
    return S3Path.parse(text) if text.startswith("s3://") else Path(text)
