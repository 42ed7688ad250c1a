"""Ctrl-C and SIGTERM within a study: real signals, and what is known afterwards."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from ssprompt_platform.config.schema import Config
from ssprompt_platform.failures import StoppedStudyError, stops_named
from ssprompt_platform.storage import StudyFolder

FOLDER = StudyFolder(Path("runs"), "s")


def interrupted(number: signal.Signals, log: list[str]) -> None:
    """A study that gets a signal while it works and cleans up."""
    with stops_named(Config(), FOLDER):
        try:
            signal.raise_signal(number)
            time.sleep(60)
        finally:
            log.append("cleaned")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_names_the_study_that_it_stopped(number: signal.Signals, code: int) -> None:
    # a test run in the background inherits "ignore Ctrl-C"
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGTERM)
    log: list[str] = []
    try:
        with pytest.raises(StoppedStudyError) as caught:
            interrupted(number, log)
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert log == ["cleaned"]
    assert (caught.value.study_id, caught.value.exit_code) == ("s", code)
    assert caught.value.words == ("study.id=s",)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_study_that_must_begin_anew_is_continued_all_the_same() -> None:
    config = Config()
    config.study.resume = "never"
    with pytest.raises(StoppedStudyError) as caught, stops_named(config, FOLDER):
        raise KeyboardInterrupt
    assert caught.value.words == ("study.id=s", "study.resume=auto")


def test_other_ends_pass_and_other_threads_may_use_it() -> None:
    with pytest.raises(ValueError, match="mine"), stops_named(Config(), FOLDER):
        raise ValueError("mine")
    passed = []

    def run() -> None:
        with stops_named(Config(), FOLDER):
            passed.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert passed == [True]
