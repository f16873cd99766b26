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
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.visiting import DESKTOP
from tests.waiting import wait_until

ARTEFACTS = Path(__file__).parent.parent / "artefacts"
SLOW_DIV_SECONDS = 3


@dataclass(frozen=True)
class RunningPortal:
    """A portal that serves."""

    url: str
    data: Path
    """Its folder, with `jobs` and `mail` in it."""
    environment: dict[str, str]

    def command(self, *arguments: str) -> str:
        """What the command `portal` prints."""
        done = subprocess.run(
            [sys.executable, "-m", "portal", *arguments],
            cwd=self.data,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


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
            yield RunningPortal(url, data, environment)
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


@pytest.fixture
def page(browser: Browser, running_portal: RunningPortal) -> Iterator[Page]:
    """A fresh browser of a visitor, which must neither complain nor ask anybody but the portal."""
    context = browser.new_context(viewport=DESKTOP, base_url=running_portal.url)
    context.set_default_timeout(10_000)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith((running_portal.url, "data:")) else complaints.append(f"asked {request.url}")
        ),
    )
    yield page
    context.close()
    # A refused form is answered with 422, which Chromium counts as an error of the console.
    assert [text for text in complaints if "status of 422" not in text] == []
