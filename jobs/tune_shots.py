"""Main job: a whole few-shot study with one command; ``--help`` explains it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ssprompt_core.errors import UserError
from ssprompt_platform.config.help import help_text
from ssprompt_platform.failures import IncompleteStudyError, StoppedStudyError
from ssprompt_platform.launch import explain_study, run_study
from ssprompt_platform.storage import StorageError, in_ray_job

STUDIES = Path(__file__).resolve().parent / "studies"
EXPLAIN = "--explain"


def main(arguments: list[str]) -> int:
    """Run the study that the arguments describe; return the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0
    try:
        if EXPLAIN in arguments:
            words = [word for word in arguments if word != EXPLAIN]
            explain_study(words, STUDIES, Console())
        else:
            run_study(arguments, STUDIES, Console())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except IncompleteStudyError as error:
        print(f"incomplete: {error}", file=sys.stderr)
        return 1
    except StoppedStudyError as stop:
        command = command_to_continue(arguments, stop.words)
        why = f": {stop.cause}" if stop.cause else ""
        print(f"stopped{why}; this continues the study:\n  {command}", file=sys.stderr)
        return stop.exit_code
    except StorageError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped before the study began", file=sys.stderr)
        return 130
    return 0


def command_to_continue(arguments: Sequence[str], words: Sequence[str]) -> str:
    """The command line that was given, with other words for the same keys."""
    typed = sys.orig_argv[: len(sys.orig_argv) - len(arguments)]
    if not typed or Path(typed[-1]).name != Path(__file__).name:
        # called by another program
        typed = ["python", os.path.relpath(__file__)]
    replaced = ("study.id=", "study.resume=")
    kept = [word for word in arguments if not word.startswith(replaced)]
    submit = ["ray", "job", "submit", "--working-dir", ".", "--"] if in_ray_job() else []
    return shlex.join([*submit, *typed, *kept, *words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
