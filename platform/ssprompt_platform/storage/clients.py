"""How this process reaches S3; endpoint and credentials come from the environment."""

from __future__ import annotations

import os
import threading
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import pyarrow.fs

ATTEMPTS = 16
"""Of each request, with waits that double up to 20 s: about a minute in all."""
_ARROW_ATTEMPTS = 7
"""The same for Arrow, whose waits begin at a second."""
_ENVIRONMENT = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)
"""What a client is made from; it is made anew where one of these changes."""
_lock = threading.Lock()


def s3_client(attempts: int = ATTEMPTS) -> Any:
    """The S3 client of this process; endpoint and credentials come from the environment.

    Args:
        attempts: Of each request, before it fails.
    """
    # making one is not safe in several threads at once; using it is
    with _lock:
        return _client(attempts, *map(os.environ.get, _ENVIRONMENT))


def arrow_filesystem() -> pyarrow.fs.S3FileSystem:
    """The same storage for libraries that take Arrow's file systems, such as Ray."""
    from ssprompt_platform.storage.arrow_s3 import PatientS3

    client = s3_client()
    endpoint = urlsplit(client.meta.endpoint_url)
    amazon = (endpoint.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
    return PatientS3(
        **({} if amazon else {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}),
        region=client.meta.region_name or "us-east-1",
        attempts=_ARROW_ATTEMPTS,
    )


@cache
def _client(attempts: int, *environment: str | None) -> Any:
    # here, since a study that lies on a disk needs none of it
    import boto3
    from botocore.config import Config

    from ssprompt_platform.metrics.s3 import watch

    session = boto3.session.Session()
    patient = attempts >= ATTEMPTS
    client = session.client(
        "s3",
        # servers other than Amazon's do not care, but the signature names one
        region_name=session.region_name or "us-east-1",
        config=Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=5,
            read_timeout=60 if patient else 5,
            max_pool_connections=32,
        ),
    )
    return watch(client)
