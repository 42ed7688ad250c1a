"""Every training option of a study reaches the fit, within its bounds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ssprompt_core.errors import UserError
from ssprompt_core.train.fit import FitSettings
from ssprompt_platform.bench import fit_settings
from ssprompt_platform.config.help import help_text
from ssprompt_platform.config.load import load_config
from ssprompt_platform.config.schema import TrainConfig

STUDIES = Path(__file__).parents[2] / "jobs" / "studies"
SHARED = sorted(
    {field.name for field in dataclasses.fields(FitSettings)}
    & {field.name for field in dataclasses.fields(TrainConfig)}
    - {"epochs", "device", "checkpoint_every"}  # decided per fit
)
WORDS = {"precision": "bf16", "schedule": "constant"}


def test_defaults_of_the_study_are_those_of_the_fit_where_it_has_any() -> None:
    made = fit_settings(TrainConfig(), "cpu", 3, 7)
    for field in dataclasses.fields(FitSettings):
        if field.default is not dataclasses.MISSING and field.name in SHARED:
            assert getattr(made, field.name) == field.default, field.name
    assert (made.epochs, made.seed, made.device) == (3, 7, "cpu")


@pytest.mark.parametrize("name", SHARED)
def test_an_option_reaches_the_fit(name: str) -> None:
    default = getattr(TrainConfig(), name)
    value = WORDS.get(name) or type(default)(default / 2 + (1 if isinstance(default, int) else 0.3))
    assert value != default
    config = load_config([f"train.{name}={value}"], STUDIES)
    assert getattr(fit_settings(config.train, "cpu", 1, 0), name) == value
    assert f"train.{name}=" in help_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.patience=-1", "train.patience is -1, but must be at least 0"),
        ("train.patience=two", "train.patience is 'two', but must be a whole number"),
        ("train.micro_batch=0.5", "train.micro_batch is 0.5, but must be a whole number"),
        ("train.schedule=cosin", "train.schedule is 'cosin'.*did you mean 'cosine'"),
        ("train.focal_gama=1", "unknown key 'train.focal_gama'.*train.focal_gamma"),
    ],
)
def test_a_wrong_option_is_named(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config([override], STUDIES)


@pytest.mark.parametrize("name", ["class_balance", "warm_up"])
def test_a_share_is_at_most_one(name: str) -> None:
    config = load_config([f"train.{name}=1.5"], STUDIES)
    with pytest.raises(UserError, match=f"^{name} is 1.5, but must be between 0 and 1"):
        fit_settings(config.train, "cpu", 1, 0)
