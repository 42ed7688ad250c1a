from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from samples import STUDIES, write_image_folder

from ssprompt_platform.bench import Bench
from ssprompt_platform.cluster import Resources
from ssprompt_platform.config import load_config
from ssprompt_platform.plan import Group
from ssprompt_platform.prepare import prepare
from ssprompt_platform.search.trial import TrialBench, run_draws
from ssprompt_platform.sources import WithoutTest

GROUP = Group("ssprompt", 2)
SETTING = {"num_prompts": 4}


class BrokenOffError(Exception):
    pass


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> TrialBench:
    folder = tmp_path_factory.mktemp("trial")
    words = write_image_folder(folder / "data")
    words += ["study=smoke", "search.draws=2", "train.checkpoint_every=1", "train.epochs=3"]
    words += [f"storage.root={folder / 'runs'}", "train.steps_per_epoch=2"]
    prepared = prepare(load_config(words, STUDIES))
    segmenter = prepared.source.build()
    for image_id in prepared.plan.image_ids():
        x_B3SS = segmenter.preprocess(prepared.dataset.image(image_id))[None]
        embedding_BDhw = segmenter.encode_images(x_B3SS)
        prepared.store.put(prepared.dataset.digest(image_id), embedding_BDhw[0])
    bench = Bench(
        WithoutTest(prepared.dataset),
        prepared.store,
        prepared.source,
        prepared.texts,
        prepared.config.train,
        Resources(1, 1, 1, 0.0, "cpu"),
    )
    plan = prepared.plan
    return TrialBench(bench, plan.draws[:2], plan.search_ids, 0, prepared.config.train.epochs)


def run(
    tools: TrialBench, keep: Path, checkpoint: Path | None = None, stop_at: int | None = None
) -> list[dict[str, Any]]:
    """Run a trial as an actor would; keep its last checkpoint; break off at an epoch."""
    reports: list[dict[str, Any]] = []

    def report(metrics: dict[str, Any], folder: Path | None) -> None:
        if metrics["epoch"] == stop_at and "miou" not in metrics:
            raise BrokenOffError
        reports.append(metrics)
        if folder is not None:
            shutil.rmtree(keep, ignore_errors=True)
            shutil.copytree(folder, keep)

    run_draws(tools, GROUP, SETTING, report, checkpoint)
    return reports


def test_epochs_count_over_draws_and_the_last_report_is_the_mean(
    tools: TrialBench, tmp_path: Path
) -> None:
    reports = run(tools, tmp_path / "kept")
    assert [r["epoch"] for r in reports if "miou" not in r] == [1, 2, 3, 4, 5, 6]
    first, last = (r for r in reports if "miou" in r)
    scores = json.loads((tmp_path / "kept" / "progress.json").read_text())["scores"]
    assert first["miou"] == scores[0]
    assert last["miou"] == pytest.approx(sum(scores) / 2)
    assert (first["epoch"], last["epoch"]) == (3, 6)


@pytest.mark.parametrize("epoch", [2, 4, 6])
def test_an_interrupted_trial_ends_like_an_uninterrupted_one(
    tools: TrialBench, tmp_path: Path, epoch: int
) -> None:
    whole = run(tools, tmp_path / "whole")
    with pytest.raises(BrokenOffError):
        run(tools, tmp_path / "kept", stop_at=epoch)
    shutil.copytree(tmp_path / "kept", tmp_path / "from")
    rest = run(tools, tmp_path / "kept", checkpoint=tmp_path / "from")
    assert rest == whole[-len(rest) :]
    assert rest[0]["epoch"] == epoch
