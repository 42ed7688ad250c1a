"""The table of support draws in one batch: its rows are made, and its two ways agree."""

from __future__ import annotations

import sys

import pytest
from samples import ROOT

if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from benchmarks.parts import draws


@pytest.fixture(scope="module")
def lab() -> draws.Lab:
    return draws.prepare(shots=(1,), steps=1)


def test_a_row_says_what_was_compared(lab: draws.Lab) -> None:
    row = draws.row(lab, "one_pass", 1, "cpu", threads=1, rounds=1)
    assert len(row) == len(draws.COLUMNS)
    name, place, images, milliseconds, *gains, difference = row
    assert (name, place) == ("one for all, K = 1", "cpu, 1 thread")
    fewest, most = (int(part) for part in str(images).split(" to "))
    assert 1 <= fewest <= most <= len(lab.dataset.class_names)
    assert float(milliseconds) > 0
    assert all(str(gain).endswith(" x") and float(str(gain)[:-2]) > 0 for gain in gains)
    assert float(str(difference)) < 1e-3


def test_draws_are_of_their_own(lab: draws.Lab) -> None:
    assert len({draw[1] for draw in lab.draws}) > 1
    assert set(lab.embeddings) == {image for draw in lab.draws for image in draw[1]}
