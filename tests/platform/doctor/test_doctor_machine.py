"""What the doctor says of this machine, of Ray and of each machine of a cluster."""

from __future__ import annotations

import importlib.metadata
import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from rich.console import Console
from small_disks import fill, mounted

from ssprompt_platform.config import load_config
from ssprompt_platform.doctor import machine
from ssprompt_platform.doctor.examine import CHECKS, as_json, examine, failed, show, summary
from ssprompt_platform.doctor.findings import (
    Check,
    Finding,
    State,
    Subject,
    clock,
    fail,
    of_sentence,
    ok,
    size,
    warn,
)
from ssprompt_platform.doctor.node import Errand, Seen, version_of
from ssprompt_platform.doctor.node import examine as examine_here
from ssprompt_platform.doctor.ray_cluster import (
    address,
    broken,
    cluster,
    not_joined,
    of_node,
    wrong_address,
)
from ssprompt_platform.storage import Place, S3Path, storage_root

ROOT = Path(__file__).resolve().parents[3]


def subject(root: Place, *words: str, fast: bool = False) -> Subject:
    config = load_config([f"storage.root={root}", *words], ROOT / "jobs" / "studies")
    return Subject(config, storage_root(config.storage.root), fast)


def test_this_environment_is_as_the_project_declares(tmp_path) -> None:
    python, packages = machine.versions(subject(tmp_path))
    assert python.state is packages.state is State.OK
    assert f"ray {ray.__version__}" in packages.found


def test_packages_that_do_not_fit_are_all_named() -> None:
    there = importlib.metadata.version("numpy")
    finding = machine.packages(
        ["numpy>=999", "no-such-package>=1", "rich", "other>=1; extra == 'dev'"]
    )
    assert finding.state is State.FAIL
    assert finding.found == f"numpy is {there}, wanted >=999; no-such-package is missing"
    assert "make setup" in finding.mend


def test_a_gpu_that_is_asked_for_and_missing_fails(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(machine, "_DRIVER", tmp_path / "none")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (found,) = machine.gpu(subject(tmp_path, "train.device=cuda"))
    assert (found.state, found.mend) == (State.FAIL, "train.device=auto")
    (found,) = machine.gpu(subject(tmp_path))
    assert found.state is State.OK


def test_a_driver_that_torch_does_not_see_is_a_warning(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(machine, "_DRIVER", tmp_path)
    (found,) = machine.gpu(subject(tmp_path))
    assert found.state is State.WARN
    assert "torch sees no GPU" in found.found
    (found,) = machine.gpu(subject(tmp_path, "train.device=cuda"))
    assert found.state is State.FAIL


def test_a_small_disk_is_told(tmp_path, monkeypatch) -> None:
    with mounted(tmp_path / "disk", "size=200m") as disk:
        by_name = {each.name: each for each in machine.disks(subject(disk / "runs"))}
        assert by_name["disk of storage.root"].state is State.WARN
        assert (
            "199" in by_name["disk of storage.root"].found
            or "200" in by_name["disk of storage.root"].found
        )
        fill(disk)
        by_name = {each.name: each for each in machine.disks(subject(disk / "runs"))}
        assert by_name["disk of storage.root"].state is State.FAIL
        monkeypatch.setenv("SSPROMPT_CACHE", str(disk / "cache"))
        names = [each.name for each in machine.disks(subject(disk / "runs"))]
        assert "disk of storage.root, cache" in names
        # of a bucket the cache alone counts
        names = [each.name for each in machine.disks(subject(S3Path("bucket")))]
        assert "disk of cache" in names


def test_little_shared_memory_is_a_warning(tmp_path) -> None:
    with mounted(tmp_path / "shm", "size=64m") as folder:
        finding = machine.shared_memory(folder)
    assert finding.state is State.WARN
    assert "--shm-size" in finding.mend
    assert machine.shared_memory(tmp_path / "none").state is State.OK


def test_few_open_files_are_a_warning() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))\n"
        "from ssprompt_platform.doctor.machine import limits\n"
        "print(next(iter(limits(None))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "WARN" in done.stdout
    assert "1000 may be open at once" in done.stdout
    assert "ulimit -n 1000" in done.stdout


# ---- what is found is shown ----------------------------------------------------------------------

FOUND = [ok("disk", "large"), warn("MLflow", "down", "start it"), fail("S3", "full", "clear up")]


