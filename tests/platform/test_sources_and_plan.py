from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from made_data import MadeDataset
from samples import STUDIES, write_image_folder

from ssprompt_core.errors import UserError
from ssprompt_platform.cluster import resolve_resources
from ssprompt_platform.config import Config, load_config
from ssprompt_platform.config.schema import TrainConfig
from ssprompt_platform.machines import room
from ssprompt_platform.plan import derive_seed, make_plan
from ssprompt_platform.search.space import search_space
from ssprompt_platform.sources import build_dataset
from ssprompt_platform.storage import storage_root


def plan_for(folder: Path, *words: str):
    base = write_image_folder(folder)
    config: Config = load_config(["study=smoke", *base, *words], STUDIES)
    dataset = build_dataset(config.data, None)
    return config, dataset, make_plan(config, dataset)


def test_only_used_images_are_encoded_and_zero_shot_is_scored_once(tmp_path: Path) -> None:
    _, dataset, plan = plan_for(
        tmp_path / "data", "study.methods=[zero_shot,spa]", "data.max_test_images=2"
    )
    assert [fit.name for fit in plan.fits if fit.method == "zero_shot"] == ["zero_shot-k1-d0"]
    assert len([fit for fit in plan.fits if fit.method == "spa"]) == 2 * 2
    assert len(plan.test_ids) == 2
    used = plan.image_ids()
    assert len(used) == len(set(used)) < len(dataset.ids("train")) + len(dataset.ids("test"))
    _, _, alone = plan_for(tmp_path / "other", "study.methods=[zero_shot]")
    assert set(alone.image_ids()) == set(alone.test_ids)


def test_the_split_of_a_folder_has_no_validation_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"study\.selection is holdout"):
        plan_for(tmp_path / "data", "study.selection=holdout")


def test_scored_labels_without_any_class_are_found_before_anything_runs() -> None:
    train = {f"t{n}": [0, 1, 2] for n in range(9)}
    config = load_config(["study=smoke"], STUDIES)
    with pytest.raises(UserError, match="no test label of 'made' shows any class"):
        make_plan(config, MadeDataset({"train": train, "test": {"e0": [], "e1": []}}))
    plan = make_plan(config, MadeDataset({"train": train, "test": {"e0": [], "e1": [1]}}))
    assert plan.test_ids == ("e0", "e1")


def test_only_what_can_vary_is_searched_and_only_what_sees_support_is_fitted_per_draw() -> None:
    words = ["study=smoke", "study.methods=[template_ensemble,prototype,linear_probe,spa]"]
    words += [f"search.space.{name}.choices=[0.1]" for name in ("lr_probe", "weight_decay")]
    words += [f"search.space.{n}.{end}=null" for n in ("lr_probe", "weight_decay")
              for end in ("low", "high")]  # fmt: skip
    config = load_config(words, STUDIES)
    plan = make_plan(config, build_dataset(config.data, None))
    assert {group.method for group in plan.searched} == {"spa"}
    fits = Counter(key.method for key in plan.fits)
    assert fits == {"template_ensemble": 1, "prototype": 4, "linear_probe": 4, "spa": 4}


def test_a_single_choice_is_the_setting_without_a_search() -> None:
    words = ["search.space.decoding.choices=[one_pass]", "search.space.num_prompts.choices=[16]"]
    config = load_config(["study=smoke", *words], STUDIES)
    space = search_space("zero_shot", config.search.space, config.train)
    assert space.default == {"num_prompts": 16, "decoding": "one_pass"}


def test_epochs_alone_are_a_choice_too() -> None:
    words = ["study=smoke", "study.methods=[sem,prototype]", "search.space.epochs.choices=[1,2]"]
    words += [f"search.space.{n}.choices=[0.1]" for n in ("lr_embedding", "lr_weight")]
    config = load_config(words, STUDIES)
    plan = make_plan(config, build_dataset(config.data, None))
    assert {group.method for group in plan.searched} == {"sem"}


