"""Fits that share a batch come to what each comes to alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS, FewShotModel, MethodSettings, build_model
from ssprompt_core.methods.settings import Decoding
from ssprompt_core.models.frozen import FrozenImages, Images
from ssprompt_core.models.sam import SamSegmenter
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.train.data import LabelledEmbeddings
from ssprompt_core.train.fit import FitResult, FitSettings, fit
from ssprompt_core.train.state import TrainState
from ssprompt_core.train.together import Fit, fit_together
from tests.core.tiny_sam import DIM, coloured_data, small_class_texts, tiny_sam

SEGMENTER = SamSegmenter(tiny_sam(), name="tiny", native_text=False)
TEXTS = small_class_texts(10)
SETTINGS = FitSettings(
    epochs=3, steps_per_epoch=3, batch_size=3, cells=12, checkpoint_every=1, micro_batch=16
)
EVERY_TERM = replace(
    SETTINGS, focal_weight=2, focal_gamma=1.5, class_balance=0.5, warm_up=0.25, schedule="constant"
)
TRAINED = [name for name, spec in METHODS.items() if spec.uses_support and name != "prototype"]
LEARNED = 0.01
"""How far learned tensors may lie apart, as a share of their length. AdamW's first steps are long
even where a gradient is almost nothing, and there rounding decides on the sign."""


@dataclass
class Trained:
    """A fit and everything that it reported."""

    model: FewShotModel
    data: LabelledEmbeddings
    settings: FitSettings
    begun_from: TrainState | None = None
    curve: list[dict[str, float]] = field(default_factory=list)
    states: list[TrainState | None] = field(default_factory=list)
    result: FitResult | None = None

    def report(self, metrics: dict[str, float], state: TrainState | None) -> None:
        self.curve.append(metrics)
        self.states.append(state)

    def alone(self) -> Trained:
        self.result = fit(
            self.model, self.data, self.settings, report=self.report,
            get_checkpoint=lambda: self.begun_from,
        )  # fmt: skip
        return self


def made(
    seed: int,
    settings: FitSettings = SETTINGS,
    method: str = "ssprompt",
    images: int = 4,
    begun_from: TrainState | None = None,
    segmenter: Segmenter = SEGMENTER,
    **hyperparameters: Any,
) -> Trained:
    """An untrained fit of a support draw of its own."""
    values = {"num_prompts": 4, "lr_embedding": 0.1, "lr_weight": 0.1, **hyperparameters}
    model = build_model(method, MethodSettings(**values), segmenter, TEXTS, seed=seed)
    data = coloured_data(segmenter, count=images, seed=seed)
    return Trained(model, data, replace(settings, seed=seed), begun_from)


def together(*fits: Trained) -> tuple[Trained, ...]:
    def of(one: Trained) -> Fit:
        return Fit(one.model, one.data, one.settings, one.report, lambda: one.begun_from)

    for one, result in zip(fits, fit_together([of(one) for one in fits]), strict=True):
        one.result = result
    return fits


def assert_equal(joined: Trained, alone: Trained) -> None:
    assert joined.result is not None
    assert alone.result is not None
    assert [set(entry) for entry in joined.curve] == [set(entry) for entry in alone.curve]
    for mine, other in zip(joined.curve, alone.curve, strict=True):
        assert mine == pytest.approx(other, rel=1e-4, nan_ok=True)
    assert vars(joined.result) == pytest.approx(vars(alone.result), rel=1e-4, nan_ok=True)
    for name, value in alone.model.state_dict().items():
        assert_near(joined.model.state_dict()[name], value, LEARNED)
    for mine, other in zip(joined.states, alone.states, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None and other is not None:
            assert list(mine) == list(other)
            assert torch.equal(mine["generator"], other["generator"])


def assert_near(mine: Tensor, other: Tensor, share: float) -> None:
    assert torch.equal(mine.isnan(), other.isnan())
    distance = (mine.nan_to_num() - other.nan_to_num()).norm()
    assert distance <= share * other.nan_to_num().norm(), distance


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sizes (groups, images of each) of the decoder's passes that fits shared."""
    sizes: list[tuple[int, int]] = []
    decode_groups = SamSegmenter.decode_groups

    def watched(self: SamSegmenter, images: Images, *rest: Any, **named: Any) -> Tensor:
        tensor = images.image if isinstance(images, FrozenImages) else images
        sizes.append((tensor.shape[0], tensor.shape[1]))
        return decode_groups(self, images, *rest, **named)

    monkeypatch.setattr(SamSegmenter, "decode_groups", watched)
    return sizes


@pytest.mark.parametrize("decoding", get_args(Decoding))
@pytest.mark.parametrize("method", TRAINED)
def test_every_method_learns_the_same_together_as_alone(
    method: str, decoding: str, shared: list[tuple[int, int]]
) -> None:
    def fits() -> list[Trained]:
        # few steps: rounding may push a hidden unit over the kink of a ReLU, and Adam makes it seen
        few = replace(EVERY_TERM, epochs=2)
        return [made(seed, few, method, decoding=decoding) for seed in range(3)]

    for joined, single in zip(together(*fits()), fits(), strict=True):
        assert_equal(joined, single.alone())
    assert shared == ([] if method == "linear_probe" else [(3, 3)] * 6)


