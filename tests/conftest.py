"""Fixtures that several test folders share: images, one Ray cluster, servers for the session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from samples import write_image_folder
from served_study import served  # noqa: F401  (fixtures are found here)
from servers import (  # noqa: F401  (fixtures are found here)
    mlflow_on_postgres,
    mlflow_server,
    postgres,
    postgres_database,
    s3_bucket,
    s3_server,
    servers_run,
)

# one thread per process: tests share few cores with Ray's workers
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def image_folder(tmp_path: Path) -> tuple[Path, list[str]]:
    """A folder data set and the words that make a study use it."""
    folder = tmp_path / "data"
    return folder, write_image_folder(folder)


@pytest.fixture(scope="session")
def encoder_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that every process of the Ray cluster adds a line to for each image it encodes."""
    return tmp_path_factory.mktemp("encoder") / "calls.txt"


@pytest.fixture(scope="session")
def label_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that this process and every one of the cluster adds a line to for each label it opens.

    A line is the path of a file in a folder ``labels`` and the functions that led there, outermost
    first, separated by blanks.
    """
    return tmp_path_factory.mktemp("label-log") / "opened.txt"


@pytest.fixture(scope="session")
def ray_cluster(encoder_log: Path, label_log: Path) -> Iterator[None]:
    """One local cluster of two CPUs for all tests that need one."""
    import ray

    from ssprompt_platform.cluster import prepare_environment

    path, opened = str(encoder_log), str(label_log)

    def note_opened_labels() -> None:
        import os
        import sys

        # the interpreter tells of every file that is opened, whatever code does it
        def hook(event, arguments):
            if event != "open" or not isinstance(arguments[0], str | os.PathLike):
                return
            place = os.fspath(arguments[0])
            if os.path.basename(os.path.dirname(place)) != "labels":  # noqa: PTH119, PTH120
                return
            frame, names = sys._getframe(1), []
            while frame is not None:
                names.append(frame.f_code.co_name)
                frame = frame.f_back
            with open(opened, "a") as log:  # noqa: PTH123
                log.write(" ".join([str(place), *reversed(names)]) + "\n")

        sys.addaudithook(hook)

    def watch_worker() -> None:
        # runs in every worker process: calls are counted where they happen
        from ssprompt_core.models.sam import SamSegmenter

        note_opened_labels()

        original = SamSegmenter.encode_images

        def counted(self, x_B3SS):
            with open(path, "a") as log:  # noqa: PTH123  (small appends from many processes)
                log.write("image\n" * len(x_B3SS))
            return original(self, x_B3SS)

        SamSegmenter.encode_images = counted

    prepare_environment()
    note_opened_labels()
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=True,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": watch_worker},
    )
    yield
    ray.shutdown()
