"""`portal serve` as a whole: it stops cleanly, mends itself, and dies without leaving anything behind."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from portal.serve import REPEAT_SECONDS
from tests.serving import Serving, is_alive
from tests.waiting import wait_until

pytestmark = [pytest.mark.daemon, pytest.mark.timeout(180)]

Start = Callable[..., Serving]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Serving] = []

    def start_one(**options: float) -> Serving:
        serving = Serving(tmp_path, **options)  # type: ignore[arg-type]
        started.append(serving)
        serving.wait_until_ready()
        return serving

    yield start_one
    for serving in started:
        serving.kill_everything()


def test_a_job_runs_and_sigterm_leaves_no_process_behind(start: Start) -> None:
    serving = start()
    done = serving.portal("submit", "slow_div", "--set=x=8", "--set=y=2", "--email=ann@example.org", "--wait")
    assert done.returncode == 0, done.stderr
    assert "Done: the answer is 4." in done.stdout
    family = serving.family()
    assert len(family) >= 6  # the supervisor, the web server and its two workers, dispatcher, client
    assert serving.stop() == 0
    assert not [member for member in family if is_alive(member)]


def test_submit_wait_fails_where_the_job_fails_and_show_does_not(start: Start) -> None:
    serving = start()
    failed = serving.portal("submit", "slow_div", "--set=x=8", "--set=y=0", "--email=ann@example.org", "--wait")
    assert failed.returncode == 1
    job_id = failed.stdout.split()[1]
    assert serving.portal("show", job_id).returncode == 0


def test_ctrl_c_goes_to_the_whole_process_group_and_stops_it_once(start: Start) -> None:
    serving = start()
    family = serving.family()
    os.killpg(serving.process.pid, signal.SIGINT)
    # make, timeout and shells pass a signal on that their whole group got already
    serving.process.send_signal(signal.SIGINT)
    assert serving.process.wait(30) == 0
    assert not [member for member in family if is_alive(member)]


@pytest.mark.parametrize("command", ["web", "dispatcher", "client"])
def test_a_child_that_is_killed_is_started_again(start: Start, command: str) -> None:
    serving = start()
    first = serving.child(command)
    orphans = serving.family(first)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: serving.child(command) not in (0, first), 10, f"another {command}")
    wait_until(serving.answers, 30, "the web server to answer")
    wait_until(lambda: not any(is_alive(member) for member in orphans), 10, "the end of what it had started")
    done = serving.portal("submit", "slow_div", "--set=x=8", "--set=y=2", "--email=ann@example.org", "--wait")
    assert done.returncode == 0, done.stderr


def test_what_runs_at_a_stop_runs_again_as_a_new_attempt_after_the_next_start(start: Start) -> None:
    # Long enough to run at the stop on a busy machine, which gives it two seconds more; where the old dispatcher still
    # opens the new attempt, it is this long as well.
    serving = start(slow_div_seconds=20, stop_seconds=2)
    job_id = serving.submit()
    serving.wait_for_state(job_id, "running")
    family = serving.family()
    assert serving.stop() == 0
    assert not [member for member in family if is_alive(member)]
    job = start().wait_for_state(job_id, "succeeded", 80)
    assert [attempt["state"] for attempt in job["attempts"]] == ["failed", "succeeded"]
    assert job["answer"] == "4"


def test_killed_with_9_all_end_at_once_and_a_new_one_on_the_same_port_finishes_the_job(start: Start) -> None:
    serving = start(slow_div_seconds=600)
    port = serving.port
    job_id = serving.submit()
    serving.wait_for_state(job_id, "running")
    wait_until(lambda: len(serving.family()) >= 9, 10, "shell, wrapper and program to run")
    family = serving.family()
    serving.process.kill()
    serving.process.wait()
    again = start(port=port, slow_div_seconds=0)
    assert again.port == port
    wait_until(lambda: not any(is_alive(member) for member in family), 5, "the end of the whole family")
    job = again.wait_for_state(job_id, "succeeded", 90)
    assert len(job["attempts"]) == 2
    assert job["attempts"][0]["failure_reason"] == "node_failure"


def test_asked_a_second_time_it_ends_at_once(start: Start) -> None:
    serving = start(slow_div_seconds=600, stop_seconds=300)
    serving.wait_for_state(serving.submit(), "running")
    family = serving.family()
    serving.process.terminate()
    with pytest.raises(Exception, match="timed out"):
        serving.process.wait(REPEAT_SECONDS + 0.5)
    assert serving.stop(seconds=5) == 1
    wait_until(lambda: not any(is_alive(member) for member in family), 10, "the end of the whole family")


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        serving = Serving(tmp_path, port=port)
        assert serving.process.wait(60) == 1
    lines = serving.log_file.read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"portal: portal.bind: 127.0.0.1:{port} is in use by another program")
