"""The way from a command line to a study, on which only what the words ask for is imported.

Ray, MLflow, Optuna's samplers and matplotlib take seconds to import. ``--help`` and mistakes in the
words need none of them, nor does a dry run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ssprompt_platform.config import load_config
from ssprompt_platform.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

    from ssprompt_platform.storage import StudyFolder


def run_study(arguments: Sequence[str], studies: Path, console: Console) -> StudyFolder:
    """Run, or continue, the study that the command line describes.

    Args:
        arguments: ``study=<name or path>`` and ``group.key=value`` words.
        studies: Folder of the named study files.
        console: Where progress and results are shown.

    Returns:
        The study's folder; ``results.json`` lies in it unless it was a dry run.

    Raises:
        UserError: An input is wrong; nothing of the study was written.
        IncompleteStudyError: It ended, but some of it failed.
        StoppedStudyError: It was stopped and can be continued.
    """
    progress = Progress(console)
    with progress.timed("prepare"):
        config = load_config(arguments, studies)
        # words are wrong more often than anything else, and these take seconds to import
        from ssprompt_platform.prepare import describe, prepare_checked

        prepared = prepare_checked(config)
    if prepared.config.study.dry_run:
        describe(prepared, console)
        return prepared.folder
    from ssprompt_platform.study import run_prepared

    return run_prepared(prepared, progress)


def explain_study(arguments: Sequence[str], studies: Path, console: Console) -> None:
    """Print in words what the study of a command line will do; nothing is written.

    Args:
        arguments: As for :func:`run_study`.
        studies: Folder of the named study files.
        console: Where the words are shown.

    Raises:
        UserError: An input is wrong.
    """
    # as a dry run, which writes nothing
    config = load_config([*arguments, "study.dry_run=true"], studies)
    from ssprompt_platform.explain import explain
    from ssprompt_platform.prepare import prepare
    from ssprompt_platform.sentences import tell

    for line in explain(prepare(config)):
        tell(console, line)
