"""What goes wrong between a process and an S3 server: requests held back, answers lost."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ConnectionClosedError
from botocore.httpsession import URLLib3Session

from ssprompt_platform.storage.clients import ATTEMPTS as PATIENT
from ssprompt_platform.storage.clients import s3_client

ATTEMPTS = (2, 5, PATIENT)
"""Of the clients that the platform uses."""


@contextmanager
def before_send(operation: str, hook: Callable[[Any], None], times: int = 1) -> Iterator[None]:
    """Call the hook with the next requests of an operation, before they are sent."""
    left = [times]

    def handler(request: Any, **_: Any) -> None:
        if left[0]:
            left[0] -= 1
            hook(request)

    events = [s3_client(attempts).meta.events for attempts in ATTEMPTS]
    name = f"before-send.s3.{operation}"
    for each in events:
        each.register(name, handler)
    try:
        yield
    finally:
        for each in events:
            each.unregister(name, handler)


def lose_the_answer(request: Any) -> None:
    """Let the server do what it is asked, and never hear of it; boto3 asks again."""
    URLLib3Session().send(request)
    lose_the_request(request)


def lose_the_request(request: Any) -> None:
    """Break the connection before the server hears of it; boto3 asks again."""
    raise ConnectionClosedError(endpoint_url=request.url)


def send_half(request: Any) -> socket.socket:
    """Send the head and the first half of the content; the connection stays open."""
    parts = urlsplit(request.url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    body = request.body if isinstance(request.body, bytes) else request.body.read()
    headers = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in request.headers.items()
        if name.lower() not in ("expect", "host")
    }
    lines = [f"{request.method} {path} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    assert parts.hostname is not None
    connection = socket.create_connection((parts.hostname, parts.port or 80))
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body[: len(body) // 2])
    return connection
