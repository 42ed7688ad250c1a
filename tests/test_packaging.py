"""The wheel carries both packages, the weights and the type markers, and shadows nothing."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(folder),
            str(ROOT),
        ],
        check=True,
    )
    (path,) = folder.glob("ssprompt-*.whl")
    return path


def test_wheel_has_both_packages_and_the_weights(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "ssprompt_core/__init__.py",
        "ssprompt_core/py.typed",
        "ssprompt_platform/__init__.py",
        "ssprompt_platform/py.typed",
        "ssprompt_core/models/weights/small_sam.safetensors",
        "ssprompt_core/models/weights/small_sam.json",
        *(
            f"ssprompt_platform/report/templates/{name}"
            for name in ("page.html.jinja", "style.css", "script.js")
        ),
    } <= names
    top = {name.split("/")[0] for name in names}
    assert "platform" not in top
    assert {"ssprompt_core", "ssprompt_platform"} == {n for n in top if ".dist-info" not in n}


def test_an_unpacked_wheel_imports_and_builds_the_small_model(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import ssprompt_core, ssprompt_platform, platform;"
        "from ssprompt_core.models.registry import build_segmenter;"
        f"assert ssprompt_core.__file__.startswith({str(tmp_path)!r}), ssprompt_core.__file__;"
        f"assert ssprompt_platform.__file__.startswith({str(tmp_path)!r});"
        "assert platform.python_version();"
        "assert build_segmenter('small').embed_dim == 96"
    )
    # -P keeps the current directory off sys.path; the wheel comes before an editable install
    subprocess.run(
        [sys.executable, "-P", "-c", code],
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )


def test_the_platform_folder_is_no_package() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