@pytest.mark.parametrize("decoding", get_args(Decoding))
@pytest.mark.parametrize("method", TRAINED)
def test_gradients_are_those_of_single_fits(method: str, decoding: str) -> None:
    """First moments after one step: a tenth of the gradients, which no optimiser has amplified."""
    once = replace(EVERY_TERM, epochs=1, steps_per_epoch=1)
    for joined in together(*(made(s, once, method, decoding=decoding) for s in range(3))):
        alone = made(joined.settings.seed, once, method, decoding=decoding).alone()
        mine, other = joined.states[0], alone.states[0]
        assert mine is not None
        assert other is not None
        moments = [name for name in other if name.startswith("exp_avg.")]
        assert moments
        for name in moments:
            assert other[name].norm() > 0
            assert_near(mine[name], other[name], 1e-4)


def test_what_differs_between_fits_stays_with_each(shared: list[tuple[int, int]]) -> None:
    """Rates, starts, what is learned, size of the draw, schedule and number of epochs."""

    def fits() -> list[Trained]:
        return [
            made(0),
            made(1, lr_embedding=0.02, lr_weight=0.2, weight_granularity="dimension"),
            made(2, method="spa", images=2),
            made(3, replace(SETTINGS, epochs=2, schedule="constant"), embedding_init="normal"),
            made(4, replace(SETTINGS, cells=7, checkpoint_every=2), "xy_points"),
        ]

    for joined, single in zip(together(*fits()), fits(), strict=True):
        assert_equal(joined, single.alone())
    assert shared == [(5, 3)] * 6 + [(4, 3)] * 3


def test_other_arithmetic_is_not_mixed(shared: list[tuple[int, int]]) -> None:
    """Fits that cannot share a pass are sorted into batches that can, or train alone."""
    other = SamSegmenter(tiny_sam(1), name="other", native_text=False)

    def fits() -> list[Trained]:
        return [
            made(0),
            made(1, num_prompts=9),
            made(2, decoding="one_pass"),
            made(3, replace(SETTINGS, dice_weight=0.5)),
            made(4, replace(SETTINGS, class_balance=0.5)),
            made(5, replace(SETTINGS, precision="bf16")),
            made(6, replace(SETTINGS, steps_per_epoch=2)),
            made(7, segmenter=other),
            made(8),
            made(9, method="prototype"),
        ]

    for joined, single in zip(together(*fits()), fits(), strict=True):
        assert_equal(joined, single.alone())
    assert shared == [(2, 3)] * 9


@pytest.mark.parametrize(
    ("micro_batch", "passes"), [(2, []), (5, []), (6, [(2, 3)]), (8, [(2, 3)]), (9, [(3, 3)])]
)
def test_the_images_with_gradient_at_once_are_bounded(
    micro_batch: int, passes: list[tuple[int, int]], shared: list[tuple[int, int]]
) -> None:
    """Batches of three images share a pass where they fit into the bound as a whole."""

    def fits() -> list[Trained]:
        bounded = replace(EVERY_TERM, micro_batch=micro_batch, epochs=1)
        return [made(seed, bounded) for seed in range(3)]

    for joined, single in zip(together(*fits()), fits(), strict=True):
        assert_equal(joined, single.alone())
    assert shared == passes * 3


