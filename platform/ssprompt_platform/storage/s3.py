"""Objects of an S3 bucket under the names that :mod:`pathlib` gives them, one request a call."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssprompt_core.errors import UserError
from ssprompt_platform.storage.clients import s3_client
from ssprompt_platform.storage.errors import StorageError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

_READS = 3
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
_TAKEN = frozenset({"412", "409", "PreconditionFailed", "ConditionalRequestConflict"})
_MOST_DELETED = 1000
_BUCKET, _KEY = re.compile(r"[\w.-]+"), re.compile(r"[^?#\x00-\x1f\x7f]*")


@dataclass(frozen=True)
class S3Object:
    """What a listing tells of an object.

    Attributes:
        path: Its place.
        size: In bytes.
        modified: When it was last written, by the server's clock.
        etag: Changes with the content.
    """

    path: S3Path
    size: int
    modified: datetime
    etag: str


@dataclass(frozen=True, order=True)
class S3Path:
    """A key of a bucket, or the prefix of some.

    Where it differs from :class:`pathlib.Path`: there are no folders to make, a write is whole or
    not at all, and a name may not lead upwards. What the server answers is never taken for absence
    unless it says so.

    Attributes:
        bucket: Name of the bucket.
        key: Without a slash at either end; empty for the bucket itself.
    """

    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, url: str) -> S3Path:
        """Read ``s3://bucket/prefix``.

        Raises:
            UserError: It is not of that form.
        """
        scheme, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        if "@" in bucket or ":" in bucket:
            # what is in front of an @ may be secret and is not repeated
            raise UserError(
                "an S3 address names a bucket and a prefix and nothing else: s3://bucket/prefix; "
                "credentials and endpoint belong into the environment (AWS_ACCESS_KEY_ID, "
                "AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)"
            )
        if scheme != "s3" or not _BUCKET.fullmatch(bucket) or not _KEY.fullmatch(prefix):
            raise UserError(f"{url!r} is no S3 address; write s3://bucket/prefix")
        try:
            return cls(bucket) / prefix.strip("/") if prefix.strip("/") else cls(bucket)
        except ValueError as error:
            raise UserError(f"'{url}' is no S3 address: {error}") from error

    def __truediv__(self, name: str) -> S3Path:
        """The key below this one.

        Raises:
            ValueError: A part of the name is empty, ``.`` or ``..``.
        """
        for part in name.split("/"):
            if part in ("", ".", "..") or "\0" in part:
                raise ValueError(f"'{name}' is no name of an object: it has a part '{part}'")
        return S3Path(self.bucket, f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}" if self.key else f"s3://{self.bucket}"

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on."""
        return Path(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return Path(self.name).stem

    @property
    def parent(self) -> S3Path:
        """The prefix that the name hangs below."""
        return S3Path(self.bucket, self.key.rpartition("/")[0])

    def relative_to(self, other: S3Path) -> Path:
        """What leads from a prefix to this key.

        Raises:
            ValueError: It does not lie below that prefix.
        """
        prefix = f"{other.key}/" if other.key else ""
        if self.bucket != other.bucket or not self.key.startswith(prefix):
            raise ValueError(f"{self} does not lie below {other}")
        return Path(self.key.removeprefix(prefix))

    def as_uri(self) -> str:
        """``s3://bucket/key``."""
        return str(self)

    def read_bytes(self) -> bytes:
        """The content.

        Raises:
            FileNotFoundError: There is no such object.
            StorageError: The storage did not answer, or refused.
        """
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        with _told(self):
            for attempt in range(1, _READS + 1):
                body = self._call("get_object")["Body"]
                try:
                    content: bytes = body.read()
                    break
                except (HTTPClientError, IncompleteReadError):
                    # boto3 tries a request again, but not an answer that is cut off
                    if attempt == _READS:
                        raise
        return content

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as text; as :meth:`read_bytes`."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Put the content there, whole or not at all.

        Raises:
            StorageError: The storage did not answer, or refused.
        """
        with _told(self):
            self._call("put_object", Body=content)

    def create(self, content: bytes) -> bool:
        """Put the content there if nothing is; of several at once one succeeds.

        Raises:
            StorageError: The storage did not answer, or refused.
        """
        from botocore.exceptions import ClientError

        with _told(self):
            try:
                self._call("put_object", Body=content, IfNoneMatch="*")
            except ClientError as error:
                if _code(error) in _TAKEN:
                    return False
                raise
        return True

    def upload(self, local: Path, metadata: Mapping[str, str] | None = None) -> None:
        """Put a file's content there, whole or not at all, large ones in parts.

        Args:
            local: The file.
            metadata: What :meth:`head` tells of the object as its ``Metadata``.

        Raises:
            StorageError: The storage did not answer, or refused.
        """
        with _told(self):
            s3_client().upload_file(
                str(local), self.bucket, self.key, ExtraArgs={"Metadata": dict(metadata or {})}
            )

    def download(self, local: Path) -> None:
        """Write the content into a file.

        Raises:
            FileNotFoundError: There is no such object.
            StorageError: The storage did not answer, or refused.
        """
        with _told(self):
            s3_client().download_file(self.bucket, self.key, str(local))

    def is_file(self) -> bool:
        """Whether there is an object of this key."""
        try:
            self.head()
        except FileNotFoundError:
            return False
        return True

    def head(self) -> dict[str, Any]:
        """What the server tells of the object without its content.

        Raises:
            FileNotFoundError: There is no such object.
            StorageError: The storage did not answer, or refused.
        """
        with _told(self):
            answer: dict[str, Any] = self._call("head_object")
        return answer

    def is_dir(self) -> bool:
        """Whether anything lies below this key."""
        return next(self._listed(most=1), None) is not None

    def exists(self) -> bool:
        """Whether there is an object of this key, or anything below it."""
        return self.is_file() or self.is_dir()

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object.

        Raises:
            FileNotFoundError: There is none, and ``missing_ok`` is false.
            StorageError: The storage did not answer, or refused.
        """
        if not missing_ok:
            self.head()
        with _told(self):
            self._call("delete_object")

    def replace(self, target: S3Path) -> S3Path:
        """Move the object; a copy, then a removal."""
        with _told(self):
            source = {"Bucket": self.bucket, "Key": self.key}
            s3_client().copy_object(Bucket=target.bucket, Key=target.key, CopySource=source)
        self.unlink(missing_ok=True)
        return target

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a bucket has no folders."""

    def iterdir(self) -> Iterator[S3Path]:
        """Objects and prefixes directly below, by name."""
        prefix = f"{self.key}/" if self.key else ""
        for page in self._pages(prefix, delimiter="/"):
            below = [entry["Prefix"].rstrip("/") for entry in page.get("CommonPrefixes", ())]
            keys = [entry["Key"] for entry in page.get("Contents", ())]
            yield from (
                S3Path(self.bucket, key) for key in sorted([*below, *keys]) if key != prefix
            )

    def walk(self) -> Iterator[S3Object]:
        """Every object below, at any depth, by key; markers of folders are none."""
        yield from (found for found in self._listed() if not found.path.key.endswith("/"))

    def glob(self, pattern: str) -> Iterator[S3Path]:
        """What lies below and has a name like ``*.json``, or ``*/study.json`` one level deeper."""
        first, slash, rest = pattern.partition("/")
        for path in self.iterdir() if _is_pattern(first) else iter([self / first]):
            if fnmatch.fnmatchcase(path.name, first):
                if slash:
                    yield from path.glob(rest)
                elif _is_pattern(first) or path.is_file():
                    yield path

    def remove_tree(self) -> None:
        """Remove every object below, a thousand a request."""
        keys = [{"Key": each.path.key} for each in self._listed()]
        for start in range(0, len(keys), _MOST_DELETED):
            with _told(self):
                answer = s3_client().delete_objects(
                    Bucket=self.bucket, Delete={"Objects": keys[start : start + _MOST_DELETED]}
                )
            for failed in answer.get("Errors", ())[:1]:
                raise StorageError(f"{self} was not removed: {failed['Key']}: {failed['Code']}")

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        call = getattr(s3_client(), operation)
        answer: dict[str, Any] = call(Bucket=self.bucket, Key=self.key, **arguments)
        return answer

    def _listed(self, most: int | None = None) -> Iterator[S3Object]:
        for page in self._pages(f"{self.key}/" if self.key else "", most=most):
            for entry in page.get("Contents", ()):
                path = S3Path(self.bucket, entry["Key"])
                yield S3Object(path, entry["Size"], entry["LastModified"], entry["ETag"])
            if most:
                return

    def _pages(
        self, prefix: str, delimiter: str = "", most: int | None = None
    ) -> Iterator[dict[str, Any]]:
        with _told(self):
            yield from (
                s3_client()
                .get_paginator("list_objects_v2")
                .paginate(
                    Bucket=self.bucket,
                    Prefix=prefix,
                    Delimiter=delimiter,
                    **({"MaxKeys": most} if most else {}),
                )
            )


@contextmanager
def _told(path: S3Path) -> Iterator[None]:
    # here, where a bucket is asked: paths of this kind are known to studies on a disk, too
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    from ssprompt_platform.storage.s3_errors import sentence_of

    try:
        yield
    except (ClientError, BotoCoreError, Boto3Error, ResponseParserError) as error:
        if isinstance(error, ClientError) and _code(error) in _MISSING:
            raise FileNotFoundError(f"there is no {path}") from None
        # what the server said may hold more than is to be shown
        raise StorageError(sentence_of(error, path)) from None


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_pattern(text: str) -> bool:
    return any(c in text for c in "*?[")
