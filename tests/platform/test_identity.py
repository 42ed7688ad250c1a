"""Which study a command means: new, unfinished, extended, or refused with the difference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import MadeDataset
from PIL import Image
from samples import STUDIES, write_image_folder

from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_core.errors import UserError
from ssprompt_platform.changes import changes_of
from ssprompt_platform.config import Config, load_config
from ssprompt_platform.data_lock import DataLock
from ssprompt_platform.identity import (
    Begun,
    begin,
    check_resume,
    check_unchanged,
    find_study,
    flat_config,
    identity,
)
from ssprompt_platform.ownership import owned
from ssprompt_platform.plan import make_plan
from ssprompt_platform.sealed import SealedDataset
from ssprompt_platform.sources import build_dataset
from ssprompt_platform.storage import StudyFolder, read_json, write_json, write_text

PRINTS = {"data": "d", "segmenter": "s", "text_encoder": "t"}


class Studies:
    """A storage root, a small data set, and the two steps by which a study begins."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "runs"
        self.words = [*write_image_folder(folder / "data", count=24), f"storage.root={self.root}"]
        self.dataset: SegmentationDataset = build_dataset(self.config().data, None)

    def config(self, *words: str) -> Config:
        return load_config(["study=smoke", *self.words, *words], STUDIES)

    def find(self, *words: str, **prints: str) -> StudyFolder:
        return find_study(self.config(*words), {**PRINTS, **prints})

    def begin(self, *words: str) -> tuple[StudyFolder, Begun]:
        config = self.config(*words)
        with owned(find_study(config, PRINTS)) as folder:
            plan = make_plan(config, self.dataset)
            facts = {"fits": len(plan.fits)}
            begun = begin(folder, config, plan, PRINTS, facts=facts, protocol=["p"], remarks=["r"])
        return folder, begun


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(tmp_path)


def test_a_new_study_is_named_by_its_name_and_the_time(studies: Studies) -> None:
    folder = studies.find()
    assert re.fullmatch(r"smoke-\d{8}-\d{6}", folder.study_id)
    assert folder.made
    assert not studies.root.exists()
    assert studies.find("study.name='my study/1'").study_id.startswith("my-study-1-2")
    given = studies.find("study.id=mine")
    assert given == StudyFolder(studies.root, "mine")
    # an id is never taken twice, whatever the clock says
    folder.path.mkdir(parents=True)
    assert studies.find().study_id != folder.study_id


def test_the_record_holds_what_the_study_is(studies: Studies) -> None:
    folder, begun = studies.begin("study.id=mine")
    assert begun.kind == "new"
    assert "mine" in begun.sentence
    record = read_json(folder.record)
    assert record["fingerprints"] == PRINTS
    assert (record["protocol"], record["remarks"], record["extensions"]) == (["p"], ["r"], [])
    assert record["facts"]["fits"] == 5
    assert record["config"]["study"]["shots"] == [1, 2]
    assert sorted(p.name for p in folder.draws.iterdir()) == ["draw-0.json", "draw-1.json"]


def test_the_same_command_again_continues_an_unfinished_study(studies: Studies) -> None:
    folder, _ = studies.begin()
    again, begun = studies.begin()
    assert again.study_id == folder.study_id
    assert begun.kind == "continued"
    assert "study.resume=never" in begun.sentence
    # what changes no number may change
    assert studies.find("train.workers=2", "search.max_concurrent=1").study_id == folder.study_id
    assert studies.find("study.dry_run=true").study_id == folder.study_id
    # the same by its id
    same, begun = studies.begin(f"study.id={folder.study_id}")
    assert (same.study_id, begun.kind) == (folder.study_id, "continued")
    assert "goes on" in begun.sentence
    write_json(folder.results, {})
    assert "is finished" in studies.begin(f"study.id={folder.study_id}")[1].sentence


def test_another_study_is_not_taken_for_the_unfinished_one(studies: Studies) -> None:
    folder, _ = studies.begin()
    for words in (["search.trials=3"], ["study.resume=never"], ["study.name=other"]):
        assert studies.find(*words).made
    assert studies.find(data="changed").made
    with owned(folder):
        assert studies.find().made
    write_json(folder.results, {})
    assert studies.find().made


