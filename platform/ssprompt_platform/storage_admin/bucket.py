"""What only a bucket has: uploads in parts, former versions; each error in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from ssprompt_platform.storage import Place, S3Path, StorageError, s3_client
from ssprompt_platform.storage.s3_errors import sentence_of

_MOST_DELETED = 1000


@dataclass(frozen=True)
class Upload:
    """An upload in parts that was begun and not ended.

    Attributes:
        key: Of the object that it was to become.
        identity: Its id.
        size: Bytes of the parts that are there.
        begun: Seconds since the epoch, by the server's clock.
    """

    key: str
    identity: str
    size: int
    begun: float


@contextmanager
def asked(place: S3Path) -> Iterator[None]:
    """Turn what the client raises within the block into StorageError.

    Raises:
        StorageError: One sentence.
    """
    try:
        yield
    except (ClientError, BotoCoreError, ResponseParserError) as error:
        # the error itself may hold what is secret
        raise StorageError(sentence_of(error, place)) from None


def prefix_of(root: S3Path) -> str:
    """How the keys below a root begin."""
    return f"{root.key}/" if root.key else ""


def uploads(root: S3Path) -> Iterator[Upload]:
    """Uploads below a root that were begun and not ended.

    Raises:
        StorageError: The server did not answer, or refused.
    """
    client = s3_client()
    with asked(root):
        for page in client.get_paginator("list_multipart_uploads").paginate(
            Bucket=root.bucket, Prefix=prefix_of(root)
        ):
            for upload in page.get("Uploads", ()):
                key, identity = upload["Key"], upload["UploadId"]
                parts = client.get_paginator("list_parts").paginate(
                    Bucket=root.bucket, Key=key, UploadId=identity
                )
                size = sum(part["Size"] for each in parts for part in each.get("Parts", ()))
                yield Upload(key, identity, size, upload["Initiated"].timestamp())


def end_upload(root: S3Path, key: str, identity: str) -> None:
    """Drop an upload with its parts; one that was ended meanwhile is fine.

    Raises:
        StorageError: The server did not answer, or refused.
    """
    with asked(root):
        try:
            s3_client().abort_multipart_upload(Bucket=root.bucket, Key=key, UploadId=identity)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in ("NoSuchUpload", "404"):
                raise


def delete_keys(root: S3Path, keys: Sequence[str]) -> None:
    """Delete objects, a thousand at most.

    Raises:
        StorageError: The server did not answer, or refused.
    """
    with asked(root):
        answer = s3_client().delete_objects(
            Bucket=root.bucket,
            Delete={"Objects": [{"Key": key} for key in keys[:_MOST_DELETED]], "Quiet": True},
        )
    for refused in answer.get("Errors", ())[:1]:
        raise StorageError(
            f"{S3Path(root.bucket, refused['Key'])} was not deleted ({refused['Code']}); look at "
            "the permissions of the credentials"
        )


def former_versions(root: S3Path) -> Iterator[tuple[str, int]]:
    """Keys and sizes of versions that were overwritten or deleted.

    Raises:
        StorageError: The server did not answer, or refused.
    """
    with asked(root):
        for page in (
            s3_client()
            .get_paginator("list_object_versions")
            .paginate(Bucket=root.bucket, Prefix=prefix_of(root))
        ):
            for version in page.get("Versions", ()):
                if not version["IsLatest"]:
                    yield version["Key"], int(version["Size"])


def head_of(place: Place, count: int) -> bytes:
    """The first bytes of a file or object.

    Raises:
        OSError: The file is not there or not readable.
        StorageError: The server did not answer, or refused.
    """
    if isinstance(place, Path):
        with place.open("rb") as file:
            return file.read(count)
    with asked(place):
        answer: dict[str, Any] = s3_client().get_object(
            Bucket=place.bucket, Key=place.key, Range=f"bytes=0-{count - 1}"
        )
        content: bytes = answer["Body"].read()
    return content
