"""A checkpoint counts whole or not at all, whenever its writer is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ssprompt_core.train.state import TrainState
from ssprompt_platform import checkpoints

# Forks a child for every file operation of `save` or `clear` and kills it right before that one.
KILLED_EVERYWHERE = """
import json, os, shutil, signal, sys
from pathlib import Path
import torch
from ssprompt_core.train.state import TrainState
from ssprompt_platform import checkpoints

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.listdir",
              "os.scandir", "shutil.rmtree"}
root, what = Path(sys.argv[1]), sys.argv[2]

def state(value):
    return None if value is None else TrainState(epoch=torch.tensor(value))

def prepare(place, values):
    for value in values:
        checkpoints.save(place, {"value": value}, state(value))

def act(place, value):
    if what == "clear":
        checkpoints.clear(place)
    else:
        checkpoints.save(place, {"value": value}, state(value))

def killed(place, value, at):
    pid = os.fork()
    if pid == 0:
        seen = 0
        def hook(event, arguments):
            nonlocal seen
            if event in OPERATIONS:
                seen += 1
                if seen > at:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(hook)
        act(place, value)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)

outcomes = []
for before in ([], [1], [None], [1, 2]):
    for value in (7, None):
        for at in range(1000):
            place = root / "place"
            shutil.rmtree(place, ignore_errors=True)
            prepare(place, before)
            was_killed = killed(place, value, at)
            found = checkpoints.load(place)
            epoch = None if found is None or found[1] is None else int(found[1]["epoch"])
            progress = None if found is None else found[0]["value"]
            # the next writer must not be held up by what was left
            checkpoints.save(place, {"value": 9}, state(9))
            after = sorted(path.name.split("-")[0] for path in place.iterdir())
            outcomes.append([before, value, was_killed, found is None, progress, epoch, after])
            if not was_killed:
                break
print(json.dumps(outcomes))
"""


def state(epoch: int) -> TrainState:
    return TrainState(epoch=torch.tensor(epoch), parameter=torch.full((3,), float(epoch)))


@pytest.mark.parametrize("what", ["save", "clear"])
def test_a_kill_before_any_file_operation_leaves_the_old_pair_or_the_new(
    what: str, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path), what],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    outcomes = json.loads(run.stdout)
    assert len(outcomes) > (40 if what == "save" else 20)
    for before, value, was_killed, nothing, progress, epoch, after in outcomes:
        old = (not before, before[-1] if before else None)
        new = (True, None) if what == "clear" else (False, value)
        assert (nothing, progress) in ({old, new} if was_killed else {new})
        assert epoch == progress  # progress and state are of the same save
        assert after == ["checkpoint.json", "state"]


def test_what_is_saved_last_is_loaded(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "place"
    assert checkpoints.load(place) is None
    for epoch in (2, 4):
        checkpoints.save(place, {"history": list(range(epoch))}, state(epoch))
        found = checkpoints.load(place)
        assert found is not None
        progress, reached = found
        assert progress == {"history": list(range(epoch))}
        assert reached is not None
        assert reached["parameter"].tolist() == [epoch] * 3
        assert len(list(place.iterdir())) == 2
    checkpoints.save(place, {"scores": [0.5]}, None)
    assert checkpoints.load(place) == ({"scores": [0.5]}, None)
    assert len(list(place.iterdir())) == 1
    for _ in range(2):
        checkpoints.clear(place)
        assert checkpoints.load(place) is None
    assert not place.exists()


@pytest.mark.parametrize("damaged", ["checkpoint.json", "state-1.safetensors"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_damaged_checkpoint_is_none(damaged: str, how: str, tmp_path: Path) -> None:
    checkpoints.save(tmp_path, {"epoch": 1}, state(1))
    if how == "cut":
        (tmp_path / damaged).write_bytes((tmp_path / damaged).read_bytes()[:20])
    else:
        (tmp_path / damaged).unlink()
    assert checkpoints.load(tmp_path) is None
    checkpoints.save(tmp_path, {"epoch": 2}, state(2))
    found = checkpoints.load(tmp_path)
    assert found is not None
    assert found[0] == {"epoch": 2}


def test_progress_that_is_no_json_leaves_the_old_one(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, {"loss": 1.0}, state(1))
    with pytest.raises(ValueError, match="JSON"):
        checkpoints.save(tmp_path, {"loss": float("nan")}, state(2))
    found = checkpoints.load(tmp_path)
    assert found is not None
    assert found[0] == {"loss": 1.0}
    assert found[1] is not None
    assert int(found[1]["epoch"]) == 1
