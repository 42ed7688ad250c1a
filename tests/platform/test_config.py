from __future__ import annotations

from pathlib import Path

import pytest
from optuna.distributions import IntDistribution
from samples import STUDIES

from ssprompt_core.errors import UserError
from ssprompt_core.methods import METHODS
from ssprompt_platform.config import load_config
from ssprompt_platform.config.help import help_text
from ssprompt_platform.config.load import to_dict
from ssprompt_platform.config.schema import Config, TrainConfig
from ssprompt_platform.identity import flat_config
from ssprompt_platform.search.space import search_space


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
        space = search_space(method, config.search.space, config.train)
        assert set(space.default) <= set(METHODS[method].hyperparameters)


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
        ("study.id=.hidden", ["study.id", "'.hidden'", "letter or a digit"]),
        ("study.id=embeddings", ["study.id", "'embeddings'", "storage root"]),
        ("study.selection=validation", ["study.selection", "called holdout now"]),
        ("study.resume=allways", ["study.resume", "'allways'", "auto, never, must"]),
        ("search.budget.minutes=-1", ["search.budget.minutes", "-1", "at least 0"]),
        ("search.budget.gpu_hours=inf", ["search.budget.gpu_hours", "inf", "finite"]),
        ("search.pruning.p=0.6", ["search.pruning.p", "0.6", "at most 0.5"]),
        ("search.pruning.p=0", ["search.pruning.p", "above 0"]),
        ("search.pruning.ovr=draws", ["'search.pruning.ovr'", "search.pruning.over"]),
        ("search.pruning.over=draws", ["search.pruning.over", "search.draws is 1", "paired test"]),
        ("search.space.lr_weight.points=1", ["search.space.lr_weight.points", "1", "at least 2"]),
        ("search.space.lr_weight.whn={a: [1]}", ["search.space.lr_weight.whn", "lr_weight.when"]),
        ("search.space.epochs.low=2", ["search.space.epochs", "low and high"]),
        ("search.space.epochs.lo=2", ["search.space.epochs.lo", "search.space.epochs.low"]),
        ("search.space.epochs=4", ["'search.space.epochs'", "group", "choices"]),
        ("search.space.lr_weight.when=normal", ["lr_weight.when", "'normal'", "embedding_init"]),
        ("search.space.num_prompts.choices=[4,4]", ["num_prompts.choices", "twice"]),
        ("search.enqueue=[0.2]", ["search.enqueue", "0.2", "a list of settings"]),
        ("search.enqueue={lr_weight: 0.2}", ["search.enqueue", "0.2", "a list of settings"]),
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


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["{lr_embeding: 0.2}"], ["entry 1", "'lr_embeding'", "did you mean 'lr_embedding'"]),
        (["{lr_embedding: 0.2}", "{lr_weight: 9}"], ["entry 2", "lr_weight=9", "0.1 to 0.6"]),
        (["{lr_embedding: fast}"], ["entry 1", "lr_embedding=fast", "a number from"]),
        (["{num_prompts: 5}"], ["num_prompts=5", "one of 4, 9, 16"]),
        (["{method: sap, lr_weight: 0.2}"], ["method=sap", "did you mean 'spa'"]),
        (["{method: zero_shot, num_prompts: 4}"], ["method=zero_shot", "nothing to search"]),
        (["{method: linear_probe, lr_weight: 0.2}"], ["lr_weight=0.2", "linear_probe does not"]),
        (["{epochs: 4}"], ["epochs=4", "not searched"]),
        (["{shots: 3, lr_weight: 0.2}"], ["shots=3", "1, 4, 16"]),
        (["{shots: true, lr_weight: 0.2}"], ["shots=True"]),
        (["{method: spa, shots: 4}"], ["entry 1", "at least one hyperparameter"]),
        (
            ["{lr_weight: 0.2}"] * 4,
            ["4 settings for linear_probe at K = 1", "search.trials is only 3"],
        ),
    ],
)
def test_known_settings_outside_of_the_study_are_named(words: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config([f"search.enqueue=[{', '.join(words)}]"], STUDIES)
    message = str(caught.value)
    for part in ["search.enqueue", *parts]:
        assert part in message


def test_known_settings_apply_where_their_keys_do() -> None:
    entries = "{lr_embedding: 0.2, method: spa, shots: 4}, {lr_weight: 0.3, lr_probe: 0.01}"
    config = load_config([f"search.enqueue=[{entries}]"], STUDIES)
    assert config.search.enqueue[0] == {"lr_embedding": 0.2, "method": "spa", "shots": 4}
    with pytest.raises(UserError, match=r"lists 2 settings to try, but search\.trials is 0"):
        load_config([f"search.enqueue=[{entries}]", "search.trials=0"], STUDIES)
    # one that the search would ignore, as its condition does not hold
    when = ["search.space.embedding_init.choices=[copy,normal]"]
    when += ["search.space.lr_weight.when={embedding_init: [normal]}"]
    with pytest.raises(UserError, match=r"lr_weight=0\.2, .* only where embedding_init is normal"):
        load_config([*when, "search.enqueue=[{lr_weight: 0.2}]"], STUDIES)
    known = "search.enqueue=[{lr_weight: 0.2, embedding_init: normal}]"
    assert load_config([*when, known], STUDIES).search.enqueue


PARETO = ["study.mode=pareto"]
PRUNED = ["search.pruning.over=epochs", "search.pruning.first_epoch=4"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([*PARETO, "study.shots=[4]"], ["study.mode", "study.shots is [4]"]),
        ([*PARETO, "search.trials=0"], ["study.mode", "search.trials is 0"]),
        ([*PARETO, "search.warm_start=true"], ["search.warm_start is true", "per_shot"]),
        ([*PARETO, "search.budget.min_gain=0.01"], ["search.budget.min_gain", "per_shot"]),
        ([*PARETO, "search.pruning.over=epochs"], ["search.pruning.over is epochs", "per_shot"]),
        (PRUNED, ["search.pruning.first_epoch is 4", "only 4 epochs"]),
        ([*PRUNED, "search.epochs=0", "train.epochs=3"], ["only 3 epochs"]),
        (["search.space.epochs.choices=[2,9]"], ["search.epochs is 4", "search.space.epochs"]),
        (
            ["search.sampler=grid", "search.space.lr_weight.points=40000"],
            ["search.sampler is grid", "spa has 480,000 points"],
        ),
    ],
)
def test_options_that_do_not_go_together_are_named(words: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(words, STUDIES)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        [*PARETO, "search.sampler=gp"],
        [*PARETO, "search.sampler=nsga2", "search.trials=2"],
        [*PRUNED, "search.epochs=5"],
        ["search.pruning.over=draws", "search.draws=3"],
        ["search.sampler=grid"],
        ["search.sampler=tpe", "search.space.lr_weight.points=4000000"],
        ["study.selection=cv", "study.folds=2"],
        ["search.space.epochs.choices=[2,9]", "search.epochs=0"],
        ["search.space.epochs=null"],
    ],
)
def test_options_that_go_together_load(words: list[str]) -> None:
    load_config(words, STUDIES)


