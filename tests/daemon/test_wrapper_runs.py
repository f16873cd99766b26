"""The wrapper runs a program once, says truly how it ended, and hands on nothing that it should not."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.clock import parse_utc_text
from portal.node import claim
from tests.waiting import wait_until
from tests.wrapper_attempts import Attempt

pytestmark = pytest.mark.daemon


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_success_from_the_claim_to_the_marker(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "echo The answer is: 4\nmkdir sub\necho x > sub/hits.tsv\n")
    before = time.time()
    ended = attempt.run({"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "2"})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert attempt.output == "The answer is: 4\n"
    assert attempt.markers == ["SUCCESS"]
    assert (attempt.work / "SUCCESS").read_bytes() == b""
    assert int((attempt.work / "heartbeat").read_text()) >= 1

    status = attempt.status()
    assert (status.job_id, status.attempt, status.phase) == ("tcfnctbq", 1, "ended")
    assert (status.scheduler_id, status.restart_count) == ("17", 2)
    assert (status.exit_code, status.signal, status.succeeded, status.failure) == (0, None, True, None)
    assert status.ended_at is not None
    started, finished = parse_utc_text(status.started_at), parse_utc_text(status.ended_at)
    assert before - 1 < started.timestamp() <= finished.timestamp() < before + 30
    assert status.wall_seconds is not None
    assert 0 <= status.wall_seconds < 30
    assert status.peak_memory_mib is not None
    assert 0.1 < status.peak_memory_mib < 1000

    held = claim.parse((attempt.work / "claim").read_bytes())
    assert (held.by, held.scheduler_id, held.name) == ("wrapper", "17", "portal-abcd-tcfnctbq-1")
    assert (held.host, held.pid) == (status.host, status.pid)
    # The group, to which the portal belongs, can read what the jobs' account wrote; nobody else can.
    for name in ("claim", "status.json", "output.txt", "err_output.txt", "SUCCESS", "heartbeat"):
        assert mode(attempt.work / name) == 0o640, name
    assert mode(attempt.work / "sub" / "hits.tsv") == 0o660
    assert not [path for path in attempt.work.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("code", "reserved", "wrapper_code"),
    [(1, "", 1), (3, "99 100", 3), (99, "99 100", 1), (100, "99 100", 1), (100, "", 100)],
)
def test_a_failure_keeps_the_programs_exit_code(tmp_path: Path, code: int, reserved: str, wrapper_code: int) -> None:
    attempt = Attempt(tmp_path, f"exit {code}\n", settings={"reserved_exit_codes": reserved})
    assert attempt.run().returncode == wrapper_code
    status = attempt.status()
    assert (status.exit_code, status.succeeded) == (code, False)
    assert status.failure == f"The program ended with exit code {code}."
    assert attempt.markers == ["ERROR"]


@pytest.mark.parametrize("number", [9, 11, 15])
def test_a_program_that_a_signal_ends(tmp_path: Path, number: int) -> None:
    attempt = Attempt(tmp_path, f"kill -{number} $$\n")
    assert attempt.run().returncode == 128 + number
    status = attempt.status()
    assert (status.exit_code, status.signal, status.got_sigterm) == (None, number, False)
    assert status.failure == f"The program was ended by signal {number}."
    assert attempt.markers == ["ERROR"]


@pytest.mark.parametrize(
    ("rule", "program", "succeeded"),
    [
        ("exit_code", "echo oops >&2", True),
        ("no_stderr", "exit 3", True),
        ("no_stderr", "echo oops >&2", False),
        # What the program does to the file's name does not hide that it wrote.
        ("no_stderr", "echo oops >&2; rm err_output.txt; : > err_output.txt", False),
        ("exit_code_and_no_stderr", "exit 3", False),
        ("exit_code_and_no_stderr", "echo oops >&2", False),
        ("exit_code_and_no_stderr", "true", True),
    ],
)
def test_the_applications_rule_decides(tmp_path: Path, rule: str, program: str, succeeded: bool) -> None:
    attempt = Attempt(tmp_path, program, settings={"success_rule": rule})
    attempt.run()
    assert attempt.status().succeeded is succeeded
    assert attempt.markers == ["SUCCESS" if succeeded else "ERROR"]


def test_output_can_be_read_and_the_heart_beats_while_the_program_runs(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "echo first\nuntil [ -e go ]; do sleep 0.01; done\necho second\n")
    with attempt.start() as process:
        wait_until(lambda: (attempt.work / "output.txt").exists() and attempt.output, 10, "the first line")
        assert attempt.output == "first\n"
        status = attempt.status()
        assert (status.phase, status.succeeded, status.pid) == ("started", None, process.pid)
        assert attempt.markers == []
        heartbeat = attempt.work / "heartbeat"
        wait_until(lambda: heartbeat.exists() and int(heartbeat.read_text()) >= 3, 10, "three beats")
        (attempt.work / "go").touch()
        assert process.wait(10) == 0
    assert attempt.output == "first\nsecond\n"


def test_a_second_start_runs_nothing_and_names_the_holder(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "echo run >> witness\n")
    assert attempt.run({"PORTAL_SCHEDULER_ID": "first"}).returncode == 0
    before = attempt.status()
    second = attempt.run({"PORTAL_SCHEDULER_ID": "second"})
    assert second.returncode == 75
    assert "scheduler job first" in second.stderr
    assert (attempt.work / "witness").read_text() == "run\n"
    assert attempt.status() == before


def test_an_attempt_that_the_dispatcher_gave_up_does_not_start(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "touch witness\n")
    by_dispatcher = claim.Claim("dispatcher", None, "portal-x", "head", 1, "2026-11-24T06:00:00Z")
    assert claim.take(attempt.work, by_dispatcher)
    ended = attempt.run()
    assert ended.returncode == 75
    assert "by the dispatcher on head" in ended.stderr
    assert [path.name for path in attempt.work.iterdir()] == ["claim"]


def test_a_claim_that_cannot_be_read_is_a_claim(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "touch witness\n")
    (attempt.work / "claim").symlink_to("/dev/zero")
    ended = attempt.run()
    assert ended.returncode == 75
    assert "cannot be read" in ended.stderr
    assert not (attempt.work / "witness").exists()


def test_of_many_starts_at_once_one_runs_the_program(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "echo run >> witness\n")
    processes = [attempt.start({"PORTAL_SCHEDULER_ID": str(number)}) for number in range(8)]
    for process in processes:
        with process:
            process.communicate(timeout=30)
    assert sorted(process.returncode for process in processes) == [0] + [75] * 7
    assert (attempt.work / "witness").read_text() == "run\n"
    [winner] = [str(number) for number, process in enumerate(processes) if process.returncode == 0]
    assert attempt.status().scheduler_id == winner


HARD_VALUE = 'it\'s "quoted" $HOME `id` \\ \n second line; é'


def test_the_environment_is_built_from_nothing(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "env -0\n", settings={"environment": "LISTED MISSING"})
    attempt.run({"SECRET": "s", "LISTED": HARD_VALUE, "SLURM_CPUS_PER_TASK": "4", "PYTHONWARNINGS": "error"})
    variables = dict(line.split("=", 1) for line in attempt.output.rstrip("\0").split("\0"))
    assert variables["LISTED"] == HARD_VALUE
    assert variables["SLURM_CPUS_PER_TASK"] == "4"
    others = {name for name in variables if not name.startswith(("SLURM_", "SGE_", "PBS_"))}
    # The last of them is the shell's own work.
    assert others == {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "LISTED", "PWD"}
    assert variables["PATH"].startswith("/nowhere/bin:")


def test_the_program_has_a_private_temporary_folder_that_is_gone_afterwards(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    program = 'stat -c %a "$TMPDIR"; pwd; cd "$TMPDIR"; mkdir -p a/b; touch a/b/c; chmod 0 a\n'
    attempt = Attempt(tmp_path, program)
    attempt.run({"TMPDIR": str(scratch)})
    assert attempt.output == f"700\n{attempt.work}\n"
    assert list(scratch.iterdir()) == []


# Signals blocked and ignored, open files, the largest core dump, and what comes from stdin: nothing.
INHERITED = "grep -E '^Sig(Blk|Ign):' /proc/self/status; ls /proc/self/fd; ulimit -c; cat\n"


C_LIBRARYS_OWN = 1 << 31 | 1 << 32
"""Signals 32 and 33, which no program may set: they stay as whoever started the tests had them."""


def test_the_program_starts_with_a_clean_slate(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, INHERITED)
    reader, writer = os.pipe()
    ignoring = ["sh", "-c", 'trap "" HUP INT QUIT USR1 ALRM TSTP PIPE CHLD; exec "$@"', "sh", *attempt.command()]
    lifeline = {"PORTAL_LIFELINE_FD": str(reader)}
    with attempt.start(lifeline, ignoring, pass_fds=[reader]) as process:
        os.close(reader)
        assert process.wait(10) == 0
    os.close(writer)
    blocked, ignored, *descriptors, cores = attempt.output.split("\n")[:-1]
    assert int(blocked.split()[1], 16) & ~C_LIBRARYS_OWN == 0
    assert int(ignored.split()[1], 16) & ~C_LIBRARYS_OWN == 0
    # The last one is the folder that `ls` is reading.
    assert descriptors == ["0", "1", "2", "3"]
    assert cores == "0"


def test_a_shell_that_is_not_there(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "true\n", settings={"shell": "/nowhere/sh"})
    assert attempt.run().returncode == 127
    status = attempt.status()
    assert (status.exit_code, status.signal, status.succeeded) == (127, None, False)
    assert status.failure == "The program could not be started: /nowhere/sh: No such file or directory."
    assert attempt.markers == ["ERROR"]


def test_output_that_was_there_before_is_not_taken_for_the_programs(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "touch witness\n")
    (attempt.work / "output.txt").write_text("planted")
    assert attempt.run().returncode == 127
    assert "output.txt: File exists" in (attempt.status().failure or "")
    assert not (attempt.work / "witness").exists()


def test_a_marker_that_the_program_made_itself_does_not_count(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "touch SUCCESS\nexit 1\n")
    attempt.run()
    assert attempt.markers == ["ERROR"]


def test_a_status_file_that_the_program_made_a_link_is_replaced(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "ln -sf ../../../precious status.json\n")
    (tmp_path / "precious").write_text("precious")
    assert attempt.run().returncode == 0
    assert (tmp_path / "precious").read_text() == "precious"
    assert attempt.status().succeeded is True


def test_a_folder_with_a_hostile_name(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "a 'b' \"c\"; touch x; é\n0", "pwd\n", outputs=["é.txt"])
    # Under Python 3.6 to 3.14, and with an ASCII locale as some schedulers set it.
    assert attempt.run({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}).returncode == 0
    assert attempt.output == f"{attempt.work}\n"
    assert attempt.markers == ["SUCCESS"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 64, "usage"),
        (["a", "b"], 64, "usage"),
        (["/nowhere/config.ini"], 66, "/nowhere/config.ini"),
        (["{tmp_path}/attempts/2/config.ini"], 66, "work"),
        (["{tmp_path}/attempts/1/program.sh"], 78, "section"),
    ],
)
def test_a_start_without_an_attempt_is_explained(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    attempt = Attempt(tmp_path, "")
    Attempt(tmp_path, "", number=2).work.rmdir()
    command = attempt.command()[:-1] + [argument.format(tmp_path=tmp_path) for argument in arguments]
    ended = attempt.run(command=command)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert re.fullmatch(f"portal wrapper: .*{message}.*\n", ended.stderr)
    assert list(attempt.work.iterdir()) == []


def test_a_lifeline_that_is_not_open_is_refused_before_the_claim(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "true\n")
    for value in ("333", "x", "-1", ""):
        assert attempt.run({"PORTAL_LIFELINE_FD": value}).returncode == 78
    assert list(attempt.work.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_the_program_fills_ends_in_no_claim_of_success(small_disk: Path) -> None:
    attempt = Attempt(small_disk, "cat /dev/zero > fill 2> /dev/null\nexit 0\n")
    ended = attempt.run()
    assert ended.returncode == 74
    assert "No space left on device" in ended.stderr
    assert attempt.status().phase == "started"
    assert attempt.markers == []


def test_a_disk_that_is_full_from_the_start_runs_nothing(small_disk: Path) -> None:
    attempt = Attempt(small_disk, "touch witness\n")
    with pytest.raises(OSError):
        (small_disk / "fill").write_bytes(b"\0" * 2**20)
    ended = attempt.run()
    assert ended.returncode == 74
    assert "No space left on device" in ended.stderr
    assert list(attempt.work.iterdir()) == []


def test_a_marker_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, "mkdir SUCCESS\n")
    ended = attempt.run()
    assert ended.returncode == 74
    assert "SUCCESS" in ended.stderr
