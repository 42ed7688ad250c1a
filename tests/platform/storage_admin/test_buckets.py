"""A bucket is made and set up once; what is there already stays; on a real server."""

from __future__ import annotations

import secrets
from typing import Any

import pytest

from ssprompt_core.errors import UserError
from ssprompt_platform.storage import S3Path, StorageError, s3_client
from ssprompt_platform.storage_admin.buckets import Outcome, Setup, set_up

DONE, THERE, WOULD, UNKNOWN = Outcome.DONE, Outcome.THERE, Outcome.WOULD, Outcome.UNKNOWN


@pytest.fixture
def fresh(s3_bucket: str) -> S3Path:
    """A bucket that is not there yet."""
    return S3Path(f"fresh-{secrets.token_hex(6)}", "studies")


def outcomes(root: S3Path, **options: Any) -> dict[str, Outcome]:
    return {step.name: step.outcome for step in set_up(root, Setup(**options))}


def rules(root: S3Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = s3_client().get_bucket_lifecycle_configuration(
        Bucket=root.bucket
    )["Rules"]
    return found


def test_a_bucket_is_made_once(fresh) -> None:
    everything = ["bucket", "versions", "rule", "public access"]
    assert outcomes(fresh, dry_run=True) == dict.fromkeys(everything, WOULD)
    assert fresh.bucket not in {b["Name"] for b in s3_client().list_buckets()["Buckets"]}
    # this server knows no public access to block
    first = {"bucket": DONE, "versions": DONE, "rule": DONE, "public access": UNKNOWN}
    assert outcomes(fresh) == first
    assert outcomes(fresh) == {**dict.fromkeys(everything, THERE), "public access": UNKNOWN}
    assert s3_client().get_bucket_versioning(Bucket=fresh.bucket)["Status"] == "Enabled"
    (rule,) = rules(fresh)
    assert rule["Filter"] == {"Prefix": "studies/"}
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert rule["Status"] == "Enabled"


def test_other_days_change_the_rule_of_this_root_alone(fresh) -> None:
    list(set_up(fresh, Setup()))
    list(set_up(S3Path(fresh.bucket, "other"), Setup()))
    days = {"abort_days": 1, "noncurrent_days": 2}
    assert outcomes(fresh, dry_run=True, **days)["rule"] is WOULD
    assert outcomes(fresh, **days)["rule"] is DONE
    assert outcomes(fresh, **days)["rule"] is THERE
    found = {rule["Filter"]["Prefix"]: rule for rule in rules(fresh)}
    assert found["studies/"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    assert found["studies/"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 2}
    assert found["other/"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}


def test_rules_of_others_stay_as_they_are(fresh) -> None:
    client = s3_client()
    client.create_bucket(Bucket=fresh.bucket)
    theirs = [
        {
            "ID": "theirs",
            "Status": "Enabled",
            "Filter": {"And": {"Prefix": "logs/", "Tags": [{"Key": "keep", "Value": "no"}]}},
            "Expiration": {"Days": 3},
        },
        {"ID": "off", "Status": "Disabled", "Filter": {"Prefix": "x/"}, "Expiration": {"Days": 9}},
    ]
    client.put_bucket_lifecycle_configuration(
        Bucket=fresh.bucket, LifecycleConfiguration={"Rules": theirs}
    )
    before = rules(fresh)
    assert outcomes(fresh)["rule"] is DONE
    after = rules(fresh)
    assert [rule for rule in after if rule["ID"] in ("theirs", "off")] == before
    assert len(after) == 3


def test_a_whole_bucket_may_be_a_root(fresh) -> None:
    root = S3Path(fresh.bucket)
    assert outcomes(root)["rule"] is DONE
    assert outcomes(root)["rule"] is THERE


def test_a_server_that_knows_public_access_has_it_blocked(fresh, monkeypatch) -> None:
    client = s3_client(attempts=3)
    kept: dict[str, Any] = {}

    def put(Bucket: str, PublicAccessBlockConfiguration: dict[str, bool]) -> None:
        kept.update(PublicAccessBlockConfiguration)

    def get(Bucket: str) -> dict[str, Any]:
        return {"PublicAccessBlockConfiguration": dict(kept)}

    monkeypatch.setattr(client, "put_public_access_block", put)
    monkeypatch.setattr(client, "get_public_access_block", get)
    assert outcomes(fresh)["public access"] is DONE
    assert kept
    assert all(kept.values())
    assert outcomes(fresh)["public access"] is THERE


def test_a_region_is_named_to_a_server_elsewhere(fresh, monkeypatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    told: list[dict[str, Any]] = []
    client = s3_client(attempts=3)
    made = client.create_bucket

    def create(**arguments: Any) -> Any:
        told.append(arguments)
        return made(**arguments)

    monkeypatch.setattr(client, "create_bucket", create)
    assert outcomes(fresh)["bucket"] is DONE
    assert told == [
        {
            "Bucket": fresh.bucket,
            "CreateBucketConfiguration": {"LocationConstraint": "eu-west-1"},
        }
    ]


def test_who_may_only_read_is_told(fresh, s3_server, monkeypatch) -> None:
    for name, value in s3_server.read_only.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match="may not write there"):
        outcomes(fresh)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="the signature does not match"):
        outcomes(fresh)


@pytest.mark.parametrize("days", [{"abort_days": 0}, {"noncurrent_days": -1}])
def test_days_are_positive(fresh, days) -> None:
    with pytest.raises(UserError, match="must be at least 1"):
        outcomes(fresh, **days)
