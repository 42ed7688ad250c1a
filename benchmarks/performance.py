"""Make docs/performance.md: every part's table, all of them measured in one run.

    python benchmarks/performance.py                    # all parts; writes docs/performance.md
    python benchmarks/performance.py --quick            # fewer rounds; prints the page
    python benchmarks/performance.py --only step draws  # some parts; prints the page
    python benchmarks/performance.py --quick --output page.md

Each part runs in a process of its own, one after another. Leave the machine alone meanwhile. A part
that fails is named on the page and makes the exit code 1; the others go on. The page appears whole
or not at all.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import jinja2

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from benchmarks.parts.part import Part  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
TEMPLATE = ROOT / "benchmarks" / "performance.md.jinja"
PACKAGE = "benchmarks.parts"
PARTS = ("start_up", "embeddings", "step", "draws", "trial_overhead", "scale", "peers")
"""In the order of the page; a part is the module of its name in `benchmarks/parts`."""
_LIMITS = {True: 300, False: 1200}
"""Seconds after which a part is given up, quick or not: what hangs must not hold up the rest."""
_PATIENCE = 30
_SHOWN_LINES = 12
"""Of what a failed part said, on the page."""


@dataclass(frozen=True)
class Outcome:
    """What became of a part.

    Attributes:
        name: Of the part.
        seconds: That it took.
        part: Its table; None where it failed.
        failure: The end of what it said, where it failed.
    """

    name: str
    seconds: float
    part: Part | None
    failure: str = ""


def main(arguments: Sequence[str]) -> int:
    """Measure and write; return the exit code."""
    options = _parser().parse_args(arguments)
    known = [name for name in PARTS if find_spec(f"{PACKAGE}.{name}")]
    names = list(dict.fromkeys(options.only)) if options.only else known
    begun = datetime.now(UTC)
    outcomes = []
    for number, name in enumerate(names, 1):
        _say(f"[{number}/{len(names)}] {name} ...")
        outcomes.append(run_part(f"{PACKAGE}.{name}", quick=options.quick))
        _say(f"[{number}/{len(names)}] {name}: {_ending(outcomes[-1])}")
    text = page(outcomes, begun, [*arguments], quick=options.quick)
    # a page of some parts or of few rounds must not take the place of the whole one unasked
    whole = not options.quick and names == known
    output = options.output or (PAGE if whole else None)
    if output is None:
        print(text)
    else:
        write_whole(output, text)
        _say(f"wrote {output}")
    failed = [outcome.name for outcome in outcomes if outcome.part is None]
    if failed:
        _say(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def run_part(module: str, *, quick: bool, limit: float | None = None) -> Outcome:
    """Measure a part in a process of its own; what it says is shown as it says it.

    Args:
        module: Its module.
        quick: Whether to ask for fewer rounds.
        limit: Seconds after which it is given up; None: the usual ones.
    """
    name, begun = module.rpartition(".")[2], time.monotonic()
    limit = limit or _LIMITS[quick]
    with tempfile.TemporaryDirectory(prefix="performance-") as folder:
        made = Path(folder) / "part.json"
        command = [sys.executable, "-u", "-m", module, "--json", str(made)]
        process = subprocess.Popen(
            [*command, "--quick"] if quick else command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": _python_path()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        last: deque[str] = deque(maxlen=_SHOWN_LINES)
        shower = Thread(target=_show, args=(process, last), daemon=True)
        shower.start()
        end = _wait(process, limit)
        # what the part left running may hold its output open: that is not waited for
        shower.join(timeout=2)
        part = None
        if not end:
            try:
                part = Part.from_json(made.read_text())
            except (OSError, ValueError) as error:
                end = f"it wrote no table: {error}"
    return Outcome(name, time.monotonic() - begun, part, "\n".join([*last, end]) if end else "")


def _wait(process: subprocess.Popen[str], limit: float) -> str:
    """Wait for a part; returns what is wrong with how it ended, or nothing."""
    try:
        code = process.wait(timeout=limit)
        return f"it ended with code {code}" if code else ""
    except BaseException as error:
        # as Ctrl-C, so that it ends what it has started
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return f"it took longer than {limit:g} seconds"


def _show(process: subprocess.Popen[str], last: deque[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        last.append(line.rstrip())
        _say(f"    {last[-1]}")


def _python_path() -> str:
    """The tree that this file is in, before whatever the caller has."""
    own = [str(ROOT / "platform"), str(ROOT)]
    return os.pathsep.join([*own, *filter(None, [os.environ.get("PYTHONPATH")])])


def page(
    outcomes: Sequence[Outcome], begun: datetime, arguments: Sequence[str], *, quick: bool
) -> str:
    """The whole page."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, of this repository's own texts
    )
    return environment.from_string(TEMPLATE.read_text()).render(
        outcomes=outcomes,
        quick=quick,
        minutes=sum(outcome.seconds for outcome in outcomes) / 60,
        date=begun.strftime("%Y-%m-%d %H:%M UTC"),
        command=" ".join(["python", "benchmarks/performance.py", *arguments]),
        machine=machine(),
    )


def machine() -> Mapping[str, str]:
    """What the figures depend on besides the code, and which code it was."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ("torch", "ray", "optuna", "mlflow", "pyarrow", "numpy")
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in packages),
        "commit": _commit(),
    }


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name first: a reader finds the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _commit() -> str:
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}, with changes" if changed else head


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _ending(outcome: Outcome) -> str:
    if outcome.part is None:
        return f"FAILED after {outcome.seconds:.0f} s: {outcome.failure.splitlines()[-1]}"
    return f"{outcome.seconds:.0f} s"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds: less steady figures")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--output", type=Path, help="the page; without it, see above")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
