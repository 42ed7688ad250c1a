"""A second owner of a study in a bucket, as a process of another host would be one."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from ssprompt_platform.ownership.lease_objects import LeaseObjects
from ssprompt_platform.storage import S3Path, StudyFolder

PATIENCE = 60.0


class OtherHost:
    """A process of a host that cannot be seen from here, as the bucket knows it."""

    def __init__(self, folder: StudyFolder) -> None:
        assert isinstance(folder.lock, S3Path)
        self.objects = LeaseObjects(folder.lock, 2)
        self.content: dict[str, Any] = {
            "host": "far",
            "pid": 77,
            "since": "2026-01-01T00:00:00+00:00",
            "space": "far away",
            "token": uuid.uuid4().hex,
            "beat": 0,
        }
        self.generation = 0

    def takes(self, generation: int) -> None:
        self.generation = generation
        assert self.objects.create(generation, self.content) is not None

    def beats(self) -> None:
        self.content["beat"] += 1
        self.objects.write(self.generation, self.content)


def generations(folder: StudyFolder) -> list[int]:
    assert isinstance(folder.lock, S3Path)
    return [int(each.path.name) for each in folder.lock.walk()]


def polled(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def interrupted() -> None:
    """Wait for the signal that ends this."""
    time.sleep(PATIENCE)
    raise AssertionError("nothing interrupted the study")


def beats_of(folder: StudyFolder) -> int:
    assert isinstance(folder.lock, S3Path)
    objects = LeaseObjects(folder.lock, 2)
    found = objects.read(objects.look().generation)
    assert found is not None
    return int(found[0]["beat"])
