"""The helper that calls the scheduler's commands: what it does for whom, under the oldest Python that there is.

The scheduler's commands are scripts that write down how they were called.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from portal.jobs.node_files import current_helper, install_node_files
from portal.node.allowed_calls import RefusedError
from portal.node.submit import MOST_OUTPUT_BYTES, BadRequestError, parse_request
from tests.oldest_python import oldest_python
from tests.waiting import wait_until
from tests.wrapper_attempts import is_alive

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")
NOTING = """#!/bin/sh
printf '%s\\n' "$@" > "{notes}/{name}.$$"
env > "{notes}/{name}.env"
pwd > "{notes}/{name}.pwd"
"""


class Site:
    """A jobs folder with one attempt, and a PATH with commands."""

    def __init__(self, folder: Path) -> None:
        self.jobs = folder / "jöbs 1"
        self.commands = folder / "bin"
        self.notes = folder / "notes"
        for made in (self.jobs, self.commands, self.notes):
            made.mkdir()
        install_node_files(self.jobs, [])
        self.attempt = self.make_attempt("job-tcfnctbq")
        for name in COMMANDS:
            self.command(name, "echo said")

    def make_attempt(self, job: str) -> Path:
        attempt = self.jobs / job / "attempts" / "1"
        (attempt / "work").mkdir(parents=True)
        (attempt / "job.sh").write_text("#!/bin/sh\n")
        return attempt

    def command(self, name: str, script: str) -> None:
        file = self.commands / name
        file.write_text(NOTING.format(notes=self.notes, name=name) + script + "\n")
        file.chmod(0o755)

    def submission(self, attempt: Path | None = None) -> list[str]:
        attempt = attempt or self.attempt
        return ["sbatch", "--parsable", f"--chdir={attempt / 'work'}", str(attempt / "job.sh")]

    def raw(self, data: bytes, environ: dict[str, str] | None = None) -> dict[str, Any]:
        """The answer to these bytes."""
        answer = subprocess.run(
            [oldest_python()[0], "-W", "error", "-I", str(current_helper(self.jobs))],
            input=data,
            capture_output=True,
            check=False,
            env={"PATH": f"{self.commands}:/usr/bin:/bin", "LC_ALL": "C", **(environ or {})},
            timeout=60,
        )
        assert answer.stderr == b""
        parsed: dict[str, Any] = json.loads(answer.stdout)
        assert answer.returncode == (64 if "error" in parsed else 0)
        return parsed

    def ask(self, *calls: object, environ: dict[str, str] | None = None, **fields: object) -> list[dict[str, Any]]:
        request = {
            "version": 1,
            "id": "x",
            "timeout_seconds": 20,
            "call_seconds": 10,
            "at_once": 4,
            "calls": calls,
            "jobs_dir": str(self.jobs),
            **fields,
        }
        parsed = self.raw(json.dumps(request).encode(), environ)
        assert parsed["id"] == "x"
        answers: list[dict[str, Any]] = parsed["answers"]
        return answers

    def run(self, *arguments: str, **fields: Any) -> dict[str, Any]:
        [answer] = self.ask({"run": arguments}, **fields)
        return answer

    def called(self) -> list[str]:
        return sorted(path.name for path in self.notes.iterdir())


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


TRIAL = ["sbatch", "--test-only", "--nodes=1", "--ntasks=1", "--cpus-per-task=1"]


def test_the_calls_that_the_portal_makes(site: Site) -> None:
    calls = [
        site.submission(),
        ["squeue", "--me", "--noheader", "--array", "--states=all", "--Format=JobID:|x|,Name:|x|"],
        ["squeue", "--me", "--noheader", "--name=portal-abcdef-tcfnctbq-1,b", "--states=all"],
        ["sacct", "--noheader", "--allocations", "--duplicates", "--parsable", "--delimiter=|x|", "--jobs=1,2_3"],
        ["squeue", "--me", "--all", "--array", "--states=all", "--json"],
        ["sacct", "--starttime=2026-11-24T00:00:00", "--format=JobIDRaw,State%40", "--name=a,b"],
        ["sacct", "--allocations", "--duplicates", "--starttime=2026-11-24T00:00:00", "--jobs=1,2_3", "--json"],
        ["scancel", "--name=portal-abcdef-tcfnctbq-1", "17"],
        ["scontrol", "ping"],
        ["sinfo", "--version"],
        [*TRIAL, "--partition=main", "--account=lab", "--gres=gpu:1", "--mem=50M", "--time=5", "--wrap=:"],
    ]
    answers = site.ask(*({"run": call} for call in calls))
    good = {"exit_code": 0, "stdout": "said\n", "stderr": "", "failure": None}
    assert answers == [good] * len(calls)
    notes = [note.read_text().splitlines() for note in site.notes.glob("sbatch.[0-9]*")]
    assert sorted(notes) == sorted([site.submission()[1:], calls[-1][1:]])
    assert (site.notes / "sbatch.pwd").read_text() == "/\n"


REFUSED = {
    "nothing": [],
    "a shell": ["sh", "-c", "id"],
    "a path to a command": ["/usr/bin/squeue", "--me"],
    "a command with a way out": ["squeue/../sh", "--me"],
    "no options": ["squeue"],
    "another user's": ["squeue", "--user=root"],
    "a file": ["sinfo", "--nodes=/etc/shadow"],
    "an end of line": ["squeue", "--me\n"],
    "an option of sacct that writes": ["sacct", "--file=/etc/passwd"],
    "a form of JSON that somebody chose": ["squeue", "--json=v0.0.40"],
    "JSON of the controller": ["scontrol", "--json"],
    "a list of names with a space": ["squeue", "--name=a b"],
    "a change": ["scontrol", "update", "jobid=1", "priority=1"],
    "a reason": ["scontrol", "ping", "shutdown"],
    "an end without a name": ["scancel", "17"],
    "an end of all": ["scancel", "--me"],
    "an end by two ids": ["scancel", "--name=a", "17", "18"],
    "an option instead of an id": ["scancel", "--name=a", "--me"],
    "an end by state": ["scancel", "--name=a", "--state=PENDING"],
    "a NUL": ["squeue", "--me\0"],
    "half a character": ["squeue", "--me\ud800"],
    "an argument too long": ["squeue", "--name=" + "a," * 70000 + "a"],
    "numbers": ["squeue", 1],
    "no list": "squeue --me",
    "a trial without a script": TRIAL,
    "a trial of a script of its own": [*TRIAL, "--wrap=id"],
    "a trial of a file": [*TRIAL, "/etc/passwd"],
    "a trial that is none": ["sbatch", "--nodes=1", "--wrap=:"],
    "a trial that comes late": ["sbatch", "--nodes=1", "--test-only", "--wrap=:"],
    "a trial with an output": [*TRIAL, "--output=/tmp/x", "--wrap=:"],
    "a trial as somebody": [*TRIAL, "--uid=0", "--wrap=:"],
    "a trial with a space": [*TRIAL, "--account=a b", "--wrap=:"],
    "a trial and an end of line": [*TRIAL, "--wrap=:\n"],
}


def test_what_is_not_on_the_list_is_refused_and_the_rest_is_done(site: Site) -> None:
    *refused, done = site.ask(*({"run": call} for call in REFUSED.values()), {"run": ["scontrol", "ping"]})
    failures = {name: answer["failure"] for name, answer in zip(REFUSED, refused, strict=True)}
    assert failures == dict.fromkeys(REFUSED, "refused")
    assert done["exit_code"] == 0
    assert {note.split(".")[0] for note in site.called()} == {"scontrol"}


def hostile_submissions(site: Site, tmp_path: Path) -> Iterator[list[str]]:
    parsable, chdir, script = site.submission()[1:]
    work = site.attempt / "work"
    (work / "job.sh").write_text("#!/bin/sh\n")
    (tmp_path / "job.sh").write_text("#!/bin/sh\n")
    linked = site.make_attempt("job-linkdscr")
    (linked / "job.sh").unlink()
    (linked / "job.sh").symlink_to(work / "job.sh")
    inner = work / "job-bbbbbbbb" / "attempts" / "1"
    (inner / "work").mkdir(parents=True)
    (inner / "job.sh").write_text("#!/bin/sh\n")
    folder = site.make_attempt("job-linkdfol") / "work"
    folder.rmdir()
    folder.symlink_to("/tmp")
    (site.jobs / "job-linkjobx").symlink_to(site.jobs / "job-tcfnctbq")
    yield site.submission(linked)
    yield site.submission(folder.parent)
    yield site.submission(site.jobs / "job-linkjobx" / "attempts" / "1")
    yield site.submission(site.jobs / "job-missingg" / "attempts" / "1")
    yield site.submission(inner)
    yield ["sbatch", parsable, chdir, str(work / "job.sh")]
    yield ["sbatch", parsable, chdir, str(tmp_path / "job.sh")]
    yield ["sbatch", parsable, chdir, f"{site.attempt}/../1/job.sh"]
    yield ["sbatch", parsable, chdir, f"{site.attempt}//job.sh"]
    yield ["sbatch", parsable, chdir, f"{script}\n"]
    yield ["sbatch", parsable, "--chdir=/tmp", script]
    yield ["sbatch", parsable, f"--chdir={site.attempt}", script]
    yield ["sbatch", parsable, script]
    yield ["sbatch", parsable, chdir, "--wrap=id"]
    yield ["sbatch", parsable, chdir, script, "argument"]
    yield ["sbatch", "--wrap=id", chdir, script]


def test_only_what_the_portal_wrote_is_submitted(site: Site, tmp_path: Path) -> None:
    submissions = list(hostile_submissions(site, tmp_path))
    answers = site.ask(*({"run": submission} for submission in submissions))
    assert [answer["failure"] for answer in answers] == ["refused"] * len(submissions)
    assert site.called() == []


def test_another_jobs_folder_is_refused_however_it_is_reached(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    inside = site.attempt / "work"
    for jobs_dir in (other, inside, site.jobs / "..", Path("jobs"), Path(f"{site.jobs}/job-tcfnctbq/..")):
        request = {"version": 1, "id": "x", "timeout_seconds": 9, "call_seconds": 9, "at_once": 1, "calls": []}
        parsed = site.raw(json.dumps({**request, "jobs_dir": str(jobs_dir)}).encode())
        assert "jobs_dir" in parsed["error"]
    link = tmp_path / "link"
    link.symlink_to(site.jobs)
    assert site.run(*site.submission(link / "job-tcfnctbq" / "attempts" / "1"), jobs_dir=str(link))["exit_code"] == 0


GOOD = {"version": 1, "id": "x", "timeout_seconds": 1, "call_seconds": 1, "at_once": 1, "calls": []}
BAD_REQUESTS: dict[str, object] = {
    "another version": {**GOOD, "version": 2},
    "no calls": {**GOOD, "calls": None},
    "calls that are none": {**GOOD, "calls": ["squeue"]},
    "too many calls": {**GOOD, "calls": [{}] * 10001},
    "no time": {**GOOD, "timeout_seconds": 0},
    "all the time in the world": {**GOOD, "timeout_seconds": 1e9},
    "a truth for a number": {**GOOD, "at_once": True},
    "not a number": {**GOOD, "call_seconds": float("nan")},
    "a missing field": {key: value for key, value in GOOD.items() if key != "at_once"},
    "a field too many": {**GOOD, "x": 1},
    "a number for a folder": {**GOOD, "jobs_dir": 1},
    "a list": [GOOD],
    "an id that is none": {**GOOD, "id": 1},
    "a long id": {**GOOD, "id": "x" * 65},
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_request_of_the_wrong_form_is_an_error_in_one_line(name: str) -> None:
    with pytest.raises((BadRequestError, RefusedError)) as caught:
        parse_request(json.dumps(BAD_REQUESTS[name]).encode())
    assert "\n" not in str(caught.value)


def test_what_is_no_request_is_an_error(site: Site) -> None:
    for data in (b"", b"garbage", b"\xff", b"[" * 100000, b'{"version": 1', b" " * 9_000_000):
        assert site.raw(data)["error"]


def test_an_unknown_kind_of_call_is_refused(site: Site) -> None:
    answers = site.ask({}, {"run": ["scontrol", "ping"], "delete": "x"}, {"eval": "1"}, {"delete": 1})
    assert [answer["failure"] for answer in answers] == ["refused"] * 4


def test_the_environment_is_built_from_nothing(site: Site) -> None:
    outer = {
        "SLURM_CONF": "/etc/elsewhere.conf",
        "SLURM_TIME_FORMAT": "%s",
        "SBATCH_PARTITION": "evil",
        "LD_PRELOAD": "/none.so",
        "TZ": "Asia/Tokyo",
        "PATH": f"{site.commands}:relative:/usr/bin:/bin",
    }
    # The loader's complaint about the library is not ours.
    outer.pop("LD_PRELOAD")
    assert site.run("sinfo", "--version", environ=outer)["exit_code"] == 0
    found = dict(line.split("=", 1) for line in (site.notes / "sinfo.env").read_text().splitlines())
    assert (found["TZ"], found["LC_ALL"], found["SLURM_CONF"]) == ("UTC", "C", "/etc/elsewhere.conf")
    assert found["PATH"].startswith(f"{site.commands}:/usr/bin:/bin:")
    assert "relative" not in found["PATH"]
    assert set(found) - {"PWD", "_", "OLDPWD", "SHLVL"} == {
        "PATH", "HOME", "USER", "LOGNAME", "TZ", "LC_ALL", "SLURM_CONF",
    }  # fmt: skip


def test_exit_codes_and_both_outputs_come_back(site: Site) -> None:
    site.command("squeue", "echo out; echo é >&2; printf '\\377' >&2; exit 3")
    answer = site.run("squeue", "--me")
    assert answer == {"exit_code": 3, "stdout": "out\n", "stderr": "é\n�", "failure": None}


def test_a_command_that_hangs_is_ended_with_all_that_it_started(site: Site) -> None:
    site.command("squeue", f"sleep 100 & echo $! > '{site.notes}/pid'; echo half; wait")
    began = time.monotonic()
    slow, quick = site.ask({"run": ["squeue", "--me"]}, {"run": ["scontrol", "ping"]}, call_seconds=0.5)
    assert time.monotonic() - began < 8
    assert (slow["failure"], slow["exit_code"], slow["stdout"]) == ("timed_out", None, "")
    assert quick["exit_code"] == 0
    pid = int((site.notes / "pid").read_text())
    wait_until(lambda: not is_alive(pid), 5, "the end of what it started")


def test_what_is_not_begun_in_time_is_certainly_not_made(site: Site) -> None:
    site.command("squeue", "sleep 100")
    calls = [{"run": ["squeue", "--me"]}, {"run": site.submission()}]
    hung, late = site.ask(*calls, timeout_seconds=0.5, at_once=1)
    assert (hung["failure"], late["failure"]) == ("timed_out", "not_started")
    assert not list(site.notes.glob("sbatch*"))


@pytest.mark.thorough
def test_output_without_end_is_no_answer(site: Site) -> None:
    site.command("squeue", "yes")
    answer = site.run("squeue", "--me")
    assert (answer["failure"], answer["stdout"]) == ("too_long", "")
    site.command("squeue", f"head -c {MOST_OUTPUT_BYTES} /dev/zero | tr '\\0' x")
    assert len(site.run("squeue", "--me")["stdout"]) == MOST_OUTPUT_BYTES


def test_complaints_without_end_are_cut_and_harm_nothing(site: Site) -> None:
    site.command("squeue", "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo whole")
    answer = site.run("squeue", "--me")
    assert (answer["stdout"], answer["failure"], len(answer["stderr"])) == ("whole\n", None, 65536)


def test_a_command_that_is_missing_or_cannot_be_run_says_so(site: Site) -> None:
    (site.commands / "squeue").unlink()
    (site.commands / "sinfo").write_text("#!/nowhere/sh\n")
    environ = {"PATH": str(site.commands)}
    if not shutil.which("squeue", path="/usr/local/bin:/usr/bin:/bin"):
        assert site.run("squeue", "--me", environ=environ)["failure"] == "not_found"
    broken = site.run("sinfo", "--version", environ=environ)
    assert (broken["failure"], broken["exit_code"]) == ("not_started", None)


@pytest.mark.thorough
def test_many_submissions_go_in_a_few_at_a_time(site: Site) -> None:
    attempts = [site.make_attempt(f"job-bbbbbb{a}{b}") for a in "bcdfg" for b in "bcdfgh"]
    site.command("sbatch", f"sleep 0.1; basename \"${{3%/attempts*}}\"; ls '{site.notes}' | wc -l")
    began = time.monotonic()
    answers = site.ask(*({"run": site.submission(attempt)} for attempt in attempts))
    seconds = time.monotonic() - began
    assert [answer["stdout"].split()[0] for answer in answers] == [path.parent.parent.name for path in attempts]
    assert 0.1 * len(attempts) / 4 < seconds < 0.1 * len(attempts)


def test_what_a_job_made_is_deleted_and_nothing_else(site: Site, tmp_path: Path) -> None:
    work = site.attempt / "work"
    precious = tmp_path / "precious"
    (precious / "deep").mkdir(parents=True)
    (precious / "deep" / "file").write_text("kept")
    (work / "link").symlink_to(precious)
    (work / "locked").mkdir()
    (work / "locked" / "inner").mkdir()
    (work / "locked" / "inner" / "link").symlink_to(precious / "deep")
    (work / "locked" / "inner" / "file").write_text("x")
    (work / "locked" / "inner").chmod(0)
    (work / "locked").chmod(0)
    os.mkfifo(work / "pipe")
    [answer] = site.ask({"delete": str(work)})
    assert answer == {"exit_code": 0, "stdout": "", "stderr": "", "failure": None}
    assert list(work.iterdir()) == []
    assert (precious / "deep" / "file").read_text() == "kept"
    assert (site.attempt / "job.sh").exists()


@pytest.mark.thorough
def test_no_depth_is_too_deep_to_delete(site: Site) -> None:
    work = site.attempt / "work"
    folder = os.open(work, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 100, dir_fd=folder)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    [answer] = site.ask({"delete": str(work)})
    assert answer["exit_code"] == 0
    assert list(work.iterdir()) == []


def test_other_folders_are_not_emptied(site: Site, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    linked = site.make_attempt("job-linkdfol")
    (linked / "work").rmdir()
    (linked / "work").symlink_to(tmp_path / "work")
    (tmp_path / "work" / "file").write_text("kept")
    paths = [
        str(site.jobs),
        str(site.attempt),
        str(site.attempt / "work" / ".." / ".."),
        f"{site.attempt}/work/",
        str(tmp_path / "work"),
        "/",
        "",
    ]
    answers = site.ask(*({"delete": path} for path in paths))
    assert [answer["failure"] for answer in answers] == ["refused"] * len(paths)
    [answer] = site.ask({"delete": str(linked / "work")})
    assert answer["exit_code"] == 1
    assert (tmp_path / "work" / "file").read_text() == "kept"


def test_sftp_is_the_hosts_own_server_unless_it_is_closed(site: Site) -> None:
    if not Path("/usr/lib/openssh/sftp-server").exists():
        pytest.skip("needs Debian's openssh-sftp-server")
    # The first packet of the protocol: length 5, SSH_FXP_INIT, version 3.
    hello = b"\0\0\0\5\1\0\0\0\3"
    helper = [sys.executable, "-I", str(current_helper(site.jobs))]
    for asked in ("internal-sftp", "/usr/lib/openssh/sftp-server"):
        environ = {"SSH_ORIGINAL_COMMAND": asked, "PATH": "/usr/bin:/bin"}
        with subprocess.Popen(helper, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(hello)
            server.stdin.flush()
            assert server.stdout.read(5)[4:] == b"\2"
        closed = subprocess.run(
            [*helper, "--no-sftp"], input=hello, stdout=subprocess.PIPE, env=environ, check=False, timeout=20
        )
        assert "error" in json.loads(closed.stdout)


@pytest.mark.thorough
def test_an_sbatch_that_would_try_again_for_two_minutes_is_not_waited_for(site: Site) -> None:
    complaint = "echo 'sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying' >&2"
    site.command("sbatch", f"{complaint}; sleep 120")
    assert site.run(*site.submission())["failure"] == "busy"
    # One that has had time for a second try may have got in by it.
    site.command("sbatch", f"sleep 1.1; {complaint}; sleep 120")
    assert site.run(*site.submission())["failure"] == "timed_out"
