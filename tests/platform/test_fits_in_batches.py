"""Final fits that a worker trains as one batch: results, checkpoints and failures of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_fits import close, small_bench

from ssprompt_core.models.sam import SamSegmenter
from ssprompt_core.train.state import TrainState
from ssprompt_core.train.together import Fit
from ssprompt_platform import checkpoints
from ssprompt_platform.bench import Bench
from ssprompt_platform.config.schema import TrainConfig
from ssprompt_platform.final import (
    FinalBench,
    prompts_path,
    read_failed,
    read_fits,
    record_path,
    run_fit,
    try_fits,
)
from ssprompt_platform.fit_files import running_path
from ssprompt_platform.fitting import fits_together
from ssprompt_platform.plan import FitKey, derive_seed

KEYS = [FitKey("ssprompt", 2, draw) for draw in (0, 1)]


class KilledError(BaseException):
    """Stands for the end of the process: nothing may catch it."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> FinalBench:
    """A study whose fits were done one by one."""
    words = [
        "train.epochs=3", "train.checkpoint_every=1", "search.space.decoding.choices=[one_pass]",
    ]  # fmt: skip
    tools = small_bench(tmp_path_factory.mktemp("alone"), ("ssprompt", "prototype"), *words)[1]
    for key in tools.plan.fits:
        run_fit(tools, key)
    return tools


@pytest.fixture
def tools(alone: FinalBench, tmp_path: Path) -> FinalBench:
    """The same study with an empty folder of fits."""
    return replace(alone, fits=tmp_path / "fits")


@pytest.fixture(autouse=True)
def shared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many fits had a part in each pass that was shared."""
    counts: list[int] = []
    decode_groups = SamSegmenter.decode_groups

    def watched(self: SamSegmenter, embeddings: torch.Tensor, *rest: Any, **named: Any) -> Any:
        counts.append(len(embeddings))
        return decode_groups(self, embeddings, *rest, **named)

    monkeypatch.setattr(SamSegmenter, "decode_groups", watched)
    return counts


def assert_as_alone(tools: FinalBench, alone: FinalBench, key: FitKey) -> None:
    found, expected = (json.loads(record_path(t.fits, key).read_text()) for t in (tools, alone))
    assert found.pop("seconds").keys() == expected.pop("seconds").keys()
    assert close(found, expected), (found, expected)
    learned, kept = (load_file(prompts_path(t.fits, key)) for t in (tools, alone))
    assert learned.keys() == kept.keys()
    for name, value in kept.items():
        # where a gradient is almost nothing, rounding decides which way AdamW's first step goes
        assert (learned[name] - value).norm() <= 0.02 * value.norm(), name
    assert not running_path(tools.fits, key).exists()


def in_prepared(monkeypatch: pytest.MonkeyPatch, change: Callable[[int, Fit], Fit]) -> None:
    """Change a fit, known by its seed, before it is trained."""
    prepared = Bench.prepared

    def changed(bench: Bench, *arguments: Any, seed: int, **rest: Any) -> Fit:
        return change(seed, prepared(bench, *arguments, seed=seed, **rest))

    monkeypatch.setattr(Bench, "prepared", changed)


def seed_of(tools: FinalBench, key: FitKey) -> int:
    return derive_seed(tools.seed, key.shots, key.draw)


def test_every_fit_of_a_batch_is_that_of_a_worker_that_did_it_alone(
    tools: FinalBench, alone: FinalBench, shared: list[int]
) -> None:
    for group in (KEYS, [FitKey("prototype", 1, draw) for draw in (0, 1)]):
        try_fits(tools, group)
        for key in group:
            assert_as_alone(tools, alone, key)
    assert shared == [2] * 3 * 2


@pytest.mark.parametrize(("killed_in", "epoch"), [(0, 2), (1, 2), (1, 3)])
def test_a_killed_batch_goes_on_from_the_checkpoint_of_each(
    tools: FinalBench,
    alone: FinalBench,
    shared: list[int],
    killed_in: int,
    epoch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killing(seed: int, one: Fit) -> Fit:
        def report(metrics: dict[str, float], state: TrainState | None) -> None:
            if (seed, metrics["epoch"]) == (seed_of(tools, KEYS[killed_in]), epoch):
                raise KilledError
            one.report(metrics, state)

        return replace(one, report=report)

    with monkeypatch.context() as patch:
        in_prepared(patch, killing)
        with pytest.raises(KilledError):
            try_fits(tools, KEYS)
    reached = []
    for key in KEYS:
        found = checkpoints.load(running_path(tools.fits, key))
        assert found is not None
        reached.append(len(found[0]["history"]))
    # epochs are taken in turn: the first fit may be one ahead
    assert reached == [epoch - 1 + (killed_in == 1), epoch - 1]
    shared.clear()
    try_fits(tools, KEYS)
    for key in KEYS:
        assert_as_alone(tools, alone, key)
    assert shared == [2] * 2 * (3 - max(reached))


def test_a_fit_that_diverges_fails_and_the_other_does_not(
    tools: FinalBench, alone: FinalBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(seed: int, one: Fit) -> Fit:
        if seed != seed_of(tools, KEYS[0]):
            return one
        nothing = torch.full(one.data.embeddings.shape, torch.nan)
        return replace(one, data=replace(one.data, embeddings=nothing))

    in_prepared(monkeypatch, poisoned)
    try_fits(tools, KEYS)
    causes = {key: kept["cause"] for key, kept in read_failed(tools.plan, tools.fits).items()}
    assert causes == {KEYS[0]: "the loss was nan at epoch 1: the fit diverged"}
    assert_as_alone(tools, alone, KEYS[1])


def test_what_breaks_a_batch_is_found_fit_by_fit(
    tools: FinalBench, alone: FinalBench, shared: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(seed: int, one: Fit) -> Fit:
        def report(metrics: dict[str, float], state: TrainState | None) -> None:
            if (seed, metrics["epoch"]) == (seed_of(tools, KEYS[1]), 2):
                raise ValueError("no second epoch")
            one.report(metrics, state)

        return replace(one, report=report)

    in_prepared(monkeypatch, broken)
    try_fits(tools, KEYS)
    causes = {key: kept["cause"] for key, kept in read_failed(tools.plan, tools.fits).items()}
    assert causes == {KEYS[1]: "ValueError: no second epoch"}
    assert set(read_fits(tools.plan, tools.fits)) == {KEYS[0]}
    assert_as_alone(tools, alone, KEYS[0])
    assert shared == [2] * 2 * 2


def test_seconds_are_shared_out(tools: FinalBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two fits that share a worker's time do not both count all of it."""
    clock = iter(range(0, 10_000, 100))
    ticking = SimpleNamespace(monotonic=lambda: float(next(clock)))
    monkeypatch.setattr("ssprompt_platform.fitting.time", ticking)
    try_fits(tools, KEYS)
    seconds = [json.loads(record_path(tools.fits, key).read_text())["seconds"] for key in KEYS]
    # begun at 0 and 100; six checkpoints look at the clock; stopped at 800 and 900
    assert [each["fit"] for each in seconds] == [400.0, 400.0]
    assert [each["score"] for each in seconds] == [100.0, 100.0]


def test_the_size_of_a_batch_is_by_device_unless_it_is_set() -> None:
    assert fits_together(TrainConfig(), "cpu") == 1
    assert fits_together(TrainConfig(), "cuda") > 1
    assert fits_together(TrainConfig(fits_together=3), "cpu") == 3
