"""Early stopping: the best epoch by the support images alone, kept, restored and resumed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.errors import UserError
from ssprompt_core.methods import FewShotModel, MethodSettings, build_model
from ssprompt_core.train.data import LabelledEmbeddings
from ssprompt_core.train.fit import FitResult, FitSettings, fit
from ssprompt_core.train.state import TrainState
from ssprompt_core.train.stopping import BestEpoch
from tests.core.tiny_sam import class_texts, coloured_data, tiny_segmenter

SETTINGS = FitSettings(
    epochs=12, steps_per_epoch=3, batch_size=3, cells=12, patience=3, checkpoint_every=1
)
FRAME = 24  # labels of this side are the pixels of the logits, so no resampling takes part


def _parts(method: str = "ssprompt") -> tuple[FewShotModel, LabelledEmbeddings]:
    segmenter = tiny_segmenter()
    text = torch.randn(3, 12, generator=torch.Generator().manual_seed(5))
    hyperparameters = MethodSettings(num_prompts=4, lr_embedding=0.3, lr_weight=0.3)
    model = build_model(method, hyperparameters, segmenter, class_texts(text), seed=0)
    return model, coloured_data(segmenter, side=FRAME)


def _fit(
    changed: FitSettings = SETTINGS,
) -> tuple[FewShotModel, FitResult, list[dict[str, float]], list[TrainState]]:
    model, data = _parts()
    curve: list[dict[str, float]] = []
    states: list[TrainState] = []

    def keep(metrics: dict[str, float], state: TrainState | None) -> None:
        curve.append(metrics)
        if state is not None:
            states.append(state)

    return model, fit(model, data, changed, report=keep), curve, states


def _parameters(model: FewShotModel) -> dict[str, torch.Tensor]:
    return {f"parameter.{name}": p.detach() for name, p in model.named_parameters()}


def _support_miou(model: FewShotModel, data: LabelledEmbeddings) -> float:
    """By hand: every labelled pixel of all images pooled, classes without a pixel left out."""
    with torch.no_grad():
        guess = model.class_logits(data.embeddings).argmax(1).numpy()
    truth = np.stack(data.labels)
    guess, truth = guess[truth != IGNORE], truth[truth != IGNORE]
    return float(
        np.mean(
            [
                ((guess == c) & (truth == c)).sum() / ((guess == c) | (truth == c)).sum()
                for c in np.unique(truth)
            ]
        )
    )


def test_a_fit_ends_without_patience_left_and_goes_back_to_its_best_epoch() -> None:
    model, result, curve, _ = _fit()
    scores = [metrics["support_miou"] for metrics in curve]
    best = scores.index(max(scores)) + 1
    assert result.stopped
    assert len(scores) == result.epochs == best + SETTINGS.patience < SETTINGS.epochs
    assert (result.best_epoch, result.loss) == (best, curve[best - 1]["loss"])
    assert result.steps == 3 * result.epochs
    # the score is of the parameters that the model ends with
    assert _support_miou(model, _parts()[1]) == pytest.approx(max(scores), abs=1e-9)
    # until it ends, nothing differs from a fit without patience
    _, endless, plain, states = _fit(replace(SETTINGS, patience=0))
    assert [metrics["loss"] for metrics in plain[: len(curve)]] == [m["loss"] for m in curve]
    assert "support_miou" not in plain[0]
    assert (endless.epochs, endless.best_epoch, endless.stopped) == (12, 12, False)
    assert not any(name.startswith("best") for name in states[0])
    for name, value in _parameters(model).items():
        assert torch.equal(value, states[best - 1][name]), name


def test_with_patience_to_the_end_the_best_epoch_still_wins() -> None:
    model, result, curve, states = _fit(replace(SETTINGS, epochs=5, patience=5))
    scores = [metrics["support_miou"] for metrics in curve]
    assert not result.stopped
    assert result.epochs == 5
    assert result.best_epoch == scores.index(max(scores)) + 1
    for name, value in _parameters(model).items():
        assert torch.equal(value, states[result.best_epoch - 1][name]), name


@pytest.mark.parametrize("epochs_before_the_end", [0, 1, 3, 4])
def test_a_resumed_fit_stops_where_an_uninterrupted_one_does(
    tmp_path: Path, epochs_before_the_end: int
) -> None:
    straight, result, curve, states = _fit()
    assert result.stopped
    killed_after = result.epochs - epochs_before_the_end
    assert killed_after > 0
    path = tmp_path / "state.safetensors"
    states[killed_after - 1].save(path)
    model, data = _parts()
    rest: list[dict[str, float]] = []
    resumed = fit(
        model,
        data,
        SETTINGS,
        report=lambda metrics, state: rest.append(metrics),
        get_checkpoint=lambda: TrainState.load(path),
    )
    assert resumed == result
    assert rest == curve[killed_after:]
    for name, value in straight.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize("good_epochs", [0, 2])
def test_a_fit_that_diverges_goes_back_to_what_was_good(good_epochs: int) -> None:
    model, data = _parts()
    curve: list[dict[str, float]] = []

    def spoil(metrics: dict[str, float], state: TrainState | None) -> None:
        curve.append(metrics)
        if metrics["epoch"] == good_epochs:
            # the images themselves are prepared by now
            with torch.no_grad():
                next(iter(model.parameters())).fill_(math.nan)

    if not good_epochs:
        data.embeddings.fill_(math.nan)
    result = fit(model, data, SETTINGS, report=spoil)
    assert result.epochs == good_epochs + 1
    assert not result.stopped
    assert math.isnan(curve[-1]["support_miou"])
    assert math.isfinite(result.loss) == (good_epochs > 0)
    finite = all(bool(p.isfinite().all()) for p in model.parameters())
    assert finite == (good_epochs > 0)


@settings(deadline=None, max_examples=60)
@given(
    scores=st.lists(st.sampled_from([math.nan, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=10),
    patience=st.integers(1, 4),
    cut=st.integers(0, 9),
)
def test_the_best_epoch_is_the_first_of_the_highest(
    scores: list[float], patience: int, cut: int
) -> None:
    model = _MODEL
    best = BestEpoch(model, patience)
    weight = next(iter(model.parameters()))
    for epoch, score in enumerate(scores, 1):
        with torch.no_grad():
            weight.fill_(epoch)
        best.update(epoch, 10.0 * epoch, score)
        real = [s for s in scores[:epoch] if not math.isnan(s)]
        expected = scores.index(max(real)) + 1 if real else 0
        assert best.epoch == expected
        assert best.exhausted(epoch) == (epoch - expected >= patience)
        if epoch == cut:  # resumed here
            saved = TrainState(best.state())
            best = BestEpoch(model, patience)
            best.restore(saved)
    best.reinstate()
    assert (weight == (best.epoch or len(scores))).all()
    assert best.loss == 10.0 * best.epoch or not best.epoch


_MODEL = _parts("linear_probe")[0]


def test_parameters_that_are_not_finite_are_never_the_best() -> None:
    model, _ = _parts("linear_probe")
    best = BestEpoch(model, 2)
    with torch.no_grad():
        next(iter(model.parameters()))[0] = math.inf
    best.update(1, 0.5, 0.9)
    assert best.epoch == 0


def test_a_checkpoint_without_a_best_epoch_is_named() -> None:
    *_, states = _fit(replace(SETTINGS, epochs=1, patience=0))
    model, data = _parts()
    with pytest.raises(UserError, match="no best epoch.*patience is 3"):
        fit(model, data, SETTINGS, get_checkpoint=lambda: states[0])
