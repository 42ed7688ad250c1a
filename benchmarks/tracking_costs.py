"""What it costs to tell MLflow of metrics: the table of docs/tracking.md.

    python benchmarks/tracking_costs.py                       # sqlite, and a server on it
    python benchmarks/tracking_costs.py --postgres            # and on a Postgres of this machine
    python benchmarks/tracking_costs.py --seconds 5           # longer, steadier

Every way writes to every store in turn, several times over, so that what else the machine does
falls on all of them. Figures are metrics per second, the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from ssprompt_platform.servers.mlflow_server import MlflowServer
from ssprompt_platform.servers.processes import free_ports
from ssprompt_platform.tracking.journal import Journal

Write = Callable[[MlflowClient, str, int], int]
"""Writes metrics into a run, the first with this number; returns how many."""


def one_by_one(client: MlflowClient, run: str, first: int) -> int:
    client.log_metric(run, "loss", 0.5, step=first)
    return 1


def batches_of(size: int) -> Write:
    def write(client: MlflowClient, run: str, first: int) -> int:
        now = int(time.time() * 1000)
        metrics = [Metric("loss", 0.5, now, first + number) for number in range(size)]
        client.log_batch(run, metrics=metrics)
        return size

    return write


WAYS: Mapping[str, Write] = {
    "one by one": one_by_one,
    "batches of 10": batches_of(10),
    "batches of 100": batches_of(100),
    "batches of 1,000": batches_of(1000),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of each way, store and round")
    parser.add_argument("--rounds", type=int, default=5, help="how often all of them are measured")
    parser.add_argument("--postgres", action="store_true", help="start a Postgres of Debian too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tracking-costs-") as folder, ExitStack() as stack:
        stores = stack.enter_context(_stores(Path(folder), options.postgres))
        rates = measure(stores, options.seconds, options.rounds)
        journal = statistics.median(
            journal_rate(Path(folder) / f"journal-{number}", options.seconds)
            for number in range(options.rounds)
        )
    Console(width=120).print(table(rates, journal))


def measure(
    stores: Mapping[str, str], seconds: float, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Metrics per second by store and way, a value a round."""
    clients = {name: MlflowClient(uri) for name, uri in stores.items()}
    rates: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in stores}
    for number in range(rounds + 1):
        for name, client in clients.items():
            experiment = client.create_experiment(f"costs-{number}")
            for way, write in WAYS.items():
                run = client.create_run(experiment).info.run_id
                rate = _rate(lambda first, c=client, r=run, w=write: w(c, r, first), seconds)
                if number:  # the first round makes connections and files
                    rates[name][way].append(rate)
    return rates


def journal_rate(folder: Path, seconds: float) -> float:
    """Metrics per second that the driver of a study writes down, an epoch's three at once."""
    journal = Journal(folder, "benchmark")

    def write(first: int) -> int:
        journal.append("metrics", key="trial", values=[["loss", first, 0.5]] * 3)
        return 3

    try:
        return _rate(write, seconds)
    finally:
        journal.close()


def table(rates: Mapping[str, Mapping[str, list[float]]], journal: float) -> Table:
    """A row per way, with how many times faster than one by one it is."""
    shown = Table("metrics per second", *rates, box=MARKDOWN)
    for way in WAYS:
        cells = []
        for ways in rates.values():
            rate, single = statistics.median(ways[way]), statistics.median(ways["one by one"])
            cells.append(
                f"{rate:,.0f}" + (f" (x {rate / single:,.0f})" if way != "one by one" else "")
            )
        shown.add_row(way, *cells)
    shown.add_row("written down by the study", *([f"{journal:,.0f}"] * len(rates)))
    return shown


def _rate(write: Callable[[int], int], seconds: float) -> float:
    begun, done, passed = time.perf_counter(), 0, 0.0
    while passed < seconds:
        done += write(done)
        passed = time.perf_counter() - begun
    return done / passed


@contextmanager
def _stores(folder: Path, postgres: bool) -> Iterator[dict[str, str]]:
    """Addresses of the stores, by what they are."""
    databases = {"sqlite": f"sqlite:///{folder / 'direct.db'}"}
    backends = {"server on sqlite": f"sqlite:///{folder / 'served.db'}"}
    with ExitStack() as stack:
        if postgres:
            # a server of its own, as the tests start it
            sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
            from servers import PostgresServer, postgres_programs

            programs = postgres_programs()
            if programs is None:
                sys.exit("error: Postgres is not installed; on Debian: apt install postgresql")
            server = PostgresServer(programs)
            stack.callback(server.close)
            server.create()
            server.start()
            for name in ("direct", "served"):
                server.execute(f"create database {name}")
            databases["Postgres"] = server.database_url("direct")
            backends["server on Postgres"] = server.database_url("served")
        stores = dict(databases)
        for name, backend in backends.items():
            own = folder / name.replace(" ", "-")
            own.mkdir()
            served = MlflowServer(own, backend, own / "artifacts", port=free_ports(1))
            stack.callback(served.kill)
            served.start()
            stores[name] = served.uri
        yield stores


if __name__ == "__main__":
    main()
