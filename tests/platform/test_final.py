"""Final fits: resumed bit for bit, failed ones recorded, done again only for other settings."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.cloudpickle
import torch
from ray.train import ControllerError
from rich.console import Console
from small_fits import close, small_bench

from ssprompt_core.train.state import TrainState
from ssprompt_platform import checkpoints
from ssprompt_platform.bench import Bench
from ssprompt_platform.cluster import Resources
from ssprompt_platform.final import (
    FinalBench,
    load_shown,
    prompts_path,
    read_failed,
    read_fits,
    record_path,
    run_final_fits,
    run_fit,
    try_fit,
    unfinished,
)
from ssprompt_platform.fit_files import failed_path, forget_outdated, running_path, shown_path
from ssprompt_platform.fit_queue import FitQueue, run_again_where_lost
from ssprompt_platform.plan import FitKey, derive_seed
from ssprompt_platform.progress import Progress
from ssprompt_platform.storage import StudyFolder

KEY = FitKey("ssprompt", 2, 0)
EPOCHS = 4


class KilledError(BaseException):
    """Stands for the end of the process: nothing may catch it."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> FinalBench:
    folder = tmp_path_factory.mktemp("final")
    words = [f"train.epochs={EPOCHS}", "train.checkpoint_every=0"]
    return small_bench(folder, ("zero_shot", "ssprompt"), *words)[1]


@pytest.fixture
def tools(base: FinalBench, tmp_path: Path) -> FinalBench:
    """The same study with an empty folder of fits."""
    return replace(base, fits=tmp_path / "fits")


@pytest.fixture(scope="module")
def whole(base: FinalBench) -> dict[str, Any]:
    """The record of a fit that nothing interrupted and no checkpoint held up."""
    run_fit(base, KEY)
    return record(base, KEY)


def every(tools: FinalBench, epochs: int, **changes: Any) -> FinalBench:
    train = replace(tools.bench.train, checkpoint_every=epochs, **changes)
    return replace(tools, bench=replace(tools.bench, train=train))


def choose(tools: FinalBench, **changes: Any) -> FinalBench:
    """The same study after its search chose otherwise for the group of the fit."""
    chosen = {**tools.best[KEY.group], **changes}
    return replace(tools, best={**tools.best, KEY.group: chosen})


def record(tools: FinalBench, key: FitKey) -> dict[str, Any]:
    """The kept record without how long it took."""
    found = dict(json.loads(record_path(tools.fits, key).read_text()))
    found.pop("seconds")
    return found


