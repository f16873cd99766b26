"""The command: its exit codes, its messages and its JSON."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from portal.app import build_parts
from portal.cli import cli
from portal.commands import jobs
from portal.jobs.models import MailOutbox
from portal.jobs.view import rest_object
from portal.settings import load_settings

SUBMIT = ("submit", "slow_div", "--set", "x=8", "--set", "y=2", "--email", "ann@example.org")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def portal(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def submitted() -> str:
    result = portal(*SUBMIT, "--json")
    assert result.exit_code == 0, result.output
    return str(json.loads(result.stdout)["job_id"])


def rest(job_id: str) -> dict[str, Any]:
    parts = build_parts(load_settings())
    record = parts.jobs.record(job_id)
    shown = rest_object(record, parts.jobs.outputs(record), parts.jobs.base_url)
    parts.database.close()
    return dict(json.loads(json.dumps(shown)))


def test_help_and_version_need_no_settings() -> None:
    Path("portal.toml").write_text("nonsense")
    assert portal("--version").stdout.startswith("portal ")
    assert "serve" in portal("--help").stdout
    assert portal("submit", "--help").exit_code == 0


@pytest.mark.parametrize("command", [("jobs",), ("show", "tcfnctbq"), SUBMIT, ("check",), ("web",), ("serve",)])
def test_wrong_settings_are_one_line_and_exit_2(command: tuple[str, ...]) -> None:
    Path("portal.toml").write_text("[portal]\nbnd = 1")
    result = portal(*command)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("portal: ")
    assert "portal.bnd" in line
    assert not Path("jobs").exists()


def test_a_missing_settings_file_is_one_line_and_exit_2() -> None:
    result = portal("--config", "nowhere.toml", "jobs")
    assert (result.exit_code, result.stderr) == (
        2,
        f"portal: {Path.cwd()}/nowhere.toml: there is no such settings file\n",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("submit", "slow_div"),
        ("submit", "slow_div", "--set", "x", "--email", "a@example.org"),
        ("submit", "slow_div", "--set", "x=1", "--set", "x=2", "--email", "a@example.org"),
        ("submit", "slow_div", "--file", "x=/no/such/file", "--email", "a@example.org"),
        ("jobs", "--limit", "0"),
        ("show",),
        ("cancel",),
        ("client", "--slots", "0"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: tuple[str, ...]) -> None:
    assert portal(*arguments).exit_code == 2


@pytest.mark.parametrize("kind", ["slurm", "slurm-ssh"])
def test_a_compute_client_without_the_embedded_scheduler_says_so_and_makes_nothing(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORTAL_SCHEDULER__KIND", kind)
    for name, value in (("HOST", "head"), ("USER", "jobs"), ("KEY_FILE", "key"), ("KNOWN_HOSTS_FILE", "known_hosts")):
        monkeypatch.setenv(f"PORTAL_SCHEDULER__SSH__{name}", value)
    for name in ("key", "known_hosts"):
        Path(name).touch()
    result = portal("client")
    assert result.exit_code == 2
    assert result.stderr == f"portal: portal client serves scheduler.kind 'local' only; this portal's is '{kind}'\n"
    assert not Path("portal.db").exists()


def test_invalid_inputs_are_each_named_and_nothing_is_made() -> None:
    result = portal("submit", "slow_div", "--set", "x=eight", "--set", "z=\x1b[31m", "--email", "nobody")
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert all(line.startswith("portal: ") and line.isprintable() for line in lines)
    assert [line.split(":")[1].strip() for line in lines] == ["x", "y", "z", "Email"]
    assert list(Path("jobs").glob("job-*")) == []
    assert portal("jobs").stdout == "No jobs yet.\n"


def test_an_unknown_application_is_one_line() -> None:
    result = portal("submit", "blust", "--email", "ann@example.org")
    assert result.exit_code == 1
    assert result.stderr == "portal: There is no application called “blust”.\n"


def test_submit_show_and_jobs_print_the_rest_object() -> None:
    result = portal(*SUBMIT, "--json")
    assert result.exit_code == 0
    job = json.loads(result.stdout)
    assert job == rest(job["job_id"])
    assert job["inputs"] == {"x": 8, "y": 2}
    assert json.loads(portal("show", job["job_id"], "--json").stdout) == job
    second = submitted()
    listed = json.loads(portal("jobs", "--json").stdout)
    assert {one["job_id"] for one in listed} == {job["job_id"], second}
    assert len(json.loads(portal("jobs", "--limit", "1", "--json").stdout)) == 1
    assert json.loads(portal("cancel", second, "--json").stdout) == [rest(second)]


def test_text_for_people() -> None:
    result = portal(*SUBMIT)
    job_id = result.stdout.split()[1]
    assert result.stdout == f"Job {job_id} is accepted: http://127.0.0.1:8080/jobs/{job_id}\n"
    head, row = portal("jobs").stdout.splitlines()
    assert head.split() == ["JOB", "STATE", "APPLICATION", "INPUTS", "OWNER", "CREATED"]
    assert row.startswith(f"{job_id}  Accepted")
    assert row.index("slow_div") == head.index("APPLICATION")
    shown = portal("show", job_id)
    assert shown.exit_code == 0
    assert f"Job {job_id}: Accepted" in shown.stdout
    assert "ann@example.org" in shown.stdout


def test_unknown_jobs_are_exit_1() -> None:
    for arguments in (("show", "bcdfghjk"), ("show", "../../etc"), ("cancel", "bcdfghjk")):
        result = portal(*arguments)
        assert result.exit_code == 1
        assert "There is no such job" in result.stderr


def test_cancel_does_what_it_can_and_says_what_it_cannot() -> None:
    job_id = submitted()
    result = portal("cancel", "bcdfghjk", job_id)
    assert result.exit_code == 1
    assert result.stdout == f"Job {job_id}: cancellation asked for.\n"
    assert "bcdfghjk" in result.stderr
    assert portal("cancel", job_id).exit_code == 0  # asking twice is asking once


def test_submit_wait_leaves_the_job_at_ctrl_c_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "time", SimpleNamespace(sleep=interrupt, monotonic=time.monotonic))
    result = portal(*SUBMIT, "--wait")
    job_id = result.stdout.split()[1]
    assert result.exit_code == 1
    assert f"job {job_id} goes on" in result.stderr
    assert rest(job_id)["state"] == "accepted"


def test_reindex_takes_up_what_the_database_does_not_know() -> None:
    job_id = submitted()
    for file in Path.cwd().glob("portal.db*"):
        file.unlink()
    assert portal("show", job_id).exit_code == 1
    result = portal("reindex")
    assert result.exit_code == 0
    assert result.stdout.startswith("1 taken up")
    assert rest(job_id)["inputs"] == {"x": 8, "y": 2}


def check_lines() -> dict[str, str]:
    return {one["name"]: one["state"] for one in json.loads(portal("check", "--json").stdout)}


def test_check_before_the_first_start_makes_nothing() -> None:
    result = portal("check")
    assert result.exit_code == 0, result.output
    assert not any(Path.cwd().iterdir())


def test_check_has_a_line_for_each_part() -> None:
    submitted()
    result = portal("check")
    assert result.exit_code == 0, result.output
    assert check_lines() == {
        "settings": "ok",
        "applications": "ok",
        "disk": "ok",
        "accounts": "ok",
        "secret": "ok",
        "database": "ok",
        "mail": "ok",
        "scheduler": "ok",
        "dispatcher": "warning",
        "stuck": "ok",
    }
    assert "one account" in result.stdout
    job = portal("check", "--job")
    assert job.exit_code == 1
    assert "no dispatcher is at work" in job.stdout


def break_application() -> None:
    for name in ("good", "bad"):
        folder = Path("apps", name)
        folder.mkdir(parents=True)
        (folder / "application.toml").write_text("title = 'A'" if name == "good" else "titel = 'A'")
        (folder / "program.sh.j2").write_text("echo hello\n")
    Path("portal.toml").write_text("[portal]\ntemplates_dir = 'apps'")


def break_secret() -> None:
    Path("secret_key").chmod(0o644)


def break_database() -> None:
    for file in Path.cwd().glob("portal.db-*"):
        file.unlink()
    Path("portal.db").write_bytes(b"nonsense" * 1000)


def break_mail() -> None:
    Path("portal.toml").write_text("[mail]\ntransport = 'smtp'\nsmtp_host = '127.0.0.1'\nsmtp_port = 1")


def break_disk() -> None:
    Path("portal.toml").write_text("[portal]\njobs_dir = 'secret_key'")


@pytest.mark.parametrize(
    ("name", "break_it", "word"),
    [
        ("applications", break_application, "apps/bad/application.toml"),
        ("secret", break_secret, "chmod 600"),
        ("database", break_database, "portal.db"),
        ("mail", break_mail, "127.0.0.1:1"),
        ("disk", break_disk, "not a folder"),
    ],
)
def test_check_names_what_is_broken(name: str, break_it: Any, word: str) -> None:
    submitted()
    break_it()
    result = portal("check")
    assert result.exit_code == 1, result.output
    (line,) = [line for line in result.stdout.splitlines() if " BROKEN " in line]
    assert line.split()[0] == name
    assert word in line


def test_check_sees_that_setgid_is_lost() -> None:
    submitted()
    Path("jobs").chmod(0o750)
    assert check_lines()["disk"] == "warning"


def test_show_says_what_has_become_of_the_mail_in_the_servers_own_words() -> None:
    job_id = submitted()
    assert "Mail:" not in portal("show", job_id).stdout
    parts = build_parts(load_settings())
    now = parts.clock.now_utc()
    with parts.database.writing() as session:
        session.add(
            MailOutbox(
                job_id=job_id,
                attempt_number=1,
                outcome="failed",
                recipient="ann@example.org",
                message_id=f"<{job_id}.1.failed@example.org>",
                created_at=now,
                next_try_at=now,
                refused_at=now,
                last_error="The mail server does not take the address. (127.0.0.1:25: 550 no such mailbox)",
            )
        )
    parts.database.close()
    shown = portal("show", job_id).stdout
    assert "The mail server does not take the mail to ann@example.org, and it is not tried again." in shown
    assert "550 no such mailbox" in shown
