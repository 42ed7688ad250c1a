"""One sentence for whatever an S3 storage answers, and no secret in any of them."""

from __future__ import annotations

import socket

import boto3
import botocore.exceptions
import pyarrow.fs
import pytest
from botocore.exceptions import ClientError
from planted_s3 import planted

from ssprompt_core.errors import UserError
from ssprompt_platform.doctor import check_storage
from ssprompt_platform.storage import S3Path
from ssprompt_platform.storage.s3_errors import code_of, endpoint, sentence_of

PLACE = S3Path("bucket", "prefix")
KEY, SECRET, TOKEN = "AKIACANARYCANARY1234", "canary/secret+0123456789", "canary-token=="


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_SESSION_TOKEN", TOKEN),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


def refused(monkeypatch: pytest.MonkeyPatch, url: str) -> str:
    """What a study is told that starts with this endpoint."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    with pytest.raises(UserError) as caught:
        check_storage(PLACE)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    sentence = str(caught.value)
    assert sentence.startswith("s3://bucket/prefix: ")
    assert "\n" not in sentence
    for secret in (KEY, SECRET, TOKEN):
        assert secret not in sentence
    return sentence


@pytest.mark.parametrize(
    ("status", "code", "parts"),
    [
        (400, "ExpiredToken", ["have expired", "AWS_SESSION_TOKEN anew"]),
        (400, "InvalidToken", ["refuses the session token", "AWS_SESSION_TOKEN"]),
        (403, "InvalidAccessKeyId", ["does not know the access key", "AWS_ACCESS_KEY_ID"]),
        (403, "SignatureDoesNotMatch", ["signature does not match", "AWS_SECRET_ACCESS_KEY"]),
        (403, "RequestTimeTooSkewed", ["clock", "timedatectl"]),
        (403, "AccessDenied", ["may not write", "PutObject: access denied", "s3:PutObject"]),
        (403, "QuotaExceeded", ["no room left", "gc"]),
        (404, "NoSuchBucket", ["no such bucket", "jobs/storage.py init s3://bucket"]),
        (301, "PermanentRedirect", ["another region", "AWS_REGION"]),
        (400, "AuthorizationHeaderMalformed", ["another region", "AWS_REGION"]),
        (501, "NotImplemented", ["conditional writes"]),
        (503, "SlowDown", ["fewer requests", "search.max_concurrent"]),
        (503, "ServiceUnavailable", ["does not serve now"]),
        (507, "XMinioStorageFull", ["no room left"]),
        (507, "", ["no room left"]),
        (500, "InternalError", ["full disk"]),
        (404, "", ["speaks no S3"]),
        (418, "Teapot", ["PutObject failed with Teapot, HTTP 418"]),
        (200, "", ["overwrites an object although the request forbids it"]),
    ],
)
def test_each_answer_of_a_server_is_one_sentence(keys, monkeypatch, status, code, parts) -> None:
    message = f"key {KEY}, secret {SECRET}, token {TOKEN}"
    with planted(status, code, message) as url:
        sentence = refused(monkeypatch, url)
    for part in parts:
        assert part in sentence


def test_a_code_that_is_no_word_is_not_repeated(keys, monkeypatch) -> None:
    with planted(400, f"No such key: {SECRET}") as url:
        assert "no code" in refused(monkeypatch, url)


def test_a_server_that_speaks_no_tls(keys, monkeypatch) -> None:
    with planted(200) as url:
        assert "write http:// instead of https://" in refused(
            monkeypatch, url.replace("http:", "https:")
        )


def test_nobody_answers(keys, monkeypatch) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        sentence = refused(monkeypatch, f"http://127.0.0.1:{port}")
    assert f"nothing answers at http://127.0.0.1:{port} (connection refused)" in sentence


def test_who_hangs_up_speaks_no_http(keys, monkeypatch) -> None:
    import threading

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def hang_up() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        sentence = refused(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "without an answer" in sentence or "nothing answers" in sentence


def test_a_name_that_does_not_resolve(keys, monkeypatch) -> None:
    sentence = refused(monkeypatch, "http://storage.invalid:9000")
    assert "the name of http://storage.invalid:9000 does not resolve" in sentence


@pytest.mark.parametrize("url", ["127.0.0.1:9000", "http://127.0.0.1:1/x?signature=canary"])
def test_an_endpoint_that_is_no_address(keys, monkeypatch, url) -> None:
    sentence = refused(monkeypatch, url)
    assert "AWS_ENDPOINT_URL is no address" in sentence
    assert "canary" not in sentence


def test_a_password_in_the_endpoint_is_not_repeated(keys, monkeypatch) -> None:
    sentence = refused(monkeypatch, "http://user:canary@127.0.0.1:1")
    assert "canary" not in sentence


@pytest.mark.parametrize(
    ("missing", "part"),
    [
        (["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], "there are no credentials"),
        (["AWS_SECRET_ACCESS_KEY"], "AWS_SECRET_ACCESS_KEY is missing"),
    ],
)
def test_credentials_that_are_not_whole(keys, monkeypatch, tmp_path, missing, part) -> None:
    for name in missing:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert part in refused(monkeypatch, "http://127.0.0.1:1")


def test_a_profile_that_is_not_there(keys, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_PROFILE", "canary")
    assert "AWS_PROFILE names a profile" in refused(monkeypatch, "http://127.0.0.1:1")


def test_a_name_that_no_bucket_has(keys, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="no valid name of a bucket"):
        check_storage(S3Path("a bucket!"))


def test_a_transfer_is_told_as_what_it_failed_with(keys, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with planted(403, "AccessDenied") as url:
        client = boto3.client("s3", endpoint_url=url)
        with pytest.raises(boto3.exceptions.S3UploadFailedError) as caught:
            client.upload_file(str(tmp_path / "file"), "bucket", "key")
    assert "may not write there" in sentence_of(caught.value, PLACE)
    assert code_of(caught.value) == "AccessDenied"


def test_a_head_without_a_body_may_be_a_wrong_key(keys) -> None:
    error = ClientError(
        {"Error": {"Code": "403"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "HeadObject"
    )
    sentence = sentence_of(error, PLACE)
    assert "the keys are wrong, or give their user s3:GetObject" in sentence


@pytest.mark.parametrize(
    ("status", "code", "part"),
    [
        (403, "AccessDenied", "may not write there"),
        (404, "NoSuchBucket", "no such bucket"),
        (403, "InvalidAccessKeyId", "does not know the access key"),
        (403, "SignatureDoesNotMatch", "signature does not match"),
        (507, "XMinioStorageFull", "no room left"),
    ],
)
def test_arrow_says_the_same(keys, monkeypatch, status, code, part) -> None:
    with planted(status, code) as url, pytest.raises(OSError, match="AWS Error") as caught:
        write_by_arrow(url)
    assert part in sentence_of(caught.value, PLACE)


def test_arrow_finds_nobody(keys) -> None:
    with pytest.raises(OSError, match="AWS Error") as caught:
        write_by_arrow("http://127.0.0.1:1")
    assert "nothing answers" in sentence_of(caught.value, PLACE)


def write_by_arrow(url: str) -> None:
    system = pyarrow.fs.S3FileSystem(
        endpoint_override=url.removeprefix("http://"),
        scheme="http",
        region="us-east-1",
        access_key=KEY,
        secret_key=SECRET,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=1),
    )
    with system.open_output_stream("bucket/key") as stream:
        stream.write(b"x")


def test_what_is_unknown_is_told_by_its_kind_alone(keys) -> None:
    assert sentence_of(RuntimeError(SECRET), PLACE) == (
        "s3://bucket/prefix: RuntimeError; check AWS_ENDPOINT_URL, the credentials and the network"
    )


def test_every_error_of_botocore_has_a_sentence(keys, monkeypatch) -> None:
    """Whatever kind botocore raises, made with texts that are secret."""
    kinds = [
        kind
        for kind in vars(botocore.exceptions).values()
        if isinstance(kind, type) and issubclass(kind, botocore.exceptions.BotoCoreError)
    ]
    assert len(kinds) > 80
    for kind in kinds:
        error = kind.__new__(kind)
        Exception.__init__(error, f"{KEY} {SECRET}")
        error.kwargs = {
            "error": SECRET,
            "cred_var": SECRET,
            "endpoint_url": f"https://user:{SECRET}@host/b?X-Amz-Credential={KEY}",
        }
        sentence = sentence_of(error, PLACE)
        assert sentence.startswith("s3://bucket/prefix: ")
        assert len(sentence) > len("s3://bucket/prefix: ") + 20
        for secret in (KEY, SECRET):
            assert secret not in sentence


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:canary@host:9000/x?y=canary", "http://host:9000"),
        ("https://host", "https://host"),
        ("host:9000", "host:9000"),
        ("http://[::1]:9000", "http://[::1]:9000"),
        ("http://host:port", ""),
        ("", ""),
    ],
)
def test_an_endpoint_is_shown_without_what_may_be_secret(monkeypatch, url, shown) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    assert endpoint() == shown
