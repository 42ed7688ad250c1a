"""Frozen embeddings: made at the encoder's rate, read at the disk's, kept once per machine.

python -m benchmarks.parts.embeddings [--quick]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from segment_anything import sam_model_registry

from benchmarks.parts.part import Part, run_part
from ssprompt_core.data.dataset import SegmentationDataset
from ssprompt_core.evaluate import evaluate
from ssprompt_core.methods import build_model
from ssprompt_core.models.sam import SamSegmenter
from ssprompt_core.models.segmenter import Segmenter
from ssprompt_core.train.fit import fit
from ssprompt_platform.bench import Bench, fit_settings
from ssprompt_platform.cluster import _ENVIRONMENT as WORKERS_ENVIRONMENT
from ssprompt_platform.cluster import Resources
from ssprompt_platform.config import load_config
from ssprompt_platform.config.schema import Config
from ssprompt_platform.embeddings import EmbeddingStore
from ssprompt_platform.encode import Encoder
from ssprompt_platform.plan import make_plan
from ssprompt_platform.search.space import method_settings, search_space
from ssprompt_platform.sources import SegmenterSource, build_dataset, embed_class_names

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "jobs" / "studies"
ONE = Resources(1, 1, 1, 0.0, "cpu")
METHOD = "ssprompt"
Row = list[str | float | None]


def measure(quick: bool) -> Part:
    """Measure all four: encoding, reading, the effect of float16, memory over many trials."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="ssprompt-bench-") as name:
        folder = Path(name)
        config = load_config(["study=default"], STUDIES)
        dataset = build_dataset(config.data, folder / "data")
        rows = [
            *_encoding("small model, 96 x 96", _Small(), dataset, folder / "small", quick, 16),
            *(() if quick else _encoding(
                "ViT-B, 1024 x 1024", _RandomVitB(), dataset, folder / "vit_b", quick, 1
            )),
            *_reading(folder / "read", quick),
            *_rounding(config, dataset, folder / "rounded", quick),
            *_memory(folder / "memory", 40 if quick else 120),
        ]  # fmt: skip
    return Part(
        title="Embeddings",
        question=(
            "Whether anything but the encoder costs time when images are encoded, at what rate "
            "embeddings are read back, what storing them as float16 does to mIoU, and what a "
            "worker's memory does over many trials. Alternatives take turns, on one thread."
        ),
        columns=("what", "figure", "unit", "ratio", "ratio to"),
        rows=rows,
        notes=(
            "Encoding is timed in CPU seconds of the whole process, readers and writers included: "
            "the share of them that the encoder alone takes is what a machine whose CPUs encode "
            "can reach. Where a GPU encodes, the rest runs beside it. The small model's encoder "
            "takes milliseconds an image, ViT-B's seconds.",
            "A fit from rounded embeddings ends elsewhere, as after any other change of rounding: "
            "what float16 costs is told by the same prompts, scored on both.",
            "Cold reads are of files that were written to the disk and dropped from its cache "
            "(`posix_fadvise`); every value is read. The yardstick reads the same files by "
            "`read()` into one buffer.",
        ),
    )


@dataclass(frozen=True)
class _Small:
    """The shipped model, as a study builds it."""

    def build(self) -> Segmenter:
        return SegmenterSource("small", None).build()


@dataclass(frozen=True)
class _RandomVitB:
    """Segment Anything's ViT-B with random weights: what it computes does not matter here."""

    def build(self) -> Segmenter:
        return SamSegmenter(sam_model_registry["vit_b"](checkpoint=None), name="vit_b")


