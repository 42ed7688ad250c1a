from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tracked import TRIAL, deliver, ended_by, found, history, track

from ssprompt_platform.config.schema import Config
from ssprompt_platform.identity import flat_config
from ssprompt_platform.tracking.names import (
    LONGEST_NAME,
    batches,
    cut,
    legal_name,
    text_batches,
)
from ssprompt_platform.tracking.secrets import HIDDEN, Censor, without_password

CANARY = "canary-9f8e7d6c5b4a"


def test_a_secret_of_the_environment_reaches_neither_disk_nor_mlflow(
    own_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD",
             "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "MY_API_KEY", "AWS_ACCESS_KEY_ID")  # fmt: skip
    secrets = {name: f"{CANARY}-{number}" for number, name in enumerate(names)}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    params = {
        **{f"a.{number}": f"see {value} here" for number, value in enumerate(secrets.values())},
        "some.password": "short",
        "api_key": "x",
        "place": f"https://me:{CANARY}@host/path",
    }
    leaky = track(own_uri, tmp_path, "secret", params=params, tags={"note": CANARY + "-0"})
    with ended_by(ValueError(CANARY), leaky) as tracker:
        tracker.started(TRIAL)
        tracker.ended(TRIAL, "failed", None, f"could not sign with {CANARY}-1")
        tracker.text("study", "environment.json", json.dumps(secrets))
    known = found(own_uri, "secret")
    assert known["study"]["params"]["some.password"] == HIDDEN
    assert known["study"]["params"]["api_key"] == HIDDEN
    assert known["study"]["params"]["place"] == f"https://me:{HIDDEN}@host/path"
    assert known[TRIAL.key]["tags"]["trial.cause"] == f"could not sign with {HIDDEN}"
    assert "environment.json" in known["study"]["files"]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path


def test_nothing_of_a_configuration_is_hidden_by_mistake() -> None:
    """Names of options that sound like secrets, as numbers of tokens do."""
    config = flat_config(Config())
    hidden = [name for name, value in Censor({}).pairs(config).items() if HIDDEN in value]
    assert not hidden
    assert Censor({"X_TOKEN_FILE": "/a/long/path", "TOKEN": "short"}).text(
        "/a/long/path short"
    ) == ("/a/long/path short")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("key AKIAIOSFODNN7EXAMPLE used", f"key {HIDDEN} used"),
        ("Authorization: Bearer abcdefghijklmnopqrstuvwxyz",
         f"Authorization: Bearer {HIDDEN}"),
        ("s3://b/k?X-Amz-Signature=abc123&x=1", f"s3://b/k?X-Amz-Signature={HIDDEN}&x=1"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END", HIDDEN),
        ("token_context at K = 4", "token_context at K = 4"),
    ],
)  # fmt: skip
def test_shapes_of_secrets(text: str, hidden: str) -> None:
    assert Censor({}).text(text).removesuffix(" RSA PRIVATE KEY-----") == hidden


def test_addresses_without_passwords() -> None:
    assert without_password("postgresql://u:p@h/d") == f"postgresql://u:{HIDDEN}@h/d"
    assert without_password("postgresql://u@h/d") == "postgresql://u@h/d"
    assert without_password("http://h:5000/x@y") == "http://h:5000/x@y"


def test_names_that_mlflow_takes() -> None:
    from mlflow.utils.validation import _validate_metric_name, _validate_param_name

    odd = ["f1@0.5", "größe", "a//b", "../up", "/abs", ".", "", "a b:c-d/e", "x" * 400, "y\n",
           "..", "a/../b", "a/./b", "名前"]  # fmt: skip
    names = [legal_name(name) for name in odd]
    for name in names:
        _validate_metric_name(name)
        _validate_param_name(name)
        assert len(name) <= LONGEST_NAME
    assert legal_name("f1@0.5") == "f1_0.5"
    assert legal_name("x" * 400) != legal_name("x" * 401)
    assert legal_name("loss.draw0") == "loss.draw0"


def test_batches_hold_what_mlflow_takes() -> None:
    assert [len(part) for part in batches(list(range(2500)), 1000)] == [1000, 1000, 500]
    long = [(f"k{number}", "ä" * 6000) for number in range(60)]
    parts = list(text_batches(long, 100))
    assert [pair for part in parts for pair in part] == long
    assert all(len(json.dumps(part)) < 1_000_000 for part in parts)
    assert cut("x" * 6001, 6000).endswith(" ... (cut)")
    assert len(cut("x" * 6001, 6000)) == 6000


@pytest.mark.parametrize("backend", ["sqlite", "postgres", "server"])
def test_odd_values_arrive(
    backend: str, request: pytest.FixtureRequest, sqlite_uri: str, tmp_path: Path
) -> None:
    uri = {
        "sqlite": lambda: sqlite_uri,
        "postgres": lambda: request.getfixturevalue("postgres_database"),
        "server": lambda: request.getfixturevalue("mlflow_server").uri,
    }[backend]()
    study = f"limits-{backend}"
    values = {("f1@0.5", step): value for step, value in enumerate([math.inf, -math.inf, 0.5])}
    params = {**{f"k{n}": "v" * 5990 for n in range(220)}, "long": "x" * 7000, "nul": "a\0b\ud800"}

    def tell(tracker: Any) -> None:
        tracker.metrics("study", {**values, ("n", 1): math.nan})
        tracker.metrics("study", {("many", step): float(step) for step in range(2500)})
        tracker.tag("study", {"cause": "y" * 9000, "größe@": "z"})

    tracker = track("http://127.0.0.1:9", tmp_path, study, params=params)
    tell(tracker)
    tracker.close(0)
    deliver(tracker.work, uri, tmp_path, study)
    assert not (tracker.work / "refused.jsonl").exists()
    run = found(uri, study)["study"]
    assert [step for step, _ in history(run, "many")] == list(range(2500))
    infinite, negative, half = [value for _, value in history(run, "f1_0.5")]
    assert (infinite > 1e200, negative < -1e200, half) == (True, True, 0.5)
    assert math.isnan(history(run, "n")[0][1])
    assert len(run["params"]) == 222
    assert (len(run["params"]["long"]), run["params"]["k7"]) == (6000, "v" * 5990)
    assert len(run["tags"]["cause"]) == 8000
    # a second delivery finds NaN and infinity there
    for memory in tracker.work.glob("sent-*"):
        memory.unlink()
    deliver(tracker.work, uri, tmp_path, study)
    assert len(history(found(uri, study)["study"], "n")) == 1
