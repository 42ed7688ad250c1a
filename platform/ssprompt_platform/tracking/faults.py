"""What an error of MLflow, its database or its artifacts means: wait, or give that event up."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Literal

from ssprompt_platform.storage import StorageError
from ssprompt_platform.tracking.secrets import Censor

if TYPE_CHECKING:
    from ssprompt_platform.tracking.target import Target

Kind = Literal["down", "refused", "unsure"]
"""``down``: it may work later; ``refused``: never; ``unsure``: a few tries will tell."""

_LATER = frozenset(
    {
        "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "ABORTED",
        "RESOURCE_EXHAUSTED", "CANCELLED", "RESOURCE_CONFLICT",
        # credentials can be mended while a study runs
        "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED",
    }
)  # fmt: skip
_UNSURE = frozenset({"INTERNAL_ERROR", "BAD_REQUEST", "ENDPOINT_NOT_FOUND", "DATA_LOSS"})
_LATER_STATUS = frozenset({401, 403, 408, 425, 429})
_LONGEST = 300


class SourceGoneError(Exception):
    """A file that was to be kept in MLflow is not there any more."""


def kind_of(error: BaseException) -> Kind:
    """What an error means for the event that was being told."""
    import requests
    import sqlalchemy.exc
    from botocore.exceptions import BotoCoreError
    from mlflow.exceptions import MlflowException

    cause = _database_error(error)
    if cause is not None:
        # values that the database cannot take; all others are about the connection
        wrong = (sqlalchemy.exc.DataError, sqlalchemy.exc.IntegrityError)
        return "unsure" if isinstance(cause, wrong) else "down"
    if isinstance(error, MlflowException):
        if error.error_code in _LATER or _unanswered(error):
            return "down"
        return "unsure" if error.error_code in _UNSURE else "refused"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return "down" if status in _LATER_STATUS or status >= 500 else "unsure"
    if isinstance(error, SourceGoneError):
        return "refused"
    waits = (OSError, StorageError, BotoCoreError, requests.RequestException, sqlite3.Error)
    # boto3 wraps what a client said into errors of its own
    if isinstance(error, waits) or type(error).__module__.startswith(("boto", "s3transfer")):
        return "down"
    return "refused"


def why(error: BaseException, target: Target) -> str:
    """What is wrong, in half a sentence without credentials."""
    from mlflow.exceptions import MlflowException

    code = getattr(error, "error_code", "")
    text = " ".join(str(error).split())
    if isinstance(error, MlflowException):
        if "Invalid Host header" in text:
            return "the server does not know that host's name; start it with --allowed-hosts"
        if code in ("PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED"):
            return (
                "it refuses these credentials; set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        if code == "ENDPOINT_NOT_FOUND" or "not in a valid JSON format" in text:
            return "what answers there is no MLflow server"
        if "out-of-date database schema" in text:
            return "its tables are of another MLflow; run: mlflow db upgrade ADDRESS"
        if target.served and _unanswered(error):
            return "it does not answer"
    cause = _database_error(error)
    if cause is not None:
        # its text repeats the statement, with all values
        text = " ".join(str(getattr(cause, "orig", None) or type(cause).__name__).split())
    told = Censor().text(text) or type(error).__name__
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]} ..."


def _unanswered(error: BaseException) -> bool:
    """Whether MLflow's client got no answer at all: it has no code of its own for that."""
    text = str(error)
    return text.startswith("API request to") and (
        "failed with exception" in text or "failed with timeout" in text
    )


def _database_error(error: BaseException) -> BaseException | None:
    """The database's own error that MLflow wrapped, if it did."""
    import sqlalchemy.exc

    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, sqlalchemy.exc.SQLAlchemyError):
            return seen
        seen = seen.__cause__
    return None