def _encoding(
    name: str,
    source: _Small | _RandomVitB,
    dataset: SegmentationDataset,
    folder: Path,
    quick: bool,
    batch: int,
) -> list[Row]:
    """Rates of the bare encoder and of a worker of a study, over the same images, in turn."""
    segmenter = source.build()
    many = batch > 1
    ids = dataset.ids("train")[: (96 if quick else 288) if many else 2]
    batches = [ids[start : start + batch] for start in range(0, len(ids), batch)]
    for image_id in ids:  # made images are on the disk then, as a user's are
        dataset.image(image_id)
    x_B3SS = torch.stack([segmenter.preprocess(dataset.image(i)) for i in batches[0]])
    embedding_Dhw = segmenter.encode_images(x_B3SS)[0]
    bare: list[float] = []
    worker: list[float] = []
    read: list[float] = []
    stored: list[float] = []
    for turn in range(3 if many else 1):
        bare.append(_cpu(lambda: [segmenter.encode_images(x_B3SS[: len(b)]) for b in batches]))
        store = EmbeddingStore(folder / str(turn), "bench")
        encoder = Encoder(dataset, store, source, ONE)  # type: ignore[arg-type]
        with ThreadPoolExecutor(2) as under_way:
            worker.append(_cpu(lambda e=encoder, u=under_way: list(u.map(e.encode, batches))))
        read.append(_cpu(lambda: [_read_all(segmenter, dataset, b) for b in batches]))
        stored.append(_cpu(lambda s=store: [s.put(f"again {i}", embedding_Dhw) for i in ids]))
    rate = len(ids) / statistics.median(bare)
    share = statistics.median(b / w for b, w in zip(bare, worker, strict=True))
    reading = statistics.median(r / b for r, b in zip(read, bare, strict=True))
    storing = statistics.median(s / b for s, b in zip(stored, bare, strict=True))
    base = f"{name}: bare encoder"
    return [
        [base, rate, "images / CPU s", 1.0, None],
        [f"{name}: a worker that reads, encodes, stores", share * rate, "images / CPU s", share,
         "bare encoder"],
        [f"{name}: reading and resizing by itself", reading * 1e3 / rate, "CPU ms / image",
         reading, "bare encoder's time"],
        [f"{name}: storing by itself", storing * 1e3 / rate, "CPU ms / image", storing,
         "bare encoder's time"],
    ]  # fmt: skip


def _read_all(segmenter: Segmenter, dataset: SegmentationDataset, ids: Sequence[str]) -> None:
    for image_id in ids:
        segmenter.preprocess(dataset.image(image_id))


