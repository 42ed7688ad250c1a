"""What storage raises in the middle of a study."""

from __future__ import annotations

_ARROW = "AWS Error"
"""In what Arrow says of a bucket that does not answer, or refuses."""


class StorageError(Exception):
    """Storage did not answer, or refused: one sentence that names the place and the way out.

    No fault of a trial or a fit: whatever was going on can be continued when the storage is back.
    """


def storage_fault(error: BaseException) -> StorageError | None:
    """The storage's own error in what a worker or this process raised, or None."""
    # Ray's error of a task is of the type of its cause too, but its text is a traceback
    for inner in (getattr(error, name, None) for name in ("cause", "controller_failure")):
        if isinstance(inner, BaseException):
            return storage_fault(inner)
    if isinstance(error, StorageError):
        return error
    # an actor that did not start tells the traceback of its constructor
    told = next((line for line in reversed(str(error).splitlines()) if _ARROW in line), None)
    return None if told is None else StorageError(" ".join(told.split()))
