"""Counts what a botocore client asks of S3, what went wrong, and what was asked again."""

from __future__ import annotations

from typing import Any

import botocore.exceptions as botocore

from ssprompt_platform.metrics.names import S3_ERRORS, S3_FAILURES, S3_REQUESTS, S3_RETRIES
from ssprompt_platform.metrics.recorder import count

_FINE = frozenset({404, 409, 412})
"""Answers that the storage asks for: an object is not there, or somebody was first."""
_THROTTLED = frozenset({429, 503})
_REFUSED = frozenset({401, 403})


def watch(client: Any) -> Any:
    """Count every request of a client from now on.

    What is not seen: an answer that breaks off while its content is read, and requests of Arrow's
    file system, by which Ray keeps files of its own.

    Args:
        client: An S3 client of boto3.

    Returns:
        The same client.
    """
    events = client.meta.events
    events.register("needs-retry.s3", _attempted, unique_id="ssprompt-metrics-attempts")
    events.register("after-call.s3", _answered, unique_id="ssprompt-metrics-answers")
    events.register("after-call-error.s3", _given_up, unique_id="ssprompt-metrics-failures")
    return client


def _attempted(
    operation: Any, attempts: int, response: Any, caught_exception: Any, **_: Any
) -> None:
    """After every attempt; returns nothing, since whatever it returned would make a retry."""
    name = operation.name
    count(S3_REQUESTS, operation=name)
    if attempts > 1:
        count(S3_RETRIES, operation=name)
    if caught_exception is not None:
        count(S3_ERRORS, operation=name, kind=_kind_of_error(caught_exception))
    elif response is not None:
        kind = _kind_of_status(response[0].status_code)
        if kind:
            count(S3_ERRORS, operation=name, kind=kind)


def _answered(http_response: Any, model: Any, **_: Any) -> None:
    """After the last attempt, where the server answered."""
    kind = _kind_of_status(http_response.status_code)
    if kind:
        count(S3_FAILURES, operation=model.name, kind=kind)


def _given_up(exception: BaseException, event_name: str, **_: Any) -> None:
    """After the last attempt, where no answer came."""
    operation = event_name.rpartition(".")[2]
    count(S3_FAILURES, operation=operation, kind=_kind_of_error(exception))


def _kind_of_status(status: int) -> str:
    """What an answer means; empty: nothing is wrong."""
    if status < 400 or status in _FINE:
        return ""
    if status in _THROTTLED:
        return "throttled"
    if status in _REFUSED:
        return "refused"
    return "server" if status >= 500 else "client"


def _kind_of_error(error: BaseException) -> str:
    if isinstance(error, botocore.ConnectTimeoutError | botocore.ReadTimeoutError):
        return "timeout"
    if isinstance(error, botocore.HTTPClientError | botocore.ConnectionError | OSError):
        return "connection"
    return "client"
