"""The search space of a method: its order, its conditions, its default, and mistakes in it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS, MethodSettings
from ssprompt_platform.config.schema import Dimension, SpaceConfig, TrainConfig
from ssprompt_platform.search.space import (
    FIT_HYPERPARAMETERS,
    Space,
    fit_overrides,
    method_settings,
    search_space,
)

TRAIN = TrainConfig()


def space_of(method: str = "spa", train: TrainConfig = TRAIN, **dimensions: Dimension) -> Space:
    return search_space(method, SpaceConfig(**dimensions), train)


def test_every_hyperparameter_can_be_searched() -> None:
    for name, method in METHODS.items():
        assert set(space_of(name).distributions) == set(method.hyperparameters)


def test_defaults_outside_the_space_move_to_its_edge() -> None:
    space = space_of(
        num_prompts=Dimension(choices=[2, 50]), lr_embedding=Dimension(low=1.0, high=2.0)
    )
    assert space.default["lr_embedding"] == 1.0
    assert space.default["num_prompts"] == 2
    assert set(space.default) == set(space.distributions)


def test_a_space_of_single_points_has_no_choice() -> None:
    one = Dimension(choices=[0.1])
    space = space_of(num_prompts=Dimension(choices=[4]), lr_embedding=one, lr_weight=one)
    assert not space.has_choice
    assert space.default["num_prompts"] == 4
    assert space_of().has_choice
    assert not space_of("prototype").has_choice


def test_settings_of_a_fit_belong_to_methods_trained_by_gradient() -> None:
    epochs = Dimension(low=3, high=9)
    trained = [name for name in METHODS if "epochs" in space_of(name, epochs=epochs).distributions]
    assert trained == [
        name for name in METHODS if name not in ("zero_shot", "template_ensemble", "prototype")
    ]
    assert space_of(epochs=epochs).distributions["epochs"] == IntDistribution(3, 9)
    assert space_of(epochs=epochs).default["epochs"] == 9
    assert space_of(train=TrainConfig(epochs=5), epochs=epochs).default["epochs"] == 5
    assert not set(space_of().distributions) & set(FIT_HYPERPARAMETERS)


def test_a_setting_is_split_between_method_and_fit() -> None:
    setting = {"lr_embedding": 0.2, "epochs": 3, "focal_weight": 1.0}
    assert method_settings(setting) == MethodSettings(lr_embedding=0.2)
    assert fit_overrides(setting) == {"epochs": 3, "focal_weight": 1.0}
    assert {field.name for field in fields(SpaceConfig)} == {
        *FIT_HYPERPARAMETERS,
        *(field.name for field in fields(MethodSettings)),
    }


CONDITIONAL = {
    # named before the one that it depends on, which depends on a third one
    "num_prompts": Dimension(choices=[4, 9], when={"lr_weight": [0.1]}),
    "lr_weight": Dimension(choices=[0.1, 0.2], when={"embedding_init": ["normal"]}),
    "embedding_init": Dimension(choices=["copy", "normal"]),
}


def test_conditional_dimensions_come_after_those_they_name() -> None:
    space = space_of(**CONDITIONAL)
    order = list(space.distributions)
    assert order.index("embedding_init") < order.index("lr_weight") < order.index("num_prompts")
    assert order[-2:] == ["lr_weight", "num_prompts"]
    assert space.conditions == {
        "lr_weight": {"embedding_init": ("normal",)},
        "num_prompts": {"lr_weight": (0.1,)},
    }


def test_a_condition_says_where_a_hyperparameter_is_searched() -> None:
    space = space_of(**CONDITIONAL)
    # copy is the default: neither of the two is searched there
    assert "lr_weight" not in space.default
    assert "num_prompts" not in space.default
    assert not space.active("lr_weight", {"embedding_init": "copy"})
    assert space.active("lr_weight", {"embedding_init": "normal"})
    assert space.active("num_prompts", {"embedding_init": "normal", "lr_weight": 0.1})
    assert not space.active("num_prompts", {"embedding_init": "normal", "lr_weight": 0.2})
    # where lr_weight is not searched, it has its default of 0.3
    assert not space.active("num_prompts", {"embedding_init": "copy"})
    assert space.elsewhere == {"lr_weight": 0.3, "num_prompts": 9}
    assert space.active("lr_embedding", {})


def test_for_a_method_without_it_a_condition_refers_to_the_default() -> None:
    # spa_weight_only learns no embedding, so that it has no start of one
    assert "embedding_init" not in METHODS["spa_weight_only"].hyperparameters
    init = Dimension(choices=["copy", "normal"])
    never = Dimension(low=0.1, high=0.5, when={"embedding_init": ["normal"]})
    space = space_of("spa_weight_only", embedding_init=init, lr_weight=never)
    assert "lr_weight" not in space.distributions
    always = Dimension(low=0.1, high=0.5, when={"embedding_init": ["copy"]})
    space = space_of("spa_weight_only", embedding_init=init, lr_weight=always)
    assert space.default["lr_weight"] == 0.3
    assert space.active("lr_weight", {})


def test_a_condition_may_name_a_setting_of_the_fit_that_is_not_searched() -> None:
    when = Dimension(low=0.1, high=0.5, when={"epochs": [10]})
    assert "lr_weight" in space_of(lr_weight=when).default
    with pytest.raises(UserError, match=r"lr_weight\.when asks for epochs=10.*train\.epochs is 7"):
        space_of(train=TrainConfig(epochs=7), lr_weight=when)


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["num_prompts", "lr_weight", "lr_embedding", "decoding", "lr_points"]),
        st.sampled_from(["embedding_init", "weight_granularity", "num_prompts", "decoding"]),
    )
)
def test_every_order_of_conditions_can_be_asked_for(wanted: dict[str, str]) -> None:
    values: dict[str, list[Any]] = {
        "embedding_init": ["normal"],
        "weight_granularity": ["dimension"],
        "num_prompts": [4],
        "decoding": ["one_pass"],
    }
    dimensions = {
        "embedding_init": Dimension(choices=["copy", "normal"]),
        "weight_granularity": Dimension(choices=["prompt", "dimension"]),
        "num_prompts": Dimension(choices=[4, 9]),
        "decoding": Dimension(choices=["per_class", "one_pass"]),
    }
    for name, other in wanted.items():
        when = {other: values[other]}
        if name in dimensions:
            dimensions[name].when = when
        else:
            dimensions[name] = Dimension(low=0.1, high=0.2, when=when)
    circular = {name for name, other in wanted.items() if name == other} or (
        wanted.get("num_prompts"),
        wanted.get("decoding"),
    ) == ("decoding", "num_prompts")
    for method in ("spa", "xy_points", "linear_probe"):
        if circular:
            with pytest.raises(UserError, match=r"\.when goes in a circle"):
                space_of(method, **dimensions)
            continue
        space = space_of(method, **dimensions)
        seen: set[str] = set()
        for name in space.distributions:
            assert set(space.conditions.get(name, {})) <= seen
            seen.add(name)
        # the default is what asking in this order gives where all have their defaults
        setting: dict[str, Any] = {}
        for name in space.distributions:
            if space.active(name, setting):
                setting[name] = space.default[name]
        assert setting == space.default


@pytest.mark.parametrize(
    ("when", "parts"),
    [
        ({"embeding_init": ["normal"]}, ["'embeding_init'", "did you mean 'embedding_init'"]),
        ({"embedding_init": ["xavier"]}, ["embedding_init=xavier", "['copy', 'normal']"]),
        ({"embedding_init": "normal"}, ["'normal'", "needs a list", "{embedding_init: [copy]}"]),
        ({"embedding_init": []}, ["needs a list"]),
        ({"lr_embedding": [0.1]}, ["lr_embedding=0.1", "continuous range", "choices"]),
        ({"context_length": [12]}, ["context_length=12", "whole numbers from 1 to 9"]),
        ({"context_length": [2.5]}, ["context_length=2.5"]),
        ({"ce_weight": [2.0]}, ["ce_weight=2.0", "not searched", "train.ce_weight is 1.0"]),
        ({"lr_weight": [0.3]}, ["circle", "lr_weight -> lr_weight"]),
    ],
)
def test_conditions_that_cannot_hold_are_named(when: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        space_of(
            embedding_init=Dimension(choices=["copy", "normal"]),
            context_length=Dimension(low=1, high=9),
            lr_weight=Dimension(choices=[0.1, 0.3], when=when),
        )
    message = str(caught.value)
    assert message.startswith("search.space.lr_weight.when ")
    for part in parts:
        assert part in message


def test_values_that_a_method_or_a_fit_would_refuse_are_named() -> None:
    for name, dimension in (
        ("num_prompts", Dimension(choices=[0])),
        ("weight_granularity", Dimension(choices=["pixel"])),
        ("lr_weight", Dimension(low=-1.0, high=1.0)),
        ("epochs", Dimension(low=0, high=3)),
        ("class_balance", Dimension(low=0.0, high=1.5)),
        ("focal_weight", Dimension(choices=[-1.0, 1.0])),
    ):
        with pytest.raises(UserError, match=rf"search\.space\.{name} holds"):
            space_of(**{name: dimension})


def test_loss_weights_may_be_zero_but_not_all_at_once() -> None:
    weights = {name: Dimension(low=0.0, high=1.0) for name in ("ce_weight", "dice_weight")}
    with pytest.raises(UserError, match=r"search\.space\.ce_weight reaches 0"):
        space_of(**weights)
    space = space_of(train=TrainConfig(focal_weight=1.0), **weights)
    assert space.distributions["ce_weight"] == FloatDistribution(0.0, 1.0)
    assert "dice_weight" in space_of(dice_weight=weights["dice_weight"]).distributions


def test_choices_of_the_wrong_type_are_named() -> None:
    with pytest.raises(UserError, match=r"search\.space\.num_prompts\.choices names 'many'"):
        space_of(num_prompts=Dimension(choices=[4, "many"]))
    with pytest.raises(UserError, match=r"search\.space\.epochs\.choices names 2\.5"):
        space_of(epochs=Dimension(choices=[2.5]))
    with pytest.raises(UserError, match=r"search\.space\.decoding has low and high"):
        space_of(decoding=Dimension(low=1, high=2))
    choices = space_of(epochs=Dimension(choices=[2, 4])).distributions["epochs"]
    assert choices == CategoricalDistribution([2, 4])
