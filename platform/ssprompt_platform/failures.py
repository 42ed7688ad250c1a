"""Ends of a study that are no mistake of the configuration: stopped, or finished with gaps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ssprompt_platform.config.schema import Config
from ssprompt_platform.storage import StudyFolder
from ssprompt_platform.storage.errors import storage_fault


class IncompleteStudyError(Exception):
    """The study ended, but lacks groups that failed; told in one sentence, exit code 1."""


class StoppedStudyError(Exception):
    """The study was stopped and can be continued.

    Attributes:
        study_id: Of the study.
        words: What must be added to the command line to continue it.
        exit_code: 130 after Ctrl-C, 143 after SIGTERM, as shells have it; 1 where storage failed.
        cause: Why, in one sentence; empty where the user stopped it.
    """

    def __init__(
        self, study_id: str, words: tuple[str, ...], exit_code: int, cause: str = ""
    ) -> None:
        super().__init__(f"study {study_id} was stopped")
        self.study_id, self.words, self.exit_code = study_id, words, exit_code
        self.cause = cause


@contextmanager
def stops_named(config: Config, folder: StudyFolder) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and a storage that fails into :class:`StoppedStudyError`.

    SIGTERM interrupts the block as Ctrl-C does, so that the same cleanup runs. To be entered after
    Ray is connected, which sets a handler of its own.

    Raises:
        StoppedStudyError: The block was interrupted.
    """
    words = [f"study.id={folder.study_id}"]
    words += ["study.resume=auto"] if config.study.resume == "never" else []
    # a wait within Ray raises a KeyboardInterrupt of its own, whatever the handler raised
    terminated = threading.Event()

    def terminate(number: int, frame: FrameType | None) -> None:
        terminated.set()
        raise KeyboardInterrupt

    # only the main thread of a process may set handlers
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if main else None
    try:
        yield
    except KeyboardInterrupt as stop:
        code = 143 if terminated.is_set() else 130
        raise StoppedStudyError(folder.study_id, tuple(words), code) from stop
    except Exception as error:
        fault = storage_fault(error)
        if fault is None:
            raise
        raise StoppedStudyError(folder.study_id, tuple(words), 1, str(fault)) from error
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
