"""`wrapper.pyz` as nodes run it: one file, and the oldest Python that the machine has."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.jobs.node_files import install_node_files
from tests.waiting import wait_until
from tests.wrapper_attempts import Attempt, is_alive

pytestmark = pytest.mark.daemon

OLDEST = (3, 6)
_ASK = "import sys; print(*sys.version_info[:3])"


def _candidates() -> Iterator[Path]:
    """Pythons of pyenv, where there is one, and those on PATH."""
    pyenv = shutil.which("pyenv")
    if pyenv:
        root = subprocess.run([pyenv, "root"], check=False, stdout=subprocess.PIPE, text=True).stdout.strip()
        yield from Path(root).glob("versions/*/bin/python")
    for minor in range(6, 13):
        found = shutil.which(f"python3.{minor}")
        if found:
            yield Path(found)


def _version(python: Path) -> tuple[int, ...] | None:
    """What it says itself; None where it does not run (a shim of pyenv may name a version not in use)."""
    answer = subprocess.run([python, "-c", _ASK], check=False, capture_output=True, text=True)
    return tuple(int(part) for part in answer.stdout.split()) if answer.returncode == 0 else None


@pytest.fixture(scope="module")
def oldest_python() -> tuple[Path, tuple[int, ...]]:
    versions = {python: _version(python) for python in _candidates()}
    usable = {python: version for python, version in versions.items() if version and version >= OLDEST}
    if not usable:
        pytest.skip("needs a Python from 3.6 to 3.12, under pyenv or on PATH")
    oldest = min(usable, key=lambda python: usable[python])
    return oldest, usable[oldest]


@pytest.fixture(scope="module")
def wrapper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    jobs = tmp_path_factory.mktemp("jobs")
    return install_node_files(jobs, []).wrapper


def command(python: Path, wrapper: Path, attempt: Attempt) -> list[str]:
    return [str(python), "-W", "error", "-I", str(wrapper), str(attempt.config)]


def test_the_whole_wrapper_under_the_oldest_python(
    tmp_path: Path,
    wrapper: Path,
    oldest_python: tuple[Path, tuple[int, ...]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    python, version = oldest_python
    with capsys.disabled():
        print(f"\nwrapper.pyz under Python {'.'.join(map(str, version))}: {python}")
    program = 'setsid sleep 1000 &\necho $! > pid\necho "$LISTED"\necho x > é.txt\necho SUCCESS\n'
    attempt = Attempt(tmp_path / "jöbs 1", program, outputs=["é.txt"], settings={"environment": "LISTED"})
    environment = {"LC_ALL": "C", "LISTED": 'it\'s é\n"2"'}
    ended = attempt.run(environment, command(python, wrapper, attempt))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert attempt.output == 'it\'s é\n"2"\nSUCCESS\n'
    assert attempt.status().succeeded is True
    assert attempt.markers == ["SUCCESS"]
    assert not is_alive(int((attempt.work / "pid").read_text()))
    again = attempt.run(environment, command(python, wrapper, attempt))
    assert again.returncode == 75


def test_failures_and_signals_under_the_oldest_python(
    tmp_path: Path, wrapper: Path, oldest_python: tuple[Path, tuple[int, ...]]
) -> None:
    python, _ = oldest_python
    attempt = Attempt(tmp_path / "launch", "", settings={"shell": "/nowhere/sh"})
    assert attempt.run(command=command(python, wrapper, attempt)).returncode == 127
    assert "No such file" in (attempt.status().failure or "")

    attempt = Attempt(tmp_path / "stop", "echo ready\nsleep 1000\n")
    with attempt.start(command=command(python, wrapper, attempt)) as process:
        wait_until(lambda: (attempt.work / "output.txt").exists() and attempt.output, 10, "the program")
        process.terminate()
        assert process.wait(10) == 143
    assert (attempt.status().signal, attempt.status().got_sigterm) == (15, True)

    attempt = Attempt(tmp_path / "lost", "echo $$ > pid; echo ready\nsleep 1000\n")
    reader, writer = os.pipe()
    lifeline = {"PORTAL_LIFELINE_FD": str(reader)}
    with attempt.start(lifeline, command(python, wrapper, attempt), [reader]) as process:
        os.close(reader)
        wait_until(lambda: (attempt.work / "output.txt").exists() and attempt.output, 10, "the program")
        os.close(writer)
        assert process.wait(10) == 70
    assert not is_alive(int((attempt.work / "pid").read_text()))
    assert attempt.status().phase == "started"


def test_mail_under_the_oldest_python_fails_in_one_line(
    tmp_path: Path, wrapper: Path, oldest_python: tuple[Path, tuple[int, ...]]
) -> None:
    mail = {
        "smtp_host": "127.0.0.1",
        "smtp_port": "1",
        "from_address": "portal@example.org",
        "to": "ann@example.org",
        "timeout_seconds": "5",
    }
    attempt = Attempt(tmp_path, "true\n", mail=mail)
    (attempt.folder / "mail.eml").write_bytes(b"Subject: x\n\nx\n")
    ended = attempt.run(command=command(oldest_python[0], wrapper, attempt))
    assert ended.returncode == 0
    assert "Connection refused" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_wrapper_imports_nothing_but_the_standard_library(tmp_path: Path, wrapper: Path) -> None:
    """Isolated, without site-packages, from a folder that is not the repository."""
    attempt = Attempt(tmp_path, "true\n")
    isolated = ["/usr/bin/env", "-i", "-C", str(tmp_path), sys.executable, "-I", "-S"]
    assert attempt.run(command=[*isolated, str(wrapper), str(attempt.config)]).returncode == 0
