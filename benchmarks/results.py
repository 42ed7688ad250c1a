r"""Make docs/results.md: every method at every K, both ways of decoding, ablations and costs.

Runs four things one after another, each resumable (give the same command again after an
interruption), then writes the page from their files. About an hour on two quiet CPU cores.

    python benchmarks/results.py                 # all of it
    python benchmarks/results.py --only page     # write the page again from what is there
    python benchmarks/results.py --only methods  # methods, one_pass, ablation or costs alone
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("methods", "one_pass", "ablation", "costs", "page")
INITS, GRANULARITIES = ("copy", "normal", "xavier"), ("prompt", "dimension")
COSTS = {
    "small": (),
    "minilm": ("--text-encoder", "minilm", "--methods", "token_context,sem,ssprompt"),
}
"""Text encoder -> arguments of the cost table."""

Rows = dict[tuple[str, int], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts alone")
    parser.add_argument("--storage", type=Path, default=ROOT / "runs", help="storage root")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "results.md")
    arguments = parser.parse_args()
    parts, storage = arguments.only or PARTS, arguments.storage.absolute()
    for name in ("methods", "one_pass"):
        if name in parts:
            run_study(storage, name, f"results-{name}")
    if "ablation" in parts:
        for init, granularity in product(INITS, GRANULARITIES):
            words = [
                f"search.space.embedding_init.choices=[{init}]",
                f"search.space.weight_granularity.choices=[{granularity}]",
            ]
            run_study(storage, "ablation", ablation_id(init, granularity), *words)
    if "costs" in parts:
        for encoder, words in COSTS.items():
            command = [sys.executable, "benchmarks/method_costs.py", "--markdown", *words]
            made = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            lines = [line.rstrip() for line in made.stdout.splitlines()]
            costs_file(storage, encoder).write_text("\n".join(lines) + "\n")
    if "page" in parts:
        images = arguments.output.parent / "images"
        images.mkdir(exist_ok=True)
        curve = storage / "results-methods" / "pictures" / "learning-curve.png"
        copyfile(curve, images / "all-methods.png")
        arguments.output.write_text("\n".join(page(storage)) + "\n")
        print(f"wrote {arguments.output}")


def run_study(storage: Path, study: str, study_id: str, *words: str) -> None:
    """Run or continue a study; a finished one only reports again."""
    command = [sys.executable, "jobs/tune_shots.py", f"study={study}", f"study.id={study_id}"]
    subprocess.run([*command, f"storage.root={storage}", *words], cwd=ROOT, check=True)


def ablation_id(init: str, granularity: str) -> str:
    return f"results-{init}-{granularity}"


def costs_file(storage: Path, encoder: str) -> Path:
    return storage / f"method-costs-{encoder}.md"


def page(storage: Path) -> Iterator[str]:
    record = load(storage, "results-methods")
    rows = rows_of(record)
    study = record["study"]
    yield "# Results"
    yield ""
    yield "Written by `make results`; nothing here is edited by hand. What the rows are is told in"
    yield "[methods.md](methods.md), how hyperparameters are chosen in the [README](../README.md)."
    yield ""
    yield f"- Model `{study['model']}`, data `{study['data']}`: {len(study['classes'])} classes,"
    yield f"  {study['test_images']} test images, {study['draws']} draws, seed {study['seed']}."
    yield f"- Selection by `{study['selection']}` ([protocol.md](protocol.md));"
    yield f"  {study['trials']} trials per method and K."
    yield f"- Machine: {platform.machine()}, {len(os.sched_getaffinity(0))} CPU cores, one thread"
    yield f"  a worker; Python {record['versions']['python']}, torch {record['versions']['torch']}."
    yield f"- The first study took {record['seconds']['total'] / 60:.0f} minutes."
    yield ""
    yield from method_section(rows)
    yield "![Every method at every K](images/all-methods.png)"
    yield ""
    yield from kinds_section(record)
    yield from decoding_section(storage, rows)
    yield from ablation_section(storage)
    yield from costs_section(storage)


def method_section(rows: Rows) -> Iterator[str]:
    shots = sorted({k for _, k in rows})
    yield "## Every method at every K"
    yield ""
    yield "mIoU on the test split: mean over the draws +- half of the 95 % t-interval. Methods that"
    yield "see no support image have one score and no interval."
    yield ""
    yield from table(
        ["method", "trained numbers", *(f"K = {k}" for k in shots)],
        (
            [f"`{method}`", trained(rows, method), *(cell(rows[method, k]) for k in shots)]
            for method in dict.fromkeys(method for method, _ in rows)
        ),
    )


def kinds_section(record: dict[str, Any]) -> Iterator[str]:
    largest = max(row["shots"] for row in record["rows"])
    yield f"## Things and stuff, K = {largest}"
    yield ""
    yield "Mean IoU over the foreground classes (things) and over the background classes (stuff)."
    yield ""
    yield from table(
        ["method", "things", "stuff"],
        (
            [f"`{row['method']}`", *(f"{row[kind]['mean']:.3f}" for kind in ("things", "stuff"))]
            for row in record["rows"]
            if row["shots"] == largest
        ),
    )


def decoding_section(storage: Path, rows: Rows) -> Iterator[str]:
    fast = rows_of(load(storage, "results-one_pass"))
    shots = sorted({k for _, k in fast})
    yield "## Both ways of decoding"
    yield ""
    yield "`per_class` runs the mask decoder once for each class, as Segment Anything was trained."
    yield "`one_pass` decodes all classes at once and takes four times as many steps in its time."
    yield "A real SAM was **never trained** for the one-pass form; the embedded small model was."
    yield ""
    lines = []
    for method in dict.fromkeys(method for method, _ in fast):
        for mode, found, name in (("per_class", rows, "methods"), ("one_pass", fast, "one_pass")):
            seconds = fit_seconds(storage, f"results-{name}", method)
            values = [cell(found[method, k]) for k in shots]
            lines.append([f"`{method}`", f"`{mode}`", seconds, *values])
    yield from table(["method", "decoding", "seconds a fit", *(f"K = {k}" for k in shots)], lines)


def ablation_section(storage: Path) -> Iterator[str]:
    yield "## Initialisation and weight granularity"
    yield ""
    yield "`ssprompt` at K = 4, five draws, default learning rates, nothing searched: how the"
    yield "learnable embeddings start, and one weight a prompt or one a dimension of each."
    yield ""
    lines = []
    for init in INITS:
        records = [load(storage, ablation_id(init, g))["rows"][0] for g in GRANULARITIES]
        lines.append([f"`{init}`", *(cell(row) for row in records)])
    yield from table(["start of the embeddings", *(f"per {g}" for g in GRANULARITIES)], lines)


def costs_section(storage: Path) -> Iterator[str]:
    yield "## What each method costs"
    yield ""
    yield costs_file(storage, "small").read_text().rstrip()
    yield ""
    yield "With a text encoder whose embeddings the model does not read (`minilm`, a sentence"
    yield "transformer), the linear map from text to prompts is trained too:"
    yield ""
    yield costs_file(storage, "minilm").read_text().rstrip()


def load(storage: Path, study_id: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((storage / study_id / "results.json").read_text())
    return record


def rows_of(record: dict[str, Any]) -> Rows:
    return {(row["method"], row["shots"]): row for row in record["rows"]}


def trained(rows: Rows, method: str) -> str:
    counts = {row["trainable_parameters"] for (name, _), row in rows.items() if name == method}
    return " to ".join(f"{n:,}" for n in sorted({min(counts), max(counts)}))


def cell(row: dict[str, Any]) -> str:
    if row["ci95"] is None:
        return f"{row['mean']:.3f}"
    return f"{row['mean']:.3f} +- {(row['ci95'][1] - row['ci95'][0]) / 2:.3f}"


def fit_seconds(storage: Path, study_id: str, method: str) -> str:
    """Median over a method's fits of what training took."""
    files = (storage / study_id / "fits").glob(f"{method}-k*.json")
    seconds = [json.loads(path.read_text())["seconds"]["fit"] for path in files]
    return f"{torch.tensor(seconds).median():.1f}"


def table(head: list[str], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


if __name__ == "__main__":
    main()
