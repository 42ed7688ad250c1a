"""The training loop: it learns, resumes to the bit, and its loss curve is guarded."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from ssprompt_core.data.procedural import ProceduralDataset
from ssprompt_core.errors import UserError
from ssprompt_core.methods import FewShotModel, MethodSettings, build_model
from ssprompt_core.methods.settings import Decoding
from ssprompt_core.models.registry import build_segmenter
from ssprompt_core.models.small_sam import build_small_text_encoder
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.train.data import LabelledEmbeddings
from ssprompt_core.train.fit import FitResult, FitSettings, fit
from ssprompt_core.train.optimiser import Optimiser, schedule
from ssprompt_core.train.state import TrainState
from tests.core.tiny_sam import class_texts, coloured_data, tiny_segmenter

GOLDEN = Path(__file__).parent / "golden" / "loss_curves.json"
SETTINGS = FitSettings(epochs=4, steps_per_epoch=3, batch_size=3, cells=12, checkpoint_every=1)
EVERY_TERM = replace(
    SETTINGS, focal_weight=2, focal_gamma=1.5, class_balance=0.5, warm_up=0.25, schedule="constant"
)
GOLDEN_CURVES = {
    "ssprompt": ("ssprompt", SETTINGS),
    "linear_probe": ("linear_probe", SETTINGS),
    "ssprompt, every term": ("ssprompt", EVERY_TERM),
    "linear_probe, every term": ("linear_probe", EVERY_TERM),
}


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


@pytest.mark.parametrize("name", GOLDEN_CURVES)
def test_the_loss_curve_is_the_golden_one(name: str) -> None:
    """Twenty steps; ``SSPROMPT_WRITE_GOLDEN=1`` writes the file again after a wanted change."""
    method, settings = GOLDEN_CURVES[name]
    model, data = _parts(method)
    losses: list[float] = []
    result = fit(
        model,
        data,
        replace(settings, epochs=20, steps_per_epoch=1),
        report=lambda metrics, state: losses.append(metrics["loss"]),
    )
    assert result.steps == len(losses) == 20
    _compare_with_golden(name, losses, rel=2e-5)


@pytest.mark.parametrize("decoding", get_args(Decoding))
def test_the_small_model_learns_along_its_golden_curve(decoding: Decoding) -> None:
    segmenter = build_segmenter("small")
    dataset = ProceduralDataset(train=4)
    texts = ClassTexts.of(build_small_text_encoder, dataset.class_names)
    model = build_model("ssprompt", MethodSettings(decoding=decoding), segmenter, texts, seed=0)
    ids = dataset.ids("train")
    images = torch.stack([segmenter.preprocess(dataset.image(i)) for i in ids])
    labels = [dataset.label(i) for i in ids]
    data = LabelledEmbeddings(
        segmenter.encode_images(images), labels, [label.shape for label in labels]
    )
    losses: list[float] = []
    settings = FitSettings(epochs=20, steps_per_epoch=1, batch_size=2, cells=64)
    fit(model, data, settings, report=lambda metrics, state: losses.append(metrics["loss"]))
    # rounding grows along twenty steps of a real decoder
    _compare_with_golden(f"small SAM, {decoding}", losses, rel=2e-3)


def _compare_with_golden(name: str, losses: list[float], rel: float) -> None:
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("SSPROMPT_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(known | {name: [round(x, 6) for x in losses]}, indent=1))
        return
    assert losses == pytest.approx(known[name], rel=rel)


@pytest.mark.parametrize("stopped_after", [1, 3, 4])
def test_an_interrupted_fit_ends_with_the_bits_of_an_uninterrupted_one(
    tmp_path: Path, stopped_after: int
) -> None:
    straight, data = _parts()
    losses: list[float] = []
    whole = fit(straight, data, SETTINGS, report=lambda m, state: losses.append(m["loss"]))

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
    assert result == whole
    assert (result.loss, result.epochs, result.steps) == (losses[-1], 4, 12)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    first, again = _curve("ssprompt")[1], _curve("ssprompt")[1]
    other = _curve("ssprompt", replace(SETTINGS, seed=1))[1]
    assert first == again
    assert first != other


@pytest.mark.parametrize("settings", [SETTINGS, EVERY_TERM], ids=["default", "every term"])
def test_half_precision_stays_near_full(settings: FitSettings) -> None:
    _, full = _curve("ssprompt", settings)
    _, half = _curve("ssprompt", replace(settings, precision="bf16"))
    assert half != full
    assert half == pytest.approx(full, rel=0.05)


def _gradient(settings: FitSettings, method: str = "ssprompt") -> dict[str, torch.Tensor]:
    """First moments after one step: a tenth of the gradients, which Adam's step would even out."""
    model, data = _parts(method)
    states: list[TrainState | None] = []
    once = replace(settings, epochs=1, steps_per_epoch=1, batch_size=4, checkpoint_every=1)
    fit(model, data, once, report=lambda metrics, state: states.append(state))
    assert states[0] is not None
    return {name: value for name, value in states[0].items() if name.startswith("exp_avg.")}


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4, 9])
def test_gradients_accumulated_over_micro_batches_are_those_of_the_batch(micro_batch: int) -> None:
    settings = replace(EVERY_TERM, micro_batch=micro_batch)
    model, data = _parts()
    sizes: list[int] = []
    whole = model.class_logits

    def spy(embeddings_BDhw: torch.Tensor, cells_P: torch.Tensor | None = None) -> torch.Tensor:
        sizes.append(len(embeddings_BDhw))
        return whole(embeddings_BDhw, cells_P)

    model.class_logits = spy  # type: ignore[method-assign]
    fit(model, data, replace(settings, epochs=1, steps_per_epoch=1, batch_size=4))
    assert max(sizes) == min(micro_batch, 4)
    assert sum(sizes) == 4
    cut, one = _gradient(settings), _gradient(replace(settings, micro_batch=4))
    for name, value in one.items():
        assert value.abs().max() > 0
        torch.testing.assert_close(cut[name], value, rtol=1e-4, atol=1e-7)


