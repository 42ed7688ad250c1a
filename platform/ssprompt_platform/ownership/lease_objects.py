"""The objects of a study's leases in a bucket, and what the server tells of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ssprompt_platform.storage import S3Path, StorageError, s3_client
from ssprompt_platform.storage.s3_errors import sentence_of

_DIGITS = 10
_MISSING = frozenset({"404", "NoSuchKey"})
_TAKEN = frozenset({"409", "412", "ConditionalRequestConflict", "PreconditionFailed"})


@dataclass(frozen=True)
class Look:
    """What the server said of a study's leases at one moment.

    Attributes:
        generation: The newest one; 0: there is none.
        etag: Of its object: another one after every sign of life.
        released: Whether nobody holds it.
        age: Seconds since its object was written, by the server's own clock, to a second.
        older: Generations that lie there besides.
        at_once: Whether the server answered the first request; it may have been away otherwise.
    """

    generation: int = 0
    etag: str = ""
    released: bool = True
    age: float = 0.0
    older: tuple[int, ...] = ()
    at_once: bool = True

    def is_of(self, generation: int, etag: str) -> bool:
        """Whether this content of this generation was the newest."""
        return (self.generation, self.etag) == (generation, etag)


class LeaseObjects:
    """One object a generation below a prefix, named by its number; an empty one is released.

    Args:
        prefix: That the objects lie below.
        attempts: Of each request, before it fails.
    """

    def __init__(self, prefix: S3Path, attempts: int) -> None:
        self.prefix, self._attempts = prefix, attempts

    def look(self) -> Look:
        """List the generations.

        Raises:
            StorageError: The storage did not answer, or refused.
        """
        # a new owner removes the older ones: a page holds more than there ever are
        answer = self._page(self.prefix)
        found = {}
        for entry in answer.get("Contents", ()):
            name = entry["Key"].rpartition("/")[2]
            if name.isascii() and name.isdigit():
                found[int(name)] = entry
        at_once = not answer["ResponseMetadata"].get("RetryAttempts")
        if not found:
            return Look(at_once=at_once)
        newest = max(found)
        entry = found.pop(newest)
        return Look(
            generation=newest,
            etag=entry["ETag"],
            released=entry["Size"] == 0,
            age=(self._date(answer) - entry["LastModified"]).total_seconds(),
            older=tuple(sorted(found)),
            at_once=at_once,
        )

    def beside(self) -> bool:
        """Whether anything but leases lies there, below the prefix's parent.

        Raises:
            StorageError: The storage did not answer, or refused.
        """
        keys = [entry["Key"] for entry in self._page(self.prefix.parent).get("Contents", ())]
        return any(not key.startswith(f"{self.prefix.key}/") for key in keys)

    def create(self, generation: int, content: Mapping[str, Any]) -> str | None:
        """Make a generation's object; its ETag, or None where it was made before."""
        try:
            return self._put(generation, _encoded(content), IfNoneMatch="*")
        except ClientError as error:
            if _code(error) in _TAKEN:
                return None
            raise StorageError(sentence_of(error, self.prefix)) from error

    def write(self, generation: int, content: Mapping[str, Any] | None) -> str:
        """Write a generation's object again, None for a released one; returns its ETag.

        Raises:
            StorageError: The storage did not answer, or refused.
        """
        with self._named():
            return self._put(generation, b"" if content is None else _encoded(content))

    def read(self, generation: int) -> tuple[dict[str, Any], str] | None:
        """Content and ETag of a generation's object; None where there is none.

        A content that is no JSON object is read as an empty one.

        Raises:
            StorageError: The storage did not answer, or refused.
        """
        with self._named():
            try:
                answer = self._client().get_object(**self._key(generation))
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
            try:
                content = json.loads(answer["Body"].read())
            except ValueError:
                content = {}
        return content if isinstance(content, dict) else {}, answer["ETag"]

    def remove(self, generation: int) -> None:
        """Remove a generation's object; one that is not there is fine.

        Raises:
            StorageError: The storage did not answer, or refused.
        """
        with self._named():
            self._client().delete_object(**self._key(generation))

    def _page(self, prefix: S3Path) -> dict[str, Any]:
        with self._named():
            answer: dict[str, Any] = self._client().list_objects_v2(
                Bucket=prefix.bucket, Prefix=f"{prefix.key}/"
            )
        return answer

    def _put(self, generation: int, content: bytes, **condition: str) -> str:
        try:
            answer = self._client().put_object(**self._key(generation), Body=content, **condition)
        except BotoCoreError as error:
            raise StorageError(sentence_of(error, self.prefix)) from error
        return str(answer["ETag"])

    def _client(self) -> Any:
        return s3_client(self._attempts)

    def _key(self, generation: int) -> dict[str, str]:
        place = self.prefix / f"{generation:0{_DIGITS}d}"
        return {"Bucket": place.bucket, "Key": place.key}

    def _date(self, answer: Mapping[str, Any]) -> Any:
        try:
            return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        except (KeyError, ValueError) as error:
            raise StorageError(
                f"{self.prefix} cannot be held: the server's answers bear no date, by which the "
                "age of a study's lease is known"
            ) from error

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise StorageError(sentence_of(error, self.prefix)) from error


def _encoded(content: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(content)).encode()


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
