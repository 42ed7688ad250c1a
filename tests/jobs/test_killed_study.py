"""A study with real training is killed (-9) in its search and in its final fits, and runs again."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from finished_studies import assert_finished, load, metrics_by_key, runs_by_key
from job_process import job
from safetensors.numpy import load_file
from samples import write_image_folder

from ssprompt_platform.search.records import read_trials
from ssprompt_platform.storage import StudyFolder

pytestmark = pytest.mark.e2e

EPOCHS, DRAWS, TRIALS = 4, 2, 2
METHODS, SHOTS = ("spa", "linear_probe"), (1, 2)
WORDS = [
    "study=smoke", "study.methods=[spa,linear_probe]", "study.shots=[1,2]", "study.draws=2",
    "search.trials=2", "search.draws=2", "search.space.num_prompts.choices=[2,4]",
    "train.epochs=4", "train.steps_per_epoch=2", "train.batch_size=2", "train.checkpoint_every=1",
]  # fmt: skip
SEARCHED = len(METHODS) * len(SHOTS) * TRIALS
FITS = len(METHODS) * len(SHOTS) * DRAWS


def checkpoints(folder: Path) -> int:
    """How many checkpoints were ever kept of what lies in a folder."""
    count = 0
    for path in folder.glob("*/checkpoint.json"):
        try:
            count += load(path)["number"]
        except FileNotFoundError:
            continue  # of a fit that has just ended
    return count


def fitted(folder: StudyFolder) -> int:
    """Epochs of the final fits so far, about."""
    done = len(list(folder.fits.glob("[!.]*.json")))
    return EPOCHS * done + checkpoints(folder.fits / "running")


def trials_of(folder: StudyFolder) -> list[tuple[Any, ...]]:
    return [(t.key, t.state, t.params, t.value, t.scores) for t in read_trials(folder)]


def test_a_study_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    data = write_image_folder(tmp_path / "data")
    whole, killed = (StudyFolder(tmp_path / "runs", name) for name in ("whole", "killed"))
    words, said = [*WORDS, *data, f"storage.root={whole.root}"], tmp_path / "said.txt"
    with job([*words, f"study.id={whole.study_id}"], said) as uninterrupted:
        uninterrupted.finish()
    assert checkpoints(whole.trials) >= SEARCHED * DRAWS * EPOCHS

    chance = random.Random(time.time_ns())
    same = [*words, f"study.id={killed.study_id}"]
    with job(same, said) as searching:
        moment = chance.randint(1, checkpoints(whole.trials) * 3 // 4)
        searching.wait_for(lambda: checkpoints(killed.trials), moment)
        searching.kill(whole=False)
    assert not killed.best.exists()
    with job(same, said) as fitting:
        fitting.wait_for(lambda: fitted(killed), chance.randint(1, FITS * EPOCHS // 4))
        fitting.kill_worker(chance)
        fitting.wait_for(
            lambda: fitted(killed), chance.randint(FITS * EPOCHS // 3, FITS * EPOCHS // 2)
        )
        # at once: without a driver the workers would still end the fits that are left
        fitting.kill(whole=True)
    assert 0 < fitted(killed) < FITS * EPOCHS
    assert not killed.results.exists()
    with job(same, said) as finishing:
        finishing.finish()

    results = load(killed.results)
    for part in ("rows", "per_class", "statistics", "front", "failed", "missing"):
        assert results[part] == load(whole.results)[part], part
    assert len(results["rows"]) == len(METHODS) * len(SHOTS)
    assert results["study"]["finished"]
    assert load(killed.best) == load(whole.best)

    assert trials_of(killed) == trials_of(whole)
    assert len(trials_of(whole)) == SEARCHED
    for path in sorted(whole.fits.glob("*.json")):
        before, now = load(path), load(killed.fits / path.name)
        assert {**before, "seconds": None} == {**now, "seconds": None}
        prompts = path.with_suffix(".safetensors")
        expected, learned = load_file(prompts), load_file(killed.fits / prompts.name)
        assert expected.keys() == learned.keys()
        assert all((expected[name] == learned[name]).all() for name in expected)
    assert len(list(killed.fits.glob("*.json"))) == FITS
    # nothing half-done stays
    assert not [path for path in killed.fits.rglob("*") if path.name.startswith(".")]
    assert not list((killed.fits / "running").glob("*"))

    finals = {f"{method}-k{k}-final" for method in METHODS for k in SHOTS}
    ran = {key for key, state, *_ in trials_of(whole) if state == "complete"}
    assert_finished(runs_by_key(killed), [*ran, *finals])
    assert metrics_by_key(killed) == metrics_by_key(whole)
