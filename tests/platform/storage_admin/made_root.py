"""A storage root with two studies and what they share, on a disk or in a bucket."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from mlflow import MlflowClient
from study_folder import write_study

from ssprompt_core.text.classes import ClassTexts
from ssprompt_platform.embeddings import EmbeddingStore
from ssprompt_platform.storage import Place, S3Path, read_json, write_bytes, write_json
from ssprompt_platform.texts import TextStore

OLD = 10 * 86400


@dataclass
class MadeRoot:
    """Where it is, which MLflow its studies were told to, and what belongs to nobody."""

    place: Place
    uri: str
    nobodys: dict[str, set[str]]
    client: MlflowClient
    runs: dict[str, str]

    def add(self, name: str, content: bytes = b"x" * 100, old: bool = True) -> Place:
        """Put something below the root; on a disk with an age."""
        place = self.place
        for part in name.split("/"):
            place = place / part
        write_bytes(place, content)
        if old:
            age(place)
        return place

    def names(self) -> set[str]:
        """Everything below the root."""
        if isinstance(self.place, S3Path):
            return {str(each.path.relative_to(self.place)) for each in self.place.walk()}
        return {
            str(path.relative_to(self.place)) for path in self.place.rglob("*") if path.is_file()
        }


def age(place: Place) -> None:
    """Make files of a disk old; a bucket's server does not let itself be told."""
    if isinstance(place, Path):
        then = time.time() - OLD
        for path in [place, *place.rglob("*")]:
            os.utime(path, (then, then))


def make_root(local: Path, place: Place) -> MadeRoot:
    """Two studies with different encoders, their embeddings, texts and runs, and garbage."""
    uri = f"sqlite:///{local / 'tracking' / 'mlflow.db'}"
    (local / "tracking").mkdir()
    (local / "tracking" / "mlflow.db").write_bytes(_fresh_database())
    client = MlflowClient(uri, uri)
    made = MadeRoot(place, uri, {}, client, {})
    studies = local / "made"
    for number, name in enumerate(("ours", "theirs")):
        folder = write_study(studies, name, methods=["zero_shot", "spa"], stage="finished")
        record = read_json(folder.record)
        record["uid"] = f"uid-{name}"
        record["fingerprints"] |= {"segmenter": f"encoder-{name}", "text_encoder": f"text-{name}"}
        record["config"]["tracking"]["uri"] = uri
        record["config"]["data"]["seed"] = number
        write_json(folder.record, record)
        lock = {"splits": {"train": {"a": {"image": f"digest-{name}", "label": "l"}}, "test": {}}}
        write_json(folder.data_lock, lock)
    for path in sorted(studies.rglob("*")):
        if path.is_file():
            made.add(str(path.relative_to(studies)), path.read_bytes())
    _embed(made)
    _track(made)
    return made


@cache
def _fresh_database() -> bytes:
    """Tables of MLflow, which take seconds to make."""
    with tempfile.TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return (Path(folder) / "mlflow.db").read_bytes()


def _embed(made: MadeRoot) -> None:
    def kept(encoder: str, digest: str) -> str:
        store = EmbeddingStore(made.place / "embeddings", encoder)
        store.put(digest, torch.zeros(2, 3, 3))
        age(store.path(digest))
        return _below(store.path(digest), made.place)

    for name in ("ours", "theirs"):
        kept(f"encoder-{name}", f"digest-{name}")
    made.nobodys["embeddings"] = {
        kept("encoder-ours", "digest-of-no-study"),
        kept("encoder-of-no-study", "digest-ours"),
    }
    texts = TextStore(made.place / "texts")
    classes = tuple(read_json(made.place / "ours" / "study.json")["facts"]["classes"])
    for encoder in ("text-ours", "text-theirs", "text-of-no-study"):
        plain, ensemble = torch.zeros(len(classes), 4), torch.ones(len(classes), 4)
        texts.put(ClassTexts(classes, plain, ensemble, lambda: None, encoder))
        path = texts.path(encoder, classes)
        age(path)
        if encoder == "text-of-no-study":
            made.nobodys["class names"] = {_below(path, made.place)}


def _track(made: MadeRoot) -> None:
    """A run of each study, a deleted run, a deleted run whose model is registered, a lost run."""
    client, place = made.client, made.place / "mlflow-artifacts"
    where = place.as_uri() if isinstance(place, Path) else str(place)
    experiment = client.create_experiment("ssprompt", artifact_location=where)
    for name in ("ours", "theirs", "deleted", "registered"):
        tags = {"study.id": name, "study.uid": f"uid-{name}"}
        run = client.create_run(experiment, tags=tags)
        made.runs[name] = run.info.run_id
        artifact = f"mlflow-artifacts/{run.info.run_id}/artifacts/report/index.html"
        made.add(artifact, b"y" * 1000)
    client.create_registered_model("prompts")
    source = f"{where}/{made.runs['registered']}/artifacts/report"
    client.create_model_version("prompts", source, run_id=made.runs["registered"])
    for name in ("deleted", "registered"):
        client.delete_run(made.runs[name])
    lost = f"mlflow-artifacts/{'0' * 32}/artifacts/report/index.html"
    model = f"mlflow-artifacts/models/m-{'0' * 32}/artifacts/MLmodel"
    # as a server keeps them, below the experiment's id
    served = f"mlflow-artifacts/1/{'1' * 32}/artifacts/a.txt"
    for name in (lost, model, served):
        made.add(name)
    made.nobodys |= {
        "artifacts of deleted runs": {
            f"mlflow-artifacts/{made.runs['deleted']}/artifacts/report/index.html"
        },
        "artifacts of lost runs": {lost, served},
        "artifacts of lost models": {model},
    }


def _below(place: Place, root: Place) -> str:
    return str(place.relative_to(root))