def test_the_newest_unfinished_study_is_continued(studies: Studies) -> None:
    for number, begun in ((1, "2026-01-02T00:00:00+00:00"), (2, "2026-01-01T00:00:00+00:00")):
        folder, _ = studies.begin(f"study.id=s{number}")
        write_json(folder.record, {**read_json(folder.record), "begun": begun})
    write_text(studies.root / "broken" / "study.json", "{")
    assert studies.find().study_id == "s1"


def test_resume_never_and_must(studies: Studies) -> None:
    with pytest.raises(UserError, match=r"no study mine .*; begin it"):
        studies.find("study.id=mine", "study.resume=must")
    with pytest.raises(UserError, match="no unfinished study 'smoke'"):
        studies.find("study.resume=must")
    folder, _ = studies.begin("study.id=mine", "study.resume=never")
    with pytest.raises(UserError, match=r"study\.resume is never, but the study mine was begun"):
        check_resume(studies.config("study.id=mine", "study.resume=never"))
    with pytest.raises(UserError, match=r"no study mien .*did you mean 'mine'"):
        check_resume(studies.config("study.id=mien", "study.resume=must"))
    assert studies.find("study.id=mine", "study.resume=must") == folder
    assert studies.find("study.resume=must") == folder


def test_changed_labels_are_another_data_set(tmp_path: Path) -> None:
    words = write_image_folder(tmp_path / "data")
    config = load_config(["study=smoke", *words], STUDIES)

    def prints() -> dict[str, str]:
        return identity(DataLock.of(SealedDataset(build_dataset(config.data, None))), "s", "t")

    before = prints()
    assert prints() == before
    for number in (0, 11):  # one image of either split
        path = tmp_path / "data" / "labels" / f"frame{number:02d}.png"
        label = np.array(Image.open(path))
        Image.fromarray(label[::-1]).save(path)
        changed = prints()
        assert changed["data"] != before["data"]
        assert changed == {**before, "data": changed["data"]}
        Image.fromarray(label).save(path)
        assert prints() == before


def test_the_validation_split_counts_where_it_is_used() -> None:
    images = {"train": {"t": [0]}, "test": {"e": [1]}}
    first, second = (MadeDataset({**images, "val": {"v": [c]}}) for c in (0, 1))
    plain = identity(DataLock.of(first), "s", "t")
    assert plain == identity(DataLock.of(second), "s", "t")
    locks = [DataLock.of(data, validation=True) for data in (first, second)]
    prints = [identity(lock, "s", "t") for lock in locks]
    assert prints[0]["validation"] != prints[1]["validation"]
    # the test images are the same, so scores can be compared
    assert prints[0]["data"] == prints[1]["data"] == plain["data"]
    assert not first.labels_read


def test_a_study_that_selects_otherwise_is_refused_by_that(studies: Studies) -> None:
    studies.begin("study.id=mine")
    with pytest.raises(UserError) as caught:
        studies.find("study.id=mine", "study.folds=3", validation="v")
    assert "validation" not in str(caught.value)


def test_a_refusal_shows_the_whole_difference(studies: Studies) -> None:
    studies.begin("study.id=mine")
    words = ["study.id=mine", "train.epochs=9", "search.trials=8", "study.seed=3"]
    words += ["search.space.epochs.choices=[2,4]"]
    with pytest.raises(UserError) as caught:
        studies.find(*words, data="changed")
    lines = str(caught.value).splitlines()
    assert "study.id=mine was begun with other" in lines[0]
    assert "  train.epochs: 2 -> 9" in lines
    assert "  study.seed: 0 -> 3" in lines
    assert "  search.trials: 2 -> 8  (would extend the study)" in lines
    assert "  search.space.epochs.choices: None -> [2, 4]" in lines
    assert "  data: its content has changed" in lines
    assert "choose another study.id" in lines[-1]
    # of the dimension: choices, log and points
    assert len(lines) == 1 + 6 + 1 + 1
    assert not any("None -> None" in line for line in lines)