def test_a_range_replaces_choices_of_the_layers_before(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("search:\n  space:\n    lr_weight: {choices: [0.1]}\n")
    space = load_config([f"study={path}"], STUDIES).search.space
    assert (space.lr_weight.choices, space.num_prompts.choices) == ([0.1], [4, 9, 16])
    words = ["search.space.lr_weight.high=0.4", "search.space.num_prompts={low: 2, high: 5}"]
    space = load_config([f"study={path}", *words], STUDIES).search.space
    assert (space.lr_weight.choices, space.lr_weight.high) == (None, 0.4)
    assert search_space("spa", space, TrainConfig()).distributions["num_prompts"] == (
        IntDistribution(2, 5)
    )
    both = "search.space.num_prompts={low: 2, high: 5, choices: [3]}"
    assert load_config([both], STUDIES).search.space.num_prompts.choices == [3]


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
    for key in flat_config(Config()):
        assert f"  {key.split('.low')[0]}" in text or key.startswith("search.space.")
    assert "search.trials=4" in text
    assert "study.dry_run=true" in text
    assert "search.pruning.over=none" in text
    assert "search.space.epochs=\n" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_help_teaches_what_a_study_can_do() -> None:
    text = help_text()
    for word in (
        "--explain",
        "study.resume=never",
        "study.id=mine search.trials=16",
        "study.selection=cv",
        "study.mode=pareto",
        "search.sampler=tpe|gp|nsga2|random|grid|sobol",
        "search.pruning.over=draws",
        "search.budget.minutes=30",
        "jobs/report.py",
        "exit codes",
    ):
        assert word in text
