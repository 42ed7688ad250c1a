"""Runs the checks in their order and shows what they find."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ssprompt_platform.doctor.findings import Check, Finding, State, Subject
from ssprompt_platform.doctor.machine import disks, gpu, limits, versions
from ssprompt_platform.doctor.ray_cluster import address, cluster
from ssprompt_platform.doctor.storage import storage
from ssprompt_platform.doctor.tracking import mlflow

CHECKS = (
    Check("versions", versions),
    Check("limits", limits),
    Check("GPU", gpu),
    Check("disks", disks),
    Check("storage", storage),
    Check("MLflow", mlflow),
    Check("Ray", address),
    Check("Ray", cluster, slow=True),
)
"""Everything that is looked at; what is quick and what others stand on comes first."""
_COLOURS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "red"}


def examine(subject: Subject, checks: Sequence[Check] = CHECKS) -> Iterator[Finding]:
    """What all checks find."""
    for check in checks:
        yield from check.findings(subject)


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print a table in a terminal, else a line each and below it how it is mended."""
    if console.is_terminal:
        console.print(_table(findings))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            _plain(console, f"{finding.state:<4}  {finding.name:<{width}}  {finding.found}")
            if finding.mend:
                _plain(console, f"      {'':<{width}}  -> {finding.mend}")
    _plain(console, summary(findings))


def as_json(findings: Sequence[Finding]) -> str:
    """The same for programs."""
    rows = [
        {"name": each.name, "state": each.state, "found": each.found, "mend": each.mend}
        for each in findings
    ]
    return json.dumps({"findings": rows, "fails": failed(findings)}, indent=1)


def failed(findings: Sequence[Finding]) -> bool:
    """Whether something keeps a study from running."""
    return any(finding.state is State.FAIL for finding in findings)


def summary(findings: Sequence[Finding]) -> str:
    """One sentence on all of it."""
    counts = Counter(finding.state for finding in findings)
    told = ", ".join(f"{counts[state]} {state}" for state in State if counts[state])
    if failed(findings):
        return f"{told}: a study would not run; mend what fails"
    return f"{told}: a study can run"


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding.found)
        if finding.mend:
            text.append(f"\n-> {finding.mend}", style="bold")
        state = Text(finding.state, style=_COLOURS[finding.state])
        table.add_row(state, Text(finding.name), text)
    return table


def _plain(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
