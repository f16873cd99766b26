"""The pipe that ends the children of `portal serve` with it: who follows it, and who never holds it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portal.lifeline import EXIT_CODE, LIFELINE_VARIABLE, Lifeline, make_lifeline
from tests.compute_clients import open_files
from tests.serving import identify
from tests.waiting import wait_until

FOLLOWER = """
import os, subprocess, sys, time
from portal.lifeline import LIFELINE_VARIABLE, follow_lifeline_after_fork, follow_lifeline_from_environment
follow_lifeline_from_environment()
follow_lifeline_from_environment()  # a second call finds nothing more to do
forked = os.fork()
if forked == 0:
    follow_lifeline_after_fork()
    time.sleep(600)
program = subprocess.Popen(["sleep", "600"], close_fds=False)
print(forked, program.pid, LIFELINE_VARIABLE in os.environ, flush=True)
time.sleep(600)
"""


@contextmanager
def follower(lifeline: Lifeline) -> Iterator[subprocess.Popen[str]]:
    """A child that follows it; it has ended in the end, however the test did."""
    with subprocess.Popen(
        [sys.executable, "-c", FOLLOWER],
        env=os.environ | lifeline.environment(),
        pass_fds=[lifeline.read_fd],
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def test_child_and_its_forks_end_with_the_writing_end_and_programs_never_hold_it() -> None:
    lifeline = make_lifeline()
    pipe = Path(f"/proc/self/fd/{lifeline.read_fd}").readlink()
    with os.fdopen(lifeline.read_fd), os.fdopen(lifeline.write_fd, "w") as writing_end, follower(lifeline) as child:
        assert child.stdout is not None
        forked, program, variable_is_left = child.stdout.readline().split()
        try:
            wait_until(lambda: program_name(program) == "sleep", 10, "the program to run")
            assert str(pipe) not in open_files(int(program))
            assert variable_is_left == "False"
            assert child.poll() is None
            writing_end.close()
            assert child.wait(10) == EXIT_CODE
            wait_until(lambda: identify(int(forked)) is None, 10, "the end of the forked process")
            assert identify(int(program)) is not None
        finally:
            os.kill(int(program), 9)


def program_name(pid: str) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_without_a_supervisor_there_is_nothing_to_follow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import portal.lifeline as l; l.follow_lifeline_from_environment(); print('on')"],
        env={name: value for name, value in os.environ.items() if name != LIFELINE_VARIABLE},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "on\n"