def test_seeds_depend_on_every_part() -> None:
    seeds = {derive_seed(0, "a", 1), derive_seed(1, "a", 1), derive_seed(0, "b", 1)}
    assert len(seeds) == 3
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", 1)


def test_a_ray_job_keeps_results_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage_root("runs") == Path.cwd() / "runs"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("HOME", "/home/someone")
    assert storage_root("runs") == Path("/home/someone/ssprompt/runs")
    assert storage_root("/data/runs") == Path("/data/runs")


def test_resources_come_from_the_configuration_or_the_cluster() -> None:
    cpus = resolve_resources(TrainConfig(), [{"CPU": 4.0}])
    assert (cpus.workers, cpus.gpus_per_worker, cpus.device) == (4, 0.0, "cpu")
    shared = resolve_resources(TrainConfig(), [{"CPU": 8.0, "GPU": 2.0}])
    assert (shared.workers, shared.gpus_per_worker, shared.device) == (8, 0.25, "cuda")
    one = resolve_resources(TrainConfig(workers=3), [{"CPU": 8.0, "GPU": 1.0}])
    assert one.gpus_per_worker == pytest.approx(1 / 3)
    half = resolve_resources(
        TrainConfig(workers=2, gpus_per_worker=0.5), [{"CPU": 8.0, "GPU": 1.0}]
    )
    assert half.per_worker() == {"CPU": 1, "GPU": 0.5}
    beside = [{"CPU": 16.0}, {"CPU": 4.0, "GPU": 1.0}]
    # CPUs of a machine without a GPU hold no worker that computes on one
    mixed = resolve_resources(TrainConfig(), beside)
    assert (mixed.workers, mixed.slots, mixed.gpus_per_worker) == (4, 4, 0.25)
    uneven = resolve_resources(TrainConfig(), [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 4.0, "GPU": 1.0}])
    assert (uneven.workers, uneven.gpus_per_worker) == (11, pytest.approx(1 / 3))
    on_cpu = resolve_resources(TrainConfig(device="cpu"), [{"CPU": 2.0, "GPU": 1.0}])
    assert on_cpu.per_worker() == {"CPU": 1}


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (TrainConfig(cpus_per_worker=8), "train.cpus_per_worker"),
        (TrainConfig(workers=8), "train.workers"),
        (TrainConfig(workers_per_trial=8), "train.workers_per_trial"),
        (TrainConfig(workers=2, gpus_per_worker=1.0), "train.workers"),
        (TrainConfig(device="cuda"), "train.device"),
    ],
)
def test_what_the_cluster_cannot_hold_is_named(config: TrainConfig, key: str) -> None:
    with pytest.raises(UserError, match=key):
        resolve_resources(config, [{"CPU": 2.0}])


def test_a_worker_that_no_single_machine_holds_is_refused() -> None:
    pair = [{"CPU": 3.0}, {"CPU": 3.0}]
    assert resolve_resources(TrainConfig(cpus_per_worker=2), pair).slots == 2
    with pytest.raises(UserError, match=r"workers asks for 3 x .* 6 CPUs .* on 2 machines"):
        resolve_resources(TrainConfig(cpus_per_worker=2, workers=3), pair)
    with pytest.raises(UserError, match="6 CPUs, 3 at most on one machine"):
        resolve_resources(TrainConfig(cpus_per_worker=4), pair)


@pytest.mark.parametrize(
    ("worker", "fits"),
    [
        ({"CPU": 2}, 3),
        ({"CPU": 1, "GPU": 1.0}, 2),
        ({"CPU": 1, "GPU": 1 / 3}, 5),
        # two workers a GPU: the rests of two GPUs make no third
        ({"CPU": 0.5, "GPU": 0.4}, 4),
        ({"CPU": 1, "GPU": 2.0}, 1),
    ],
)
def test_room_is_counted_machine_by_machine(worker: dict[str, float], fits: int) -> None:
    assert room([{"CPU": 5.0, "GPU": 2.0}, {"CPU": 3.0}], worker) == fits
