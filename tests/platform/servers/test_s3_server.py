"""The local S3 server: loopback alone, keys enforced, nothing acknowledged is lost by a crash."""

from __future__ import annotations

import io
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from ssprompt_core.errors import UserError
from ssprompt_platform.servers.processes import LOOPBACK, free_ports
from ssprompt_platform.servers.seaweed import PORTS, S3Server, recorded, weed

QUICK = Config(retries={"total_max_attempts": 1})


def client_of(environment: Mapping[str, str], config: Config = QUICK) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=config,
    )


def refused(call, **arguments: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return str(caught.value.response["Error"]["Code"])


def bucket_of(url: str) -> str:
    return url.split("/")[2]


def test_it_listens_and_talks_on_loopback_alone(s3_server: S3Server) -> None:
    process = psutil.Process(s3_server.pid)
    connections = [
        connection
        for member in (process, *process.children(recursive=True))
        for connection in member.net_connections("inet")
    ]
    listening = {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}
    assert listening == set(range(s3_server.port, s3_server.port + PORTS))
    places = {place.ip for c in connections for place in (c.laddr, c.raddr) if place}
    assert places == {LOOPBACK}


def test_no_secret_is_on_the_command_line_or_in_the_log(s3_server: S3Server) -> None:
    words = " ".join(psutil.Process(s3_server.pid).cmdline()) + s3_server.log.read_text()
    for environment in (s3_server.environment, s3_server.read_only):
        assert environment["AWS_SECRET_ACCESS_KEY"] not in words
    assert "-master.telemetry=false" in words


def test_its_folder_is_closed_to_others(s3_server: S3Server) -> None:
    assert s3_server.folder.stat().st_mode & 0o777 == 0o700


def test_what_was_acknowledged_outlives_a_kill(s3_server: S3Server, s3_bucket: str) -> None:
    bucket, before = bucket_of(s3_bucket), s3_server.pid
    client = boto3.client("s3")
    large = bytes(range(256)) * 40_000
    for number in range(30):
        client.put_object(Bucket=bucket, Key=f"a/{number}", Body=b"%d" % number)
    # in parts
    client.upload_fileobj(io.BytesIO(large), bucket, "large")
    s3_server.kill()
    assert not s3_server.alive()
    assert not psutil.pid_exists(before)
    s3_server.start()
    for number in range(30):
        answer = client.get_object(Bucket=bucket, Key=f"a/{number}")
        assert answer["Body"].read() == b"%d" % number
    assert client.get_object(Bucket=bucket, Key="large")["Body"].read() == large
    client.put_object(Bucket=bucket, Key="after", Body=b"")


def test_one_of_many_conditional_writes_wins(s3_bucket: str) -> None:
    client, bucket = boto3.client("s3"), bucket_of(s3_bucket)

    def create(number: int) -> str:
        try:
            client.put_object(Bucket=bucket, Key="owner", Body=b"%d" % number, IfNoneMatch="*")
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "won"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(create, range(16)))
    assert sorted(answers) == ["PreconditionFailed"] * 15 + ["won"]
    kept = client.get_object(Bucket=bucket, Key="owner")["Body"].read()
    assert kept == b"%d" % answers.index("won")


def test_keys_are_enforced(s3_server: S3Server) -> None:
    right = s3_server.environment
    wrong = client_of({**right, "AWS_SECRET_ACCESS_KEY": "0" * 40})
    unknown = client_of({**right, "AWS_ACCESS_KEY_ID": "nobody"})
    nobody = client_of(right, QUICK.merge(Config(signature_version=UNSIGNED)))
    write = {"Bucket": s3_server.bucket, "Key": "x", "Body": b""}
    assert refused(wrong.put_object, **write) == "SignatureDoesNotMatch"
    assert refused(unknown.put_object, **write) == "InvalidAccessKeyId"
    assert refused(nobody.put_object, **write) == "AccessDenied"
    assert refused(nobody.list_objects_v2, Bucket=s3_server.bucket) == "AccessDenied"


def test_the_read_only_identity_reads_and_lists_and_no_more(
    s3_server: S3Server, s3_bucket: str
) -> None:
    bucket = bucket_of(s3_bucket)
    boto3.client("s3").put_object(Bucket=bucket, Key="a", Body=b"text")
    reader = client_of(s3_server.read_only)
    assert reader.get_object(Bucket=bucket, Key="a")["Body"].read() == b"text"
    assert [entry["Key"] for entry in reader.list_objects_v2(Bucket=bucket)["Contents"]] == ["a"]
    assert refused(reader.put_object, Bucket=bucket, Key="b", Body=b"") == "AccessDenied"
    assert refused(reader.put_object, Bucket=bucket, Key="a", Body=b"") == "AccessDenied"
    assert refused(reader.delete_object, Bucket=bucket, Key="a") == "AccessDenied"
    assert refused(reader.create_bucket, Bucket=f"{bucket}-2") == "AccessDenied"


def test_a_bucket_is_not_made_by_writing_to_it(s3_server: S3Server) -> None:
    client = s3_server.client()
    assert refused(client.put_object, Bucket="absent", Key="a", Body=b"") == "NoSuchBucket"


def test_its_parts_answer_no_browser(s3_server: S3Server) -> None:
    # the filer would give every file to whoever asks, and tells every page that it may ask
    with socket.create_connection((LOOPBACK, s3_server.port + 5), timeout=10) as connection:
        connection.sendall(
            b"GET /buckets/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        )
        answer = connection.recv(4096)
    assert not answer.startswith(b"HTTP/1.1 200"), answer


def test_a_taken_port_is_told_before_anything_is_written(tmp_path: Path) -> None:
    server = S3Server(tmp_path / "s3", free_ports(PORTS))
    with (
        socket.create_server((LOOPBACK, server.port + 3)),
        pytest.raises(UserError, match=rf"port {server.port + 3} of the S3 server .*--port"),
    ):
        server.start()
    assert list(server.folder.iterdir()) == []


def test_two_servers_never_share_their_data(s3_server: S3Server) -> None:
    second = S3Server(s3_server.folder, free_ports(PORTS))
    with pytest.raises(UserError, match=f"runs already .* on port {s3_server.port}"):
        second.start()
    assert recorded(s3_server.folder) == s3_server.port


def test_a_missing_program_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"requirements-s3\.txt"):
        weed()
