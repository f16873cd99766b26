"""Several processes over PostgreSQL: what a site with more than one machine relies on."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select

from portal.app import Parts, build_parts
from portal.clock import SystemClock
from portal.database import Base, Database
from portal.dispatch.leadership import Leadership
from portal.errors import StaleEpochError
from portal.jobs.acceptance import Submission
from portal.jobs.models import DispatcherEpoch
from portal.jobs.states import JobState
from portal.settings import load_settings
from tests.mail_bench import Bench, KeptMail
from tests.postgresql import postgresql_server
from tests.waiting import wait_until

pytestmark = pytest.mark.daemon

JOBS = 12


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgresql_server() as address:
        yield address


@pytest.fixture
def parts(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    """A portal whose folder is new and whose database is the server's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORTAL_PORTAL__DATABASE_URL", server)
    monkeypatch.setenv("PORTAL_SCHEDULER__POLL_SECONDS", "0.25")
    monkeypatch.setenv("SLOW_DIV_SECONDS", "0")
    parts = build_parts(load_settings())
    yield parts
    parts.database.close()


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """One process of the portal, which is asked to stop at the end."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "portal", *arguments], cwd=folder, env=os.environ, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def test_the_migrations_make_the_tables_of_the_models(parts: Parts) -> None:
    with parts.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_two_clients_and_two_dispatchers_run_each_job_once(parts: Parts, tmp_path: Path) -> None:
    with (
        running(tmp_path, "dispatcher"),
        running(tmp_path, "dispatcher"),
        running(tmp_path, "client", "--slots", "2"),
        running(tmp_path, "client", "--slots", "2"),
    ):
        accepted = [
            parts.jobs.submit(Submission("slow_div", {"x": str(x), "y": "3"}, "ann@example.org")).job_id
            for x in range(JOBS)
        ]
        wait_until(
            lambda: all(parts.jobs.record(job_id).job.state.is_final for job_id in accepted), 60, "all jobs to end"
        )
    for x, job_id in enumerate(accepted):
        record = parts.jobs.record(job_id)
        assert record.job.state is JobState.SUCCEEDED
        assert record.result is not None
        assert record.result.answer == str(x // 3)
        assert len(record.attempts) == 1
    assert len(list((tmp_path / "mail").glob("*.eml"))) == JOBS


def test_a_dispatcher_whose_successor_has_come_changes_nothing_more(server: str) -> None:
    database = Database(server)
    database.upgrade()
    stop = threading.Event()
    first, second = Leadership(database, SystemClock()), Leadership(database, SystemClock())
    assert first.take(stop)
    stop.set()
    assert not second.take(stop), "the advisory lock is the first one's"
    stop.clear()
    first.release()  # as if its connection had been lost without its noticing
    assert second.take(stop)
    with pytest.raises(StaleEpochError), first.writing() as session:
        pytest.fail("the first dispatcher still writes")
    with second.writing() as session:
        assert session.scalar(select(DispatcherEpoch.epoch)) == second.epoch
    second.release()
    database.close()


def test_limits_and_digests_of_mail_are_the_same_there(server: str, tmp_path: Path) -> None:
    bench, mail = Bench(tmp_path, mails_per_hour=2, database_url=server), KeptMail()
    sender = bench.sender(mail)
    for _ in range(5):
        bench.done_job()
    assert sender.send_due() == 2
    bench.clock.turn(3600)
    assert (sender.send_due(), sender.send_due()) == (1, 0)
    assert mail.messages[2]["Subject"] == "[Portal] 3 jobs: 3 done"
    bench.close()
