"""Waiting for workers of a cluster that grows when it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ssprompt_core.errors import UserError
from ssprompt_platform import capacity
from ssprompt_platform.config.schema import TrainConfig


class Growing:
    """A cluster whose machines are told one after the other, and what it was asked for."""

    def __init__(self, *states: list[dict[str, float]]) -> None:
        self.states = list(states)
        self.asked: list[list[dict[str, float]]] = []

    def machines(self) -> list[dict[str, float]]:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@pytest.fixture
def grow(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Growing]:
    def planted(*states: list[dict[str, float]]) -> Growing:
        cluster = Growing(*states)
        monkeypatch.setattr(capacity, "cluster_machines", cluster.machines)

        def request(num_cpus: Any = None, bundles: Any = None) -> None:
            cluster.asked.append(bundles)

        monkeypatch.setattr(capacity, "request_resources", request)
        monkeypatch.setattr(capacity, "_POLL_SECONDS", 0.0)
        return cluster

    return planted


def test_nothing_is_asked_without_the_variable(
    grow: Callable[..., Growing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(capacity.VARIABLE, raising=False)
    cluster = grow([])
    with capacity.workers_asked(TrainConfig(workers=2), pytest.fail):
        pass
    assert cluster.asked == []


def test_it_asks_waits_says_so_once_and_takes_the_request_back(
    grow: Callable[..., Growing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(capacity.VARIABLE, "60")
    one, two = {"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}
    # CPUs and GPUs enough, but two machines of them hold one worker
    cluster = grow([], [one], [one, two, two], [one, one])
    said: list[str] = []
    config = TrainConfig(workers=2, cpus_per_worker=4, gpus_per_worker=1.0)
    with capacity.workers_asked(config, said.append):
        assert cluster.states == [[one, one]]
        assert cluster.asked == [[{"CPU": 4.0, "GPU": 1.0}] * 2]
    assert said == ["waiting for 2 workers of the cluster"]
    assert cluster.asked[1:] == [[]]


def test_workers_that_are_there_are_not_waited_for(
    grow: Callable[..., Growing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(capacity.VARIABLE, "60")
    grow([{"CPU": 3.0, "GPU": 1.0}])
    with capacity.workers_asked(TrainConfig(workers=3, gpus_per_worker=1 / 3), pytest.fail):
        pass


def test_workers_that_do_not_come_are_an_error_and_the_request_is_taken_back(
    grow: Callable[..., Growing], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(capacity.VARIABLE, "0.01")
    cluster = grow([{"CPU": 1.0}])
    message = "after 0.01 seconds (SSPROMPT_WAIT_FOR_WORKERS) the cluster has room for 1"
    with (
        pytest.raises(UserError) as error,
        capacity.workers_asked(TrainConfig(workers=4), lambda _: None),
    ):
        pytest.fail("it began")
    assert message in str(error.value)
    assert cluster.asked[-1] == []


@pytest.mark.parametrize("given", ["soon", "-1", "0", "inf", "nan"])
def test_a_wait_that_is_no_time_is_a_mistake(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(capacity.VARIABLE, given)
    with (
        pytest.raises(UserError, match="must be a number of seconds above 0"),
        capacity.workers_asked(TrainConfig(workers=1), print),
    ):
        pytest.fail("it began")


def test_as_many_as_fit_cannot_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(capacity.VARIABLE, "5")
    with (
        pytest.raises(UserError, match=r"train\.workers is 0"),
        capacity.workers_asked(TrainConfig(), print),
    ):
        pytest.fail("it began")
