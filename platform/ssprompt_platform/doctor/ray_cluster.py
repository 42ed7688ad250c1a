"""Whether Ray can be joined or started, and whether each of its machines can do the work."""

from __future__ import annotations

import os
import platform
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ssprompt_core.errors import UserError
from ssprompt_platform.cluster import connected, resolve_resources
from ssprompt_platform.doctor.findings import (
    Finding,
    Subject,
    clock,
    fail,
    of_sentence,
    ok,
    size,
    warn,
)
from ssprompt_platform.doctor.folder_probe import LEAST_FREE, existing
from ssprompt_platform.doctor.node import PACKAGES, Errand, Seen, examine, version_of
from ssprompt_platform.doctor.probes import PROBE
from ssprompt_platform.machines import cluster_machines, total
from ssprompt_platform.storage import Place

ADDRESS = "RAY_ADDRESS"
NODE_SECONDS = 120.0
"""How long a machine may take: it may have to start a worker."""
_JOIN_SECONDS = 5.0
_CLOCK_SECONDS = 30.0
"""More, and the lease on a study of a bucket or the times of runs would puzzle."""
_SCHEMES = ("http://", "https://")


def address(subject: Subject) -> Iterator[Finding]:
    """Whether ``RAY_ADDRESS`` leads anywhere; takes no cluster."""
    named = os.environ.get(ADDRESS)
    finding = ok("Ray", f"{ADDRESS} is not set: a study starts a cluster of its own here")
    if named:
        finding = wrong_address(named) or ok("Ray", f"something answers at {ADDRESS}={named}")
    # what is joined below tells more
    if subject.fast or finding.mend:
        yield finding


def wrong_address(named: str) -> Finding | None:
    """What is wrong with an address of a cluster; joining would take minutes to tell."""
    if named in ("auto", "local"):
        return None
    if named.startswith(_SCHEMES):
        return fail(
            "Ray",
            f"{ADDRESS}={named} is a dashboard's address, for 'ray job submit' only",
            f"unset {ADDRESS} (or {ADDRESS}=host:6379), or submit the study as a job",
        )
    if named.startswith("ray://"):
        return fail(
            "Ray",
            f"{ADDRESS}={named} is of Ray Client, through which no study runs",
            "submit the study as a job: ray job submit --address http://host:8265 ...",
        )
    host, _, port = named.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _JOIN_SECONDS).close()
    except ValueError:
        return fail("Ray", f"{ADDRESS}={named} is no address", f"{ADDRESS}=host:6379")
    except OSError as error:
        return fail(
            "Ray",
            f"nothing answers at {ADDRESS}={named} ({error.strerror or error})",
            "ray start --head --port 6379 (there), or unset RAY_ADDRESS",
        )
    return None


def cluster(subject: Subject) -> Iterator[Finding]:
    """Join or start the cluster and look at every machine of it."""
    named = os.environ.get(ADDRESS)
    if named and wrong_address(named):
        return  # told already
    try:
        with connected():
            yield from _joined(subject, named)
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        yield not_joined(error, named)


def not_joined(error: Exception, named: str | None) -> Finding:
    """The line about a cluster that could not be joined or started."""
    text = " ".join(str(error).split())
    what = f"{ADDRESS}={named} cannot be joined" if named else "no cluster can be started here"
    if "ersion mismatch" in text:
        return fail(
            "Ray",
            f"{what}: it runs another version of Ray or Python ({text[-160:]})",
            f"use Ray {ray.__version__} and Python {platform.python_version()} on every machine",
        )
    if "oken" in text and "auth" in text.lower():
        return fail(
            "Ray",
            f"{what}: it asks for a token",
            "export RAY_AUTH_MODE=token, and the "
            "cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token",
        )
    return fail(
        "Ray",
        f"{what} ({type(error).__name__})",
        "look into the logs of Ray: "
        "/tmp/ray/session_latest/logs; 'ray status' shows a cluster that runs",
    )


def _joined(subject: Subject, named: str | None) -> Iterator[Finding]:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    machines = cluster_machines()
    what = f"{named} joined" if named else "a cluster of its own starts here"
    yield ok(
        "Ray",
        f"{what}: Ray {ray.__version__}, {len(nodes)} machines, "
        f"{total(machines, 'CPU'):g} CPUs, {total(machines, 'GPU'):g} GPUs",
    )
    try:
        resources = resolve_resources(subject.config.train, machines)
    except UserError as error:
        yield of_sentence("workers", str(error))
    else:
        yield ok(
            "workers",
            f"{resources.workers} x ({resources.cpus_per_worker} CPUs, "
            f"{resources.gpus_per_worker:g} GPUs) on {resources.device}",
        )
    with _errand(subject.root) as errand:
        yield from _examined(nodes, errand)


