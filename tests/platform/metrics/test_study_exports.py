"""A whole study: what its metrics say is what its folder says."""

from __future__ import annotations

import io
import uuid
from collections import Counter
from pathlib import Path

import pytest
from finished_studies import load
from prometheus import Scrape, scrape_until
from rich.console import Console
from samples import STUDIES

from ssprompt_platform.launch import run_study
from ssprompt_platform.metrics import names
from ssprompt_platform.search.records import read_trials

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("ray_cluster")]


def test_a_study_is_told_as_it_ended(tmp_path: Path, image_folder: tuple[Path, list[str]]) -> None:
    study, (_, data) = f"w-{uuid.uuid4().hex[:8]}", image_folder
    words = ["study=smoke", "study.methods=[zero_shot,spa]", "search.trials=2", *data]
    words += ["train.epochs=2", "train.steps_per_epoch=2", "train.batch_size=2", "study.shots=[1]"]
    words += [f"storage.root={tmp_path / 'runs'}", f"study.id={study}"]
    encoded_before = Scrape().total(names.ENCODED.exported)
    folder = run_study(words, STUDIES, Console(file=io.StringIO()))
    trials, results = read_trials(folder), load(folder.results)
    fits = len(list(folder.fits.glob("[!.]*.json")))

    found = scrape_until(
        lambda scrape: (
            bool(scrape.having(names.PHASE_SECONDS.exported, study=study))
            and scrape.total(names.FITS.exported, study=study, state="done") == fits
            and not scrape.total(names.RUNNING.exported, study=study)
        )
    )
    ended = Counter((trial.method, str(trial.shots), trial.state) for trial in trials)
    for (method, shots, state), number in ended.items():
        where = {"study": study, "method": method, "shots": shots, "state": state}
        assert found.total(names.TRIALS.exported, **where) == number
        assert found.total(names.TRIALS_ENDED.exported, **where) == number
    assert found.total(names.TRIALS.exported, study=study) == len(trials)
    assert found.total(names.TRIALS_LEFT.exported, study=study) == 0
    assert found.total(names.FITS.exported, study=study, state="done") == fits > 0
    assert found.total(names.FITS.exported, study=study, state="left") == 0
    encoded = found.total(names.ENCODED.exported) - encoded_before
    assert encoded == results["study"]["embeddings"]["encoder_calls"] > 0
    phases = {s.labels["phase"] for s in found.having(names.PHASE_SECONDS.exported, study=study)}
    assert {"prepare", "encoding images", "search", "final fits"} <= phases
    assert found.having(names.RUNNING.exported, study=study)
    assert found.total(names.BACKLOG.exported, study=study) == 0
