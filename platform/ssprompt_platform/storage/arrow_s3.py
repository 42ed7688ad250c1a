"""Arrow's file system for S3 with patience of its own, for libraries that take Arrow's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow.fs

from ssprompt_platform.storage.clients import arrow_filesystem


class PatientS3(pyarrow.fs.S3FileSystem):  # type: ignore[misc]  # Arrow ships no types
    """Arrow's file system, made anew in every process that it is sent to.

    By itself it would be sent without its patience, and with this process's endpoint.

    Args:
        attempts: Of each request, before it fails.
        arguments: Of Arrow's class.
    """

    def __init__(self, *, attempts: int, **arguments: Any) -> None:
        patience = pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=attempts)
        super().__init__(retry_strategy=patience, **arguments)

    def __reduce__(self) -> tuple[Callable[[], pyarrow.fs.S3FileSystem], tuple[()]]:
        return arrow_filesystem, ()
