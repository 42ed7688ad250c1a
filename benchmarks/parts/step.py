"""The training step of one fit: against the loop a user would write, and against the machine.

python -m benchmarks.parts.step [--quick]
"""

from __future__ import annotations

import copy
import ctypes
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.parts.part import Cell, Part, run_part
from ssprompt_core.data.procedural import ProceduralDataset
from ssprompt_core.methods import MethodSettings, build_model
from ssprompt_core.models import kernels
from ssprompt_core.models.registry import build_segmenter
from ssprompt_core.models.sam import SamSegmenter
from ssprompt_core.models.small_sam import build_small_text_encoder
from ssprompt_core.text.classes import ClassTexts
from ssprompt_core.train.data import LabelledEmbeddings
from ssprompt_core.train.fit import no_checkpoint, no_report
from ssprompt_core.train.loop import Loop
from ssprompt_core.train.losses import BatchTotals, segmentation_loss
from ssprompt_core.train.settings import FitSettings

Step = Callable[[], object]

PRODUCTS = ("bmm", "baddbmm", "mm", "addmm", "_linear_pointwise", "convolution", "linear")
KINDS = {
    "products": PRODUCTS,
    "softmax": ("softmax", "exp2", "amax", "sub_", "mul_", "div_"),
    "norms and GELU": ("layer_norm", "gelu"),
}
"""Kind of operation -> parts of the names of torch's operations."""


@dataclass(frozen=True)
class Problem:
    """A fit of SSPrompt on given images, and how its steps look."""

    name: str
    segmenter: SamSegmenter
    texts: ClassTexts
    embeddings: Tensor
    labels: list[np.ndarray[Any, np.dtype[np.uint8]]]
    settings: FitSettings

    def model(self) -> Any:
        """Untrained, always the same."""
        return build_model("ssprompt", MethodSettings(), self.segmenter, self.texts, seed=0)


_COMPILED = "small SAM"
"""The one problem that is compiled as well: it takes about a minute."""


def measure(quick: bool) -> Part:
    """The table."""
    _keep_freed_memory()
    rows: list[list[Cell]] = []
    notes = [_NOTE]
    plans = [(small(), (1,) if quick else (1, 2), 3 if quick else 5, 2 if quick else 4)]
    if not quick:
        plans.append((vit_b(), (1,), 2, 1))
    for problem, threads, rounds, steps in plans:
        for count in threads:
            torch.set_num_threads(count)
            found, note = _rows(
                problem,
                count,
                rounds,
                steps,
                compiled=not quick and count == 1 and problem.name == _COMPILED,
            )
            rows += found
            notes.append(note)
    return Part(
        title="The training step",
        question=(
            "One optimiser step of SSPrompt (forward, loss, backward, AdamW) in one process, all "
            "ways in turn on the same images. 'As a user writes it' calls segment-anything's "
            "decoder once per class and image and compares masks with labels at full size."
        ),
        columns=(
            "model and way", "threads", "ms a step", "times faster", "GFLOP a step",
            "% of torch's matmul rate", "% of the best rate", *(f"{kind} %" for kind in KINDS),
            "rest %",
        ),
        rows=rows,
        notes=notes,
    )  # fmt: skip


_NOTE = (
    "FLOPs are those of a way's own products, so a way that computes less has fewer. The rates are "
    "those of one product of two 2048 x 2048 matrices in float32 with as many threads: torch's "
    "(MKL) and the better one of that and oneDNN's, which frozen weights are sent to. Kinds are "
    "shares of the profiler's own time of each operation; 'rest' is copies, sums, the loss, the "
    "optimiser and what autograd and Python add. Times with one thread are the process's CPU time."
)


