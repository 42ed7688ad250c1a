from __future__ import annotations

from pathlib import Path

import pytest
from samples import STUDIES

from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS
from ssprompt_platform.config import load_config
from ssprompt_platform.config.help import help_text
from ssprompt_platform.config.load import to_dict
from ssprompt_platform.config.schema import Config
from ssprompt_platform.search.space import default_setting, search_space


def test_default_and_smoke_studies_are_valid() -> None:
    assert load_config([], STUDIES).study.name == "default"
    smoke = load_config(["study=smoke", "study.dry_run=true"], STUDIES)
    assert smoke.study.name == "smoke"
    assert smoke.study.dry_run


@pytest.mark.parametrize("name", sorted(path.stem for path in STUDIES.glob("*.yaml")))
def test_every_shipped_study_is_valid(name: str) -> None:
    config = load_config([f"study={name}"], STUDIES)
    assert config.study.name == name
    for method in config.study.methods:
        assert set(default_setting(method, search_space(method, config.search.space))) <= set(
            METHODS[method].hyperparameters
        )


def test_the_study_of_methods_compares_all_of_them() -> None:
    config = load_config(["study=methods"], STUDIES)
    assert config.study.methods == list(METHODS)
    assert config.study.shots == [1, 2, 4, 8, 16]


def test_overrides_come_after_the_study_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("search:\n  trials: 7\ntrain:\n  epochs: 3\n")
    words = [
        f"study={path}",
        "search.trials=2",
        "study.shots=[2,8]",
        "search.space.lr_embedding.low=1e-2",
    ]
    config = load_config(words, STUDIES)
    assert (config.study.name, config.search.trials, config.train.epochs) == ("mine", 2, 3)
    assert config.study.shots == [2, 8]
    assert config.search.space.lr_embedding.low == 0.01
    assert to_dict(config)["search"]["space"]["lr_embedding"]["low"] == 0.01


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("trials", ["'trials'", "key=value"]),
        ("search.trails=4", ["'search.trails'", "search.trials"]),
        ("trian.epochs=4", ["'trian'", "train"]),
        ("epochs=4", ["'epochs'", "train.epochs"]),
        ("search.space.lr_embeding.low=1", ["'search.space.lr_embeding'", "lr_embedding"]),
        ("search.trials=many", ["search.trials", "'many'", "whole number"]),
        ("train.epochs=1.5", ["train.epochs", "1.5", "whole number"]),
        ("study.shots=[1,two]", ["study.shots", "two", "list of whole numbers"]),
        ("study.shots=4", ["study.shots", "4", "list of whole numbers"]),
        ("train=fast", ["'train'", "group", "epochs"]),
        ("train.epochs=0", ["train.epochs", "0", "at least 1"]),
        ("train.precision=fp8", ["train.precision", "'fp8'", "fp32, bf16, fp16"]),
        ("study.methods=[sprompt]", ["study.methods", "'sprompt'", "ssprompt"]),
        ("study.methods=[sem,sem]", ["study.methods", "twice"]),
        ("study.shots=[0]", ["study.shots", "[0]", "at least 1"]),
        ("search.draws=9", ["search.draws", "9", "study.draws"]),
        ("search.space.lr_embedding.low=3", ["search.space.lr_embedding", "low <= high"]),
        ("search.space.num_prompts.choices=[]", ["search.space.num_prompts", "empty"]),
        ("study.id=a/b", ["study.id", "a/b"]),
        ("study=smok", ["study=smok", "'smoke'"]),
        ("study=missing.yaml", ["missing.yaml", "no such file"]),
    ],
)
def test_mistakes_are_named_in_one_sentence(word: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config([word], STUDIES)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("text", ["- a\n- b\n", "train: {epochs: [\n"])
def test_a_broken_study_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        load_config([f"study={path}"], STUDIES)


def test_help_names_every_key_with_its_default() -> None:
    text = help_text()
    for group, values in to_dict(Config()).items():
        for key in values:
            assert f"{group}.{key}" in text
    assert "search.trials=4" in text
    assert "study.dry_run=true" in text