def _cpu(work: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _reading(folder: Path, quick: bool) -> list[Row]:
    """Bytes a second of embeddings of ViT-B's size, cold and warm."""
    count = 48 if quick else 192
    values = torch.randn(256, 64, 64, generator=torch.Generator().manual_seed(0))
    stores = {d: EmbeddingStore(folder / d, "bench", dtype=d) for d in ("float32", "float16")}
    digests = [str(number) for number in range(count)]
    for store in stores.values():
        for digest in digests:
            store.put(digest, values)
    single, half = stores["float32"], stores["float16"]
    files = {d: [Path(str(s.path(i))) for i in digests] for d, s in stores.items()}
    ways: dict[str, tuple[str, Callable[[], None]]] = {
        "read() of the files": ("float32", lambda: _read_files(files["float32"])),
        "float32, mapped": ("float32", lambda: _touch(single, digests)),
        "float16, mapped": ("float16", lambda: _touch(half, digests)),
        "float32, batches of 2 picked": ("float32", lambda: _pick(single, digests)),
    }
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(2 if quick else 3):
        for way, (dtype, read) in ways.items():
            for state in ("cold", "warm"):
                if state == "cold":
                    _drop(files[dtype])
                begun = time.perf_counter()
                read()
                size = sum(path.stat().st_size for path in files[dtype])
                rates.setdefault((way, state), []).append(
                    size / (time.perf_counter() - begun) / 1e9
                )
    rows: list[Row] = []
    for (way, state), seen in sorted(rates.items(), key=lambda item: item[0][1]):
        base = statistics.median(rates["read() of the files", state])
        rate = statistics.median(seen)
        rows.append([f"reading {state}: {way}", rate, "GB/s of file", rate / base, "read()"])
    return rows


def _read_files(paths: Sequence[Path]) -> None:
    buffer = bytearray(2**23)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _touch(store: EmbeddingStore, digests: Sequence[str]) -> None:
    for digest in digests:
        store.get(digest).view(torch.uint8).flatten()[::4096].sum()


def _pick(store: EmbeddingStore, digests: Sequence[str]) -> None:
    images = store.images(digests)
    for start in range(0, len(digests), 2):
        images[start : start + 2]


def _drop(paths: Sequence[Path]) -> None:
    """Write the files to the disk and take them out of its cache."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def _rounding(config: Config, dataset: SegmentationDataset, folder: Path, quick: bool) -> list[Row]:
    """mIoU on the test split of one fit, and of the same fit made from rounded embeddings."""
    shots = [1] if quick else [1, 4]
    study = replace(config.study, shots=shots, draws=1, methods=[METHOD])
    config = replace(config, study=study, search=replace(config.search, trials=0))
    plan = make_plan(config, dataset)
    texts = embed_class_names("small", dataset.class_names, None)
    source = SegmenterSource("small", None)
    benches: dict[str, Bench] = {}
    for dtype in ("float32", "float16"):
        store = EmbeddingStore(folder / dtype, "bench", dtype=dtype)
        encoder = Encoder(dataset, store, source, ONE)
        ids = plan.image_ids()
        for start in range(0, len(ids), 16):
            encoder.encode(ids[start : start + 16])
        benches[dtype] = Bench(dataset, store, source, texts, config.train, ONE)
    test = {dtype: bench.labelled(plan.test_ids) for dtype, bench in benches.items()}
    default = search_space(METHOD, config.search.space, config.train).default
    rows: list[Row] = []
    for k in shots:
        scores: dict[tuple[str, str], float] = {}
        for fitted in benches:
            model = build_model(METHOD, method_settings(default), source.build(), texts, seed=0)
            data = benches[fitted].labelled(plan.draws[0].support[k])
            fit(model, data, fit_settings(config.train, "cpu", config.train.epochs, 0))
            for scored in benches:
                scores[fitted, scored] = evaluate(
                    model, test[scored], len(dataset.class_names), batch_size=16, device="cpu"
                ).miou
        exact = scores["float32", "float32"]
        rows += [
            [f"mIoU, K = {k}: float32", exact, "mIoU", None, None],
            [f"mIoU, K = {k}: same prompts, scored on float16",
             scores["float32", "float16"] - exact, "difference", None, "float32"],
            [f"mIoU, K = {k}: fitted and scored on float16",
             scores["float16", "float16"] - exact, "difference", None, "float32"],
        ]  # fmt: skip
    return rows


_TRIALS = """
import os, sys
from pathlib import Path
import torch
from benchmarks.parts.embeddings import memory_of_trials
memory_of_trials(Path(sys.argv[1]), int(sys.argv[2]))
"""


def _memory(folder: Path, trials: int) -> list[Row]:
    """Memory of a worker's process as its trials go by, its allocator set as a study sets it."""
    environment: Mapping[str, str] = {
        **os.environ,
        **WORKERS_ENVIRONMENT,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT)]),
    }
    ended = subprocess.run(
        [sys.executable, "-c", _TRIALS, str(folder), str(trials)],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    early, late, own = (float(word) for word in ended.stdout.split()[-3:])
    count = trials // 4
    return [
        [f"memory of a worker after {count} trials", early, "MiB", 1.0, None],
        [f"memory of a worker after {trials} trials", late, "MiB", late / early,
         f"after {count}"],
        ["of mapped embeddings, copies of its own", own, "MiB", None, None],
    ]  # fmt: skip


def memory_of_trials(folder: Path, trials: int) -> None:
    """Run short fits; print MiB of the process at a quarter and at the end, and MiB of copies."""
    torch.set_num_threads(1)
    config = load_config(["study=default"], STUDIES)
    dataset = build_dataset(config.data, folder / "data")
    source, texts = SegmenterSource("small", None), embed_class_names(
        "small", dataset.class_names, None
    )  # fmt: skip
    store = EmbeddingStore(folder / "embeddings", "bench")
    ids = dataset.ids("train")[:32]
    Encoder(dataset, store, source, ONE).encode(ids)
    train = replace(config.train, steps_per_epoch=1)
    bench = Bench(dataset, store, source, texts, train, ONE)
    default = search_space(METHOD, config.search.space, train).default
    for trial in range(trials):
        model = build_model(METHOD, method_settings(default), source.build(), texts, seed=trial)
        data = bench.labelled(ids[trial % 8 :: 4])
        fit(model, data, fit_settings(train, "cpu", 1, trial))
        if trial + 1 == trials // 4:
            early = _kib("VmRSS")
    own = _own_pages(folder)
    print(early / 1024, _kib("VmRSS") / 1024, own / 1024)


def _kib(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1])
    raise ValueError(f"the kernel does not tell {name}")


def _own_pages(folder: Path) -> float:
    """KiB of pages of mapped files that are copies of this process."""
    total, inside = 0.0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0] and not line.startswith(("VmFlags", "Anon")):
            inside = str(folder) in line
        elif inside and line.startswith("Anonymous:"):
            total += float(line.split()[1])
    return total


if __name__ == "__main__":
    sys.exit(run_part(measure))