@contextmanager
def _errand(root: Place) -> Iterator[Errand]:
    """A probe that other machines see where a local root is shared."""
    if not isinstance(root, Path):
        yield Errand(root)
        return
    probe, content = existing(root) / f"{PROBE}{secrets.token_hex(8)}", secrets.token_bytes(32)
    try:
        try:
            probe.write_bytes(content)
        except OSError:
            # told by the check of the storage
            yield Errand(root)
            return
        yield Errand(root, probe, content)
    finally:
        if probe.exists():
            probe.unlink()


def _examined(nodes: list[dict[str, Any]], errand: Errand) -> Iterator[Finding]:
    asked: dict[Any, tuple[str, float]] = {}
    # a worker of its own for each look, which takes neither a CPU nor, later, memory of a GPU
    look = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(examine)
    for node in nodes:
        task = look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        )
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        asked[task.remote(errand)] = (name, time.time())
    resources = {n["NodeManagerHostname"]: n.get("Resources", {}) for n in nodes}
    waiting, deadline = list(asked), time.monotonic() + NODE_SECONDS
    while waiting and time.monotonic() < deadline:
        done, waiting = ray.wait(waiting, timeout=max(0.1, deadline - time.monotonic()))
        for reference in done:
            name, before = asked[reference]
            try:
                seen = ray.get(reference)
            except ray.exceptions.RayError as error:
                yield broken(name, error)
                continue
            given = resources.get(seen.host, {})
            yield from of_node(name, seen, before, time.time(), given, errand)
    for reference in waiting:
        yield fail(
            f"node {asked[reference][0]}",
            f"no answer in {NODE_SECONDS:.0f} s",
            "look at its load, and into /tmp/ray/session_latest/logs there",
        )


def broken(name: str, error: Exception) -> Finding:
    """The line about a machine on which the look itself failed."""
    text = str(error)
    if "ModuleNotFoundError" in text or "ImportError" in text:
        return fail(
            f"node {name}",
            "this project, or a package of it, is not installed there",
            "install it there as here (make setup), or submit the study as a job with its "
            "working directory",
        )
    return fail(
        f"node {name}",
        f"the look at it failed ({type(error).__name__})",
        "look into /tmp/ray/session_latest/logs there",
    )


def of_node(
    name: str,
    seen: Seen,
    before: float,
    after: float,
    given: Mapping[str, float],
    errand: Errand,
) -> Iterator[Finding]:
    """The lines about one machine.

    Args:
        name: Of the machine.
        seen: What it says.
        before: This machine's clock when it was asked.
        after: The same when its answer was there.
        given: Resources that Ray gives there.
        errand: What it was asked.
    """
    line = f"node {name}"
    here = {package: version_of(package) for package in PACKAGES}
    others = [
        f"{p} {seen.packages[p]} (here {v})" for p, v in here.items() if seen.packages[p] != v
    ]
    if seen.python.rpartition(".")[0] != platform.python_version().rpartition(".")[0]:
        others.insert(0, f"Python {seen.python} (here {platform.python_version()})")
    if others:
        yield warn(
            line,
            f"other versions there: {', '.join(others)}",
            "install the same there: pip install -c constraints.txt -e .",
        )
    if seen.storage:
        yield of_sentence(line, seen.storage)
    ahead = seen.seconds - after if seen.seconds > after else min(0.0, seen.seconds - before)
    if abs(ahead) > _CLOCK_SECONDS:
        yield clock(line, ahead, name, _CLOCK_SECONDS)
    if seen.free < LEAST_FREE:
        yield fail(
            line,
            f"{size(seen.free)} free for {seen.cache}",
            "free space there, or set SSPROMPT_CACHE to another disk",
        )
    gpus = int(given.get("GPU", 0))
    if gpus > seen.gpus or (seen.driver and not seen.gpus):
        yield (fail if gpus else warn)(
            line,
            f"Ray counts {gpus} GPUs, torch sees {seen.gpus} there",
            "install a torch for that machine's driver (https://pytorch.org/get-started)",
        )
    if not others and not seen.storage:
        shared = "" if errand.probe is None else ", the same folder as here"
        yield ok(
            line,
            f"reaches {errand.root}{shared}; {size(seen.free)} free for its cache, "
            f"{seen.gpus} GPUs",
        )
