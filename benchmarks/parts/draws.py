"""Support draws fitted as one batch against the same draws fitted one after the other.

python -m benchmarks.parts.draws [--quick]
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import get_args

import numpy as np
import torch

from benchmarks.parts.part import Part, run_part
from ssprompt_core.data.procedural import ProceduralDataset
from ssprompt_core.data.support import draw_support
from ssprompt_core.methods import FewShotModel, MethodSettings, build_model
from ssprompt_core.methods.settings import Decoding
from ssprompt_core.models.registry import build_segmenter
from ssprompt_core.models.small_sam import build_small_text_encoder
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.train.data import LabelledEmbeddings
from ssprompt_core.train.fit import FitSettings, fit
from ssprompt_core.train.state import TrainState
from ssprompt_core.train.together import Fit, fit_together

COLUMNS = (
    "decoder passes, K", "device", "images a draw", "1 fit, ms a step", "2 fits together, gain",
    "5 fits together, gain", "largest difference",
)  # fmt: skip
_SHOTS = (1, 4, 16)
_FITS = (2, 5)
_MOST_IMAGES = 200


@dataclass(frozen=True)
class Lab:
    """Encoded images and what fits of them are made of."""

    dataset: ProceduralDataset
    embeddings: dict[str, torch.Tensor]
    texts: ClassTexts
    draws: tuple[dict[int, tuple[str, ...]], ...]
    settings: FitSettings


@dataclass
class Watched:
    """A fit whose second epoch is timed: the first one pays for what is made once."""

    fit: Fit
    clock: Callable[[], float]
    times: list[float] = field(default_factory=list)
    loss: float = 0.0

    def __post_init__(self) -> None:
        self.fit = replace(self.fit, report=self._report)

    def _report(self, metrics: dict[str, float], state: TrainState | None) -> None:
        self.times.append(self.clock())
        self.loss = metrics["loss"]


def measure(quick: bool) -> Part:
    """The table, on the CPU with one and two threads, and on a GPU where there is one."""
    _keep_freed_memory()
    places = [("cpu", 1)] if quick else [("cpu", 1), ("cpu", 2)]
    places += [("cuda", 1)] if torch.cuda.is_available() else []
    shots = (4,) if quick else _SHOTS
    lab = prepare(shots, steps=2)
    rounds = 3 if quick else 5
    rows = [
        row(lab, decoding, k, device, threads, rounds)
        for device, threads in places
        for decoding in get_args(Decoding)
        for k in shots
    ]
    return Part(
        title="Support draws in one batch",
        question=(
            "What does a worker gain by training several support draws of one method and K as one "
            "batch (`train.fits_together`)? `ssprompt` on the small SAM, two images and 192 cells "
            "a step as in the default study; each draw has its own images, cells, random numbers "
            "and optimiser. The gain is the time of the fits one after the other by that of the "
            "batch (CPU time with one thread, else elapsed time), the median of rounds in "
            "alternation."
        ),
        columns=COLUMNS,
        rows=rows,
        notes=[
            "The last column: the largest relative difference between the losses of a fit in a "
            "batch of five and of the same fit alone.",
            "On a CPU, with a pass a class, the images of one fit's step are as many as fit the "
            "caches: fits take turns, and nothing is gained. With one pass for all classes a step "
            "is short, and what a batch does once instead of once a fit can be seen.",
        ],
    )


def prepare(shots: Sequence[int], steps: int) -> Lab:
    """Draw support sets from the procedural data set and encode their images."""
    dataset = ProceduralDataset(train=_MOST_IMAGES)
    ids = dataset.ids("train")
    presence = {i: set(np.unique(dataset.label(i)).tolist()) - {255} for i in ids}
    draws = tuple(
        draw_support(presence, dataset.class_names, shots, seed, selection=False).support
        for seed in range(max(_FITS))
    )
    segmenter = build_segmenter("small")
    wanted = sorted({image for draw in draws for images in draw.values() for image in images})
    embeddings = {}
    for image in wanted:
        x_B3SS = segmenter.preprocess(dataset.image(image))[None]
        embeddings[image] = segmenter.encode_images(x_B3SS)[0]
    texts = ClassTexts.of(build_small_text_encoder, dataset.class_names)
    settings = FitSettings(epochs=2, steps_per_epoch=steps, batch_size=2, cells=192)
    return Lab(dataset, embeddings, texts, draws, settings)


def row(
    lab: Lab, decoding: Decoding, shots: int, device: str, threads: int, rounds: int
) -> list[str | int | float]:
    """Measure one line of the table."""
    # one thread's own time is free of what else the machine does
    clock = time.process_time if (device, threads) == ("cpu", 1) else time.perf_counter
    with _threads(threads):
        single: list[float] = []
        gains: dict[int, list[float]] = {count: [] for count in _FITS}
        difference = 0.0
        for number in range(rounds):
            for count in _FITS:
                # who comes first takes turns too
                ways = [_alone, _together][:: 1 if number % 2 else -1]
                took, losses = {}, {}
                for way in ways:
                    fits = [
                        _made(lab, decoding, shots, draw, device, clock) for draw in range(count)
                    ]
                    took[way] = way(fits)
                    losses[way] = [one.loss for one in fits]
                gains[count].append(took[_alone] / took[_together])
                single.append(took[_alone] / count / lab.settings.steps_per_epoch)
                pairs = zip(losses[_alone], losses[_together], strict=True)
                difference = max(difference, *(abs(a / b - 1) for a, b in pairs))
    images = [len(draw[shots]) for draw in lab.draws]
    name = {"per_class": "one a class", "one_pass": "one for all"}[decoding]
    place = device if device != "cpu" else f"cpu, {threads} thread{'s' if threads > 1 else ''}"
    return [
        f"{name}, K = {shots}",
        place,
        f"{min(images)} to {max(images)}",
        1e3 * median(single),
        *(f"{median(gains[count]):.2f} x" for count in _FITS),
        f"{difference:.0e}",
    ]


def _made(
    lab: Lab,
    decoding: Decoding,
    shots: int,
    draw: int,
    device: str,
    clock: Callable[[], float],
) -> Watched:
    segmenter = _segmenter(device)
    settings = MethodSettings(decoding=decoding)
    model: FewShotModel = build_model("ssprompt", settings, segmenter, lab.texts, seed=draw)
    images = lab.draws[draw][shots]
    labels = [lab.dataset.label(image) for image in images]
    data = LabelledEmbeddings(
        torch.stack([lab.embeddings[image] for image in images]),
        labels,
        [(label.shape[0], label.shape[1]) for label in labels],
    )
    return Watched(Fit(model, data, replace(lab.settings, seed=draw, device=device)), clock)


def _alone(fits: Sequence[Watched]) -> float:
    for one in fits:
        fit(one.fit.model, one.fit.data, one.fit.settings, report=one.fit.report)
    return sum(one.times[1] - one.times[0] for one in fits)


def _together(fits: Sequence[Watched]) -> float:
    fit_together([one.fit for one in fits])
    # epochs are taken in turn: the batch's second one lies between the last reports of two
    return fits[-1].times[1] - fits[-1].times[0]


_segmenters: dict[str, torch.nn.Module] = {}


def _segmenter(device: str):  # type: ignore[no-untyped-def]
    if device not in _segmenters:
        _segmenters[device] = build_segmenter("small").to(device)
    return _segmenters[device]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def _keep_freed_memory() -> None:
    """What workers start with (cluster.py): glibc keeps what a step frees for the next one."""
    if sys.platform == "linux":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((-1, 2**30), (-2, 2**28), (-3, 2**25), (-8, 1)):
            mallopt(parameter, value)


if __name__ == "__main__":
    sys.exit(run_part(measure))
