"""The training loop: it learns, resumes to the bit, and its loss curve is guarded."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from ssprompt_core.errors import UserError
from ssprompt_core.methods import FewShotModel, MethodSettings, build_model
from ssprompt_core.train.data import LabelledEmbeddings
from ssprompt_core.train.fit import FitSettings, fit
from ssprompt_core.train.optimiser import schedule
from ssprompt_core.train.state import TrainState
from tests.core.tiny_sam import class_texts, coloured_data, tiny_segmenter

GOLDEN = Path(__file__).parent / "golden" / "loss_curves.json"
SETTINGS = FitSettings(epochs=4, steps_per_epoch=3, batch_size=3, cells=12, checkpoint_every=1)


def _parts(method: str = "ssprompt") -> tuple[FewShotModel, LabelledEmbeddings]:
    segmenter = tiny_segmenter()
    text = torch.randn(3, 12, generator=torch.Generator().manual_seed(5))
    settings = MethodSettings(num_prompts=4, lr_embedding=0.3, lr_weight=0.3)
    model = build_model(method, settings, segmenter, class_texts(text), seed=0)
    return model, coloured_data(segmenter)


def _curve(method: str, settings: FitSettings = SETTINGS) -> tuple[FewShotModel, list[float]]:
    model, data = _parts(method)
    losses: list[float] = []
    fit(model, data, settings, report=lambda metrics, state: losses.append(metrics["loss"]))
    return model, losses


@pytest.mark.parametrize("method", ["linear_probe", "xy_points", "spa", "sem", "ssprompt"])
def test_the_loss_falls(method: str) -> None:
    # with all images and cells in each step nothing but learning moves it
    _, losses = _curve(method, replace(SETTINGS, batch_size=4, cells=0))
    assert losses == sorted(set(losses), reverse=True)


@pytest.mark.parametrize("method", ["ssprompt", "linear_probe"])
def test_the_loss_curve_is_the_golden_one(method: str) -> None:
    """Twenty steps; ``SSPROMPT_WRITE_GOLDEN=1`` writes the file again after a wanted change."""
    _, losses = _curve(method, replace(SETTINGS, epochs=20, steps_per_epoch=1))
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("SSPROMPT_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(known | {method: [round(x, 6) for x in losses]}, indent=1))
        return
    assert losses == pytest.approx(known[method], rel=2e-5)


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_an_interrupted_fit_ends_with_the_bits_of_an_uninterrupted_one(
    tmp_path: Path, stopped_after: int
) -> None:
    straight, losses = _curve("ssprompt")

    class Killed(Exception):  # noqa: N818
        pass

    def kill(metrics: dict[str, float], state: TrainState | None) -> None:
        assert state is not None
        state.save(tmp_path / "state.safetensors")
        if metrics["epoch"] == stopped_after:
            raise Killed

    model, data = _parts()
    with pytest.raises(Killed):
        fit(model, data, SETTINGS, report=kill)
    resumed, data = _parts()
    rest: list[float] = []
    result = fit(
        resumed,
        data,
        SETTINGS,
        report=lambda metrics, state: rest.append(metrics["loss"]),
        get_checkpoint=lambda: TrainState.load(tmp_path / "state.safetensors"),
    )
    assert rest == losses[stopped_after:]
    assert (result.epochs, result.steps) == (4, 12)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    first, again = _curve("ssprompt")[1], _curve("ssprompt")[1]
    other = _curve("ssprompt", replace(SETTINGS, seed=1))[1]
    assert first == again
    assert first != other


def test_half_precision_stays_near_full() -> None:
    _, full = _curve("ssprompt")
    _, half = _curve("ssprompt", replace(SETTINGS, precision="bf16"))
    assert half != full
    assert half == pytest.approx(full, rel=0.05)


def test_cutting_a_batch_changes_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = _curve("ssprompt")
    monkeypatch.setattr("ssprompt_core.train.fit._PAIR_CELLS", {"cpu": 1})
    _, cut = _curve("ssprompt")
    assert cut == pytest.approx(whole, rel=1e-5)


def _share(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
    model, losses = _curve("ssprompt")
    torch.save({"losses": losses, "state": model.state_dict()}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_workers_that_share_batches_equal_one(tmp_path: Path) -> None:
    spawn(_share, (str(tmp_path),), nprocs=2)
    model, losses = _curve("ssprompt")
    ranks: list[dict[str, Any]] = [
        torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)
    ]
    for shared in ranks:
        assert shared["losses"] == pytest.approx(losses, rel=1e-5)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(shared["state"][name], value, atol=1e-4, rtol=1e-4)
    for name, value in ranks[0]["state"].items():
        assert torch.equal(value, ranks[1]["state"][name]), name


def test_a_diverged_fit_ends_with_its_loss_and_without_a_checkpoint() -> None:
    model, data = _parts()
    data.embeddings.fill_(float("nan"))
    states: list[TrainState | None] = []
    result = fit(model, data, SETTINGS, report=lambda metrics, state: states.append(state))
    assert result.loss != result.loss
    assert result.epochs == 1
    assert states == [None]


def test_the_learning_rate_rises_and_falls() -> None:
    factors = [schedule(step, 100) for step in range(100)]
    assert factors[0] < factors[4] == 1.0
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert 0 < factors[-1] < 0.01


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", 0), ("cells", -1), ("precision", "int8"), ("precision", "fp16")],
)
def test_a_wrong_setting_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^{field} is "):
        replace(SETTINGS, **{field: value})


def test_what_cannot_be_fitted_is_refused(tmp_path: Path) -> None:
    model, data = _parts("zero_shot")
    with pytest.raises(ValueError, match="nothing to train"):
        fit(model, data, SETTINGS)
    model, data = _parts()
    with pytest.raises(ValueError, match="no images"):
        fit(model, LabelledEmbeddings(data.embeddings[:0], [], []), SETTINGS)
    data.labels[0][5, 5] = 3
    with pytest.raises(UserError, match="class 3, but there are 3 classes"):
        fit(model, data, SETTINGS)


def test_a_checkpoint_of_another_method_or_a_damaged_one_is_named(tmp_path: Path) -> None:
    states: list[TrainState] = []
    model, data = _parts("spa")
    fit(model, data, SETTINGS, report=lambda _, state: states.append(state) if state else None)
    model, data = _parts("ssprompt")
    with pytest.raises(UserError, match="another method or setting"):
        fit(model, data, SETTINGS, get_checkpoint=lambda: states[0])
    (tmp_path / "state.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read as a training state"):
        TrainState.load(tmp_path / "state.safetensors")
