"""Trials share processes: a study starts as many as run at once, however many trials it has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from planted_driver import DRAWS, EPOCHS, METHODS, SHOTS, TRIALS
from samples import ROOT

pytestmark = pytest.mark.e2e

_AT_ONCE = 2
"""Of planted_driver.py."""


def test_a_study_of_many_trials_starts_a_process_for_each_slot(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "tests" / "planted_driver.py"), str(tmp_path), "0.0"],
        check=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT / 'platform'}"},
        timeout=600,
    )
    processes = (tmp_path / "processes").read_text().split()
    assert len(processes) == len(METHODS) * len(SHOTS) * TRIALS * DRAWS * EPOCHS
    assert len(set(processes)) <= _AT_ONCE