@pytest.mark.parametrize(
    ("word", "key", "before", "now"),
    [
        ("search.trials=5", "search.trials", 2, 5),
        ("study.draws=4", "study.draws", 2, 4),
        ("study.shots=[4,2,1]", "study.shots", [1, 2], [4, 2, 1]),
        (
            "study.methods=[spa,zero_shot,ssprompt]",
            "study.methods",
            ["zero_shot", "ssprompt"],
            ["spa", "zero_shot", "ssprompt"],
        ),
        ("search.enqueue=[{lr_weight: 0.2}]", "search.enqueue", [], [{"lr_weight": 0.2}]),
        ("search.budget.minutes=3", "search.budget.minutes", 0.0, 3.0),
    ],
)
def test_more_of_the_same_extends_a_study(
    studies: Studies, word: str, key: str, before: Any, now: Any
) -> None:
    folder, _ = studies.begin("study.id=mine")
    first = (folder.draws / "draw-0.json").read_text()
    write_json(folder.results, {"schema": 2})
    for name in ("spa-k1-d0.failed.json", ".spa-k1-d1-x1y2.json"):
        write_json(folder.fits / name, {})
    _, begun = studies.begin("study.id=mine", word)
    assert begun.kind == "extended"
    assert key in begun.sentence
    record = read_json(folder.record)
    (extension,) = record["extensions"]
    assert extension["changes"] == {key: [before, now]}
    assert extension["after_scores"] is False
    assert flat_config(studies.config(word))[key] == now
    assert record["config"]["search"]["trials"] == (5 if key == "search.trials" else 2)
    # it is unfinished again, and what it ended with before is kept
    assert not folder.results.exists()
    assert read_json(folder.path / "results-before-1.json") == {"schema": 2}
    assert len(list(folder.draws.iterdir())) == (4 if key == "study.draws" else 2)
    if key == "study.shots":
        assert '"4"' in (folder.draws / "draw-0.json").read_text()
        assert '"4"' not in first
    # the extended study is the one that goes on, and the former one is refused
    assert studies.begin("study.id=mine", word)[1].kind == "continued"
    if key != "search.budget.minutes":
        with pytest.raises(UserError, match=rf"{key}: "):
            studies.find("study.id=mine")


def test_an_extension_after_the_test_split_was_scored_says_so(studies: Studies) -> None:
    folder, _ = studies.begin("study.id=mine")
    write_json(folder.fits / "ssprompt-k1-d0.json", {})
    _, begun = studies.begin("study.id=mine", "search.trials=3")
    assert "scored on the test images already" in begun.sentence
    studies.begin("study.id=mine", "search.trials=4")
    extensions = read_json(folder.record)["extensions"]
    assert [extension["after_scores"] for extension in extensions] == [True, True]
    assert extensions[1]["changes"] == {"search.trials": [3, 4]}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ({"search.trials": 4}, {"search.trials": 3}),
        ({"study.shots": [1, 4]}, {"study.shots": [1, 8]}),
        ({"study.methods": ["spa", "sem"]}, {"study.methods": ["sem"]}),
        ({"search.enqueue": [{"a": 1}]}, {"search.enqueue": [{"b": 1}, {"a": 1}]}),
        ({"search.draws": 1}, {"search.draws": 2}),
        (
            {"study.mode": "pareto", "study.shots": [1]},
            {"study.mode": "pareto", "study.shots": [1, 2]},
        ),
    ],
)
def test_less_or_other_is_no_extension(before: dict[str, Any], now: dict[str, Any]) -> None:
    (change,) = changes_of(before, now)
    assert not change.extends


def test_a_study_that_was_begun_before_an_option_existed_goes_on_as_it_was() -> None:
    now = {"study.seed": 0, "storage.embeddings": "float32", "model.precision": "fp32"}
    assert changes_of({"study.seed": 0}, now) == ()
    (change,) = changes_of({"study.seed": 0}, {**now, "storage.embeddings": "float16"})
    assert not change.extends


def test_support_draws_that_cannot_be_made_again_are_an_error(studies: Studies) -> None:
    folder, _ = studies.begin("study.id=mine")
    path = folder.draws / "draw-1.json"
    draw = read_json(path)
    draw["support"]["2"] = draw["support"]["2"][::-1]
    write_json(path, draw)
    before = folder.record.read_text()
    with pytest.raises(RuntimeError, match=r"draw-1\.json holds another support draw"):
        studies.begin("study.id=mine", "study.draws=3")
    assert folder.record.read_text() == before


def test_studies_of_earlier_versions_and_broken_records_are_named(studies: Studies) -> None:
    folder, _ = studies.begin("study.id=mine")
    record = read_json(folder.record)
    del record["facts"]
    write_json(folder.record, record)
    assert studies.find().made
    with pytest.raises(UserError, match="mine was begun by an earlier version"):
        studies.find("study.id=mine")
    write_text(folder.record, "{")
    with pytest.raises(UserError, match=r"study\.json is not readable"):
        check_unchanged(folder, studies.config("study.id=mine"), PRINTS)
