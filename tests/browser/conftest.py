"""One browser for the tests of a file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright
from servers import missing

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium; it is closed with the file's last test."""
    if CHROMIUM is None:
        missing("chromium is not installed; on Debian: apt install chromium")
    with sync_playwright() as driver:
        # root, as in a container, has no sandbox; a container's /dev/shm is small
        started = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        yield started
        started.close()
