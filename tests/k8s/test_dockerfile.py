"""What can be told of the images without building them."""

from __future__ import annotations

import re
import shlex
import tomllib

import pytest
from k8s_render import K8S
from k8s_study import PLACE, locked
from samples import ROOT

TEXT = (ROOT / "Dockerfile").read_text()
COMPILERS = {"gcc", "g++", "clang", "cmake", "build-essential", "make"}


def instructions() -> list[tuple[str, str]]:
    """Instruction and its words, lines joined, comments left out."""
    lines = [line for line in TEXT.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = []
    for line in joined.splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            found.append((name, rest.strip()))
    return found


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for name, rest in instructions():
        if name == "FROM":
            current = found.setdefault(rest.split(" AS ")[1], [])
        current.append((name, rest))
    return found


def argument(name: str) -> str:
    return next(
        rest.partition("=")[2]
        for kind, rest in instructions()
        if kind == "ARG" and rest.startswith(f"{name}=")
    )


def copied(stage: str) -> list[list[str]]:
    return [
        [word for word in rest.split() if not word.startswith("--")]
        for name, rest in stages()[stage]
        if name == "COPY"
    ]


def test_the_base_is_the_lock_files_ray() -> None:
    assert argument("RAY_VERSION") == locked("ray")
    for stage in ("build", "study"):
        assert stages()[stage][0][1].startswith(
            "rayproject/ray:${RAY_VERSION}-py311-cpu${RAY_DIGEST}"
        )
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert ">=3.11" in python
    assert all("3.11" in rest or "py311" in rest for name, rest in instructions() if name == "FROM")


def test_no_image_is_any_version() -> None:
    for name, rest in instructions():
        if name == "FROM":
            image = rest.split()[0]
            assert ":" in image
            assert "latest" not in image


def test_tags_in_the_head_of_the_file_are_those_of_the_manifests() -> None:
    for tag in re.findall(r"-t (\S+) \.", TEXT):
        name, version = tag.split(":")
        images = "".join(path.read_text() for path in K8S.glob("overlays/*/images/*.yaml"))
        assert version in images, tag
        assert name in images
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert set(re.findall(r"ssprompt(?:-mlflow)?:([\d.]+)-", TEXT)) == {project}


@pytest.mark.parametrize("stage", ["study", "mlflow"])
def test_a_last_stage_builds_nothing_and_is_not_root(stage: str) -> None:
    last = stages()[stage]
    users = [rest for name, rest in last if name == "USER"]
    # a number: Kubernetes cannot tell of a name whether it is root
    assert users[-1] == "1000"
    for name, rest in last:
        if name != "RUN":
            continue
        words = set(shlex.split(rest.replace(";", " ")))
        assert not {"apt-get", "apt", "pip", "curl", "wget"} & words, rest
    position = [name for name, _ in last]
    assert "USER" not in position[position.index("USER") + 1 :]


def test_the_study_image_refuses_a_compiler_and_tries_itself() -> None:
    runs = " ".join(rest for name, rest in stages()["study"] if name == "RUN")
    assert "a compiler is in the image" in runs
    for tool in ("cc", "gcc", "g++", "clang", "cmake"):
        assert tool in runs.split()[: runs.split().index("do")] or f"{tool};" in runs
    assert "jobs/tune_shots.py study=smoke study.dry_run=true" in runs
    installs = " ".join(rest for name, rest in instructions() if name == "RUN")
    assert not COMPILERS & set(re.findall(r"install[^;&]*?\s(\S+)", installs))


def test_every_installation_is_bound_by_the_lock_file() -> None:
    runs = [rest for name, rest in instructions() if name == "RUN" and "pip install" in rest]
    assert len(runs) == 3
    for run in runs:
        for part in re.split(r"(?=pip install)", run)[1:]:
            assert "--constraint constraints.txt" in part, part
        # of the shell: an error in front of a pipe, or an unset variable, ends the build
    shells = [rest for name, rest in instructions() if name == "SHELL"]
    assert all('"pipefail"' in shell for shell in shells)
    assert len(shells) == 3


def test_variants_are_cpu_and_cuda_by_argument() -> None:
    assert argument("VARIANT") == "cpu"
    build = " ".join(rest for _, rest in stages()["build"])
    assert "cpu) index=https://download.pytorch.org/whl/cpu" in build
    assert "cuda) index=" in build
    assert "exit 2" in build
    # an argument of the file is seen in a stage only where that names it again
    assert ("ARG", "VARIANT") in stages()["build"]


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    kept = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    sources = [
        source
        for stage in stages()
        for words, (_, rest) in zip(
            copied(stage), [each for each in stages()[stage] if each[0] == "COPY"], strict=True
        )
        if "--from=" not in rest
        for source in words[:-1]
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in kept, source
    for line in kept:
        assert line in sources, f"{line} is let in and not copied"


def test_jobs_are_where_entrypoints_look() -> None:
    assert ["jobs", f"{PLACE}jobs"] in copied("study")
    assert ("WORKDIR", PLACE.rstrip("/")) in stages()["study"]


def test_the_ways_of_hadolint() -> None:
    """Of its rules those that can be told from the text (it is a program of its own)."""
    for name, rest in instructions():
        # DL3000, DL3002, DL3004, DL3020, DL3025, DL4000, DL4001, DL3059 in spirit
        assert name == name.upper()
        assert name not in ("MAINTAINER", "ADD", "ONBUILD"), rest
        if name == "WORKDIR":
            assert rest.startswith("/")
        if name in ("CMD", "ENTRYPOINT"):
            assert rest.startswith("[")
        if name == "RUN":
            assert not re.search(r"\bsudo\b|\bssh\b|\bapt\s|\bcd\s|chmod 777", rest), rest
            if "pip install" in rest:
                assert "--no-cache-dir" in rest or "--mount=type=cache" in rest
        if name == "ENV":
            assert not re.search(r"PASSWORD|SECRET|TOKEN", rest)
    # DL4004, DL3024
    names = re.findall(r"^FROM .* AS (\S+)$", TEXT, re.M)
    assert len(names) == len(set(names)) == TEXT.count("\nFROM ")


def test_the_mlflow_server_has_the_lock_files_versions() -> None:
    lines = (K8S / "mlflow-requirements.txt").read_text().splitlines()
    for line in lines:
        if line and not line.startswith("#") and "==" not in line:
            assert locked(re.split(r"\[", line)[0])
    assert ["constraints.txt", "k8s/mlflow-requirements.txt", "./"] in copied("mlflow-build")
