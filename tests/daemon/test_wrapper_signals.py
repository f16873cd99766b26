"""SIGTERM reaches the program and is noted; whatever the program started is gone when the wrapper is."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from portal.node import claim
from portal.node.descendants import descendants
from tests.waiting import wait_until
from tests.wrapper_attempts import Attempt, is_alive

pytestmark = pytest.mark.daemon

# Three that try to get away: a background child, one in a session of its own, one whose parent has died
# (twice). Each writes its process id.
ESCAPES = """
(echo $$ > /dev/null; sh -c 'echo $$ > pid.child; exec sleep 1000') &
setsid sh -c 'echo $$ > pid.session; exec sleep 1000' &
(setsid sh -c '(sh -c "echo \\$\\$ > pid.daemon; trap : TERM HUP; while :; do sleep 1000; done" &)' &)
until [ -s pid.child ] && [ -s pid.session ] && [ -s pid.daemon ]; do sleep 0.01; done
echo ready
"""


def escaped(attempt: Attempt) -> list[int]:
    return [int((attempt.work / f"pid.{name}").read_text()) for name in ("child", "session", "daemon")]


def printed(attempt: Attempt, line: str) -> Callable[[], bool]:
    return lambda: (attempt.work / "output.txt").exists() and f"{line}\n" in attempt.output


def test_sigterm_is_handed_on_and_noted(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "echo ready\nsleep 1000\n")
    with attempt.start() as process:
        wait_until(printed(attempt, "ready"), 10, "the program to run")
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM
    status = attempt.status()
    assert (status.signal, status.got_sigterm, status.succeeded) == (signal.SIGTERM, True, False)
    assert attempt.markers == ["ERROR"]


def test_each_sigterm_is_handed_on_and_a_program_that_copes_may_succeed(tmp_path: Path) -> None:
    # The sleeps die of it as well, since it goes to the whole process group.
    program = "n=0; trap 'n=$((n+1)); echo $n' TERM; echo ready\nwhile [ $n -lt 2 ]; do sleep 0.02; done; exit 0\n"
    attempt = Attempt(tmp_path, program)
    with attempt.start() as process:
        wait_until(printed(attempt, "ready"), 10, "the program to run")
        process.terminate()
        wait_until(printed(attempt, "1"), 10, "the first signal")
        process.terminate()
        assert process.wait(10) == 0
    assert attempt.output == "ready\n1\n2\n"
    status = attempt.status()
    assert (status.succeeded, status.got_sigterm) == (True, True)


def test_a_program_that_stops_in_order_is_no_success_under_no_stderr(tmp_path: Path) -> None:
    program = "trap 'exit 143' TERM; echo ready\nwhile :; do sleep 0.02; done\n"
    attempt = Attempt(tmp_path, program, settings={"success_rule": "no_stderr"})
    with attempt.start() as process:
        wait_until(printed(attempt, "ready"), 10, "the program to run")
        process.terminate()
        process.wait(10)
    assert attempt.status().succeeded is False


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_other_signals_change_nothing(tmp_path: Path, number: signal.Signals) -> None:
    attempt = Attempt(tmp_path, "echo ready\nuntil [ -e go ]; do sleep 0.02; done\n")
    with attempt.start() as process:
        wait_until(printed(attempt, "ready"), 10, "the program to run")
        process.send_signal(number)
        (attempt.work / "go").touch()
        assert process.wait(10) == 0
    assert attempt.status().got_sigterm is False


def test_nothing_outlives_the_program(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, ESCAPES)
    assert attempt.run().returncode == 0
    assert not any(is_alive(pid) for pid in escaped(attempt))
    assert attempt.markers == ["SUCCESS"]


def test_orphans_are_seen_and_the_wrapper_waits_only_for_the_program(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, ESCAPES + "until [ -e go ]; do sleep 0.02; done\n")
    with attempt.start() as process:
        wait_until(printed(attempt, "ready"), 10, "all to run")
        assert set(escaped(attempt)) <= set(descendants(process.pid))
        (attempt.work / "go").touch()
        assert process.wait(10) == 0


def test_when_the_client_dies_everything_ends_and_nothing_is_claimed(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    attempt = Attempt(tmp_path, ESCAPES + "trap : TERM; while :; do sleep 1000; done\n")
    reader, writer = os.pipe()
    environment = {"PORTAL_LIFELINE_FD": str(reader), "TMPDIR": str(scratch)}
    with attempt.start(environment, pass_fds=[reader]) as process:
        os.close(reader)
        wait_until(printed(attempt, "ready"), 10, "all to run")
        below = descendants(process.pid)
        os.close(writer)
        assert process.wait(10) == 70
    assert len(below) >= 4
    assert not any(is_alive(pid) for pid in below)
    assert attempt.status().phase == "started"
    assert attempt.markers == []
    assert claim.parse((attempt.work / "claim").read_bytes()).pid == process.pid
    assert list(scratch.iterdir()) == []


def test_what_the_client_writes_into_the_lifeline_means_nothing(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "echo ready\nuntil [ -e go ]; do sleep 0.02; done\n")
    reader, writer = os.pipe()
    os.write(writer, b"still here")
    with attempt.start({"PORTAL_LIFELINE_FD": str(reader)}, pass_fds=[reader]) as process:
        os.close(reader)
        wait_until(printed(attempt, "ready"), 10, "the program to run")
        (attempt.work / "go").touch()
        assert process.wait(10) == 0
    os.close(writer)


@pytest.fixture
def odd_family() -> Iterator["subprocess.Popen[bytes]"]:
    """A child and a grandchild, whose name is made to mislead."""
    command = ["sh", "-c", "sh -c 'printf \") R 1 (\" > /proc/self/comm; read x'; true"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_children_of_children_are_found_whatever_their_names(odd_family: "subprocess.Popen[bytes]") -> None:
    wait_until(lambda: len(descendants(odd_family.pid)) == 1, 10, "the grandchild")
    assert odd_family.pid in descendants(os.getpid())
    assert set(descendants(odd_family.pid)) < set(descendants(os.getpid()))


def test_the_wrapper_sleeps_while_it_waits(tmp_path: Path) -> None:
    attempt = Attempt(
        tmp_path, "echo ready\nuntil [ -e go ]; do sleep 0.1; done\n", settings={"heartbeat_seconds": "0.2"}
    )
    with attempt.start() as process:
        wait_until(printed(attempt, "ready"), 10, "the program to run")
        wait_until((attempt.work / "heartbeat").exists, 10, "the first beat")
        before = processor_seconds(process)
        beats = int((attempt.work / "heartbeat").read_text())
        wait_until(lambda: int((attempt.work / "heartbeat").read_text()) >= beats + 5, 10, "five beats")
        assert processor_seconds(process) - before < 0.2
        (attempt.work / "go").touch()
        assert process.wait(10) == 0


def processor_seconds(process: "subprocess.Popen[str]") -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
