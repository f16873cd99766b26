"""Killed at any instruction, the wrapper leaves no false claim, and nothing is run twice.

A driver forks a process for each call into the operating system that the wrapper makes, and has it killed
just before that call: the first call in the first process, the second in the second, until one gets to its
end.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wrapper_attempts import REPOSITORY, TIMEOUT_SECONDS, Attempt

pytestmark = pytest.mark.daemon

MOST_CALLS = 300

DRIVER = """
import json, os, resource, signal, sys
from portal.node.descendants import become_subreaper
from portal.node.wrapper import main

def kill_before_call(number):
    left = number
    def count(frame, event, argument):
        nonlocal left
        if event == "c_call" and argument.__module__ in ("posix", "_posixsubprocess", "signal"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(count)

def run(config, call):
    pid = os.fork()
    if pid == 0:
        if call:
            kill_before_call(call)
        code = main([config])
        sys.setprofile(None)
        os._exit(code)
    _, status = os.waitpid(pid, 0)
    # The program, which outlives a wrapper that is killed.
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

become_subreaper()
configs = json.loads(sys.stdin.read())
codes = []
for call, config in enumerate(configs, start=1):
    codes.append((run(config, call), run(config, 0)))
    if codes[-1][0] >= 0:
        break
print(json.dumps(codes))
"""


def killed_at_each_call(tmp_path: Path, program: str) -> list[tuple[Attempt, int, int]]:
    """For each call: the attempt, how the wrapper ended (-9), and the exit code of a second start."""
    settings = {"heartbeat_seconds": "1"}
    folders = [tmp_path / str(number) for number in range(MOST_CALLS)]
    attempts = [Attempt(folder, program, settings=settings, outputs=["hits.tsv"]) for folder in folders]
    driven = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=REPOSITORY,
        input=json.dumps([str(attempt.config) for attempt in attempts]),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=2 * TIMEOUT_SECONDS,
        check=True,
        text=True,
    )
    codes = json.loads(driven.stdout)
    return [(attempt, first, second) for attempt, (first, second) in zip(attempts, codes, strict=False)]


@pytest.mark.parametrize("exit_code", [0, 3])
def test_a_kill_at_any_call_leaves_no_false_claim(tmp_path: Path, exit_code: int) -> None:
    program = f"echo run >> witness\necho hits > hits.tsv\necho whole\nexit {exit_code}\n"
    runs = killed_at_each_call(tmp_path, program)
    *killed, (last, code, again) = runs
    assert (code, again) == (exit_code, 75), "that was not enough to get to the end"
    assert len(killed) > 50
    for attempt, first, second in killed:
        assert first == -9
        # Either the claim was taken, or nothing at all had happened and the second start does everything.
        assert second in (75, exit_code)
        witness = attempt.work / "witness"
        assert not witness.exists() or witness.read_text() == "run\n"
        assert second == 75 or attempt.status().phase == "ended"
        _assert_honest(attempt, exit_code)
    _assert_honest(last, exit_code)
    assert last.status().phase == "ended"


def _assert_honest(attempt: Attempt, exit_code: int) -> None:
    if (attempt.work / "status.json").exists():
        status = attempt.status()
        if status.phase == "ended":
            assert (status.exit_code, status.succeeded) == (exit_code, exit_code == 0)
            assert attempt.output == "whole\n"
            assert (attempt.work / "hits.tsv").read_text() == "hits\n"
    if attempt.markers:
        assert attempt.markers == ["SUCCESS" if exit_code == 0 else "ERROR"]
        assert attempt.status().phase == "ended"
