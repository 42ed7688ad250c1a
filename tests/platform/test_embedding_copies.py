"""How often embeddings are made and copied: once per image, once per machine, and never per fit."""

import gc
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from made_data import MadeDataset, bench_over, encoded, pool
from torch import Tensor

from ssprompt_core.data.embeddings import MappedEmbeddings
from ssprompt_core.errors import UserError
from ssprompt_core.methods import build_model
from ssprompt_core.methods.settings import MethodSettings
from ssprompt_core.models.sam import SamSegmenter
from ssprompt_core.train.fit import LabelledEmbeddings, fit
from ssprompt_platform.bench import Bench, fit_settings
from ssprompt_platform.cluster import Resources
from ssprompt_platform.embeddings import EmbeddingStore
from ssprompt_platform.encode import Encoder, check_precision
from ssprompt_platform.encoded import missing_images
from ssprompt_platform.sources import SegmenterSource

SIX = pool(6, "a")
IDS = list(SIX)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    data = MadeDataset({"train": SIX})
    return bench_over(data, encoded(data, tmp_path_factory.mktemp("encoded")))


def mappings(folder: Path) -> dict[str, dict[str, int]]:
    """Files below a folder that this process has mapped -> what of each is its own, in KiB."""
    found: dict[str, dict[str, int]] = {}
    name = None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            name = line.split(maxsplit=5)[-1] if str(folder) in line else None
        elif name is not None and line.endswith(" kB"):
            key, value = line.removesuffix(" kB").split(":")
            mapped = found.setdefault(name, {})
            mapped[key] = mapped.get(key, 0) + int(value)
    return found


def test_what_a_fit_is_given_are_the_pages_of_the_files_themselves(bench: Bench) -> None:
    data = bench.labelled(IDS)
    assert isinstance(data.embeddings, MappedEmbeddings)
    total = sum(float(image.sum()) for image in data.embeddings)  # now every page was read
    mapped = mappings(bench.store.folder)
    assert len(mapped) == len(IDS)
    for pages in mapped.values():
        # pages without a copy of this process are those that every process of the machine has
        assert pages["Rss"] > 0
        assert pages["Anonymous"] == pages["Private_Dirty"] == 0
    # the way of copying them together gives the same
    assert total == pytest.approx(float(data.embeddings.to("cpu").double().sum()), rel=1e-4)


def test_nothing_stays_mapped_when_trials_have_ended(bench: Bench) -> None:
    for seed in range(20):
        one_fit(bench, bench.labelled(IDS[: 2 + seed % 4]), "linear_probe", seed)
    gc.collect()
    assert mappings(bench.store.folder) == {}


class Counted(MappedEmbeddings):
    """Knows how often each image was copied out of its file."""

    def __init__(self, images: Sequence[Tensor]) -> None:
        super().__init__(images)
        self.copied: Counter[int] = Counter()

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> Tensor:
        self.copied.update(torch.arange(len(self))[index].tolist())
        return super().__getitem__(index)


@pytest.mark.parametrize("method", ["ssprompt", "linear_probe"])
def test_a_fit_copies_each_image_once_or_those_of_each_step(bench: Bench, method: str) -> None:
    counted = Counted([bench.store.get(bench.dataset.digest(i)) for i in IDS])
    given = bench.labelled(IDS)
    in_files = one_fit(bench, LabelledEmbeddings(counted, given.labels, given.sizes), method, 0)
    settings = fit_settings(bench.train, "cpu", 3, 0)
    steps = settings.epochs * settings.steps_per_epoch
    if method == "ssprompt":  # the image side of its decoder is prepared once
        assert counted.copied == Counter(range(len(IDS)))
    else:
        assert sum(counted.copied.values()) == steps * settings.batch_size
    # and it learns what it would from one tensor of them all
    together = LabelledEmbeddings(given.embeddings.to("cpu"), given.labels, given.sizes)
    whole = one_fit(bench, together, method, 0)
    assert in_files.keys() == whole.keys()
    assert all(torch.equal(in_files[name], whole[name]) for name in whole)


def one_fit(bench: Bench, data: LabelledEmbeddings, method: str, seed: int) -> dict[str, Tensor]:
    """What a fit of three short epochs learns."""
    segmenter = bench.source.build()
    model = build_model(method, MethodSettings(num_prompts=4), segmenter, bench.texts, seed=seed)
    fit(model, data, fit_settings(bench.train, "cpu", 3, seed))
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.fixture
def encoder_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images in each call of an image encoder of this process."""
    calls: list[int] = []
    original = SamSegmenter.encode_images

    def counted(self: SamSegmenter, x_B3SS: Tensor) -> Tensor:
        calls.append(len(x_B3SS))
        return original(self, x_B3SS)

    monkeypatch.setattr(SamSegmenter, "encode_images", counted)
    return calls


def test_batches_under_way_at_once_are_each_encoded_once(
    bench: Bench, tmp_path: Path, encoder_calls: list[int]
) -> None:
    store = EmbeddingStore(tmp_path, bench.store.fingerprint)
    encoder = Encoder(bench.dataset, store, bench.source, Resources(1, 1, 2, 0.0, "cpu"))
    batches = [IDS[:2], IDS[2:4], IDS[4:]]
    with ThreadPoolExecutor(2) as under_way:
        assert sum(under_way.map(encoder.encode, batches)) == len(IDS)
    assert encoder_calls == [2, 2, 2]
    assert missing_images(bench.dataset, IDS, store) == []
    for image_id in IDS:
        digest = bench.dataset.digest(image_id)
        torch.testing.assert_close(store.get(digest), bench.store.get(digest))


def test_a_lower_precision_of_the_encoder_is_close_and_kept_apart(
    bench: Bench, tmp_path: Path
) -> None:
    store = EmbeddingStore(tmp_path, bench.store.fingerprint, precision="bf16")
    resources = Resources(1, 1, 1, 0.0, "cpu")
    Encoder(bench.dataset, store, SegmenterSource("small", None), resources).encode(IDS[:1])
    digest = bench.dataset.digest(IDS[0])
    exact, rounded = bench.store.get(digest), store.get(digest)
    assert not torch.equal(exact, rounded)
    assert float((exact - rounded).norm() / exact.norm()) < 0.05


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(UserError, match=r"^model\.precision is fp16, which needs a GPU"):
        check_precision("fp16", "cpu")
    check_precision("fp16", "cuda")
    check_precision("bf16", "cpu")
