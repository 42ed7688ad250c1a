"""The commands of docs/operations.md that keep MLflow's record, on real databases."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

from mlflow import MlflowClient
from samples import ROOT
from servers import postgres_programs

TEXT = (ROOT / "docs/operations.md").read_text()


def command(program: str) -> str:
    """A command of the page that begins so, without its comment."""
    found = re.search(rf"^({re.escape(program)} .*?)(?:\s+# .*)?$", TEXT, re.M)
    assert found, f"docs/operations.md has no command of {program}"
    return found[1]


def run(line: str, folder: Path, **variables: str) -> None:
    programs = postgres_programs()
    path = [str(Path(sys.executable).parent), *([str(programs)] if programs else [])]
    done = subprocess.run(
        ["bash", "-euc", line],
        cwd=folder,
        env={"PATH": ":".join([*path, "/usr/bin", "/bin"]), "HOME": str(folder), **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def logged(uri: str, score: float) -> str:
    client = MlflowClient(uri)
    made = client.create_run("0")
    client.log_metric(made.info.run_id, "selection.miou", score)
    client.set_terminated(made.info.run_id)
    return str(made.info.run_id)


def scores(uri: str) -> dict[str, float]:
    runs = MlflowClient(uri).search_runs(["0"])
    return {each.info.run_id: each.data.metrics["selection.miou"] for each in runs}


def test_a_dump_brings_back_the_record_and_the_upgrade_runs_on_it(
    postgres_database: str, tmp_path: Path
) -> None:
    kept = logged(postgres_database, 0.5)
    # the tools of Postgres know nothing of SQLAlchemy's drivers
    plain = re.sub(r"^postgresql\+\w+:", "postgresql:", postgres_database)
    run(command("pg_dump"), tmp_path, DATABASE_URL=plain)
    logged(postgres_database, 0.1)
    MlflowClient(postgres_database).delete_run(kept)
    run(command("pg_restore"), tmp_path, DATABASE_URL=plain)
    assert scores(postgres_database) == {kept: 0.5}
    upgrade = re.search(r'`(mlflow db upgrade "\$DATABASE_URL")`', TEXT)
    assert upgrade
    run(upgrade[1], tmp_path, DATABASE_URL=postgres_database)
    assert scores(postgres_database) == {kept: 0.5}


def test_a_copy_of_the_file_of_one_machine_is_whole_while_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    database = tmp_path / "runs/mlflow.db"
    kept = logged(f"sqlite:///{database}", 0.5)
    with sqlite3.connect(database) as open_still:
        open_still.execute("select 1 from runs").fetchone()
        run(command(".venv/bin/python -c").removeprefix(".venv/bin/"), tmp_path)
    assert scores(f"sqlite:///{tmp_path / 'mlflow-copy.db'}") == {kept: 0.5}
