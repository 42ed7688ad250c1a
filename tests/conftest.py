"""Fixtures that several test folders share: a folder of images, one Ray cluster for the session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from samples import write_image_folder

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
def ray_cluster(encoder_log: Path) -> Iterator[None]:
    """One local cluster of two CPUs for all tests that need one."""
    import ray

    from ssprompt_platform.cluster import prepare_environment

    path = str(encoder_log)

    def count_encoded_images() -> None:
        # runs in every worker process: calls are counted where they happen
        from ssprompt_core.models.sam import SamSegmenter

        original = SamSegmenter.encode_images

        def counted(self, x_B3SS):
            with open(path, "a") as log:  # noqa: PTH123  (small appends from many processes)
                log.write("image\n" * len(x_B3SS))
            return original(self, x_B3SS)

        SamSegmenter.encode_images = counted

    prepare_environment()
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=True,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": count_encoded_images},
    )
    yield
    ray.shutdown()
