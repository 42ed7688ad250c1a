"""Encodes the images of a study ahead of it, and does no more."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ssprompt_platform.config import load_config
from ssprompt_platform.progress import Progress

if TYPE_CHECKING:
    from ssprompt_platform.encoded import Encoded


def encode_study(arguments: Sequence[str], studies: Path, console: Console) -> Encoded:
    """Store the embeddings that the study of a command line would need.

    No study is begun, none is owned and MLflow is not told: embeddings are shared by all studies
    of a root, and writing one twice is harmless.

    Args:
        arguments: ``study=<name or path>`` and ``group.key=value`` words.
        studies: Folder of the named study files.
        console: Where progress is shown.

    Returns:
        What there was to do; of a dry run, without doing it.

    Raises:
        UserError: An input is wrong; nothing was encoded.
        StorageError: The storage failed in the middle; what is stored stays.
    """
    progress = Progress(console)
    with progress.timed("prepare"):
        config = load_config(arguments, studies)
        # words are wrong more often than anything else, and these take seconds to import
        from ssprompt_platform.encoded import Encoded, missing_images
        from ssprompt_platform.prepare import prepare_checked

        prepared = prepare_checked(config)
    train, images = prepared.config.train, prepared.plan.image_ids()
    if prepared.config.study.dry_run:
        missing = len(missing_images(prepared.dataset, images, prepared.store))
        return Encoded(len(set(images)), len(set(images)) - missing, missing)
    # here, since a dry run needs no Ray
    from ssprompt_platform.capacity import workers_asked
    from ssprompt_platform.cluster import connected, resolve_resources
    from ssprompt_platform.encode import check_precision, encode_missing
    from ssprompt_platform.machines import cluster_machines

    with ExitStack() as stack:
        with progress.timed("start ray"):
            stack.enter_context(connected())
            stack.enter_context(workers_asked(train, progress.say))
            resources = resolve_resources(train, cluster_machines())
            check_precision(prepared.config.model.precision, resources.device)
        return encode_missing(
            prepared.dataset,
            images,
            prepared.store,
            prepared.source,
            resources,
            train.eval_batch_size,
            progress,
        )