def _rows(
    problem: Problem, threads: int, rounds: int, steps: int, *, compiled: bool
) -> tuple[list[list[Cell]], str]:
    trained = prepared(problem)
    ways: dict[str, Step] = {
        "as a user writes it": as_written(problem),
        "stock decoder, classes in one call": stock_batched(problem),
        "this decoder, torch's operations": _plain(prepared(problem)),
        "as it is trained": trained,
    }
    compile_note = ""
    if compiled:
        begun = time.perf_counter()
        step = _compiled(problem)
        seconds = time.perf_counter() - begun
        compile_note = " torch.compile found no compiler."
        if step is not None:
            ways["train.compile"] = step
            compile_note = f" Compiling took {seconds:.0f} s."
    times = _alternate(ways, rounds, steps)
    flops = {name: _flops(step) for name, step in ways.items()}
    # kernels of oneDNN are not in torch's list of counted operations: the arithmetic is the same
    arithmetic = flops["this decoder, torch's operations"]
    torch_rate, best_rate = matmul_rates()
    first = times["as a user writes it"]
    rows: list[list[Cell]] = []
    for name, seconds in times.items():
        count = flops[name]
        if name in ("as it is trained", "train.compile"):
            count = arithmetic
        rate = count / seconds
        shares = _shares(ways[name])
        rows.append(
            [f"{problem.name}, {name}", threads, 1e3 * seconds, first / seconds, count / 1e9,
             100 * rate / torch_rate, 100 * rate / best_rate, *shares]
        )  # fmt: skip
    alone = products_alone(trained)
    share = alone / times["as it is trained"]
    note = (
        f"{problem.name}, {threads} thread(s): torch.mm {torch_rate / 1e9:.0f} GFLOP/s, best "
        f"{best_rate / 1e9:.0f}. The products of a step as it is trained, run alone one after the "
        f"other on the step's own shapes, take {1e3 * alone:.1f} ms: {100 * share:.0f} % of the "
        f"step.{compile_note}"
    )
    return rows, note


def small() -> Problem:
    """The small model at the settings of the default study."""
    segmenter, dataset = build_segmenter("small"), ProceduralDataset(train=8)
    assert isinstance(segmenter, SamSegmenter)
    ids = dataset.ids("train")
    images = torch.stack([segmenter.preprocess(dataset.image(i)) for i in ids])
    return Problem(
        name="small SAM",
        segmenter=segmenter,
        texts=ClassTexts.of(build_small_text_encoder, dataset.class_names),
        embeddings=segmenter.encode_images(images),
        labels=[dataset.label(i) for i in ids],
        settings=FitSettings(epochs=9, steps_per_epoch=99, batch_size=2, cells=192),
    )


def vit_b() -> Problem:
    """The decoder of ViT-B with random weights; two classes, one image a step."""
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    parts = SimpleNamespace(
        image_encoder=nn.Identity(),
        prompt_encoder=PromptEncoder(256, (64, 64), (1024, 1024), 16),
        mask_decoder=MaskDecoder(transformer_dim=256, transformer=transformer),
        pixel_mean=torch.zeros(3),
        pixel_std=torch.ones(3),
    )
    label = np.zeros((512, 512), np.uint8)
    label[100:300, 200:400] = 1
    return Problem(
        name="ViT-B's decoder",
        segmenter=SamSegmenter(parts, name="vit_b"),
        texts=ClassTexts.of(build_small_text_encoder, ("road", "car")),
        embeddings=torch.randn(2, 256, 64, 64),
        labels=[label, label.T.copy()],
        settings=FitSettings(epochs=9, steps_per_epoch=99, batch_size=1, cells=192),
    )


def as_written(problem: Problem) -> Step:
    """A decoder call per class and image, masks at the label's size."""

    def logits(image: int, tokens_CTD: Tensor) -> Tensor:
        height, width = problem.labels[image].shape
        masks = []
        for tokens in tokens_CTD:
            low = _stock(problem, image, tokens[None])
            masks.append(problem.segmenter.upscale_logits(low, height, width)[:, 0])
        return torch.cat(masks)

    return _loop(problem, logits)


def stock_batched(problem: Problem) -> Step:
    """All classes of an image in one stock call, masks at the label's size."""

    def logits(image: int, tokens_CTD: Tensor) -> Tensor:
        height, width = problem.labels[image].shape
        low = _stock(problem, image, tokens_CTD)
        return problem.segmenter.upscale_logits(low, height, width)[:, 0]

    return _loop(problem, logits)


def _stock(problem: Problem, image: int, tokens_CTD: Tensor) -> Tensor:
    """Segment-anything's own call, ``[C, 1, 4h, 4w]``."""
    segmenter = problem.segmenter
    encoder, grid = segmenter.prompt_encoder, segmenter.grid_size
    dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    low, _ = segmenter.mask_decoder(
        image_embeddings=problem.embeddings[image : image + 1],
        image_pe=encoder.get_dense_pe(),
        sparse_prompt_embeddings=tokens_CTD,
        dense_prompt_embeddings=dense.expand(len(tokens_CTD), -1, grid, grid),
        multimask_output=False,
    )
    masks: Tensor = low
    return masks


