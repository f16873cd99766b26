"""The administrator's commands: `portal user` and `portal resubmit`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from portal.cli import cli
from portal.commands import resubmit as resubmit_module
from portal.jobs.models import Job
from portal.jobs.states import FailureReason, JobState
from portal.mail.outbox import owe_mail
from tests.web_portal import EMAIL, WebPortal, make_portal

RAN = (JobState.SUBMITTING, JobState.QUEUED, JobState.RUNNING)


@pytest.fixture
def portal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebPortal]:
    """A portal where the command looks for one; it reaches a cluster, so that nodes can be left out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "portal.toml").write_text(
        '[portal]\nbase_url = "https://portal.example.org"\n[scheduler]\nkind = "slurm"\n'
    )
    portal = make_portal(tmp_path, scheduler={"kind": "slurm"})
    yield portal
    portal.parts.database.close()


def run(*arguments: str, **options: Any) -> Result:
    result = CliRunner().invoke(cli, list(arguments), catch_exceptions=False, **options)
    assert "Traceback" not in result.output
    return result


def failed(portal: WebPortal, node: str = "node1", reason: FailureReason = FailureReason.NODE_FAILURE) -> str:
    job_id = portal.foreign_job()
    portal.move(job_id, *RAN, JobState.FAILED, reason=reason, node=node)
    return job_id


def wish(portal: WebPortal, job_id: str) -> dict[str, Any] | None:
    return portal.parts.jobs.record(job_id).job.resubmit_wish


# People


def test_the_first_administrator_is_added_and_gets_a_link_of_the_settings_address(portal: WebPortal) -> None:
    result = run("user", "add", "--admin", "Root@Example.org")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "root@example.org is added, as an administrator."
    assert re.fullmatch(r"https://portal\.example\.org/sign-in\?link=[\w-]{32}", lines[-1])
    token = lines[-1].rpartition("=")[2]
    assert portal.parts.people.sign_in(token)


def test_a_link_can_be_had_again_and_each_is_another(portal: WebPortal) -> None:
    run("user", "add", EMAIL)
    links = {run("user", "link", EMAIL).stdout.splitlines()[-1] for _ in range(2)}
    assert len(links) == 2


def test_people_are_listed_disabled_and_enabled(portal: WebPortal) -> None:
    assert "portal user add --admin" in run("user", "list").stdout
    run("user", "add", "--admin", "root@example.org")
    run("user", "add", EMAIL)
    assert run("user", "disable", EMAIL).exit_code == 0
    listed = json.loads(run("user", "list", "--json").stdout)
    assert [(one["email"], one["role"], one["disabled_at"] is None) for one in listed] == [
        (EMAIL, "visitor", False),
        ("root@example.org", "administrator", True),
    ]
    assert "root@example.org  administrator" in run("user", "list").stdout
    refused = run("user", "link", EMAIL)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "portal user enable ann@example.org" in refused.stderr
    run("user", "enable", EMAIL)
    assert run("user", "link", EMAIL).exit_code == 0


@pytest.mark.parametrize("command", ["link", "disable", "enable"])
def test_an_unknown_person_is_one_line_and_exit_1(portal: WebPortal, command: str) -> None:
    result = run("user", command, "nobody@example.org")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "nobody@example.org" in result.stderr


def test_what_is_no_address_is_wrong_usage(portal: WebPortal) -> None:
    result = run("user", "add", "Ann <ann@example.org>")
    assert result.exit_code == 2
    assert "one address is needed" in result.stderr


# Running jobs again


def test_a_named_job_runs_again_without_a_question(portal: WebPortal) -> None:
    job_id = failed(portal)
    result = run("resubmit", job_id, "--memory", "16G", "--time-limit", "2h", "--exclude-node", "node1")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("1 job asked to run again:")
    asked = wish(portal, job_id)
    assert asked is not None
    assert (asked["resources"]["memory_mib"], asked["resources"]["time_limit_minutes"]) == (16384, 120)
    assert (asked["excluded_nodes"], asked["by"]) == (["node1"], "administrator")
    again = run("resubmit", job_id)
    assert (again.exit_code, again.stdout) == (0, f"Job {job_id}: asked for already.\n")