def test_cutting_a_batch_changes_nothing_but_rounding() -> None:
    _, whole = _curve("ssprompt")
    _, cut = _curve("ssprompt", replace(SETTINGS, micro_batch=1))
    assert cut == pytest.approx(whole, rel=1e-5)


def test_the_usual_micro_batch_bounds_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    _, whole = _curve("ssprompt")
    monkeypatch.setattr("ssprompt_core.train.loop._PAIR_CELLS", {"cpu": 1})
    _, cut = _curve("ssprompt")
    assert cut == pytest.approx(whole, rel=1e-5)


PATIENT = replace(EVERY_TERM, epochs=6, patience=2, micro_batch=1)


def _share(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
    for name, settings in (("default", SETTINGS), ("patient", PATIENT)):
        model, curve, result = _fitted(settings)
        found = {"curve": curve, "state": model.state_dict(), "result": asdict(result)}
        torch.save(found, f"{folder}/{name}{rank}.pt")
    dist.destroy_process_group()


def _fitted(settings: FitSettings) -> tuple[FewShotModel, list[dict[str, float]], FitResult]:
    model, data = _parts()
    curve: list[dict[str, float]] = []
    result = fit(model, data, settings, report=lambda metrics, state: curve.append(metrics))
    return model, curve, result


def test_two_workers_that_share_batches_equal_one(tmp_path: Path) -> None:
    spawn(_share, (str(tmp_path),), nprocs=2)
    for name, settings in (("default", SETTINGS), ("patient", PATIENT)):
        model, curve, result = _fitted(settings)
        ranks: list[dict[str, Any]] = [
            torch.load(tmp_path / f"{name}{rank}.pt", weights_only=True) for rank in (0, 1)
        ]
        for shared in ranks:
            assert len(shared["curve"]) == len(curve)
            for epoch, metrics in zip(shared["curve"], curve, strict=True):
                assert epoch == pytest.approx(metrics, rel=1e-4)
            assert shared["result"] == pytest.approx(asdict(result), rel=1e-5)
            for part, value in model.state_dict().items():
                torch.testing.assert_close(shared["state"][part], value, atol=1e-4, rtol=1e-4)
        assert ranks[0]["curve"] == ranks[1]["curve"]
        for part, value in ranks[0]["state"].items():
            assert torch.equal(value, ranks[1]["state"][part]), part


def test_a_diverged_fit_ends_with_its_loss_and_without_a_checkpoint() -> None:
    model, data = _parts()
    data.embeddings.fill_(float("nan"))
    states: list[TrainState | None] = []
    result = fit(model, data, SETTINGS, report=lambda metrics, state: states.append(state))
    assert result.loss != result.loss
    assert (result.epochs, result.best_epoch, result.stopped) == (1, 1, False)
    assert states == [None]


def test_the_learning_rate_rises_and_falls() -> None:
    factors = [schedule(step, 100) for step in range(100)]
    assert factors[0] < factors[4] == 1.0
    assert factors[4:] == sorted(factors[4:], reverse=True)
    assert 0 < factors[-1] < 0.01


@pytest.mark.parametrize("warm_up", [0.0, 0.3, 1.0])
def test_the_schedule_is_by_setting(warm_up: float) -> None:
    rising = round(20 * warm_up)
    up = [(step + 1) / rising for step in range(rising)]
    constant = [schedule(step, 20, warm_up=warm_up, shape="constant") for step in range(20)]
    assert constant == pytest.approx(up + [1.0] * (20 - rising))
    cosine = [schedule(step, 20, warm_up=warm_up) for step in range(20)]
    assert cosine[:rising] == pytest.approx(up)
    fall = cosine[max(0, rising - 1) :]
    assert max(cosine) == fall[0] == 1.0
    assert fall == sorted(fall, reverse=True)


def test_the_optimiser_follows_the_schedule_of_the_settings() -> None:
    settings = replace(SETTINGS, steps_per_epoch=1, warm_up=0.5, schedule="constant")
    _, curve, _ = _fitted(settings)
    assert [metrics["lr"] for metrics in curve] == [0.5, 1.0, 1.0, 1.0]
    _, curve, _ = _fitted(replace(settings, warm_up=0.0, schedule="cosine"))
    assert [metrics["lr"] for metrics in curve] == pytest.approx([1, 0.854, 0.5, 0.146], abs=1e-3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("micro_batch", -1),
        ("cells", -1),
        ("focal_weight", -0.1),
        ("focal_gamma", -1),
        ("class_balance", 1.5),
        ("warm_up", float("nan")),
        ("schedule", "linear"),
        ("patience", -1),
        ("precision", "int8"),
        ("precision", "fp16"),
    ],
)
def test_a_wrong_setting_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^{field} is "):
        replace(SETTINGS, **{field: value})


