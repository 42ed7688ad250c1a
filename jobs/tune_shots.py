"""Main job: a whole few-shot study with one command; ``--help`` explains it."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from ssprompt_core.errors import UserError
from ssprompt_platform.config.help import help_text
from ssprompt_platform.study import run_study

STUDIES = Path(__file__).resolve().parent / "studies"


def main(arguments: list[str]) -> int:
    """Run the study that the arguments describe; return the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0
    try:
        run_study(arguments, STUDIES, Console())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; give the same study.id to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
