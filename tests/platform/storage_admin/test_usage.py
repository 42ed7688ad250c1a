"""What studies cost is counted as it lies there, on a disk and in a bucket."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_root import MadeRoot, make_root

from ssprompt_core.errors import UserError
from ssprompt_platform.storage import S3Path, s3_client
from ssprompt_platform.storage_admin.listing import Amount, entries, measured
from ssprompt_platform.storage_admin.studies import read_study, state_of
from ssprompt_platform.storage_admin.usage import LOST, kind_of, measure


@pytest.fixture
def made(tmp_path: Path) -> MadeRoot:
    made = make_root(tmp_path, tmp_path / "runs")
    made.add("ours/trials/spa-k4-0/state-1.safetensors", b"c" * 5000)
    made.add("ours/tracking/journal.jsonl", b"t" * 70)
    made.add("notes.txt", b"n" * 11)
    return made


def test_a_study_by_kind(made) -> None:
    usage = measure(made.place, "ours")
    (ours,) = usage.studies
    assert ours.own.total == measured(entries(made.place / "ours"))
    assert ours.own.kinds["checkpoints"] == Amount(1, 5000)
    assert ours.own.kinds["tracking"] == Amount(1, 70)
    assert ours.own.kinds["fits"] == measured(entries(made.place / "ours" / "fits"))
    assert ours.own.kinds["search"].bytes > 0
    assert ours.artifacts == Amount(1, 1000)
    assert ours.embeddings is not None
    assert ours.embeddings.objects == 1
    assert ours.former is None
    assert ours.total == ours.own.total + Amount(1, 1000)
    assert usage.shared.kinds == {}
    assert usage.remarks == []


def test_a_root_adds_up(made) -> None:
    usage = measure(made.place)
    assert [each.study.study_id for each in usage.studies] == ["ours", "theirs"]
    assert usage.total == measured(entries(made.place))
    assert usage.shared.kinds["embeddings"].objects == 4
    assert usage.shared.kinds["class names"].objects == 3
    assert usage.shared.kinds["other"] == Amount(1, 11)
    # two of deleted runs, two of lost ones, one of a lost model
    assert usage.shared.kinds[LOST].objects == 5


def test_a_bucket_has_former_versions(tmp_path, s3_bucket) -> None:
    root = S3Path.parse(s3_bucket)
    s3_client().put_bucket_versioning(
        Bucket=root.bucket, VersioningConfiguration={"Status": "Enabled"}
    )
    made = make_root(tmp_path, root)
    made.add("ours/spent.json", b"1" * 40)
    made.add("ours/spent.json", b"2" * 50)
    (root / "ours" / "spent.json").unlink()
    made.add("latest/results.json", b"1" * 7)
    made.add("latest/results.json", b"2")
    (S3Path(root.bucket, f"{root.key}-of-others") / "x").write_bytes(b"theirs")
    (ours,) = measure(root, "ours").studies
    assert ours.former is not None
    # spent.json of the study itself is one of them
    assert ours.former.objects == 3
    assert ours.former.bytes > 90
    usage = measure(root)
    assert [each.former for each in usage.studies] == [ours.former, Amount()]
    assert usage.shared.kinds["former versions"] == Amount(1, 7)
    assert usage.total == measured(entries(root)) + ours.former + Amount(1, 7)


def test_a_study_that_is_not_there(made) -> None:
    with pytest.raises(UserError, match=r"no study our in .* \(did you mean 'ours'\?\)"):
        measure(made.place, "our")


def test_artifacts_are_unknown_where_mlflow_is_down(made) -> None:
    usage = measure(made.place, "ours", ["http://127.0.0.1:1"])
    assert usage.studies[0].artifacts is None
    assert any("does not tell its runs" in remark for remark in usage.remarks)
    usage = measure(made.place, None, ["http://127.0.0.1:1"])
    assert usage.shared.kinds["artifacts"].objects == 7


def test_a_study_without_a_lock_does_not_tell_its_embeddings(made) -> None:
    (made.place / "ours" / "data-lock.json").unlink()
    assert measure(made.place, "ours").studies[0].embeddings is None


def test_a_study_tells_how_far_it_is(made) -> None:
    from ssprompt_platform.ownership import owned
    from ssprompt_platform.storage import StudyFolder

    folder = StudyFolder(made.place, "ours")
    made.add("ours/results.json", b"{}")
    assert state_of(read_study(folder)) == "finished"
    (made.place / "ours" / "results.json").unlink()
    assert state_of(read_study(folder)) == "unfinished"
    with owned(folder):
        assert state_of(read_study(folder)) == "running"
    made.add("ours/study.json", b"{ half")
    assert state_of(read_study(folder)) == "unreadable"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("fits", "fits"),
        ("ray", "checkpoints"),
        ("optuna.db-wal", "search"),
        ("study.json", "record"),
        ("what-is-new", "record"),
    ],
)
def test_kinds_follow_from_names(name, kind) -> None:
    assert kind_of(name) == kind
