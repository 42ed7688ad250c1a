"""The cost of every method, measured in one run: time, memory, trained numbers, size of the file.

python benchmarks/method_costs.py --help
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from method_worker import Built, Job, Timed, build, measure
from rich.box import MARKDOWN
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from safetensors.torch import save_file

from ssprompt_core.errors import UserError, nearest
from ssprompt_core.methods import METHODS
from ssprompt_core.models.registry import build_segmenter
from ssprompt_platform.bench import fit_settings
from ssprompt_platform.config.schema import DataConfig, TrainConfig
from ssprompt_platform.report.tables import versions
from ssprompt_platform.sources import build_dataset, embed_class_names
from ssprompt_platform.storage import write_json


def main(arguments: Sequence[str]) -> int:
    """Measure and print; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        methods = _methods(options.methods)
        with tempfile.TemporaryDirectory() as folder:
            job = prepare(options, Path(folder))
            results = run(job, methods, options.rounds)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = [summary(method, *results[method]) for method in methods]
    settings = {
        "device": _device(options.device),
        "threads": options.threads,
        "model": options.model,
        "text_encoder": options.text_encoder,
        "decoding": options.decoding,
        "classes": len(job.class_names),
        "images_per_step": job.fit.batch_size,
        "cells_per_image": job.fit.cells,
        "precision": job.fit.precision,
        "steps": options.rounds * options.steps,
    }
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(", ".join(f"{key} {value}" for key, value in settings.items()), soft_wrap=True)
    console.print(table(rows, markdown=options.markdown))
    if options.json:
        write_json(options.json, {"settings": settings, "versions": versions(), "rows": rows})
        console.print(f"written: {options.json}")
    return 0


def prepare(options: argparse.Namespace, folder: Path) -> Job:
    """Encode a batch of images and the class names, so that no measured process has to.

    Raises:
        UserError: The model, its checkpoint or the text encoder is not to be had.
    """
    train = replace(TrainConfig(), precision=options.precision)
    fit = fit_settings(train, options.device, options.steps + 1, 0)
    data = DataConfig(train_images=train.batch_size, val_images=1, test_images=1)
    dataset = build_dataset(data, None)
    segmenter = build_segmenter(options.model, options.checkpoint).to(options.device)
    tensors = {}
    embeddings = []
    for number, image_id in enumerate(dataset.ids("train")):
        x_B3SS = segmenter.preprocess(dataset.image(image_id))[None].to(options.device)
        embeddings.append(segmenter.encode_images(x_B3SS).float().cpu())
        tensors[f"label.{number}"] = torch.from_numpy(dataset.label(image_id)).contiguous()
    tensors["embeddings"] = torch.cat(embeddings).contiguous()
    save_file(tensors, folder / "images.safetensors")
    embed_class_names(options.text_encoder, dataset.class_names, folder / "texts")
    return Job(
        method="",
        model=options.model,
        checkpoint=options.checkpoint,
        text_encoder=options.text_encoder,
        decoding=options.decoding,
        class_names=tuple(dataset.class_names),
        fit=replace(fit, steps_per_epoch=1),
        threads=options.threads,
        folder=folder,
    )


def run(job: Job, methods: Sequence[str], rounds: int) -> dict[str, tuple[Built, list[Timed]]]:
    """Build each method in a process of its own, then measure them in turn, round by round.

    A slow moment of the machine then falls on all methods alike. While one is measured the others
    wait.
    """
    spawn = multiprocessing.get_context("spawn")
    processes = {method: ProcessPoolExecutor(1, mp_context=spawn) for method in methods}
    times: dict[str, list[Timed]] = {method: [] for method in methods}

    def start(method: str) -> Built:
        return processes[method].submit(build, replace(job, method=method)).result()

    progress = Progress(console=Console(stderr=True), transient=True)
    try:
        # building is not timed: a core for each of several at once
        with progress, ThreadPoolExecutor(os.cpu_count()) as together:
            begun = together.map(start, methods)
            built = list(progress.track(begun, len(methods), description="building"))
            turns = [method for _ in range(rounds) for method in methods]
            for method in progress.track(turns, description="measuring"):
                times[method].append(processes[method].submit(measure).result())
    finally:
        for process in processes.values():
            process.shutdown(cancel_futures=True)
    return {method: (built[i], times[method]) for i, method in enumerate(methods)}


def summary(method: str, built: Built, times: Sequence[Timed]) -> dict[str, Any]:
    """One row: medians of the times over all steps of all rounds."""
    steps = [value for timed in times for value in timed.step_ms]
    once = [timed.once_ms for timed in times if timed.once_ms is not None]
    return {
        "method": method,
        "train_ms_per_image": median(steps) if steps else None,
        "once_ms_per_image": median(once) if once else None,
        "predict_ms_per_image": median(v for timed in times for v in timed.predict_ms),
        **asdict(built),
    }


def table(rows: Sequence[Mapping[str, Any]], *, markdown: bool) -> Table:
    """The rows for people."""
    made = Table(box=MARKDOWN) if markdown else Table()
    made.add_column("method", no_wrap=True)
    for title in (
        "training\nms/image",
        "prediction\nms/image",
        "memory\ntraining MB",
        "memory\nprediction MB",
        "trained\nnumbers",
        "of these\ntext map",
        "file\nkB",
    ):
        made.add_column(title.replace("\n", ", ") if markdown else title, justify="right")
    for row in rows:
        once, step = row["once_ms_per_image"], row["train_ms_per_image"]
        made.add_row(
            row["method"],
            f"{once:.1f} once" if once is not None else _number(step, ".1f"),
            _number(row["predict_ms_per_image"], ".1f"),
            _number(row["train_mb"], ".0f"),
            _number(row["predict_mb"], ".0f"),
            f"{row['parameters']:,}",
            f"{row['map_parameters']:,}",
            f"{row['file_bytes'] / 1000:.1f}",
        )
    return made


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _methods(names: str | None) -> list[str]:
    methods = names.split(",") if names else list(METHODS)
    for name in methods:
        if name not in METHODS:
            raise UserError(
                f"--methods has '{name}'{nearest(name, list(METHODS))}, but the methods are "
                f"{', '.join(METHODS)}"
            )
    return list(dict.fromkeys(methods))


def _device(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure what each method costs on a batch of the embedded data set, each "
        "method in a process of its own, in turn.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--methods", help="names with commas between them; all if left out")
    parser.add_argument("--model", default="small", help="segmenter, as model.name")
    parser.add_argument("--checkpoint", type=Path, help="its weights, as model.checkpoint")
    parser.add_argument("--text-encoder", default="small", help="as model.text_encoder")
    parser.add_argument("--decoding", default="per_class", choices=("per_class", "one_pass"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument(
        "--threads", type=_positive, default=torch.get_num_threads(), help="of torch"
    )
    parser.add_argument("--rounds", type=_positive, default=3, help="turns of each method")
    parser.add_argument("--steps", type=_positive, default=2, help="training steps in a turn")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
