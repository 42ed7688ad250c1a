"""The very command of MLflow's Deployment, on a real Postgres and a real bucket."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from k8s_render import documents
from k8s_study import allowed_hosts, mlflow, mounted
from servers import PostgresServer, missing

from ssprompt_platform.servers.processes import LOOPBACK, Process, free_ports
from ssprompt_platform.servers.seaweed import S3Server

PASSWORD = secrets.token_hex(12)


@pytest.fixture(scope="module")
def container() -> dict[str, Any]:
    return mlflow(documents("dev"))


@pytest.fixture(scope="module")
def server(
    container: dict[str, Any],
    postgres: PostgresServer,
    s3_server: S3Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[int]:
    """Port of a server with the arguments, variables and files of the manifest."""
    for module in ("flask_wtf", "prometheus_flask_exporter"):
        if importlib.util.find_spec(module) is None:
            missing(f"the Python package {module} of MLflow's image is not installed")
    folder, port = tmp_path_factory.mktemp("mlflow"), free_ports(1)
    deployment = next(each for each in documents("dev") if each["kind"] == "Deployment")
    files = mounted(deployment["spec"]["template"]["spec"], documents("dev"))
    config = folder / "basic_auth.ini"
    config.write_text(files["/etc/mlflow/basic_auth.ini"])
    place = urlsplit(postgres.url)
    environment = {
        "PATH": os.environ["PATH"],
        **{each["name"]: each["value"] for each in container["env"] if "value" in each},
        **s3_server.environment,
        "HOME": str(folder),
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin",
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(8),
        "MLFLOW_ARTIFACTS_DESTINATION": "s3://ssprompt/mlflow-of-the-cluster",
        "MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint,
        "PGHOST": LOOPBACK,
        "PGPORT": str(place.port),
        "PGUSER": "ssprompt",
        "PGDATABASE": "postgres",
        "PGSSLMODE": "prefer",
    }
    changed = {"--host": LOOPBACK, "--port": str(port), "--workers": "1"}
    changed["--expose-prometheus"] = str(folder / "prometheus")
    arguments = []
    for word in container["args"]:
        name, equals, value = word.partition("=")
        arguments.append(f"{name}{equals}{changed.get(name, value)}")
    process = Process(
        [sys.executable, "-m", *container["command"], *arguments],
        log=Path(folder / "log"),
        cwd=folder,
        environment=environment,
    )
    try:
        process.wait_until(lambda: ask(port, "/health")[0] == 200, 120, "MLflow")
        yield port
    finally:
        process.kill()


def ask(port: int, path: str, host: str = "localhost:5000", login: str = "") -> tuple[int, str]:
    request = urllib.request.Request(f"http://{LOOPBACK}:{port}{path}", headers={"Host": host})
    if login:
        request.add_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


def test_only_who_logs_in_is_answered(server: int) -> None:
    assert ask(server, SEARCH)[0] == 401
    assert ask(server, SEARCH, login="admin:wrong")[0] == 401
    status, text = ask(server, SEARCH, login=f"admin:{PASSWORD}")
    assert status == 200
    assert "s3://" not in text
    assert "mlflow-artifacts:" in text


def test_the_hosts_of_the_manifest_are_answered_and_no_others(
    server: int, container: dict[str, Any]
) -> None:
    for host in allowed_hosts(container):
        assert ask(server, SEARCH, host, f"admin:{PASSWORD}")[0] == 200, host
    for host in ("mlflow", "mlflow.example.com", "10.0.0.7:5000"):
        assert ask(server, SEARCH, host, f"admin:{PASSWORD}")[0] == 403, host


def test_probes_need_neither_login_nor_name_and_metrics_do(server: int) -> None:
    assert ask(server, "/health", "10.0.0.7:5000")[0] == 200
    assert ask(server, "/metrics")[0] == 401
    status, text = ask(server, "/metrics", login=f"admin:{PASSWORD}")
    assert status == 200
    assert "mlflow_http_request_total" in text


def test_tables_lie_in_the_database_that_the_variables_name(
    server: int, postgres: PostgresServer
) -> None:
    from sqlalchemy import create_engine, inspect

    engine = create_engine(postgres.url)
    try:
        tables = set(inspect(engine).get_table_names())
    finally:
        engine.dispose()
    # MLflow's own and those of its accounts
    assert {"runs", "users", "alembic_version", "alembic_version_auth"} <= tables
