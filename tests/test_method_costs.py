"""The cost table measures what its columns say."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import method_costs
import method_worker


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> method_worker.Job:
    words = ["--steps", "1", "--threads", "1"]
    options = method_costs._parser().parse_args(words)
    made = method_costs.prepare(options, tmp_path_factory.mktemp("costs"))
    return replace(made, fit=replace(made.fit, batch_size=2, cells=4))


def test_a_trained_method_has_all_columns(job: method_worker.Job) -> None:
    built = method_worker.build(replace(job, method="ssprompt"))
    # nine points and ten classes of the small SAM, each an embedding of 96 and a weight
    assert (built.parameters, built.map_parameters) == (19 * 97, 0)
    assert built.train_mb is not None
    assert built.train_mb > 0
    assert built.file_bytes > 4 * built.parameters
    timed = method_worker.measure()
    assert len(timed.step_ms) == job.fit.epochs - 1
    assert timed.once_ms is None
    row = method_costs.summary("ssprompt", built, [timed])
    assert row["train_ms_per_image"] == timed.step_ms[0]
    assert method_costs.table([row], markdown=True).row_count == 1


def test_what_is_not_trained_has_no_training_time(job: method_worker.Job) -> None:
    built = method_worker.build(replace(job, method="zero_shot"))
    assert (built.parameters, built.train_mb) == (0, None)
    assert method_worker.measure().step_ms == ()
    method_worker.build(replace(job, method="prototype"))
    timed = method_worker.measure()
    assert timed.step_ms == ()
    assert timed.once_ms is not None


def test_memory_counts_what_was_freed_again() -> None:
    memory = method_worker.PeakMemory("cpu")
    block = bytearray(b"x") * 50_000_000
    del block
    assert memory.peak_mb() > 40
    memory.reset()
    assert memory.peak_mb() < 40


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "spaa"], "did you mean 'spa'"),
        (["--model", "vit_b"], "vit_b"),
        (["--text-encoder", "clip"], "model.text_encoder is 'clip'"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert method_costs.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
