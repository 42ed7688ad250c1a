"""One object of a bucket that is written, read, listed and deleted, step by step."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from ssprompt_core.errors import UserError, nearest
from ssprompt_platform.doctor.probes import PROBE, PROBE_BYTES
from ssprompt_platform.storage import S3Path, s3_client
from ssprompt_platform.storage.s3_errors import code_of, endpoint, sentence_of

ATTEMPTS = 2
"""Of each request: one glitch is no finding, an outage is told in seconds."""
_TAKEN = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})


class BucketProbe:
    """What a study does with a bucket, each step once.

    Args:
        root: Prefix that the probe hangs below.

    Attributes:
        steps: The steps by name, in their order; each raises UserError, one sentence. All but
            ``list`` need ``write`` to have succeeded.
        ahead: Seconds that the server's clock is ahead of this machine's, as far as that is
            certain; None before the first answer.
    """

    def __init__(self, root: S3Path) -> None:
        self.root = root
        self.place = root / f"{PROBE}{secrets.token_hex(8)}"
        self.steps: dict[str, Callable[[], None]] = {
            "write": self.write,
            "conditional write": self.write_again,
            "read": self.read,
            "list": self.list,
            "delete": self.delete,
        }
        self.ahead: float | None = None
        self._content = os.urandom(PROBE_BYTES)
        self._versions: list[str] = []
        with self._told():
            self.client = s3_client(attempts=ATTEMPTS)

    def write(self) -> None:
        """Put the probe where nothing is."""
        with self._told():
            try:
                answer = self._ask("put_object", Body=self._content, IfNoneMatch="*")
            except ClientError as error:
                # the name is random: the first attempt had succeeded, but its answer was lost
                if code_of(error) not in _TAKEN:
                    raise
                return
        self._remember(answer)

    def write_again(self) -> None:
        """Put it where it is already: the server must refuse."""
        with self._told():
            try:
                answer = self._ask("put_object", Body=b"again", IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) in _TAKEN:
                    return
                raise
        self._remember(answer)
        self._forget()
        raise UserError(
            f"{self.root}: the server overwrites an object although the request forbids it "
            "(If-None-Match), and without that two processes could run one study; use a server "
            "with conditional writes"
        )

    def read(self) -> None:
        """Get what was put there."""
        with self._told():
            content = self._ask("get_object")["Body"].read()
        if content != self._content:
            raise UserError(
                f"{self.place}: other bytes were read than written; look for a cache or a proxy "
                "between here and the server"
            )

    def list(self) -> None:
        """Find it in a listing."""
        with self._told():
            answer = self._ask(
                "list_objects_v2", keyless=True, Prefix=self.place.key, MaxKeys=1, Delimiter="/"
            )
        if self._versions and not answer.get("KeyCount", len(answer.get("Contents", ()))):
            raise UserError(
                f"{self.place} was written, but is in no listing; use a server whose listings are "
                "consistent"
            )

    def delete(self) -> None:
        """Delete it, with every version that the probe has made."""
        with self._told():
            self._remember(self._ask("delete_object"))
        self._forget()

    def cleanup(self) -> None:
        """Delete what may be left after a step has failed, as far as the server lets."""
        if self._versions:
            try:
                self.delete()
            except UserError:
                # told by the step itself
                return

    def _ask(self, operation: str, *, keyless: bool = False, **arguments: Any) -> dict[str, Any]:
        """One request about the probe; notes the server's clock."""
        key = {} if keyless else {"Key": self.place.key}
        before = time.time()
        try:
            answer: dict[str, Any] = getattr(self.client, operation)(
                Bucket=self.place.bucket, **key, **arguments
            )
        except ClientError as error:
            self._note_clock(error.response, before)
            raise
        self._note_clock(answer, before)
        return answer

    def _note_clock(self, answer: dict[str, Any], before: float) -> None:
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        ahead = seconds_ahead(headers.get("date"), before, time.time())
        if ahead is not None:
            self.ahead = ahead

    def _remember(self, answer: dict[str, Any]) -> None:
        self._versions.append(answer.get("VersionId") or "null")

    def _forget(self) -> None:
        """Remove the versions: else every probe would stay in a versioned bucket."""
        for version in self._versions:
            if version != "null":
                try:
                    self._ask("delete_object", VersionId=version)
                except (ClientError, BotoCoreError):
                    # a permission of its own, which a study does not need
                    break
        self._versions.clear()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError, ResponseParserError, ValueError) as error:
            # nothing of the error itself is shown: it may hold what is secret
            sentence = sentence_of(error, self.root)
            if code_of(error) == "NoSuchBucket":
                sentence += self._known_bucket()
            raise UserError(sentence) from None

    def _known_bucket(self) -> str:
        """The bucket that was perhaps meant, where the server tells which there are."""
        try:
            buckets = self.client.list_buckets().get("Buckets", ())
        except (ClientError, BotoCoreError):
            return ""
        return nearest(self.root.bucket, [bucket["Name"] for bucket in buckets])


def seconds_ahead(date: str | None, before: float, after: float) -> float | None:
    """How far another clock is ahead of this one, at least; behind: negative; None: unknown.

    Args:
        date: The header ``Date`` of an answer, in whole seconds.
        before: This clock when the question was asked, in seconds since the epoch.
        after: The same when the answer was there.
    """
    try:
        told = parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return None
    if told > after:
        return told - after
    # the header drops the fraction of its second
    return min(0.0, told + 1 - before)


def server_of(root: S3Path) -> str:
    """The server of a bucket, as far as the environment names it."""
    return endpoint() or f"Amazon S3, bucket {root.bucket}"
