"""A storage or a tracking server that does not work is told before anything of a study begins."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
import ray
from rich.console import Console
from samples import STUDIES

from ssprompt_core.errors import UserError
from ssprompt_platform.launch import run_study
from ssprompt_platform.servers.processes import free_ports
from ssprompt_platform.servers.seaweed import S3Server
from ssprompt_platform.storage import S3Path


def refused(*words: str) -> str:
    """The one sentence that a study is refused with."""
    said = io.StringIO()
    with pytest.raises(UserError) as caught:
        run_study(["study=smoke", *words], STUDIES, Console(file=said))
    assert not ray.is_initialized() or "start ray" not in said.getvalue()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "secret"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "access key"),
        ({"AWS_SESSION_TOKEN": None, "AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None,
          "AWS_EC2_METADATA_DISABLED": "true"}, "credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "nothing answers"),
        ({"AWS_ENDPOINT_URL": "http://no-such-host.invalid"}, "no-such-host.invalid"),
    ],
)  # fmt: skip
def test_a_bucket_that_cannot_be_used(
    changed: dict[str, str | None],
    expected: str,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name, value in changed.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    sentence = refused(f"storage.root={s3_bucket}")
    assert expected in sentence
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        secret = changed.get(name) or os.environ.get(name)
        assert secret is None or secret not in sentence


def test_a_bucket_that_is_not_there(s3_bucket: str) -> None:
    assert "no such bucket" in refused("storage.root=s3://not-there/prefix")


def test_a_bucket_that_may_only_be_read(
    s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.read_only.items():
        monkeypatch.setenv(name, value)
    sentence = refused(f"storage.root={s3_bucket}")
    assert "may" in sentence or "denied" in sentence
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    assert list(S3Path.parse(s3_bucket).walk()) == []


@pytest.mark.parametrize(
    "root", ["s3://key:secret@bucket/x", "s3://", "s3:///x", "s3://bucket/../x", "s3://b/x?y=1"]
)
def test_an_address_that_is_none(root: str) -> None:
    sentence = refused(f"storage.root={root}")
    assert "s3://bucket/prefix" in sentence or "no S3 address" in sentence
    assert "secret" not in sentence


def test_a_tracking_server_that_does_not_answer(tmp_path: Path) -> None:
    uri = f"http://127.0.0.1:{free_ports(1)}"
    sentence = refused(f"storage.root={tmp_path / 'runs'}", f"tracking.uri={uri}")
    assert uri in sentence
    assert "tracking.must_answer" in sentence
    assert not list((tmp_path / "runs").glob("*/study.json"))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused(f"storage.root={tmp_path / 'file' / 'runs'}")
