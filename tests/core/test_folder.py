"""The folder data set: a user's own images, and every way in which they can be wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssprompt_core.data.dataset import IGNORE
from ssprompt_core.data.folder import FolderDataset
from ssprompt_core.data.pictures import picture_digest
from ssprompt_core.errors import UserError

CAMVID = Path(__file__).parents[3] / "shared" / "data" / "camvid_mini"


def write_folder(root: Path, count: int = 6, classes: int = 3, side: int = 20) -> tuple[Path, Path]:
    images, labels = root / "images", root / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (side, side + 4, 3), dtype=np.uint8)).save(
            images / f"frame{i}.jpg"
        )
        label = rng.integers(0, classes, (side, side + 4)).astype(np.uint8)
        Image.fromarray(label).save(labels / f"frame{i}.png")
    return images, labels


NAMES = ("sky", "road", "car")


def test_splits_are_disjoint_complete_and_seeded(tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path)
    data = FolderDataset(images, labels, NAMES, seed=1)
    train, test = set(data.ids("train")), set(data.ids("test"))
    assert not train & test
    assert len(train | test) == 6
    assert test == set(FolderDataset(images, labels, NAMES, seed=1).ids("test"))


def test_a_label_digest_is_of_the_classes_and_not_of_the_file(tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path)

    def digest(*ignore_ids: int) -> str:
        data = FolderDataset(images, labels, NAMES, ignore_ids=ignore_ids)
        return data.label_digest("frame0")

    before, path = digest(), labels / "frame0.png"
    pixels = np.array(Image.open(path))
    size = path.stat().st_size
    Image.fromarray(pixels).save(path, compress_level=0)
    assert path.stat().st_size != size
    assert digest() == before
    assert digest(2) != before
    pixels[3, 5] = (pixels[3, 5] + 1) % 3
    Image.fromarray(pixels).save(path)
    assert digest() != before


def test_an_image_is_turned_as_its_camera_noted(tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path)
    upright = np.asarray(Image.open(images / "frame0.jpg"))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by a quarter
    (images / "frame0.jpg").unlink()
    Image.fromarray(np.rot90(upright)).save(images / "frame0.png", exif=exif)
    image = FolderDataset(images, labels, NAMES).image("frame0")
    assert np.array_equal(image, upright)


def test_a_turned_image_has_another_digest_than_its_bytes_alone(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    digests = set()
    for orientation in (None, 1, 3):
        path = tmp_path / f"{orientation}.png"
        exif = Image.Exif()
        if orientation:
            exif[0x0112] = orientation
        Image.fromarray(pixels).save(path, exif=exif)
        plain = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (picture_digest(path) == plain) == (orientation != 3)
        digests.add(picture_digest(path))
    assert len(digests) == 3


def test_a_damaged_label_is_named(tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path)
    path = labels / "frame0.png"
    content = bytearray(path.read_bytes())
    at = content.index(b"IDAT")
    content[at : at + 4] = b"\x00\x00\x00\x00"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"frame0\.png is not a readable label"):
        FolderDataset(images, labels, NAMES)


def test_named_test_split(tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path)
    listing = tmp_path / "test.txt"
    listing.write_text("frame1\nframe4\n")
    data = FolderDataset(images, labels, NAMES, test=listing)
    assert data.ids("test") == ("frame1", "frame4")


def test_an_ignored_id_in_the_middle_leaves_contiguous_classes(tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path)
    classes = tmp_path / "classes.txt"
    classes.write_text("0 sky\n1 void\n2 car\n")
    data = FolderDataset(images, labels, classes, ignore_ids=(1,))
    assert data.class_names == ("sky", "car")
    raw = np.asarray(Image.open(labels / "frame0.png"))
    label = data.label("frame0")
    assert (label[raw == 1] == IGNORE).all()
    assert (label[raw == 2] == 1).all()
    assert data.classes_present("frame0") == {0, 1}


def test_equal_content_equal_digest(tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path)
    (images / "copy.jpg").write_bytes((images / "frame0.jpg").read_bytes())
    (labels / "copy.png").write_bytes((labels / "frame0.png").read_bytes())
    data = FolderDataset(images, labels, NAMES)
    assert data.digest("copy") == data.digest("frame0") != data.digest("frame1")


def _paint(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda i, la: la.joinpath("frame3.png").unlink(), r"frame3\.jpg has no label"),
        (
            lambda i, la: i.joinpath("frame3.jpg").write_bytes(b"no"),
            r"frame3\.jpg is not a readabl",
        ),
        (
            lambda i, la: _paint(la / "frame3.png", np.full((20, 24), 7, np.uint8)),
            r"frame3\.png contains label id 7, but data\.classes names ids up to 2",
        ),
        (
            lambda i, la: _paint(la / "frame3.png", np.zeros((20, 20), np.uint8)),
            r"frame3\.png is 20 x 20 pixels, but its image is 24 x 20",
        ),
        (
            lambda i, la: _paint(la / "frame3.png", np.zeros((20, 24, 3), np.uint8)),
            "grey or palette",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, damage, message: str) -> None:
    images, labels = write_folder(tmp_path)
    damage(images, labels)
    with pytest.raises(UserError, match=message):
        FolderDataset(images, labels, NAMES)


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    images, labels = write_folder(tmp_path)
    with pytest.raises(UserError, match="data.images is .* not a folder"):
        FolderDataset(tmp_path / "none", labels, NAMES)
    with pytest.raises(UserError, match="data.test_list names 'x'"):
        FolderDataset(images, labels, NAMES, test=("x",))
    with pytest.raises(UserError, match="'sky' twice"):
        FolderDataset(images, labels, ("sky", "sky"))
    with pytest.raises(UserError, match=r"data.test_fraction must lie in \(0, 1\)"):
        FolderDataset(images, labels, NAMES, test_fraction=1.5)


@pytest.mark.skipif(not CAMVID.is_dir(), reason="no camvid_mini folder beside this checkout")
def test_real_street_frames() -> None:
    data = FolderDataset(
        CAMVID / "images",
        CAMVID / "labels",
        CAMVID / "classes.txt",
        ignore_ids=(11,),
        test=CAMVID / "query.txt",
    )
    assert len(data.class_names) == 11
    assert (len(data.ids("train")), len(data.ids("test"))) == (24, 12)
    assert all(set(np.unique(data.label(i))) <= {*range(11), IGNORE} for i in data.ids("train"))
