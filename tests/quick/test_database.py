"""The database: its migrations, its durability, and its two kinds of transaction."""

import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import IntegrityError, StatementError

import portal.app  # noqa: F401  # every table of every room has been declared then
from portal.database import Base, Database
from portal.errors import StorageError
from portal.jobs.models import DispatcherEpoch, JobEvent, SchedulerHealth
from portal.jobs.states import JobState

NOW = datetime(2026, 11, 24, 6, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(autouse=True)
def migrations_are_copied() -> None:
    """Not here: see `conftest.py`."""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/portal.db")
    database.upgrade()
    yield database
    database.close()


def health(at: datetime) -> SchedulerHealth:
    return SchedulerHealth(row_id=1, asked_at=at, detail="")


def stored_epoch(database: Database) -> int | None:
    with database.reading() as session:
        return session.scalar(select(DispatcherEpoch.epoch))


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []
        assert {"jobs", "attempts", "mail_outbox", "job_queue", "sessions"} <= set(
            inspect(connection).get_table_names()
        )


def test_upgrading_again_changes_nothing(database: Database) -> None:
    with database.writing() as session:
        session.add(DispatcherEpoch(row_id=1, epoch=7, holder="h", taken_at=NOW))
    schema = _schema(database)
    database.upgrade()
    assert (_schema(database), stored_epoch(database)) == (schema, 7)


def _schema(database: Database) -> list[str]:
    with database.engine.connect() as connection:
        return list(connection.scalars(text("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")))


def test_four_processes_may_upgrade_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new/portal.db"
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            _upgrade_in_child(url)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    database = Database(url)
    assert "jobs" in " ".join(_schema(database))
    database.close()


def _upgrade_in_child(url: str) -> None:
    code = 1
    try:
        Database(url).upgrade()
        code = 0
    finally:
        os._exit(code)


def test_a_percent_sign_in_the_path_does_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "100%d"
    database = Database(f"sqlite:///{folder}/portal.db")
    database.upgrade()
    assert database.sqlite_file == folder / "portal.db"
    database.close()


def test_commits_survive_a_power_cut_and_readers_do_not_wait(database: Database) -> None:
    with database.engine.connect() as connection:
        pragmas = {
            name: connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_row_cannot_belong_to_a_job_that_is_not_there(database: Database) -> None:
    orphan = JobEvent(
        job_id="bcdfghjk", attempt_number=1, at=NOW, to_state=JobState.ACCEPTED, source="form", detail="", by="portal"
    )
    with pytest.raises(IntegrityError), database.writing() as session:
        session.add(orphan)


def test_moments_keep_their_microseconds_and_come_back_in_utc(database: Database) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-7)))
    with database.writing() as session:
        session.add(health(elsewhere))
    with database.reading() as session:
        stored = session.get_one(SchedulerHealth, 1).asked_at
    assert (stored, stored.tzinfo) == (NOW, UTC)


def test_a_moment_without_a_time_zone_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="without a time zone"), database.writing() as session:
        session.add(health(NOW.replace(tzinfo=None)))
    with database.reading() as session:
        assert session.get(SchedulerHealth, 1) is None


def test_states_are_kept_as_the_words_that_machines_read(database: Database) -> None:
    with database.engine.connect() as connection:
        columns = {column["name"]: column["type"] for column in inspect(connection).get_columns("attempts")}
    assert str(columns["state"]) == "VARCHAR(32)"


def test_writing_holds_the_write_lock_from_its_first_statement(database: Database) -> None:
    """A transaction that reads and then writes would otherwise fail where another wrote in between."""
    with database.writing() as session:
        session.scalar(select(DispatcherEpoch.epoch))
        assert not _can_write(database)
    with database.reading() as session:
        session.scalar(select(DispatcherEpoch.epoch))
        assert _can_write(database)


def _can_write(database: Database) -> bool:
    connection = sqlite3.connect(str(database.sqlite_file), timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    else:
        return True
    finally:
        connection.close()


def test_what_raises_is_rolled_back(database: Database) -> None:
    def fail_half_way() -> None:
        with database.writing() as session:
            session.add(DispatcherEpoch(row_id=1, epoch=7, holder="h", taken_at=NOW))
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert stored_epoch(database) is None


def test_reading_stores_nothing(database: Database) -> None:
    with database.reading() as session:
        session.add(DispatcherEpoch(row_id=1, epoch=7, holder="h", taken_at=NOW))
        session.flush()
    assert stored_epoch(database) is None


def test_a_database_that_fails_is_one_kind_of_error(tmp_path: Path) -> None:
    (tmp_path / "portal.db").write_text("this is not a database")
    database = Database(f"sqlite:///{tmp_path}/portal.db")
    with pytest.raises(StorageError) as caught:
        stored_epoch(database)
    assert "not a database" in caught.value.log_detail
    assert "not a database" not in caught.value.visitor_message
    database.close()


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Database(f"sqlite:///{tmp_path}/file/portal.db").upgrade()


def test_a_current_database_is_not_locked_to_find_that_out(database: Database) -> None:
    with database.writing():
        Database(database.url).upgrade()


def test_a_database_of_a_newer_portal_is_refused(database: Database) -> None:
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match="newer version"):
        database.upgrade()


def test_a_file_that_is_no_database_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "portal.db").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(StorageError):
        Database(f"sqlite:///{tmp_path}/portal.db").upgrade()