@pytest.mark.parametrize("fits_that_fit", [0.5, 1.5, 2.5])
def test_the_prepared_images_of_all_fits_are_bounded(
    fits_that_fit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as one fit may prepare, or none; what is learned is the same."""
    one = made(0)
    prepared = one.model.freeze_images(one.data.embeddings)
    assert isinstance(prepared, FrozenImages)
    size = sum(part.nbytes for part in prepared.parts())
    bound = {"cpu": int(fits_that_fit * size)}
    monkeypatch.setattr("ssprompt_core.train.together.MAX_FROZEN_BYTES", bound)
    kinds: set[type] = set()
    decode_groups = SamSegmenter.decode_groups

    def watched(self: SamSegmenter, images: Images, *rest: Any, **named: Any) -> Tensor:
        kinds.add(type(images))
        return decode_groups(self, images, *rest, **named)

    monkeypatch.setattr(SamSegmenter, "decode_groups", watched)
    for joined in together(made(0), made(1)):
        assert_equal(joined, made(joined.settings.seed).alone())
    assert kinds == {FrozenImages if fits_that_fit > 2 else Tensor}


def test_half_precision_is_that_of_single_fits(shared: list[tuple[int, int]]) -> None:
    half = replace(SETTINGS, precision="bf16")
    for joined in together(made(0, half), made(1, half)):
        single = made(joined.settings.seed, half).alone()
        for mine, other in zip(joined.curve, single.curve, strict=True):
            # bf16 has 8 bits: another order of sums moves its last one
            assert mine == pytest.approx(other, rel=0.02)
    assert shared == [(2, 3)] * 9


@pytest.mark.parametrize("reached", [(1, 2), (0, 2), (3, 1), (2, 2)])
def test_fits_resume_at_epochs_of_their_own(
    reached: tuple[int, int], shared: list[tuple[int, int]]
) -> None:
    """From checkpoints of single fits and of joined ones alike."""
    whole = [made(seed).alone() for seed in (0, 1)]
    joined_before = together(made(0), made(1))
    shared.clear()
    for before in (whole, joined_before):
        begun = [before[i].states[epoch - 1] if epoch else None for i, epoch in enumerate(reached)]
        resumed = together(*(made(seed, begun_from=begun[seed]) for seed in (0, 1)))
        for fitted, single, epoch in zip(resumed, whole, reached, strict=True):
            single_rest = replace(single, curve=single.curve[epoch:], states=single.states[epoch:])
            assert_equal(fitted, single_rest)
    left = sorted(3 - epoch for epoch in reached)
    assert len(shared) == 2 * 3 * left[0]


def test_a_single_fit_goes_on_from_a_joined_one() -> None:
    joined = together(made(0), made(1))[1]
    rest = made(1, begun_from=joined.states[0]).alone()
    single = made(1).alone()
    assert_equal(rest, replace(single, curve=single.curve[1:], states=single.states[1:]))


def test_one_that_diverges_leaves_the_others_alone(shared: list[tuple[int, int]]) -> None:
    def fits() -> list[Trained]:
        broken = made(1)
        broken.data.embeddings[2] = float("nan")
        return [made(0), broken, made(2)]

    joined = together(*fits())
    for mine, single in zip(joined, fits(), strict=True):
        assert_equal(mine, single.alone())
    assert joined[1].result is not None
    assert joined[1].result.loss != joined[1].result.loss
    assert joined[1].states == [None]
    assert shared == [(3, 3)] * 3 + [(2, 3)] * 6


def test_one_that_loses_patience_leaves_the_batch(shared: list[tuple[int, int]]) -> None:
    patient = replace(SETTINGS, epochs=8, patience=2)

    def fits() -> list[Trained]:
        # images without structure are not learned; the others get better for longer
        return [made(seed, patient, lr_embedding=rate) for seed, rate in enumerate((0.01, 0.5, 3))]

    joined = together(*fits())
    for mine, single in zip(joined, fits(), strict=True):
        assert_equal(mine, single.alone())
    epochs = [mine.result.epochs for mine in joined if mine.result is not None]
    assert len(set(epochs)) > 1, epochs
    assert any(mine.result is not None and mine.result.stopped for mine in joined)
    assert len(shared) == 3 * sorted(epochs)[-2]


@hypothesis_settings(deadline=None, max_examples=8)
@given(st.permutations(range(4)))
def test_the_order_of_the_fits_plays_no_part(order: list[int]) -> None:
    short = replace(SETTINGS, epochs=1)
    expected = {one.settings.seed: one for one in together(*(made(s, short) for s in range(4)))}
    for one in together(*(made(seed, short) for seed in order)):
        assert_equal(one, expected[one.settings.seed])


def test_an_order_of_epochs_and_the_end_of_a_report() -> None:
    """Epochs are taken in turn, and what a report raises ends all where they are."""
    seen: list[tuple[int, float]] = []

    class Killed(Exception):  # noqa: N818
        pass

    def watched(number: int) -> Any:
        def report(metrics: dict[str, float], state: TrainState | None) -> None:
            seen.append((number, metrics["epoch"]))
            if (number, metrics["epoch"]) == (1, 2):
                raise Killed

        return report

    fits = [made(seed) for seed in range(3)]
    with pytest.raises(Killed):
        fit_together([Fit(f.model, f.data, f.settings, watched(i)) for i, f in enumerate(fits)])
    assert seen == [(0, 1), (1, 1), (2, 1), (0, 2), (1, 2)]


def test_nothing_to_fit_and_wrong_checkpoints() -> None:
    assert fit_together([]) == []
    state = made(0).alone().states[0]
    with pytest.raises(UserError, match="belongs to another method or setting"):
        together(made(0), made(1, num_prompts=9, begun_from=state))


def test_a_segmenter_without_groups_decodes_one_by_one() -> None:
    """What segmenters do that do not override it is what Segment Anything does at once."""
    generator = torch.Generator().manual_seed(0)
    grid = SEGMENTER.grid_size
    images = torch.randn(3, 2, DIM, grid, grid, generator=generator)
    tokens = torch.randn(3, 4, 1, DIM, generator=generator)
    spatial = torch.randn(3, 1, 5, DIM, generator=generator).expand(3, 4, 5, DIM)
    cells = torch.stack([torch.randperm(grid**2, generator=generator)[:7] for _ in range(3)])
    tokens = torch.cat([spatial, tokens], dim=2)
    for one_pass in (False, True):
        at_once = SEGMENTER.decode_groups(images, tokens, cells, one_pass=one_pass)
        one_by_one = Segmenter.decode_groups(SEGMENTER, images, tokens, cells, one_pass=one_pass)
        assert at_once.shape == (3, 2, 4, 7, 4, 4)
        torch.testing.assert_close(at_once, one_by_one, rtol=1e-4, atol=1e-4)