def test_jobs_are_chosen_by_what_befell_them(portal: WebPortal) -> None:
    one, other = failed(portal), failed(portal, "node2", FailureReason.TIME_LIMIT)
    cancelled, done, waiting = portal.foreign_job(), portal.foreign_job(), portal.foreign_job()
    portal.move(cancelled, JobState.CANCELLED)
    portal.move(done, *RAN, JobState.SUCCEEDED)
    expected: dict[tuple[str, ...], set[str]] = {
        ("--failure", "node_failure"): {one},
        ("--node", "node2"): {other},
        ("--application", "slow_div"): {one, other},
        ("--owner", "Ann@Example.org"): {one, other},
        ("--owner", "eve@example.org"): set(),
        ("--state", "cancelled"): {cancelled},
        ("--unfinished",): {waiting},
        ("--since", "2026-01-01"): {one, other},
        ("--until", "2026-01-01"): set(),
        (one, other, "--node", "node2"): {other},
        (done,): {done},
    }
    for arguments, chosen in expected.items():
        result = run("resubmit", *arguments, "--dry-run", "--json")
        assert result.exit_code == 0, result.stderr
        assert set(json.loads(result.stdout)["asked"]) == chosen, arguments
    assert wish(portal, one) is None


def test_a_dry_run_says_how_many_and_which(portal: WebPortal) -> None:
    ids = [failed(portal) for _ in range(22)]
    result = run("resubmit", "--failure", "node_failure", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.startswith("22 jobs would run again:")
    assert result.stdout.endswith("and 2 more\n")
    assert sum(job_id in result.stdout for job_id in ids) == 20


def test_without_a_terminal_more_than_the_named_ones_need_yes(portal: WebPortal) -> None:
    job_id = failed(portal)
    refused = run("resubmit", "--failure", "node_failure")
    assert refused.exit_code == 2
    assert "this is about 1 job: without a terminal it needs --yes" in refused.stderr
    assert wish(portal, job_id) is None
    assert run("resubmit", "--failure", "node_failure", "--yes").exit_code == 0
    assert wish(portal, job_id) is not None


@pytest.mark.parametrize(("answer", "is_asked"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_on_a_terminal_it_asks_first(
    portal: WebPortal, monkeypatch: pytest.MonkeyPatch, answer: str, is_asked: bool
) -> None:
    job_id = failed(portal)
    monkeypatch.setattr(resubmit_module, "_is_terminal", lambda: True)
    result = run("resubmit", "--node", "node1", "--memory", "1G", input=answer)
    assert "Run 1 job again, with 1 GiB of memory?" in result.stderr
    assert job_id in result.stderr
    assert (wish(portal, job_id) is not None) is is_asked
    assert result.exit_code == (0 if is_asked else 1)


def test_nothing_to_be_done_is_no_failure_and_no_question(portal: WebPortal) -> None:
    result = run("resubmit", "--failure", "lost")
    assert (result.exit_code, result.stdout) == (0, "No job is like that.\n")


def test_what_cannot_run_again_is_named_and_the_others_do(portal: WebPortal) -> None:
    good, waiting = failed(portal), portal.foreign_job()
    result = run("resubmit", good, waiting, "bcdfghjk", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["asked"] == [good]
    assert [one["job_id"] for one in told["refused"]] == [waiting, "bcdfghjk"]
    assert "has not ended" in told["refused"][0]["reason"]
    assert result.stderr.count("\n") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name the jobs, or say which"),
        (("--memory", "16Q"), "'16Q' should be an amount of memory such as 512M, 16G or 2T"),
        (("--memory", "0"), "should be a whole number of MiB"),
        (("--memory", "999999T"), "Memory: should be from 1 to"),
        (("--time-limit", "soon"), "'soon' should be a time such as 90m, 2h or 1d"),
        (("--since", "yesterday"), "such as 30m, 6h, 1d or 2w, or a day such as 2026-11-24"),
        (("--exclude-node", "a b"), "should be the name of one node"),
        (("--node", ""), "should be the name of one node"),
        (("--failure", "bad_luck"), "node_failure"),
        (("--owner", "ann"), "one address is needed"),
        (("--unfinished", "--failure", "lost"), "--unfinished is about jobs that have not ended"),
    ],
)
def test_wrong_usage_says_what_would_be_right_and_asks_for_nothing(
    portal: WebPortal, arguments: tuple[str, ...], words: str
) -> None:
    job_id = failed(portal)
    named = [job_id] if arguments and "--unfinished" not in arguments else []
    result = run("resubmit", *named, *arguments)
    assert result.exit_code == 2, result.output
    assert words in re.sub(r"\s+", " ", result.stderr.replace("│", ""))
    assert wish(portal, job_id) is None


def test_check_tells_what_is_stuck_and_works_all_the_same(portal: WebPortal, tmp_path: Path) -> None:
    (tmp_path / "portal.toml").write_text("")
    ids = [failed(portal) for _ in range(5)]
    with portal.parts.database.writing() as session:
        for job_id in ids:
            owe_mail(session, session.get_one(Job, job_id), "failed", portal.clock.now, "example.org", portal.clock.now)
    (line,) = [line for line in run("check", "--json").stdout.split("{") if '"stuck"' in line]
    assert '"state": "warning"' in line
    assert "5 wait for longer than they should" in line
    assert "and 2 more, see http" in line