def kill_before_scoring(tools: FinalBench, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("ssprompt_platform.fitting.score_test", killed)
        with pytest.raises(KilledError):
            run_fit(tools, KEY)


@pytest.mark.parametrize("often", [1, 2])
@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_a_killed_fit_goes_on_from_its_checkpoint_and_ends_with_the_same_bits(
    tools: FinalBench,
    base: FinalBench,
    whole: dict[str, Any],
    epoch: int,
    often: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fit = Bench.fit
    begun_after: list[int] = []

    def killed_in(bench: Bench, *arguments: Any, report: Any, get_checkpoint: Any, **rest: Any):
        state = get_checkpoint()
        begun_after.append(0 if state is None else int(state["epoch"]))

        def watched(metrics: dict[str, float], state: TrainState | None) -> None:
            if metrics["epoch"] == epoch and len(begun_after) == 1:
                raise KilledError
            report(metrics, state)

        return fit(bench, *arguments, report=watched, get_checkpoint=get_checkpoint, **rest)

    monkeypatch.setattr(Bench, "fit", killed_in)
    tools = every(tools, often)
    with pytest.raises(KilledError):
        try_fit(tools, KEY)
    assert unfinished(tools.plan, tools.fits, tools.best)[0] == KEY
    try_fit(tools, KEY)
    assert begun_after == [0, (epoch - 1) // often * often]
    assert record(tools, KEY) == whole
    assert [entry["epoch"] for entry in whole["history"]] == [1, 2, 3, 4]
    assert prompts_path(tools.fits, KEY).read_bytes() == prompts_path(base.fits, KEY).read_bytes()
    assert not running_path(tools.fits, KEY).exists()


def test_seconds_of_all_parts_add_up(tools: FinalBench, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = every(tools, 2)
    kill_before_scoring(tools, monkeypatch)
    found = checkpoints.load(running_path(tools.fits, KEY))
    assert found is not None
    progress, state = found
    checkpoints.save(running_path(tools.fits, KEY), {**progress, "seconds": 5000.0}, state)
    run_fit(tools, KEY)
    seconds = json.loads(record_path(tools.fits, KEY).read_text())["seconds"]
    assert 5000 < seconds["fit"] < 6000


def test_a_checkpoint_of_other_hyperparameters_is_not_gone_on_from(
    tools: FinalBench, base: FinalBench, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = every(tools, 1)
    kill_before_scoring(choose(tools, lr_embedding=0.5), monkeypatch)
    run_fit(tools, KEY)
    assert record(tools, KEY) == whole


def test_fit_hyperparameters_replace_those_of_train(
    tools: FinalBench, whole: dict[str, Any]
) -> None:
    tools = choose(tools, epochs=2, dice_weight=0.0)
    run_fit(tools, KEY)
    found = record(tools, KEY)
    assert [entry["epoch"] for entry in found["history"]] == [1, 2]
    assert found["hyperparameters"]["epochs"] == 2
    assert found["history"][0]["loss"] != whole["history"][0]["loss"]


@pytest.mark.parametrize(
    ("break_it", "cause"),
    [
        ("raise", "ZeroDivisionError: division by zero"),
        ("memory", "out of memory (RuntimeError: "),
        ("diverge", "the loss was nan at epoch 1: the fit diverged"),
    ],
)
def test_a_fit_that_fails_is_recorded_and_not_repeated(
    tools: FinalBench, break_it: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if break_it == "diverge":
        tools = choose(tools, ce_weight=1e38, dice_weight=1e38)  # real steps overflow
    else:
        monkeypatch.setattr(
            Bench,
            "model",
            lambda *_: torch.empty(2**48) if break_it == "memory" else 1 / 0,
        )
    try_fit(tools, KEY)
    kept = json.loads(failed_path(tools.fits, KEY).read_text())
    assert kept["cause"].startswith(cause)
    assert "\n" not in kept["cause"]
    assert (kept["method"], kept["shots"], kept["draw"]) == ("ssprompt", 2, 0)
    assert kept["hyperparameters"] == dict(tools.best[KEY.group])
    assert read_failed(tools.plan, tools.fits) == {KEY: kept}
    assert read_fits(tools.plan, tools.fits) == {}
    assert KEY not in unfinished(tools.plan, tools.fits, tools.best)
    # the way back that the message names, and other hyperparameters, which are another fit
    assert KEY in unfinished(tools.plan, tools.fits, choose(tools, num_prompts=9).best)
    failed_path(tools.fits, KEY).unlink()
    assert KEY in unfinished(tools.plan, tools.fits, tools.best)


def test_only_fits_of_other_hyperparameters_are_done_again(
    tools: FinalBench, whole: dict[str, Any], base: FinalBench
) -> None:
    plan, fits = base.plan, base.fits
    all_fits = unfinished(plan, tools.fits, base.best)
    assert [key.shots for key in all_fits] == sorted((k.shots for k in plan.fits), reverse=True)
    assert set(all_fits) == set(plan.fits)
    assert set(all_fits) - set(unfinished(plan, fits, base.best)) == {KEY}
    changed = choose(base, lr_weight=0.05)
    assert set(unfinished(plan, fits, changed.best)) == set(plan.fits)
    chosen = {group: values for group, values in base.best.items() if group.method != "ssprompt"}
    assert [key.method for key in unfinished(plan, tools.fits, chosen)] == ["zero_shot"]


def test_nothing_of_an_outdated_fit_stays(tools: FinalBench) -> None:
    run_fit(tools, KEY)
    half_written = tools.fits / ".ssprompt-k2-d0-x1y2.json"
    half_written.write_text("{")
    other = FitKey("zero_shot", 1, 0)
    run_fit(tools, other)
    before = {path: path.read_bytes() for path in tools.fits.glob("zero_shot*")}
    forget_outdated(tools.fits, [KEY])
    left = {path.name for path in tools.fits.rglob("*") if path.is_file()}
    assert left == {f"{other.name}.json", f"{other.name}.safetensors"}
    assert {path: path.read_bytes() for path in before} == before
    assert load_shown(tools.fits, KEY) == []


def test_images_for_pictures_are_kept_with_their_labels(
    tools: FinalBench, base: FinalBench
) -> None:
    for draw in (0, 1):
        run_fit(tools, replace(KEY, draw=draw))
    run_fit(tools, FitKey("ssprompt", 1, 0))
    run_fit(tools, FitKey("zero_shot", 1, 0))
    kept = {path.name for path in shown_path(tools.fits, KEY).parent.iterdir()}
    assert kept == {f"{KEY.name}.safetensors", "zero_shot-k1-d0.safetensors"}
    shown = load_shown(tools.fits, KEY)
    ids = [image.image_id for image in shown]
    assert ids[:2] == list(tools.pictured)
    assert len(ids) == len(set(ids)) == min(2 + 4, len(tools.plan.test_ids))
    dataset = tools.bench.dataset.open_test()
    scores = dict(zip(tools.plan.test_ids, record(tools, KEY)["image_miou"], strict=True))
    for image in shown:
        np.testing.assert_array_equal(image.image, dataset.image(image.image_id))
        np.testing.assert_array_equal(image.truth, dataset.label(image.image_id))
        assert (image.predicted.dtype, image.predicted.shape) == (np.uint8, image.truth.shape)
        assert image.miou == scores[image.image_id]


# on a cluster


@dataclass(frozen=True)
class DeadlyBench(Bench):
    """Kills its worker, or raises, in the fits that are named.

    Attributes:
        deaths: Seed of a fit -> epoch at whose end the worker is killed, and how often.
        raises: Seeds of fits that raise.
        log: Folder with a file for every death.
    """

    deaths: Mapping[int, tuple[int, int]]
    raises: tuple[int, ...]
    log: Path

    def prepared(self, *arguments: Any, report: Any, seed: int, **rest: Any) -> Any:
        if seed in self.raises:
            raise ValueError(f"fit {seed}\ncannot be done")
        epoch, often = self.deaths.get(seed, (0, 0))

        def watched(metrics: dict[str, float], state: TrainState | None) -> None:
            died = len(list(self.log.glob(f"{seed}-*")))
            if metrics["epoch"] == epoch and died < often:
                (self.log / f"{seed}-{died}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            report(metrics, state)

        return super().prepared(*arguments, report=watched, seed=seed, **rest)


class LethalToRead:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> Any:
        return os._exit, (1,)


@pytest.fixture
def by_value() -> Iterator[None]:
    """Workers do not have this file: its classes travel whole."""
    module = sys.modules[__name__]
    ray.cloudpickle.register_pickle_by_value(module)
    yield
    ray.cloudpickle.unregister_pickle_by_value(module)


def on_cluster(tools: FinalBench, **changes: Any) -> tuple[FinalBench, StudyFolder]:
    root = tools.fits.parent
    shared = replace(tools.bench, resources=Resources(2, 2, 1, 0.0, "cpu"))
    parts = {field.name: getattr(shared, field.name) for field in fields(Bench)}
    bench = DeadlyBench(**parts, **{"deaths": {}, "raises": (), "log": root / "log", **changes})
    return replace(tools, bench=bench), StudyFolder(root, "s")


@pytest.mark.e2e
@pytest.mark.usefixtures("ray_cluster", "by_value")
def test_killed_workers_are_replaced_and_failing_fits_recorded(
    tools: FinalBench, base: FinalBench, whole: dict[str, Any]
) -> None:
    # in batches of two, until the worker of one dies
    tools = every(tools, 1, fits_together=2)
    seeds = {key: derive_seed(base.seed, key.shots, key.draw) for key in base.plan.fits}
    once, always, raising = KEY, FitKey("ssprompt", 2, 1), FitKey("ssprompt", 1, 0)
    deadly, folder = on_cluster(
        tools, deaths={seeds[once]: (2, 1), seeds[always]: (3, 99)}, raises=(seeds[raising],)
    )
    deadly.bench.log.mkdir()
    console = Console(file=io.StringIO(), width=200)
    assert run_final_fits(deadly, folder, Progress(console)) == 5
    assert set(read_fits(tools.plan, tools.fits)) == {
        once, FitKey("ssprompt", 1, 1), FitKey("zero_shot", 1, 0),
    }  # fmt: skip
    assert close(record(tools, once), whole)
    causes = {key: kept["cause"] for key, kept in read_failed(tools.plan, tools.fits).items()}
    died = "its worker died 3 times after epoch 2: killed by the system, out of memory?"
    assert causes == {always: died, raising: f"ValueError: fit {seeds[raising]}"}
    # one that falls together with the replacement of the other worker's group may not be counted
    assert len(list(deadly.bench.log.iterdir())) - (1 + 3) in (0, 1)
    text = console.file.getvalue()
    assert f"final fit {always.name} failed: {died}" in text
    assert f"delete {failed_path(tools.fits, always)}" in text
    assert "final fits 5/5 (2 failed)" in text
    # what failed is not tried again, and told again
    console = Console(file=io.StringIO(), width=200)
    assert run_final_fits(deadly, folder, Progress(console)) == 0
    assert f"final fit {always.name} failed before" in console.file.getvalue()


@pytest.mark.e2e
@pytest.mark.usefixtures("ray_cluster", "by_value")
def test_a_run_that_cannot_begin_any_fit_ends_with_the_reason(tools: FinalBench) -> None:
    deadly, folder = on_cluster(tools, deaths=LethalToRead())
    with pytest.raises(Exception, match="workers died [34] times before they had begun a fit"):
        run_final_fits(deadly, folder, Progress(Console(file=io.StringIO())))
    assert read_failed(tools.plan, tools.fits) == {}


@pytest.mark.e2e
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_that_is_lost_while_it_starts_is_replaced(tmp_path: Path) -> None:
    """What Ray Train's controller leaves then: its error, and the reservation of all CPUs."""
    queue = ray.remote(num_cpus=0)(FitQueue).remote([], tmp_path, {})
    starts = []

    def start() -> None:
        starts.append(1)
        group = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}])
        assert group.wait(timeout_seconds=60), "the CPUs of the last start were not given back"
        if len(starts) < 3:
            raise ControllerError(ray.exceptions.RayActorError())
        ray.util.remove_placement_group(group)

    run_again_where_lost(start, queue)
    assert len(starts) == 3

    def never() -> None:
        raise ControllerError(ray.exceptions.RayActorError())

    with pytest.raises(RuntimeError, match="workers died 3 times before they had begun a fit"):
        run_again_where_lost(never, queue)
    with pytest.raises(ControllerError):
        run_again_where_lost(fault, queue)


def fault() -> None:
    raise ControllerError(ValueError("no fault of a worker"))