def test_a_loss_without_terms_is_refused() -> None:
    with pytest.raises(UserError, match=r"ce_weight, dice_weight, focal_weight are all 0"):
        replace(SETTINGS, ce_weight=0, dice_weight=0)


def test_the_frozen_model_keeps_its_bits_under_every_setting() -> None:
    model, data = _parts()
    before = {name: value.clone() for name, value in model.segmenter.state_dict().items()}
    fit(model, data, replace(PATIENT, precision="bf16"))
    for name, value in model.segmenter.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_model_with_nothing_to_train_only_prepares() -> None:
    model, data = _parts("zero_shot")
    seen: list[tuple[int, ...]] = []

    def spy(embeddings_nDhw: torch.Tensor, labels_nS44: torch.Tensor) -> None:
        seen.append((len(embeddings_nDhw), *labels_nS44.shape))

    model.prepare = spy  # type: ignore[method-assign]
    reports: list[dict[str, float]] = []
    result = fit(model, data, SETTINGS, report=lambda metrics, state: reports.append(metrics))
    assert result == FitResult(loss=0.0, epochs=0, steps=0, best_epoch=0, stopped=False)
    assert seen == [(4, 4, 36, 4, 4)]
    assert reports == []


def test_what_cannot_be_fitted_is_refused() -> None:
    model, data = _parts()
    with pytest.raises(ValueError, match="no images"):
        fit(model, LabelledEmbeddings(data.embeddings[:0], [], []), SETTINGS)
    data.labels[0][5, 5] = 3
    with pytest.raises(UserError, match="class 3, but there are 3 classes"):
        fit(model, data, SETTINGS)


def test_a_state_before_the_first_step_has_no_moments_and_can_be_resumed() -> None:
    # as after an epoch of fp16 in which the scaler skipped every step
    first, again = (
        Optimiser(model, total_steps=4, seed=seed, warm_up=0, shape="constant", scaled=False)
        for seed, model in enumerate((_parts()[0], _parts()[0]))
    )
    again.restore(first.state())
    assert torch.equal(again.generator.get_state(), first.generator.get_state())
    again.zero_grad()
    again.step()
    assert again.step_count == 1


def test_a_rank_without_a_share_of_the_batch_can_step_with_a_scaler() -> None:
    model, _ = _parts()
    optimiser = Optimiser(model, total_steps=3, seed=0, warm_up=0.0, shape="cosine", scaled=True)
    optimiser.zero_grad()
    optimiser.step()
    assert optimiser.step_count == 1


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