def _loop(problem: Problem, logits: Callable[[int, Tensor], Tensor]) -> Step:
    model = problem.model()
    adamw = torch.optim.AdamW(model.parameter_groups(), weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)

    def step() -> float:
        images = torch.randperm(len(problem.labels), generator=generator)
        total = 0.0
        adamw.zero_grad()
        for image in images[: problem.settings.batch_size].tolist():
            labels_1X = torch.from_numpy(problem.labels[image]).flatten()[None]
            totals = BatchTotals.of(labels_1X, model.num_classes)
            logits_1CX = logits(image, model.prompts()).flatten(1)[None]
            loss = segmentation_loss(logits_1CX, labels_1X, totals) / problem.settings.batch_size
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        adamw.step()
        return total

    return step


def prepared(problem: Problem) -> Step:
    """The step of :func:`ssprompt_core.train.fit.fit`."""
    sizes = [(label.shape[0], label.shape[1]) for label in problem.labels]
    data = LabelledEmbeddings(problem.embeddings, problem.labels, sizes)
    loop = Loop(problem.model(), data, problem.settings, no_report, no_checkpoint)
    loop.begin_epoch()
    return loop.step


@contextmanager
def _torch_operations() -> Iterator[None]:
    before, kernels.ENABLED = kernels.ENABLED, False
    try:
        yield
    finally:
        kernels.ENABLED = before


def _plain(step: Step) -> Step:
    def plain() -> object:
        with _torch_operations():
            return step()

    return plain


def _compiled(problem: Problem) -> Step | None:
    """The step with ``train.compile``; None where nothing can be compiled."""
    own = replace(
        problem,
        segmenter=copy.deepcopy(problem.segmenter),
        settings=replace(problem.settings, compile=True),
    )
    step = prepared(own)
    with warnings.catch_warnings(record=True) as refused:
        warnings.simplefilter("always", UserWarning)
        step()
    return None if any("compiled" in str(warning.message) for warning in refused) else step


def _alternate(ways: dict[str, Step], rounds: int, steps: int) -> dict[str, float]:
    """Median seconds a step of each way, measured in turn."""
    # what else runs on the machine does not count where it can be left out
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in ways}
    for step in ways.values():
        step()
    for _ in range(rounds):
        for name, step in ways.items():
            begun = clock()
            for _ in range(steps):
                step()
            times[name].append((clock() - begun) / steps)
    return {name: statistics.median(found) for name, found in times.items()}


def _flops(step: Step) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def matmul_rates(side: int = 2048) -> tuple[float, float]:
    """FLOP/s of a large float32 product: torch's, and the best of it and oneDNN's."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    ways: dict[str, Step] = {"torch": lambda: torch.mm(a, b)}
    if kernels._ONEDNN:
        ways["onednn"] = lambda: kernels._onednn_linear(a, b, None)
    rates = {name: 2 * side**3 / s for name, s in _alternate(ways, 5, 1).items()}
    return rates["torch"], max(rates.values())


class _Recorder(TorchDispatchMode):
    """Keeps every product of a step with its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if _is_product(func._schema.name):
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def products_alone(step: Step) -> float:
    """Seconds that the products of a step take by themselves, the median of some runs."""
    with _Recorder() as recorder:
        step()

    def run() -> None:
        with torch.no_grad():
            for func, args, kwargs in recorder.calls:
                func(*args, **kwargs)

    return _alternate({"": run}, 5, 1)[""]


def _is_product(name: str) -> bool:
    return name.split("::")[-1].split(".")[0] in PRODUCTS


def _shares(step: Step) -> list[float]:
    """Percent of the time by kind of operation, the rest last."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    spent = dict.fromkeys([*KINDS, "rest"], 0.0)
    for event in found.key_averages():
        spent[_kind(event.key)] += event.self_cpu_time_total
    total = sum(spent.values())
    return [100 * value / total for value in spent.values()]


def _kind(operation: str) -> str:
    name = operation.split("::")[-1]
    if "::" not in operation:
        return "rest"
    if _is_product(operation) or "convolution" in name:
        return "products"
    for kind, words in KINDS.items():
        if kind != "products" and any(
            name == word if word.endswith("_") else word in name for word in words
        ):
            return kind
    return "rest"


def _keep_freed_memory() -> None:
    """Tell glibc what the platform's workers are told at their start: keep what is freed."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3
        libc.mallopt(mmap_threshold, 32 * 2**20)
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(top_pad, 2**28)


if __name__ == "__main__":
    sys.exit(run_part(measure))
