"""Who is to blame when workers of the final fits die."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ssprompt_core.train.state import TrainState
from ssprompt_platform import checkpoints
from ssprompt_platform.fit_files import failed_path, record_path, running_path
from ssprompt_platform.fit_queue import FitQueue
from ssprompt_platform.plan import FitKey, Group
from ssprompt_platform.storage import write_json

KEYS = [FitKey("spa", 4, draw) for draw in range(4)]
BEST = {Group("spa", 4): {"num_prompts": 4}}


def held_at(fits: Path, key: FitKey, epoch: int) -> None:
    """Leave the checkpoint of a fit under way."""
    progress = {"history": [{"epoch": e + 1, "loss": 1.0} for e in range(epoch)]}
    checkpoints.save(running_path(fits, key), progress, TrainState(epoch=torch.tensor(epoch)))


def test_a_replaced_worker_gets_its_fit_again_and_a_settled_one_never(tmp_path: Path) -> None:
    queue = FitQueue(KEYS, tmp_path, BEST)
    assert [queue.take(rank) for rank in (0, 1)] == [[KEYS[0]], [KEYS[1]]]
    assert queue.lost([0], []) is None
    assert [queue.take(rank) for rank in (1, 0)] == [[KEYS[1]], [KEYS[0]]]
    write_json(record_path(tmp_path, KEYS[0]), {})
    write_json(failed_path(tmp_path, KEYS[1]), {})
    assert [queue.take(rank) for rank in (0, 1)] == [[KEYS[2]], [KEYS[3]]]
    for key in KEYS[2:]:
        write_json(record_path(tmp_path, key), {})
    assert [queue.take(rank) for rank in (0, 1)] == [[], []]


def test_a_fit_whose_worker_dies_three_times_at_one_place_has_failed(tmp_path: Path) -> None:
    queue = FitQueue(KEYS, tmp_path, BEST)
    held_at(tmp_path, KEYS[0], 10)
    for death in (1, 2, 3):
        assert [queue.take(rank) for rank in (0, 1)] == [[KEYS[0]], [KEYS[1]]]
        assert failed_path(tmp_path, KEYS[0]).is_file() is False
        assert queue.lost([0], []) is None, death
    kept = json.loads(failed_path(tmp_path, KEYS[0]).read_text())
    assert kept["cause"] == (
        "its worker died 3 times after epoch 10: killed by the system, out of memory?"
    )
    assert kept["hyperparameters"] == {"num_prompts": 4}
    assert not running_path(tmp_path, KEYS[0]).exists()
    # the other worker was replaced each time too, but did not die
    assert not failed_path(tmp_path, KEYS[1]).exists()
    assert [queue.take(rank) for rank in (0, 1)] == [[KEYS[2]], [KEYS[1]]]


def test_deaths_between_new_checkpoints_do_not_add_up(tmp_path: Path) -> None:
    queue = FitQueue(KEYS, tmp_path, BEST)
    for epoch in range(0, 40, 5):
        held_at(tmp_path, KEYS[0], epoch)
        for _ in range(2):
            assert queue.take(0) == [KEYS[0]]
            assert queue.lost([0], []) is None
    assert not failed_path(tmp_path, KEYS[0]).exists()
    queue.take(0)
    queue.lost([0], [])
    assert failed_path(tmp_path, KEYS[0]).is_file()


def test_workers_that_die_before_any_fit_end_the_run_and_blame_none(tmp_path: Path) -> None:
    queue = FitQueue(KEYS, tmp_path, BEST)
    assert queue.take(0) == [KEYS[0]]
    assert queue.lost([0], []) is None  # in its fit
    assert queue.lost([0], []) is None
    assert queue.lost([1], []) is None
    reason = queue.lost([0], [])
    assert reason == "workers died 3 times before they had begun a fit"
    assert not failed_path(tmp_path, KEYS[0]).exists()


def test_errors_outside_of_fits_end_the_run(tmp_path: Path) -> None:
    queue = FitQueue(KEYS, tmp_path, BEST)
    full = "OSError: [Errno 28] No space left on device"
    for last in (False, False, True):
        queue.take(0)
        assert queue.lost([], [full]) == (full if last else None)


def settle(fits: Path, *keys: FitKey) -> None:
    for key in keys:
        write_json(record_path(fits, key), {})


def test_a_batch_is_of_one_group_and_leaves_work_for_the_others(tmp_path: Path) -> None:
    other = [FitKey("spa", 1, draw) for draw in range(3)]
    queue = FitQueue([*KEYS, *other], tmp_path, BEST, together=3, workers=2)
    assert queue.take(0) == KEYS[:3]
    assert queue.take(1) == KEYS[3:]  # no draw of another K
    settle(tmp_path, *KEYS)
    assert queue.take(0) == other[:2]  # half of what is left, for two workers
    assert queue.take(1) == other[2:]
    settle(tmp_path, *other)
    assert [queue.take(rank) for rank in (0, 1)] == [[], []]


def test_workers_share_the_list_however_large_a_batch_may_be(tmp_path: Path) -> None:
    queue = FitQueue(KEYS, tmp_path, BEST, together=99, workers=3)
    assert [len(queue.take(rank)) for rank in (0, 1, 2)] == [2, 1, 1]


def test_a_replaced_worker_goes_on_with_what_is_left_of_its_batch(tmp_path: Path) -> None:
    queue = FitQueue(KEYS, tmp_path, BEST, together=3, workers=1)
    assert queue.take(0) == KEYS[:3]
    settle(tmp_path, KEYS[1])
    assert queue.lost([], []) is None  # it was stopped for another's sake
    assert queue.take(0) == [KEYS[0], KEYS[2]]


def test_a_death_in_a_batch_blames_nobody_and_parts_it(tmp_path: Path) -> None:
    queue = FitQueue(KEYS, tmp_path, BEST, together=3, workers=1)
    assert queue.take(0) == KEYS[:3]
    settle(tmp_path, KEYS[0])
    assert queue.lost([0], []) is None
    for death in (1, 2, 3):
        assert queue.take(0) == [KEYS[1]], death
        assert not failed_path(tmp_path, KEYS[1]).exists()
        assert queue.lost([0], []) is None
    assert failed_path(tmp_path, KEYS[1]).is_file()
    assert not failed_path(tmp_path, KEYS[2]).exists()
    assert queue.take(0) == [KEYS[2]]
    settle(tmp_path, KEYS[2])
    assert queue.take(0) == [KEYS[3]]
    settle(tmp_path, KEYS[3])
    assert queue.take(0) == []
