"""Running the helper on this machine: what it takes to be an answer."""

import os
import sys
import time
from pathlib import Path

import pytest

from portal.errors import SchedulerError
from portal.node.capped_process import run_capped
from portal.schedulers.commands import LocalRunner, NotReachedError
from tests.waiting import wait_until
from tests.wrapper_attempts import is_alive


def runner(script: str, most_bytes: int = 1000) -> LocalRunner:
    return LocalRunner(["/bin/sh", "-c", script], most_bytes)


def test_what_goes_in_and_what_comes_out() -> None:
    assert runner("tr a-z A-Z").run(b"request", 10) == b"REQUEST"


def test_a_long_request_does_not_wait_for_a_long_answer() -> None:
    request = os.urandom(3_000_000)
    assert LocalRunner(["cat"], 5_000_000).run(request, 20) == request


def test_one_that_does_not_read_answers_all_the_same() -> None:
    assert runner("exec 0<&-; sleep 0.1; echo done").run(b"x" * 1_000_000, 10) == b"done\n"


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        ("sleep 100", "no answer from the helper in 0.5 s"),
        ("yes", "more than 1000 bytes"),
        ("echo sudo: a password is required >&2; exit 1", "ended with 1 and said nothing but: sudo: a password"),
        ("kill -9 $$", "ended with -9 and said nothing but: nothing"),
    ],
)
def test_what_is_no_answer(script: str, detail: str) -> None:
    began = time.monotonic()
    with pytest.raises(SchedulerError) as caught:
        runner(script).run(b"", 0.5)
    assert time.monotonic() - began < 8
    assert detail in caught.value.log_detail
    assert not isinstance(caught.value, NotReachedError)


@pytest.mark.parametrize("command", [["/nowhere/sudo"], ["/bin/sh", "-c", "/nowhere/python3"], ["/etc/hostname"]])
def test_what_cannot_be_started_did_certainly_nothing(command: list[str]) -> None:
    with pytest.raises(NotReachedError) as caught:
        LocalRunner(command).run(b"", 5)
    assert "\n" not in caught.value.log_detail


def test_the_portals_own_variables_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTAL_MAIL__SMTP_USER", "secret")
    monkeypatch.setenv("SLURM_CONF", "/etc/elsewhere.conf")
    monkeypatch.setenv("SBATCH_PARTITION", "evil")
    environment = runner("env").run(b"", 10).decode()
    assert "SLURM_CONF=/etc/elsewhere.conf" in environment
    assert "PORTAL" not in environment
    assert "SBATCH" not in environment


def test_at_a_time_out_the_whole_group_ends(tmp_path: Path) -> None:
    with pytest.raises(SchedulerError):
        runner(f"sleep 100 & echo $! > {tmp_path}/pid; wait").run(b"", 0.5)
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_alive(pid), 5, "the end of the group")


def test_one_that_is_given_up_on_ends_at_once() -> None:
    command = [sys.executable, "-c", "import sys, time; print('sleeping', file=sys.stderr, flush=True); time.sleep(99)"]
    ended = run_capped(command, b"", None, "/", 30, 100, give_up_on=b"sleeping")
    # The line's end is written apart from it, and may come too late.
    assert (ended.failure, ended.exit_code, ended.stderr.strip()) == ("given_up", None, b"sleeping")
    assert ended.seconds < 20
