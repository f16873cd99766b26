"""A whole portal and a real browser, for tests that look at it as a visitor does."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.waiting import wait_until

ARTEFACTS = Path(__file__).parent.parent / "artefacts"
SLOW_DIV_SECONDS = 3


@dataclass(frozen=True)
class RunningPortal:
    """A portal that serves."""

    url: str
    data: Path
    """Its folder, with `jobs` and `mail` in it."""


@pytest.fixture(scope="module")
def running_portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPortal]:
    """`portal serve` with its data in a temporary folder, ended at the end."""
    data = tmp_path_factory.mktemp("portal")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "PORTAL_PORTAL__BIND": f"127.0.0.1:{port}",
        "PORTAL_PORTAL__BASE_URL": url,
        "PORTAL_MAIL__SHOW_PAGE": "true",
        "SLOW_DIV_SECONDS": str(SLOW_DIV_SECONDS),
    }
    with (data / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "portal", "serve"], cwd=data, env=environment, stdout=log, stderr=log
        )
        try:
            wait_until(lambda: _answers(url), 30, "the portal to answer")
            yield RunningPortal(url, data)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(40)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, headless, that asks nobody else for anything."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Debian's package chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        yield browser
        browser.close()


@pytest.fixture
def artefacts() -> Path:
    """Where screenshots are kept for people to look at."""
    ARTEFACTS.mkdir(exist_ok=True)
    return ARTEFACTS


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, ConnectionError, TimeoutError):
        return False