def test_a_check_that_breaks_is_a_line_and_the_others_go_on(tmp_path) -> None:
    def broken_check(_: Subject) -> list[Finding]:
        raise RuntimeError("secret")

    checks = [
        Check("one", broken_check),
        Check("two", lambda _: [ok("two", "fine")]),
        Check("slow", lambda _: [ok("slow", "fine")], slow=True),
    ]
    found = list(examine(subject(tmp_path, fast=True), checks))
    assert [(each.name, each.state) for each in found] == [
        ("one", State.FAIL),
        ("two", State.OK),
    ]
    assert "RuntimeError" in found[0].found
    assert "secret" not in repr(found)
    assert len(list(examine(subject(tmp_path), checks))) == 3


def test_a_pipe_gets_plain_lines(capsys) -> None:
    show(FOUND, Console())
    assert capsys.readouterr().out == (
        "OK    disk    large\n"
        "WARN  MLflow  down\n"
        "              -> start it\n"
        "FAIL  S3      full\n"
        "              -> clear up\n"
        "1 OK, 1 WARN, 1 FAIL: a study would not run; mend what fails\n"
    )


def test_a_terminal_gets_a_table(capsys) -> None:
    show(FOUND, Console(force_terminal=True, width=60, color_system="standard"))
    out = capsys.readouterr().out
    assert "\x1b[31mFAIL" in out
    assert "-> clear up" in out


def test_programs_get_json() -> None:
    told = json.loads(as_json(FOUND))
    assert told["fails"] is True
    assert told["findings"][1] == {
        "name": "MLflow", "state": "WARN", "found": "down", "mend": "start it",
    }  # fmt: skip
    assert not failed(FOUND[:2])
    assert summary(FOUND[:2]) == "1 OK, 1 WARN: a study can run"


def test_a_sentence_becomes_what_was_found_and_what_to_do() -> None:
    finding = of_sentence("S3", "s3://b: no; room left; free some")
    assert (finding.found, finding.mend) == ("s3://b: no; room left", "free some")
    assert of_sentence("S3", "broken").found == "broken"


@pytest.mark.parametrize(
    ("ahead", "state"),
    [(0.4, State.OK), (-59, State.OK), (61, State.WARN), (-899, State.WARN), (901, State.FAIL)],
)
def test_a_clock_fails_where_signatures_would(ahead, state) -> None:
    assert clock("S3 clock", ahead, "server", 60).state is state


def test_sizes_are_for_people() -> None:
    assert [size(count) for count in (0, 1023, 1536, 5 * 2**30, 2**50)] == [
        "0 bytes", "1023 bytes", "1.5 KiB", "5.0 GiB", "1024.0 TiB",
    ]  # fmt: skip


# ---- Ray -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "part"),
    [
        ("http://head:8265", "a dashboard's address"),
        ("ray://head:10001", "Ray Client"),
        ("head", "is no address"),
        ("head.invalid:6379", "nothing answers"),
    ],
)
def test_an_address_that_leads_nowhere_is_told_at_once(named, part) -> None:
    finding = wrong_address(named)
    assert finding is not None
    assert finding.state is State.FAIL
    assert part in finding.found


def test_an_address_is_tried(tmp_path, monkeypatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", where)
        (finding,) = address(subject(tmp_path))
        assert finding.state is State.FAIL
        assert list(cluster(subject(tmp_path))) == []
        server.listen()
        assert wrong_address(where) is None
    monkeypatch.delenv("RAY_ADDRESS")
    assert wrong_address("auto") is None
    (finding,) = address(subject(tmp_path, fast=True))
    assert "is not set" in finding.found


def test_what_joining_fails_with_is_told_apart() -> None:
    mismatch = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.10.1\n"
    )
    finding = not_joined(mismatch, "head:6379")
    assert "another version of Ray or Python" in finding.found
    assert "2.9.0" in finding.found
    assert ray.__version__ in finding.mend
    token = RuntimeError("Authentication failed: no token was found")
    assert "RAY_AUTH_MODE=token" in not_joined(token, "head:6379").mend
    assert "no cluster can be started here" in not_joined(ConnectionError("secret"), None).found


