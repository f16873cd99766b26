"""The commands that delete, purge, copy and reindex: exit codes, messages and JSON."""

import json
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from portal.app import build_parts
from portal.cli import cli
from portal.jobs.directory import JobsFolder
from portal.jobs.models import Attempt, Job
from portal.jobs.states import JobState
from portal.settings import load_settings

SUBMIT = ("submit", "slow_div", "--set", "x=8", "--set", "y=2", "--email", "ann@example.org", "--json")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def portal(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert "Traceback" not in result.output
    return result


def submitted() -> str:
    result = portal(*SUBMIT)
    assert result.exit_code == 0, result.output
    return str(json.loads(result.stdout)["job_id"])


def ended(kept_days: float = 90) -> str:
    """A job that has succeeded, kept for so many days from now."""
    job_id = submitted()
    parts = build_parts(load_settings())
    with parts.database.writing() as session:
        job = session.get_one(Job, job_id)
        job.state = session.get_one(Attempt, (job_id, 1)).state = JobState.SUCCEEDED
        job.kept_until = datetime.now(UTC) + timedelta(days=kept_days)
    parts.database.close()
    return job_id


def listed() -> list[str]:
    return [job["job_id"] for job in json.loads(portal("jobs", "--json").stdout)]


def test_delete_says_what_became_of_each(tmp_path: Path) -> None:
    active, first, second = submitted(), ended(), ended()
    result = portal("delete", first, active, "bbbbbbbb", second, first)
    assert result.exit_code == 1
    assert result.stdout == (
        f"Job {first} is deleted; the dispatcher removes its files.\n"
        f"Job {second} is deleted; the dispatcher removes its files.\n"
    )
    assert f"{active}: This job has not ended yet. Please cancel it first" in result.stderr
    assert "bbbbbbbb: There is no such job" in result.stderr
    assert listed() == [active]
    assert JobsFolder(tmp_path / "jobs").job(first).changes.exists(), "the wish outlives the database"


def test_delete_as_json() -> None:
    job_id = ended()
    result = portal("delete", "--json", job_id)
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"deleted": [job_id]})


def test_purge_deletes_what_has_been_kept_long_enough() -> None:
    kept, expired = ended(1), ended(-1)
    assert submitted() in listed()
    shown = portal("purge", "--dry-run")
    assert shown.exit_code == 0
    assert expired in shown.stdout
    assert kept not in shown.stdout
    assert len(listed()) == 3
    asked = portal("purge")
    assert asked.exit_code == 2
    assert "--yes or --dry-run is needed" in asked.stderr
    assert len(listed()) == 3
    done = portal("purge", "--yes")
    assert done.exit_code == 0
    assert done.stdout.endswith("1 job deleted; the dispatcher removes the files.\n")
    assert expired not in listed()
    assert portal("purge").stdout == "No job has been kept for longer than its application says.\n"


def test_purge_as_json() -> None:
    job_id = ended(-1)
    before = json.loads(portal("purge", "--dry-run", "--json").stdout)
    assert before["deleted"] == 0
    [expired] = before["expired"]
    assert (expired["job_id"], expired["application"], expired["owner"]) == (job_id, "slow_div", "ann@example.org")
    assert json.loads(portal("purge", "--yes", "--json").stdout) == before | {"deleted": 1}
    assert json.loads(portal("purge", "--json").stdout) == {"expired": [], "deleted": 0}


# Backup


def test_backup_copies_database_and_secret_and_names_what_comes_next(tmp_path: Path) -> None:
    job_id = submitted()
    result = portal("backup", "copies/today")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "Written: copies/today/portal.db",
        "Written: copies/today/secret_key",
        f"Now copy the jobs folder: {tmp_path}/jobs",
    ]
    folder = tmp_path / "copies" / "today"
    assert sorted(path.name for path in folder.iterdir()) == ["portal.db", "secret_key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert (folder / "secret_key").read_text() == (tmp_path / "secret_key").read_text()
    with closing(sqlite3.connect(folder / "portal.db")) as copy:
        assert copy.execute("SELECT job_id FROM jobs").fetchall() == [(job_id,)]


def test_where_there_is_no_portal_nothing_is_copied(tmp_path: Path) -> None:
    result = portal("backup", "copies")
    assert result.exit_code == 1
    assert f"there is no {tmp_path}/portal.db to be copied" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_backup_replaces_the_one_before(tmp_path: Path) -> None:
    submitted()
    assert portal("backup", "copies").exit_code == 0
    submitted()
    result = portal("backup", "copies", "--json")
    assert json.loads(result.stdout) == {
        "files": ["copies/portal.db", "copies/secret_key"],
        "copy_next": f"{tmp_path}/jobs",
    }
    with closing(sqlite3.connect(tmp_path / "copies" / "portal.db")) as copy:
        assert copy.execute("SELECT count(*) FROM jobs").fetchall() == [(2,)]


def test_a_backup_that_cannot_be_written_says_why_and_leaves_the_one_before(tmp_path: Path) -> None:
    submitted()
    assert portal("backup", "copies").exit_code == 0
    before = (tmp_path / "copies" / "portal.db").read_bytes()
    (tmp_path / "copies" / ".portal.db.new").mkdir()
    result = portal("backup", "copies")
    assert result.exit_code == 1
    assert "The database could not be copied" in result.stderr
    assert (tmp_path / "copies" / "portal.db").read_bytes() == before
    Path("file").touch()
    assert "cannot be written" in portal("backup", "file/below").stderr


# Reindexing


def lose_database(tmp_path: Path) -> None:
    for file in tmp_path.glob("portal.db*"):
        file.unlink()


def test_reindex_builds_the_database_again(tmp_path: Path) -> None:
    ids = {submitted(), submitted()}
    lose_database(tmp_path)
    result = portal("reindex")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "2 taken up, 0 renewed, 0 forgotten, 0 leftovers removed, 0 unreadable\n"
    assert set(listed()) == ids


def test_reindex_names_what_it_cannot_read_and_goes_on(tmp_path: Path) -> None:
    broken, whole = submitted(), submitted()
    lose_database(tmp_path)
    config = JobsFolder(tmp_path / "jobs").job(broken).config
    config.write_text("[settings]\n")
    result = portal("reindex")
    assert result.exit_code == 1
    assert result.stdout.startswith("1 taken up,")
    assert result.stdout.endswith("1 unreadable\n")
    assert result.stderr == f"portal: {config.parent}: config.ini: lacks 'job_id'\n"
    as_json = portal("reindex", "--json")
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout) == {
        "adopted": 0,
        "renewed": 0,
        "forgotten": 0,
        "swept": 0,
        "unreadable": 1,
        "problems": [f"{config.parent}: config.ini: lacks 'job_id'"],
        "compared": True,
    }
    assert listed() == [whole]
