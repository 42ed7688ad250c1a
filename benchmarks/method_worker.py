"""The process of one method in the cost table: builds it once and measures it round by round."""

from __future__ import annotations

import ctypes
import gc
import re
import resource
import sys
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ssprompt_core.evaluate import predict
from ssprompt_core.methods import METHODS, FewShotModel, MethodSettings, build_model
from ssprompt_core.methods.saved import PromptInfo, save_prompts
from ssprompt_core.models.registry import build_segmenter
from ssprompt_core.train.fit import LabelledEmbeddings, fit
from ssprompt_core.train.settings import FitSettings
from ssprompt_platform.sources import embed_class_names

PREDICTED = 2
"""Images predicted in a round, one by one."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is measured, the same for all methods but for ``method``.

    Attributes:
        method: A key of ``METHODS``.
        model: Segmenter by registry name.
        checkpoint: Its weights, or None.
        text_encoder: By name, folder or hub name.
        decoding: ``per_class`` or ``one_pass``.
        class_names: The ``C`` class names.
        fit: Settings of the fit, one step an epoch; ``device`` counts for prediction too.
        threads: Of torch.
        folder: Has ``images.safetensors`` with ``embeddings`` and ``label.0``, ``label.1``, ...
            and the folder ``texts`` with the embedded class names.
    """

    method: str
    model: str
    checkpoint: Path | None
    text_encoder: str
    decoding: str
    class_names: tuple[str, ...]
    fit: FitSettings
    threads: int
    folder: Path


@dataclass(frozen=True)
class Built:
    """What does not depend on the clock.

    Attributes:
        parameters: Numbers trained.
        map_parameters: Of these, the map ``D_text -> D``.
        build_mb: Peak memory of building the model, in MB (10^6 bytes) over that before; here and
            below, what is built stays and counts.
        predict_mb: Of predicting one image.
        train_mb: Of three training steps, or of seeing the support once; None if neither happens.
        file_bytes: Size of the learned-prompt file.
    """

    parameters: int
    map_parameters: int
    build_mb: float
    predict_mb: float
    train_mb: float | None
    file_bytes: int


@dataclass(frozen=True)
class Timed:
    """Times of one round.

    Attributes:
        step_ms: Milliseconds per image of each training step; empty where nothing is trained.
        once_ms: Milliseconds per image of seeing the support once, for methods that learn so.
        predict_ms: Milliseconds per image of each prediction at the image's own size.
    """

    step_ms: tuple[float, ...]
    once_ms: float | None
    predict_ms: tuple[float, ...]


_bench: tuple[Job, FewShotModel, LabelledEmbeddings] | None = None


def build(job: Job) -> Built:
    """Build the model in this process, keep it, and measure all but times."""
    global _bench
    torch.set_num_threads(job.threads)
    device = job.fit.device
    segmenter = build_segmenter(job.model, job.checkpoint).to(device)
    data = _read(job.folder)
    texts = embed_class_names(job.text_encoder, job.class_names, job.folder / "texts")
    settings = MethodSettings(decoding=job.decoding)  # type: ignore[arg-type]
    _load_libraries(device)

    memory = PeakMemory(device)
    model = build_model(job.method, settings, segmenter, texts, seed=0)
    build_mb = memory.peak_mb()
    memory.reset()
    _predict(model, data, device, 0)
    predict_mb = memory.peak_mb()
    spec, train_mb = METHODS[job.method], None
    if spec.uses_support:
        memory.reset()
        fit(model, data, replace(job.fit, epochs=3))
        train_mb = memory.peak_mb()

    path = job.folder / f"{job.method}.safetensors"
    info = PromptInfo(
        method=job.method,
        hyperparameters={name: getattr(settings, name) for name in spec.hyperparameters},
        class_names=texts.names,
        text_encoder=texts.encoder,
        text_encoder_fingerprint=texts.fingerprint,
        dataset="benchmark",
        support={f"image {i}": "0" * 64 for i in range(len(data.labels))},
        shots=1,
        draw=0,
        seed=0,
        metrics={},
        versions={},
    )
    save_prompts(path, model, info)
    _bench = (job, model, data)
    named = [(name, p.numel()) for name, p in model.named_parameters() if p.requires_grad]
    return Built(
        parameters=model.trainable_parameters(),
        map_parameters=sum(count for name, count in named if name.split(".")[-1] == "map"),
        build_mb=build_mb,
        predict_mb=predict_mb,
        train_mb=train_mb,
        file_bytes=path.stat().st_size,
    )