def test_every_machine_of_a_cluster_is_looked_at(ray_cluster, tmp_path) -> None:
    found = list(cluster(subject(tmp_path / "runs")))
    assert [each.state for each in found] == [State.OK] * 3
    ray_line, workers, node = found
    assert "1 machines, 2 CPUs" in ray_line.found
    assert workers.found == "2 x (1 CPUs, 0 GPUs) on cpu"
    assert f"reaches {tmp_path / 'runs'}, the same folder as here" in node.found
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_that_is_busy_is_looked_at_all_the_same(ray_cluster, tmp_path) -> None:
    @ray.remote
    class Busy:
        def here(self) -> bool:
            return True

    actors = [Busy.options(num_cpus=1).remote() for _ in range(2)]
    try:
        ray.get([actor.here.remote() for actor in actors])
        assert not failed(list(cluster(subject(tmp_path))))
    finally:
        for actor in actors:
            ray.kill(actor)


def test_a_machine_that_lacks_the_storage_fails(ray_cluster) -> None:
    # its workers have no credentials, or those of another server
    found = list(cluster(subject(S3Path("no-bucket-of-this-name"))))
    assert found[-1].state is State.FAIL
    assert found[-1].name.startswith("node ")
    assert "s3://no-bucket-of-this-name: " in found[-1].found


def test_more_than_the_cluster_has_is_told(ray_cluster, tmp_path) -> None:
    found = list(cluster(subject(tmp_path, "train.cpus_per_worker=64")))
    (workers,) = [each for each in found if each.name == "workers"]
    assert workers.state is State.FAIL
    assert "train.cpus_per_worker is 64" in workers.found


def test_a_folder_that_is_not_shared_is_told(tmp_path) -> None:
    seen = examine_here(Errand(tmp_path, tmp_path / ".probe", b"written elsewhere"))
    assert "another folder there than here" in seen.storage
    (tmp_path / ".probe").write_bytes(b"other")
    seen = examine_here(Errand(tmp_path, tmp_path / ".probe", b"written elsewhere"))
    assert "another folder there than here" in seen.storage
    (tmp_path / ".probe").write_bytes(b"written elsewhere")
    assert examine_here(Errand(tmp_path, tmp_path / ".probe", b"written elsewhere")).storage == ""


SEEN = Seen(
    host="far",
    seconds=1000.0,
    python=".".join(map(str, sys.version_info[:3])),
    packages={name: version_of(name) for name in ("torch", "ray", "pyarrow", "numpy")},
    storage="",
    cache="/cache",
    free=2**40,
)


def lines(seen: Seen, **given: float) -> list[Finding]:
    return list(of_node("far", seen, 999.0, 1001.0, given, Errand(S3Path("bucket"))))


def test_a_machine_that_is_fine_has_one_line() -> None:
    (line,) = lines(SEEN)
    assert line.state is State.OK
    assert "reaches s3://bucket; 1.0 TiB free" in line.found


@pytest.mark.parametrize(
    ("change", "given", "state", "part"),
    [
        ({"python": "3.10.1"}, {}, State.WARN, "Python 3.10.1 (here 3."),
        ({"packages": {**SEEN.packages, "torch": "1.0"}}, {}, State.WARN, "torch 1.0 (here"),
        ({"storage": "s3://bucket: no keys; set them"}, {}, State.FAIL, "no keys"),
        ({"seconds": 2000.0}, {}, State.FAIL, "999 s ahead"),
        ({"seconds": 900.0}, {}, State.WARN, "99 s behind"),
        ({"free": 1000}, {}, State.FAIL, "1000 bytes free for /cache"),
        ({"gpus": 0}, {"GPU": 2.0}, State.FAIL, "Ray counts 2 GPUs, torch sees 0"),
        ({"driver": True}, {}, State.WARN, "Ray counts 0 GPUs, torch sees 0"),
    ],
)
def test_what_is_wrong_with_a_machine_is_told(change, given, state, part) -> None:
    first = lines(replace(SEEN, **change), **given)[0]
    assert first.state is state
    assert part in first.found
    assert first.mend


def test_a_machine_without_the_project_is_told() -> None:
    @ray.remote
    def needs() -> None:
        import no_such_module  # noqa: F401

    missing = ModuleNotFoundError("No module named 'ssprompt_platform'")
    assert "is not installed there" in broken("far", RuntimeError(repr(missing))).found
    assert "the look at it failed" in broken("far", RuntimeError("other")).found


def test_the_checks_are_in_an_order_that_tells_the_cause_first() -> None:
    names = [check.name for check in CHECKS]
    assert names.index("disks") < names.index("storage") < names.index("MLflow")
    assert [check.name for check in CHECKS if check.slow] == ["Ray"]
