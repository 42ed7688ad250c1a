"""What nobody refers to is found and deleted, on a disk and in a bucket, and nothing else is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from made_root import MadeRoot, age, make_root
from mlflow import MlflowClient

from ssprompt_core.errors import UserError
from ssprompt_platform.storage import Place, S3Path, StorageError, read_json, s3_client, write_json
from ssprompt_platform.storage_admin.garbage import Found, Search
from ssprompt_platform.storage_admin.listing import Amount, entries, parts_below, seconds_of
from ssprompt_platform.storage_admin.mlflow_runs import owner_of
from ssprompt_platform.storage_admin.removal import delete

DAY = 86400.0


@pytest.fixture
def made(tmp_path: Path) -> MadeRoot:
    return make_root(tmp_path, tmp_path / "runs")


def search(root: Place, older_than: float = DAY, **options: object) -> Found:
    return Search(root, older_than, **options).run()  # type: ignore[arg-type]


def found_names(found: Found, root: Place) -> dict[str, set[str]]:
    return {
        garbage.kind: {"/".join(parts_below(entry.place, root)) for entry in garbage.found}
        for garbage in found.garbage
        if garbage.found
    }


def test_what_is_nobodys_is_found_on_a_disk_and_nothing_else(made) -> None:
    before = made.names()
    found = search(made.place)
    assert found_names(found, made.place) == made.nobodys
    assert found.kept == []
    assert found.asked == [made.uri]
    assert made.names() == before
    gone = delete(made.place, found)
    assert gone == found.total
    nobodys = set().union(*made.nobodys.values())
    assert gone.objects == len(nobodys)
    assert made.names() == before - nobodys
    # folders that nothing is left in go too
    assert not (made.place / "mlflow-artifacts" / ("0" * 32)).exists()
    assert search(made.place).garbage == []


def test_what_is_nobodys_is_found_in_a_bucket_and_nothing_else(tmp_path, s3_bucket) -> None:
    made = make_root(tmp_path, S3Path.parse(s3_bucket))
    # a neighbour whose name begins alike
    neighbour = S3Path.parse(f"{s3_bucket}-of-others") / "embeddings" / "aa" / "aa.arrow"
    neighbour.write_bytes(b"theirs")
    before = made.names()
    assert search(made.place, 3600).total == Amount()
    found = search(made.place, 0)
    assert found_names(found, made.place) == made.nobodys
    delete(made.place, found)
    assert made.names() == before - set().union(*made.nobodys.values())
    assert neighbour.is_file()


def test_more_than_a_thousand_objects_go(s3_bucket, monkeypatch) -> None:
    monkeypatch.setattr("ssprompt_platform.storage_admin.removal.BATCH", 3)
    root = S3Path.parse(s3_bucket)
    for number in range(8):
        (root / "embeddings" / "aa" / f"aa{number}.arrow").write_bytes(b"x")
    found = search(root, 0)
    steps: list[int] = []
    assert delete(root, found, steps.append) == Amount(8, 8)
    assert steps == [3, 3, 2]
    assert list(root.walk()) == []


def test_an_interrupted_upload_is_found(s3_bucket) -> None:
    root, client = S3Path.parse(s3_bucket), s3_client()

    def begin(key: str) -> None:
        upload = client.create_multipart_upload(Bucket=root.bucket, Key=key)["UploadId"]
        client.upload_part(
            Bucket=root.bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"z" * 5000
        )

    begin(f"{root.key}/study/fits/a.safetensors")
    begin("elsewhere/a.safetensors")
    young = search(root, 3600)
    assert [(each.kind, each.amount, each.young) for each in young.garbage] == [
        ("interrupted uploads", Amount(), Amount(1, 5000))
    ]
    found = search(root, 0)
    assert found.total == Amount(1, 5000)
    assert delete(root, found) == Amount(1, 5000)
    left = client.list_multipart_uploads(Bucket=root.bucket)["Uploads"]
    assert [each["Key"] for each in left] == ["elsewhere/a.safetensors"]
    # it may have ended meanwhile
    assert delete(root, found) == Amount(1, 5000)


def test_what_is_young_stays(made) -> None:
    fresh = made.add("embeddings/ab/ab.arrow", old=False)
    # of a run that is nobody's one file is young: so the run may still be written
    lost = next(iter(made.nobodys["artifacts of lost models"]))
    made.add(str(Path(lost).parent / "fresh.txt"), old=False)
    found = search(made.place)
    by_kind = {garbage.kind: garbage for garbage in found.garbage}
    assert by_kind["embeddings"].young == Amount(1, 100)
    assert by_kind["artifacts of lost models"].found == []
    assert by_kind["artifacts of lost models"].young.objects == 2
    delete(made.place, found)
    assert fresh.is_file()


def test_a_study_that_begins_meanwhile_stops_the_deletion(made) -> None:
    found = search(made.place)
    before = made.names()
    made.add("new/study.json", b"{}")
    with pytest.raises(UserError, match="study new was begun while this ran"):
        delete(made.place, found)
    assert made.names() == before | {"new/study.json"}


def test_a_file_that_was_written_again_meanwhile_stays(made) -> None:
    found = search(made.place)
    (name,) = made.nobodys["class names"]
    made.add(name, b"new", old=False)
    delete(made.place, found)
    assert name in made.names()


# ---- MLflow is asked, and believed only where it can know ----------------------------------------


def test_another_mlflow_that_knows_none_of_the_runs_is_not_believed(made, tmp_path) -> None:
    other = f"sqlite:///{tmp_path / 'other.db'}"
    MlflowClient(other).create_experiment("mine")
    found = search(made.place, uris=[other])
    assert not any("artifacts" in garbage.kind for garbage in found.garbage)
    assert any("knows none of them" in sentence for sentence in found.kept)


def test_a_study_that_mlflow_does_not_know_makes_lost_runs_uncertain(made) -> None:
    """It may have been told to another MLflow, whose runs these are."""
    record = read_json(made.place / "theirs" / "study.json")
    write_json(made.place / "theirs" / "study.json", record | {"uid": "told-elsewhere"})
    found = search(made.place)
    kinds = {garbage.kind for garbage in found.garbage}
    assert "artifacts of deleted runs" in kinds
    assert not kinds & {"artifacts of lost runs", "artifacts of lost models"}
    assert any("name every MLflow with --uri" in sentence for sentence in found.kept)
    kinds = {garbage.kind for garbage in search(made.place, uris=[made.uri]).garbage}
    assert kinds >= {"artifacts of lost runs", "artifacts of lost models"}


def test_an_mlflow_that_is_down_keeps_everything_of_it(made) -> None:
    found = search(made.place, uris=[made.uri, "http://127.0.0.1:1"])
    assert not any("artifacts" in garbage.kind for garbage in found.garbage)
    (sentence,) = found.kept
    assert "MLflow at http://127.0.0.1:1 does not tell its runs" in sentence


def test_no_mlflow_at_all_keeps_everything_of_it(made) -> None:
    for name in ("ours", "theirs"):
        path = made.place / name / "study.json"
        record = read_json(path)
        record["config"]["tracking"]["uri"] = "sqlite:////nowhere/mlflow.db"
        write_json(path, record)
    found = search(made.place)
    assert not any("artifacts" in garbage.kind for garbage in found.garbage)
    assert any("there is no MLflow to ask" in sentence for sentence in found.kept)


def test_a_server_keeps_artifacts_elsewhere(tmp_path, mlflow_server, s3_server, s3_bucket) -> None:
    """Real artifacts through a server: below its own place, the experiment's and the run's id."""
    root, client = S3Path.parse(s3_bucket), MlflowClient(mlflow_server.uri, mlflow_server.uri)
    place = S3Path.parse(mlflow_server.artifacts)
    experiment = client.create_experiment(f"gc-{time.time_ns()}")
    (tmp_path / "a.txt").write_text("artifact")
    runs = [client.create_run(experiment).info.run_id for _ in range(2)]
    for run in runs:
        client.log_artifact(run, str(tmp_path / "a.txt"), "sub folder")
    model = client.create_logged_model(experiment, source_run_id=runs[0])
    client.log_model_artifacts(model.model_id, str(tmp_path))
    client.delete_run(runs[1])

    def ours(found: Found) -> set[str]:
        names = {str(entry.place) for garbage in found.garbage for entry in garbage.found}
        return {name for name in names if f"/{experiment}/" in name}

    options = {"uris": [mlflow_server.uri], "artifacts": [place]}
    found = search(root, 0, **options)
    assert ours(found) == {f"{place}/{experiment}/{runs[1]}/artifacts/sub folder/a.txt"}
    client.delete_logged_model(model.model_id)
    found = search(root, 0, **options)
    kinds = {g.kind for g in found.garbage for e in g.found if model.model_id in str(e.place)}
    assert kinds == {"artifacts of lost models"}
    delete(root, found)
    kept = {str(each.path) for each in place.walk() if f"/{experiment}/" in str(each.path)}
    assert kept == {f"{place}/{experiment}/{runs[0]}/artifacts/sub folder/a.txt"}


@pytest.mark.parametrize(
    ("path", "owner"),
    [
        (f"{'a' * 32}/artifacts/report/x", ("run", "a" * 32)),
        (f"7/{'a' * 32}/artifacts/x", ("run", "a" * 32)),
        (f"models/m-{'b' * 32}/artifacts/MLmodel", ("model", f"m-{'b' * 32}")),
        (f"7/models/m-{'b' * 32}/artifacts/MLmodel", ("model", f"m-{'b' * 32}")),
        (f"{'a' * 32}/artifacts/{'c' * 32}/artifacts/x", ("run", "a" * 32)),
        (f"traces/tr-{'a' * 32}/artifacts/x", None),
        (f"{'a' * 32}/notes.txt", None),
        ("notes.txt", None),
    ],
)
def test_whose_an_artifact_is_follows_from_its_path(path, owner) -> None:
    assert owner_of(tuple(path.split("/"))) == owner


# ---- studies tell what they refer to, or everything stays ----------------------------------------


def test_a_study_without_a_lock_keeps_the_embeddings_of_its_encoder(made) -> None:
    (made.place / "ours" / "data-lock.json").unlink()
    found = search(made.place)
    names = found_names(found, made.place)["embeddings"]
    # the one of an encoder that no study has
    assert len(names) == 1
    assert names < made.nobodys["embeddings"]
    assert any("studies ours may need them" in sentence for sentence in found.kept)


def test_the_encoder_of_an_embedding_is_read_in_a_bucket_too(tmp_path, s3_bucket) -> None:
    made = make_root(tmp_path, S3Path.parse(s3_bucket))
    (made.place / "ours" / "data-lock.json").unlink()
    names = found_names(search(made.place, 0), made.place)["embeddings"]
    assert len(names) == 1
    assert names < made.nobodys["embeddings"]


def test_a_record_that_cannot_be_read_keeps_what_is_shared(made) -> None:
    made.add("ours/study.json", b"{ half")
    made.add("data/procedural-0123456789abcdef/train-00000.png")
    found = search(made.place)
    assert not {"embeddings", "class names", "made images"} & {g.kind for g in found.garbage}
    assert len(found.kept) >= 3


def test_made_images_of_a_world_that_no_study_uses(made) -> None:
    from ssprompt_core.data.procedural import ProceduralDataset

    for seed in (0, 1, 2):
        dataset = ProceduralDataset(1, 1, 1, seed, cache=made.place / "data")
        dataset.image("train-00000")
    age(made.place / "data")
    made.add("data/of-the-user/image.png")
    found = search(made.place)
    (images,) = [g for g in found.garbage if g.kind == "made images"]
    (image,) = images.found
    assert image.place == dataset._folder / "train-00000.png"


def test_a_folder_without_a_record_is_nobodys_if_all_of_it_is_a_studys(made) -> None:
    made.add("half/draws/draw-0.json")
    made.add("half/.lock", b"")
    made.add("half/tracking-1234/journal.jsonl")
    made.add("photos/draws/draw-0.json")
    made.add("photos/holiday.jpg")
    made.add("scored/results.json")
    made.add("scored/best.json")
    made.add("notes.txt")
    found = search(made.place)
    (left,) = [g for g in found.garbage if g.kind == "studies without a record"]
    assert {entry.place.relative_to(made.place).parts[0] for entry in left.found} == {"half"}
    assert left.amount.objects == 3
    assert any("scored" in sentence and "has no study.json" in sentence for sentence in found.kept)


def test_what_a_killed_process_left_half_written(made) -> None:
    half = {
        "ours/fits/.spa-k4-d0-a1b2c3d4.json",
        "embeddings/ab/.abcdef-x_y1z2w3.arrow",
        ".ssprompt-probe-0123456789abcdef",
    }
    for name in half:
        made.add(name)
    for name in (
        "ours/ray/.tune-metadata-a1b2c3d4", "strange/.vimrc-a1b2c3d4", "ours/.hidden",
        "mlflow-artifacts/.a-a1b2c3d4",
    ):  # fmt: skip
        made.add(name)
    made.add("ours/fits/.young-a1b2c3d4.json", old=False)
    (left,) = [g for g in search(made.place).garbage if g.kind == "half-written files"]
    assert {"/".join(parts_below(e.place, made.place)) for e in left.found} == half
    assert left.young.objects == 1


def test_a_root_that_is_not_there_holds_nothing(tmp_path) -> None:
    found = search(tmp_path / "none")
    assert found.garbage == []
    assert list(entries(tmp_path / "none")) == []


def test_a_bucket_that_refuses_is_told_in_one_sentence(s3_bucket, s3_server, monkeypatch) -> None:
    root = S3Path.parse(s3_bucket)
    (root / "embeddings" / "aa" / "aa.arrow").write_bytes(b"x")
    found = search(root, 0)
    for name, value in s3_server.read_only.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match="AccessDenied|may not delete"):
        delete(root, found)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="the signature does not match"):
        search(root, 0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("36h", 129600), ("1d", 86400), ("2w", 1209600), ("0s", 0)]
)
def test_ages_are_read(text, seconds) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "d", "1 day", "-1d", "1y"])
def test_what_is_no_age_is_refused(text) -> None:
    with pytest.raises(UserError, match="is no age"):
        seconds_of(text)