def measure() -> Timed:
    """One round of the model that :func:`build` kept."""
    assert _bench is not None, "build comes first"
    job, model, data = _bench
    images = min(job.fit.batch_size, len(data.labels))
    step_ms: list[float] = []
    once_ms = None
    if METHODS[job.method].uses_support:
        stamps: list[float] = []
        begun = time.perf_counter()
        # each epoch is one step and ends by reading the loss, which waits for a GPU
        fit(model, data, job.fit, report=lambda metrics, state: stamps.append(time.perf_counter()))
        spent = time.perf_counter() - begun
        # the first step shares its time with arranging the labels
        step_ms = [1e3 * (b - a) / images for a, b in pairwise(stamps)]
        once_ms = None if stamps else 1e3 * spent / len(data.labels)
    _predict(model, data, job.fit.device, 0)  # caches and memory as in the middle of a run
    predict_ms = [_predict(model, data, job.fit.device, i) for i in range(PREDICTED)]
    return Timed(tuple(step_ms), once_ms, tuple(predict_ms))


class PeakMemory:
    """Highest memory since the last reset, over that at the beginning, in MB.

    On a GPU torch's own count; else the resident memory of the process.

    Args:
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        self.reset()
        self._before = torch.cuda.memory_allocated() if self._cuda else _resident("VmRSS")

    def reset(self) -> None:
        """Forget the peak so far."""
        gc.collect()
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            # glibc keeps what was freed; it would count as memory of what comes next
            if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
                libc.malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # see proc(5)

    def peak_mb(self) -> float:
        """The peak, at least 0."""
        peak = torch.cuda.max_memory_allocated() if self._cuda else _resident("VmHWM")
        return max(0, peak - self._before) / 1e6


def _resident(field: str) -> int:
    """Bytes: ``VmRSS`` now, ``VmHWM`` at the peak; outside Linux the peak of the whole process."""
    if sys.platform != "linux":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found, f"/proc/self/status has no {field}"
    return int(found[1]) * 1024


def _load_libraries(device: str) -> None:
    """Run a little of everything once: what torch loads on first use is no method's cost."""
    weight = torch.ones(8, 8, 3, 3, device=device, requires_grad=True)
    x_BDhw = torch.nn.functional.conv2d(torch.ones(1, 8, 8, 8, device=device), weight)
    flat = x_BDhw.flatten(2)
    out = torch.nn.functional.scaled_dot_product_attention(flat, flat, flat)
    torch.nn.functional.layer_norm(out, out.shape[-1:]).softmax(-1).sum().backward()  # type: ignore[no-untyped-call]
    torch.optim.AdamW([weight]).step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _predict(model: FewShotModel, data: LabelledEmbeddings, device: str, image: int) -> float:
    """Predict one image; return milliseconds."""
    one = slice(image % len(data.sizes), image % len(data.sizes) + 1)
    begun = time.perf_counter()
    predict(model, data.embeddings[one], data.sizes[one], batch_size=1, device=device)
    return 1e3 * (time.perf_counter() - begun)


def _read(folder: Path) -> LabelledEmbeddings:
    tensors: dict[str, Tensor] = load_file(folder / "images.safetensors")
    count = len(tensors["embeddings"])
    labels = [tensors[f"label.{i}"].numpy() for i in range(count)]
    return LabelledEmbeddings(
        tensors["embeddings"], labels, [(label.shape[0], label.shape[1]) for label in labels]
    )
