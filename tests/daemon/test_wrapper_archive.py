"""`wrapper.pyz` as nodes run it: one file, and the oldest Python that the machine has."""

import os
import sys
from pathlib import Path

import pytest

from portal.jobs.node_files import install_node_files
from tests.oldest_python import oldest_python
from tests.waiting import wait_until
from tests.wrapper_attempts import Attempt, is_alive

pytestmark = pytest.mark.daemon


@pytest.fixture(scope="module")
def wrapper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    jobs = tmp_path_factory.mktemp("jobs")
    return install_node_files(jobs, []).wrapper


def command(python: Path, wrapper: Path, attempt: Attempt) -> list[str]:
    return [str(python), "-W", "error", "-I", str(wrapper), str(attempt.config)]


def test_the_whole_wrapper_under_the_oldest_python(
    tmp_path: Path, wrapper: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python, version = oldest_python()
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


def test_failures_and_signals_under_the_oldest_python(tmp_path: Path, wrapper: Path) -> None:
    python, _ = oldest_python()
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


def test_mail_under_the_oldest_python_fails_in_one_line(tmp_path: Path, wrapper: Path) -> None:
    mail = {
        "smtp_host": "127.0.0.1",
        "smtp_port": "1",
        "from_address": "portal@example.org",
        "to": "ann@example.org",
        "timeout_seconds": "5",
    }
    attempt = Attempt(tmp_path, "true\n", mail=mail)
    (attempt.folder / "mail.eml").write_bytes(b"Subject: x\n\nx\n")
    python, _ = oldest_python()
    ended = attempt.run(command=command(python, wrapper, attempt))
    assert ended.returncode == 0
    assert "Connection refused" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_wrapper_imports_nothing_but_the_standard_library(tmp_path: Path, wrapper: Path) -> None:
    """Isolated, without site-packages, from a folder that is not the repository."""
    attempt = Attempt(tmp_path, "true\n")
    isolated = ["/usr/bin/env", "-i", "-C", str(tmp_path), sys.executable, "-I", "-S"]
    assert attempt.run(command=[*isolated, str(wrapper), str(attempt.config)]).returncode == 0
