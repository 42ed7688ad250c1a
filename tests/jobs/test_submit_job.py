"""jobs/submit.py against a real cluster that asks for a token."""

from __future__ import annotations

import http.server
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import requests
from samples import ROOT, write_image_folder

from ssprompt_platform.servers.processes import free_ports

pytestmark = pytest.mark.e2e

BIN = Path(sys.executable).parent
TOKEN = secrets.token_hex(32)
CANARY = f"canary{secrets.token_hex(12)}"
QUICK = ["study=smoke", "study.methods=[zero_shot]", "study.shots=[1]"]
NOWHERE = "/nowhere/at/all"
MISTAKEN = [
    *QUICK, "data.kind=folder", f"data.images={NOWHERE}", f"data.labels={NOWHERE}",
    f"data.classes={NOWHERE}.txt",
]  # fmt: skip
"""Words that are right here and wrong there: a folder that the cluster does not have."""


@dataclass(frozen=True)
class Head:
    """A head node with token authentication.

    Attributes:
        address: Of its dashboard.
        home: Home folder of the cluster's user.
        folder: Ray's own files.
        environment: Of who submits: it holds the token and a canary in the place of S3 keys.
    """

    address: str
    home: Path
    folder: Path
    environment: dict[str, str] = field(repr=False)

    def submit(
        self, *words: str, cwd: Path, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "jobs" / "submit.py"), *words],
            cwd=cwd,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=200,
        )

    def ask(self, path: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return requests.get(f"{self.address}{path}", headers=headers, timeout=20)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    home = tmp_path_factory.mktemp("home")
    path = f"{BIN}:{os.environ['PATH']}"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    base = {**clean, "HOME": str(home), "PATH": path, "RAY_AUTH_MODE": "token"}
    first = free_ports(4)
    port, dashboard, agent, client = range(first, first + 4)
    # sockets need a short path, which pytest's own folders do not promise
    folder = Path(f"/tmp/ssprompt-submit-{os.getpid()}")
    process = subprocess.Popen(
        [
            *(str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2"),
            *("--disable-usage-stats", f"--port={port}", f"--dashboard-port={dashboard}"),
            *(f"--temp-dir={folder}", f"--dashboard-agent-listen-port={agent}"),
            f"--ray-client-server-port={client}",
        ],
        env={**base, "RAY_AUTH_TOKEN": TOKEN},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    submitter = tmp_path_factory.mktemp("submitter")
    environment = {
        **clean, "HOME": str(submitter), "PATH": path, "RAY_AUTH_TOKEN": TOKEN,
        "RAY_ADDRESS": f"http://127.0.0.1:{dashboard}", "AWS_SECRET_ACCESS_KEY": CANARY,
    }  # fmt: skip
    found = Head(f"http://127.0.0.1:{dashboard}", home, folder, environment)
    try:
        end = time.monotonic() + 90
        while not _answers(found):
            assert process.poll() is None, "the head did not start"
            assert time.monotonic() < end, "the head does not answer"
            time.sleep(0.3)
        yield found
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            # the command itself waits for half a minute, whatever it is sent
            process.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(head: Head) -> bool:
    try:
        # this one needs the agent too, which runs the jobs
        return head.ask("/api/jobs/").ok
    except requests.ConnectionError:
        return False


def job_of(text: str) -> str:
    found = re.search(r"^job (\S+) at ", text, re.MULTILINE)
    assert found, text
    return found[1]


def test_a_study_file_of_this_machine_runs_there_and_no_secret_goes_with_it(
    head: Head, tmp_path: Path
) -> None:
    data = write_image_folder(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text((ROOT / "jobs" / "studies" / "smoke.yaml").read_text())
    words = ["study=mine.yaml", *data, *QUICK[1:], "study.id=there"]
    done = head.submit(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "zero_shot" in done.stdout
    assert "use s3://" in done.stderr
    results = head.home / "ssprompt" / "runs" / "there" / "results.json"
    assert [row["method"] for row in json.loads(results.read_text())["rows"]] == ["zero_shot"]

    job = job_of(done.stdout)
    details = head.ask(f"/api/jobs/{job}").json()
    assert details["entrypoint"].startswith("python jobs/tune_shots.py study=submitted/mine.yaml")
    told = json.dumps(details) + head.ask("/api/jobs/").text + done.stdout + done.stderr
    assert TOKEN not in told
    assert CANARY not in told
    # nor in what Ray wrote about it
    for log in head.folder.rglob("*"):
        if log.is_file() and not log.is_symlink():
            text = log.read_bytes()
            assert TOKEN.encode() not in text, log
            assert CANARY.encode() not in text, log
    packages = [path for path in head.folder.rglob("_ray_pkg_*") if path.is_dir()]
    sent = {path.name for package in packages for path in package.iterdir()}
    assert {"ssprompt_core", "platform", "jobs", "submitted"} <= sent
    assert not {"runs", ".venv", ".git", "tests", "docs"} & sent

    again = head.submit("--follow", job, cwd=tmp_path)
    assert again.returncode == 0
    assert again.stdout in done.stdout


def test_a_mistake_that_only_the_cluster_sees_keeps_its_exit_code(
    head: Head, tmp_path: Path
) -> None:
    done = head.submit(*MISTAKEN, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "job " in done.stdout
    assert NOWHERE in done.stdout


def test_ctrl_c_leaves_the_job_and_says_how_to_go_on(head: Head, tmp_path: Path) -> None:
    words = ["study=smoke", "train.steps_per_epoch=100000", "study.id=long"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "submit.py"), *words],
        cwd=tmp_path,
        env=head.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    job = job_of(first)
    # the job's own first words
    assert process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"--follow {job}" in errors
    assert f"--stop {job}" in errors
    assert "Traceback" not in errors
    assert head.ask(f"/api/jobs/{job}").json()["status"] == "RUNNING"

    stopped = head.submit("--stop", job, cwd=tmp_path)
    assert stopped.returncode == 0
    assert "ends now" in stopped.stdout
    ended = head.submit("--follow", job, cwd=tmp_path)
    assert ended.returncode in (130, 143), ended.stdout
    assert "the job was stopped" in ended.stdout
    repeated = head.submit("--stop", job, cwd=tmp_path)
    assert "had ended" in repeated.stdout


def test_no_wait_returns_at_once_and_an_id_is_used_once(head: Head, tmp_path: Path) -> None:
    words = [*MISTAKEN, "--submission-id", "mine"]
    first = head.submit("--no-wait", *words, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "job mine at" in first.stdout
    assert "--follow mine" in first.stdout
    second = head.submit("--no-wait", *words, cwd=tmp_path)
    assert second.returncode == 2
    assert "knows a job mine already" in second.stderr
    assert head.submit("--follow", "mine", cwd=tmp_path).returncode == 2


def test_tokens(head: Head, tmp_path: Path) -> None:
    wrong = head.submit(*QUICK, cwd=tmp_path, RAY_AUTH_TOKEN="x" * 64)
    assert wrong.returncode == 2
    assert "refuses the token of RAY_AUTH_TOKEN" in wrong.stderr
    none = head.submit(*QUICK, cwd=tmp_path, RAY_AUTH_TOKEN="")
    assert none.returncode == 2
    assert "asks for a token" in none.stderr
    for told in (wrong.stderr, none.stderr):
        assert len(told.strip().splitlines()[-1]) < 250
        assert "Traceback" not in told
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    given = head.submit(
        "--token-file", str(file), "--follow", "nothing", cwd=tmp_path, RAY_AUTH_TOKEN="x" * 64
    )
    # the file counts more than the variable: the cluster answered
    assert given.returncode == 2
    assert "has no job nothing" in given.stderr


@contextmanager
def pretender(version: str) -> Iterator[str]:
    """A dashboard that says it is of another version."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps({"version": "4", "ray_version": version}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if version else b"x" * len(content))

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def submit_here(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "submit.py"), *words],
        cwd=cwd,
        env={**clean, "HOME": str(cwd), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_is_no_such_cluster_is_one_sentence(tmp_path: Path) -> None:
    port = free_ports(1)
    with pretender("2.9.3") as old, pretender("") as stranger:
        for address, sentence in (
            (f"http://127.0.0.1:{port}", "nothing answers at"),
            (old, "the cluster runs Ray 2.9.3"),
            (stranger, "no dashboard of Ray"),
            ("head:6379", "jobs go to the dashboard"),
            ("http://me:secret@127.0.0.1", "an address holds no credentials"),
        ):
            # what is named counts more than the environment
            done = submit_here(
                "--address", address, *QUICK, cwd=tmp_path, RAY_ADDRESS="http://127.0.0.1:1"
            )
            assert done.returncode == 2, address
            assert sentence in done.stderr, done.stderr
            assert done.stderr.splitlines()[-1].startswith("error: ")
            assert "Traceback" not in done.stderr
            assert "secret" not in done.stderr
    nowhere = submit_here(*QUICK, cwd=tmp_path)
    assert nowhere.returncode == 2
    assert "no cluster is named" in nowhere.stderr


def test_a_dry_run_says_what_would_be_sent(tmp_path: Path) -> None:
    done = submit_here("--dry-run", *QUICK, "storage.root=s3://b/p", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "python jobs/tune_shots.py study=smoke" in done.stdout
    names = {line.strip() for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {"jobs/tune_shots.py", "jobs/studies/smoke.yaml"} <= names
    files = {name for name in names if "/" in name and " " not in name}
    assert all(name.split("/")[0] in ("ssprompt_core", "platform", "jobs") for name in files)
    assert not any("__pycache__" in name for name in files)
    assert "note" not in done.stderr


def test_mistakes_are_found_before_anything_is_sent(tmp_path: Path) -> None:
    key = secrets.token_hex(20)
    for words, sentence in (
        (["study=smoke", "search.trails=4"], "unknown key"),
        (["study=nothing.yaml"], "no such file"),
        (["study=smoke", f"tracking.uri=postgresql://me:{key}@db/m"], "holds a password"),
        (["study=smoke", f"study.id={key}"], "a credential"),
    ):
        done = submit_here(
            "--address", "http://127.0.0.1:1", *words, cwd=tmp_path, RAY_AUTH_TOKEN=key
        )
        assert done.returncode == 2, words
        assert sentence in done.stderr, done.stderr
        assert key not in done.stdout + done.stderr
    for content, sentence in ((b"", "does not hold one token"), (b"\xff\xfe", "not readable")):
        (tmp_path / "token").write_bytes(content)
        done = submit_here(
            "--address", "http://127.0.0.1:1", "--token-file", "token", *QUICK, cwd=tmp_path
        )
        assert done.returncode == 2
        assert sentence in done.stderr
    missing = submit_here("--address", "http://h", "--token-file", "none", *QUICK, cwd=tmp_path)
    assert "there is no token file" in missing.stderr


def test_the_token_is_on_no_command_line(head: Head, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "submit.py"), "--token-file", str(file),
         *MISTAKEN],
        cwd=tmp_path,
        env={**head.environment, "RAY_AUTH_TOKEN": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    seen = set()
    while process.poll() is None:
        for each in psutil.process_iter():
            try:
                seen.add(" ".join(each.cmdline()))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        time.sleep(0.2)
    assert process.returncode == 2
    assert any("submit.py" in line for line in seen)
    assert not any(TOKEN in line for line in seen)
