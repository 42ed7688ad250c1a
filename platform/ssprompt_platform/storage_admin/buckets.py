"""Makes a bucket and sets it up for studies; what is there already stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from botocore.exceptions import ClientError

from ssprompt_core.errors import UserError
from ssprompt_platform.storage import S3Path, s3_client
from ssprompt_platform.storage.s3_errors import code_of
from ssprompt_platform.storage_admin.bucket import asked, prefix_of
from ssprompt_platform.storage_admin.setup import Setup

_ATTEMPTS = 3
_RULE = "ssprompt"
_NO_RULES = frozenset({"NoSuchLifecycleConfiguration", "404"})
_UNKNOWN = frozenset({"NotImplemented", "MethodNotAllowed", "501", "405", "XNotImplemented"})
_NO_BLOCK = frozenset({"NoSuchPublicAccessBlockConfiguration", "404"})
_BLOCK = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": True,
    "RestrictPublicBuckets": True,
}
_HOME = "us-east-1"
"""The one region that is named by not naming it."""


class Outcome(StrEnum):
    """What became of a step."""

    DONE = "done"
    THERE = "there already"
    WOULD = "would be done"
    UNKNOWN = "unknown to this server"


@dataclass(frozen=True)
class Step:
    """One thing that a bucket is given.

    Attributes:
        name: What it is.
        outcome: What became of it.
        told: What it means.
    """

    name: str
    outcome: Outcome
    told: str


def set_up(root: S3Path, setup: Setup) -> Iterator[Step]:
    """Make the bucket, keep former versions for a while, end uploads, shut the public out.

    The rule is for the keys below the root alone, and rules of others stay as they are.

    Args:
        root: Bucket and prefix.
        setup: How.

    Raises:
        UserError: The bucket belongs to somebody else.
        StorageError: The server did not answer, or refused.
    """
    setup.check()
    client = s3_client(attempts=_ATTEMPTS)
    with asked(root):
        made = _bucket(client, root, setup)
        yield made
        if made.outcome is Outcome.WOULD:
            # there is nothing yet to look at
            yield Step("versions", Outcome.WOULD, "kept")
            yield Step("rule", Outcome.WOULD, _told(setup))
            yield Step("public access", Outcome.WOULD, "blocked, where the server knows that")
            return
        yield _versions(client, root, setup)
        yield _rule(client, root, setup)
        yield _public(client, root, setup)


def _bucket(client: Any, root: S3Path, setup: Setup) -> Step:
    try:
        client.head_bucket(Bucket=root.bucket)
    except ClientError as error:
        if code_of(error) == "403":
            # an answer without a body; a listing is refused with the reason
            client.list_objects_v2(Bucket=root.bucket, MaxKeys=1)
        if code_of(error) not in ("404", "NoSuchBucket"):
            raise
    else:
        return Step("bucket", Outcome.THERE, root.bucket)
    region = client.meta.region_name or _HOME
    told = f"{root.bucket} in {region}"
    if setup.dry_run:
        return Step("bucket", Outcome.WOULD, told)
    where = {"LocationConstraint": region}
    try:
        client.create_bucket(
            Bucket=root.bucket,
            **({} if region == _HOME else {"CreateBucketConfiguration": where}),
        )
    except ClientError as error:
        if code_of(error) == "BucketAlreadyOwnedByYou":
            return Step("bucket", Outcome.THERE, root.bucket)
        if code_of(error) == "BucketAlreadyExists":
            raise UserError(
                f"a bucket {root.bucket} is there and belongs to somebody else; choose another name"
            ) from None
        raise
    return Step("bucket", Outcome.DONE, told)


def _versions(client: Any, root: S3Path, setup: Setup) -> Step:
    told = "what is overwritten or deleted is kept for a while"

    def change() -> None:
        client.put_bucket_versioning(
            Bucket=root.bucket, VersioningConfiguration={"Status": "Enabled"}
        )

    def there() -> bool:
        return bool(client.get_bucket_versioning(Bucket=root.bucket).get("Status") == "Enabled")

    return _step("versions", told, there, change, setup)


def _rule(client: Any, root: S3Path, setup: Setup) -> Step:
    rule = _wanted(root, setup)
    answer: dict[str, Any] = {}

    def there() -> bool:
        try:
            answer.update(client.get_bucket_lifecycle_configuration(Bucket=root.bucket))
        except ClientError as error:
            if code_of(error) not in _NO_RULES:
                raise
        return any(_same(each, rule) for each in answer.get("Rules", ()))

    def change() -> None:
        others = [each for each in answer.get("Rules", ()) if each.get("ID") != rule["ID"]]
        # a setting of the whole configuration, which a bare put would reset
        kept = {
            name: answer[name] for name in ("TransitionDefaultMinimumObjectSize",) if name in answer
        }
        client.put_bucket_lifecycle_configuration(
            Bucket=root.bucket,
            LifecycleConfiguration={"Rules": [*others, rule]},
            **(kept if others else {}),
        )

    return _step("rule", _told(setup), there, change, setup)


def _public(client: Any, root: S3Path, setup: Setup) -> Step:
    def there() -> bool:
        try:
            answer = client.get_public_access_block(Bucket=root.bucket)
        except ClientError as error:
            if code_of(error) in _NO_BLOCK:
                return False
            raise
        return bool(answer.get("PublicAccessBlockConfiguration") == _BLOCK)

    def change() -> None:
        client.put_public_access_block(
            Bucket=root.bucket, PublicAccessBlockConfiguration=dict(_BLOCK)
        )

    return _step("public access", "blocked", there, change, setup)


def _step(
    name: str,
    told: str,
    there: Callable[[], bool],
    change: Callable[[], None],
    setup: Setup,
) -> Step:
    try:
        if there():
            return Step(name, Outcome.THERE, told)
        if setup.dry_run:
            return Step(name, Outcome.WOULD, told)
        change()
    except ClientError as error:
        if code_of(error) in _UNKNOWN:
            return Step(name, Outcome.UNKNOWN, f"not {told}; a study does without")
        raise
    return Step(name, Outcome.DONE, told)


def _wanted(root: S3Path, setup: Setup) -> dict[str, Any]:
    """The rule of this root; other roots of the bucket have their own."""
    return {
        "ID": f"{_RULE}-{root.key}"[:255] if root.key else _RULE,
        "Status": "Enabled",
        "Filter": {"Prefix": prefix_of(root)},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": setup.abort_days},
        "NoncurrentVersionExpiration": {"NoncurrentDays": setup.noncurrent_days},
        # a mark of deletion whose versions have gone is of no use
        "Expiration": {"ExpiredObjectDeleteMarker": True},
    }


def _same(rule: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a server's rule says the same; it may spell an empty filter otherwise."""
    prefix = rule.get("Prefix") or rule.get("Filter", {}).get("Prefix", "")
    names = set(wanted) - {"Filter"}
    return prefix == wanted["Filter"]["Prefix"] and all(rule.get(n) == wanted[n] for n in names)


def _told(setup: Setup) -> str:
    return (
        f"interrupted uploads end after {setup.abort_days} days, former versions after "
        f"{setup.noncurrent_days}"
    )
