"""What the storage of a study can do, step by step, and how a bucket is set up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from ssprompt_core.errors import UserError
from ssprompt_platform.doctor.bucket_probe import BucketProbe, server_of
from ssprompt_platform.doctor.findings import (
    Finding,
    State,
    Subject,
    clock,
    of_sentence,
    ok,
    timed,
    warn,
)
from ssprompt_platform.doctor.folder_probe import probe_folder
from ssprompt_platform.doctor.storage_probe import CACHE, ROOT
from ssprompt_platform.storage import Place, S3Path, cache_folder
from ssprompt_platform.storage.s3_errors import code_of

CLOCK_SECONDS = 60.0
"""Clocks that differ less do no harm."""
_NEEDS = "write"
_UNSET = frozenset({"NoSuchLifecycleConfiguration", "404"})


def storage(subject: Subject) -> Iterator[Finding]:
    """Write, read, list, delete and overwrite a probe; a bucket's versions and rules."""
    root = subject.root
    if isinstance(root, S3Path):
        yield from _bucket(root)
        yield _folder("cache", cache_folder(), CACHE)
    else:
        yield _folder("storage", root, ROOT)


def _folder(name: str, folder: Place, setting: str) -> Finding:
    assert not isinstance(folder, S3Path)
    try:
        seconds = timed(lambda: probe_folder(folder, setting))
    except UserError as error:
        return of_sentence(name, str(error))
    return ok(name, f"{folder} takes files, locks and maps ({1000 * seconds:.0f} ms)")


def _bucket(root: S3Path) -> Iterator[Finding]:
    try:
        probe = BucketProbe(root)
    except UserError as error:
        yield of_sentence("S3", str(error))
        return
    written, told = True, set()
    for name, step in probe.steps.items():
        if not written and name != "list":
            continue
        try:
            seconds = timed(step)
        except UserError as error:
            written = written and name != _NEEDS
            if str(error) not in told:
                yield of_sentence(f"S3 {name}", str(error))
            told.add(str(error))
        else:
            yield ok(f"S3 {name}", f"{root} ({1000 * seconds:.0f} ms)")
    probe.cleanup()
    if probe.ahead is not None:
        yield clock("S3 clock", probe.ahead, server_of(root), CLOCK_SECONDS)
    if written:
        yield _versions(probe.client, root)
        yield _rules(probe.client, root)


def _versions(client: Any, root: S3Path) -> Finding:
    name = "S3 versions"
    try:
        status = client.get_bucket_versioning(Bucket=root.bucket).get("Status", "off")
    except (ClientError, BotoCoreError) as error:
        return _untold(name, error, root)
    if status == "Enabled":
        return ok(name, f"bucket {root.bucket} keeps what is overwritten or deleted")
    return warn(
        name,
        f"bucket {root.bucket} keeps no former versions ({status.lower()})",
        f"python jobs/storage.py init {root}",
    )


def _rules(client: Any, root: S3Path) -> Finding:
    name = "S3 rules"
    try:
        rules = client.get_bucket_lifecycle_configuration(Bucket=root.bucket).get("Rules", [])
    except (ClientError, BotoCoreError) as error:
        if code_of(error) not in _UNSET:
            return _untold(name, error, root)
        rules = []
    if any(_ends_uploads(rule, root) for rule in rules):
        return ok(name, f"bucket {root.bucket} ends interrupted uploads by itself")
    return warn(
        name,
        f"no rule of bucket {root.bucket} ends interrupted uploads, which cost "
        "space and are in no listing",
        f"python jobs/storage.py init {root}",
    )


def _ends_uploads(rule: dict[str, Any], root: S3Path) -> bool:
    prefix = rule.get("Prefix") or rule.get("Filter", {}).get("Prefix", "")
    covered = f"{root.key}/".startswith(prefix)
    return rule.get("Status") == "Enabled" and "AbortIncompleteMultipartUpload" in rule and covered


def _untold(name: str, error: BaseException, root: S3Path) -> Finding:
    """A line about what the server does not tell; a study does not need it."""
    code = code_of(error) or type(error).__name__
    return Finding(
        name,
        State.WARN,
        f"the server does not tell this of bucket {root.bucket} ({code})",
        "look at the bucket's settings with the keys of its owner",
    )
