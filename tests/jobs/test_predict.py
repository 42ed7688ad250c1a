"""Segmenting a folder of images: what is written, resumed, refused and reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import torch
from learned import NAMES, load_job, other_checkpoint, write_prompts
from PIL import Image
from samples import ROOT, write_image_folder

from ssprompt_core.evaluate import predict
from ssprompt_core.methods.saved import load_prompts
from ssprompt_core.models.registry import build_segmenter
from ssprompt_platform.report.figures import colour_labels
from ssprompt_platform.use.class_maps import class_records, coco_annotations, write_overlay

COUNT = 5


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job("predict")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "probe.safetensors")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_image_folder(tmp_path / "data", count=COUNT)
    return tmp_path / "data" / "images"


def words(prompts: Path, images: Path, output: Path, *more: str) -> list[str]:
    return [
        "--prompts", str(prompts), "--images", str(images), "--output", str(output), *more,
    ]  # fmt: skip


def mask(output: Path, stem: str) -> np.ndarray:
    with Image.open(output / "masks" / f"{stem}.png") as picture:
        assert picture.mode == "P"
        return np.asarray(picture)


def expected(prompts: Path, image: np.ndarray) -> np.ndarray:
    segmenter = build_segmenter("small")
    embedding = segmenter.encode_images(segmenter.preprocess(image)[None])
    size = (image.shape[0], image.shape[1])
    model = load_prompts(prompts).model(segmenter)
    return predict(model, embedding, [size], batch_size=1, device="cpu")[0]


def test_masks_hold_the_classes_and_the_colours_of_all_pictures(
    job: ModuleType, prompts: Path, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert job.main(words(prompts, images, output, "--batch-size", "1")) == 0
    seen = set()
    for path in sorted(images.iterdir()):
        found = mask(output, path.stem)
        assert np.array_equal(found, expected(prompts, np.asarray(Image.open(path))))
        with Image.open(output / "masks" / path.name) as picture:
            assert np.array_equal(np.asarray(picture.convert("RGB")), colour_labels(found))
        seen |= set(np.unique(found).tolist())
    assert seen == {0, 1, 2}
    record = json.loads((output / "prediction.json").read_text())
    assert [entry["name"] for entry in record["classes"]] == list(NAMES)
    assert [entry["isthing"] for entry in record["classes"]] == [0, 1, 1]
    assert not (output / "overlays").exists()
    assert not (output / "coco.json").exists()


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 1), (8, 3)])
def test_a_picture_is_turned_as_its_camera_says(
    job: ModuleType, prompts: Path, tmp_path: Path, orientation: int, turns: int
) -> None:
    rng = np.random.default_rng(0)
    upright = np.kron(rng.integers(0, 256, (4, 6, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(np.rot90(upright, turns))
    Image.fromarray(stored).save(tmp_path / "images" / "turned.png", exif=exif)
    assert job.main(words(prompts, tmp_path / "images", tmp_path / "out")) == 0
    found = mask(tmp_path / "out", "turned")
    assert found.shape == (40, 60)
    assert np.array_equal(found, expected(prompts, upright))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA"])
def test_pictures_of_all_usual_kinds_are_read(
    job: ModuleType, prompts: Path, tmp_path: Path, mode: str
) -> None:
    (tmp_path / "images").mkdir()
    name = "a.tif" if mode == "CMYK" else "a.png"
    Image.new("RGB", (50, 30), (90, 120, 40)).convert(mode).save(tmp_path / "images" / name)
    assert job.main(words(prompts, tmp_path / "images", tmp_path / "out")) == 0
    assert mask(tmp_path / "out", "a").shape == (30, 50)


def test_what_cannot_be_read_is_named_and_the_rest_is_done(
    job: ModuleType,
    prompts: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (images / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    whole = (images / "frame00.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(images / "deep.png")
    Image.new("RGB", (4000, 4)).save(images / "thin.png")
    (images / "notes.txt").write_text("no image, and none of its business")
    output = tmp_path / "out"
    assert job.main(words(prompts, images, output, "--overlays", "--coco")) == 1
    shown = capsys.readouterr()
    for name in ("broken.jpg", "cut.png", "deep.png", "thin.png"):
        assert shown.err.count(name) >= 1
    assert "Traceback" not in shown.err
    assert shown.err.count("not segmented:") == 4
    assert f"{COUNT} images segmented" in shown.out
    assert len(list((output / "masks").iterdir())) == COUNT
    assert len(json.loads((output / "coco.json").read_text())["images"]) == COUNT


def test_a_second_run_does_only_what_is_left(
    job: ModuleType,
    prompts: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    assert job.main(words(prompts, images, output, "--limit", "2")) == 0
    assert len(list((output / "masks").iterdir())) == 2
    before = (output / "masks" / "frame00.png").stat().st_mtime_ns
    capsys.readouterr()
    assert job.main(words(prompts, images, output, "--overlays")) == 0
    assert "3 images segmented, 2 were there already" in capsys.readouterr().out
    assert (output / "masks" / "frame00.png").stat().st_mtime_ns == before
    assert len(list((output / "overlays").iterdir())) == COUNT
    assert not list(output.rglob(".*"))


def test_other_prompts_and_foreign_files_are_not_written_over(
    job: ModuleType,
    prompts: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    (output / "masks").mkdir(parents=True)
    foreign = output / "masks" / "frame03.png"
    foreign.write_bytes(b"someone's work")
    assert job.main(words(prompts, images, output)) == 2
    assert "frame03.png exists" in capsys.readouterr().err
    assert foreign.read_bytes() == b"someone's work"
    assert not (output / "prediction.json").exists()

    assert job.main(words(prompts, images, output, "--overwrite")) == 0
    first = mask(output, "frame03")
    other = write_prompts(tmp_path / "other.safetensors", seed=1)
    assert job.main(words(other, images, output)) == 2
    assert "other prompts (probe.safetensors)" in capsys.readouterr().err
    assert np.array_equal(mask(output, "frame03"), first)
    assert job.main(words(other, images, output, "--overwrite")) == 0
    assert not np.array_equal(mask(output, "frame03"), first)


def test_what_other_prompts_or_images_made_is_never_passed_off_as_the_present_ones(
    job: ModuleType,
    prompts: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    assert job.main(words(prompts, images, output, "--overlays", "--coco")) == 0
    other = write_prompts(tmp_path / "other.safetensors", seed=1)
    assert job.main(words(other, images, output, "--overwrite", "--limit", "2")) == 0
    assert len(list((output / "masks").iterdir())) == 2
    assert not list((output / "overlays").iterdir())
    assert not (output / "coco.json").exists()

    night = tmp_path / "night"
    images.rename(night)
    capsys.readouterr()
    assert job.main(words(other, night, output)) == 2
    assert f"predictions of other images ({images})" in capsys.readouterr().err


def test_coco_lists_every_image_with_a_mask_whatever_the_limit(
    job: ModuleType, prompts: Path, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert job.main(words(prompts, images, output)) == 0
    assert job.main(words(prompts, images, output, "--coco", "--limit", "1")) == 0
    assert len(json.loads((output / "coco.json").read_text())["images"]) == COUNT


def test_coco_masks_decode_to_the_class_maps(
    job: ModuleType, prompts: Path, images: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (70, 31), (10, 200, 30)).save(images / "wide.png")
    output = tmp_path / "out"
    assert job.main(words(prompts, images, output, "--coco")) == 0
    coco = json.loads((output / "coco.json").read_text())
    assert {image["file_name"] for image in coco["images"]} == {p.name for p in images.iterdir()}
    assert len({a["id"] for a in coco["annotations"]}) == len(coco["annotations"])
    for image in coco["images"]:
        of_image = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        decoded = np.full((image["height"], image["width"]), 255, np.uint8)
        for annotation in of_image:
            rle = annotation["segmentation"]
            decoded[pycocotools.mask.decode(rle).astype(bool)] = annotation["category_id"]
        assert np.array_equal(decoded, mask(output, Path(image["file_name"]).stem))
        assert sum(a["area"] for a in of_image) == decoded.size


def test_coco_boxes_enclose_the_class() -> None:
    label = np.zeros((6, 8), np.uint8)
    label[1:4, 2:7] = 4
    ground, box = coco_annotations(7, label)
    assert (ground["category_id"], ground["area"]) == (0, 6 * 8 - 15)
    assert box["bbox"] == [2, 1, 5, 3]
    assert box["image_id"] == 7


def test_classes_without_kinds_claim_none() -> None:
    assert "isthing" not in class_records(NAMES, ())[0]


@pytest.mark.parametrize(("height", "width"), [(40, 60), (700, 900), (3000, 2000), (20, 1500)])
def test_an_overlay_is_of_a_size_to_look_at(tmp_path: Path, height: int, width: int) -> None:
    label = np.zeros((height, width), np.uint8)
    label[: height // 2] = 1
    names = ("a class of a rather long name", "another of a name as long as the first one")
    write_overlay(tmp_path / "o.png", np.full((height, width, 3), 90, np.uint8), label, names)
    with Image.open(tmp_path / "o.png") as picture:
        pixels = np.asarray(picture)
    assert 240 <= pixels.shape[1] <= 1600
    # both classes' colours, each in the picture (over grey) and pure in the legend
    for c in (0, 1):
        colour = colour_labels(np.full((1, 1), c, np.uint8))[0, 0]
        assert (pixels == colour).all(-1).any()
        assert (pixels == (0.3 * 90 + 0.7 * colour).astype(np.uint8)).all(-1).any()


def mistake(kind: str, images: Path, tmp_path: Path) -> dict[str, Any]:
    if kind == "no prompts":
        return {"prompts": tmp_path / "nowhere.safetensors"}
    if kind == "no folder":
        return {"images": tmp_path / "nowhere"}
    if kind == "no image":
        (tmp_path / "empty").mkdir()
        return {"images": tmp_path / "empty"}
    if kind == "equal stems":
        Image.new("RGB", (8, 8)).save(images / "frame00.jpg")
        return {}
    if kind == "output is a file":
        (tmp_path / "out").write_text("mine")
        return {}
    if kind == "other weights":
        return {"more": ["--checkpoint", str(other_checkpoint(tmp_path / "w.safetensors"))]}
    return {"more": kind.split()}


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("no prompts", ["nowhere.safetensors", "not a file"]),
        ("no folder", ["--images", "nowhere"]),
        ("no image", ["--images", "empty"]),
        ("equal stems", ["frame00.jpg", "frame00.png"]),
        ("output is a file", ["--output", "not a folder"]),
        ("other weights", ["needs the segmenter 'small' (fingerprint", "was given 'small' (fin"]),
        ("--limit 0", ["--limit is 0"]),
        ("--batch-size -1", ["--batch-size is -1"]),
        ("--checkpoint nowhere.pth", ["--checkpoint", "nowhere.pth"]),
        pytest.param(
            "--device cuda",
            ["--device", "no GPU"],
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_a_mistake_ends_with_one_sentence_and_nothing_written(
    job: ModuleType,
    prompts: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    parts: list[str],
) -> None:
    changed = mistake(kind, images, tmp_path)
    existed = {path.name for path in tmp_path.iterdir()}
    given = words(
        changed.get("prompts", prompts),
        changed.get("images", images),
        tmp_path / "out",
        *changed.get("more", []),
    )
    assert job.main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for part in parts:
        assert part in error
    assert {path.name for path in tmp_path.iterdir()} == existed


def test_the_job_as_a_process_with_learned_prompts(images: Path, tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "ssprompt.safetensors", "ssprompt")
    given = words(path, images, tmp_path / "out", "--overlays", "--limit", "2")
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "predict.py"), *given],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "2 images segmented" in done.stdout
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 2


def test_help_teaches_the_job(job: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        job.main(["--help"])
    assert ended.value.code == 0
    taught = capsys.readouterr().out
    for part in ("prediction.json", "--overwrite", "EXIF", "Exit codes"):
        assert part in taught
