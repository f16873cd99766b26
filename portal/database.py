"""The database: its engine, its two kinds of transaction, and its migrations.

SQLite runs in WAL mode with `synchronous = FULL`, so that a commit survives a power cut, and every write begins
with BEGIN IMMEDIATE: a transaction that reads and then writes would otherwise fail in the middle when another
process wrote in between. A transaction never spans I/O on job directories or a scheduler.
"""

import enum
import fcntl
import functools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, DateTime, Dialect, Engine, Enum, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.types import TypeDecorator

from portal.errors import StorageError
from portal.node.durable import fsync_file, fsync_folder

BUSY_TIMEOUT_SECONDS = 15
"""How long a SQLite write waits for another one before it gives up with StorageError."""


def _values(kind: type[enum.Enum]) -> list[str]:
    return [member.value for member in kind]


class Base(DeclarativeBase):
    """The tables of every room of the portal share this registry, which the migrations compare with."""

    # States are kept as the words that machines read everywhere else, and a new word needs no migration.
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        enum.Enum: Enum(enum.Enum, native_enum=False, create_constraint=False, length=32, values_callable=_values)
    }


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment in UTC; a naive one is refused before it can be stored."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a time zone cannot be stored")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Database:
    """One engine. `reading` and `writing` are the only ways to a session."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self.engine = _create_engine(url, is_sqlite=self.is_sqlite)
        self._write_engine = self.engine.execution_options(portal_begin="BEGIN IMMEDIATE")
        # PostgreSQL's default lets two statements of one transaction see different states; SQLite's never does.
        self._read_engine = (
            self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="REPEATABLE READ")
        )

    @property
    def sqlite_file(self) -> Path | None:
        """The file of a SQLite database, absolute; None for any other."""
        name = make_url(self.url).database
        return Path(name).absolute() if self.is_sqlite and name else None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one consistent state and stores nothing. StorageError where the database fails."""
        with _storage_errors(), Session(self._read_engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session whose changes are committed when the block ends, and rolled back when it raises.

        Raises StorageError where the database fails (the outcome of a failed commit is then unknown), and lets
        IntegrityError through, which says that somebody else was first.
        """
        with _storage_errors(), Session(self._write_engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    def upgrade(self) -> None:
        """Bring the tables up to this version of the portal. Safe when several processes start at once.

        Raises StorageError where the database fails, or was made by a newer portal. Where nothing is to be done it
        only reads, so that a command need not wait for whoever writes.
        """
        file = self.sqlite_file
        try:
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
            with _storage_errors():
                if _is_current(self.engine):
                    return
                with _only_one_migrates(file):
                    _run_migrations(self.engine)
        except OSError as error:
            raise StorageError(
                "The database's folder cannot be written.", log_detail=f"{file}: {error.strerror}"
            ) from error
        except CommandError as error:
            raise StorageError(
                "The database was made by a newer version of the portal.", log_detail=f"database: {error}"
            ) from error

    def copy_to(self, file: Path) -> None:
        """Write a copy of a SQLite database, as it is at one moment, while others read and write.

        By its own backup call: a copy of the file alone would be torn, and lack what is in the log beside it. Raises
        StorageError; what was at `file` before is there still then.
        """
        source = self.sqlite_file
        if source is None:
            raise StorageError("This is no SQLite database: its own tool (pg_dump) makes the copy.")
        beside = file.with_name(f".{file.name}.new")
        try:
            beside.unlink(missing_ok=True)
            os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            _copy_sqlite(source, beside)
            fsync_file(beside)
            beside.replace(file)
            fsync_folder(file.parent)
        except (OSError, sqlite3.Error) as error:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise StorageError("The database could not be copied.", log_detail=f"{file}: {error}") from error

    def close(self) -> None:
        """Give all connections back; the object can be used again."""
        self.engine.dispose()


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise StorageError(
            "The portal's database does not answer at the moment. Please try again in a few minutes.",
            log_detail=f"database: {error.orig}",
        ) from error


def _create_engine(url: str, *, is_sqlite: bool) -> Engine:
    if not is_sqlite:
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def set_up(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
        # Python's sqlite3 module would begin transactions by itself, and too late; we begin them below.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("portal_begin", "BEGIN"))

    return engine


def _copy_sqlite(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source, timeout=BUSY_TIMEOUT_SECONDS)) as original:
        with closing(sqlite3.connect(target)) as copy:
            original.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
            [(verdict,)] = copy.execute("PRAGMA integrity_check").fetchmany(1)
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"the copy is not whole: {verdict}")


def _migrations() -> Config:
    config = Config()
    # Alembic interpolates its options, so that a per cent sign in the path must be doubled.
    folder = str(Path(__file__).parent / "migrations").replace("%", "%%")
    config.set_main_option("script_location", folder)
    return config


def _is_current(engine: Engine) -> bool:
    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    return revision == _newest_revision()


@functools.cache
def _newest_revision() -> str | None:
    return ScriptDirectory.from_config(_migrations()).get_current_head()


@contextmanager
def _only_one_migrates(sqlite_file: Path | None) -> Iterator[None]:
    if sqlite_file is None:
        yield
        return
    with sqlite_file.with_name(sqlite_file.name + ".migrate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run_migrations(engine: Engine) -> None:
    config = _migrations()
    # BEGIN IMMEDIATE here as well: a migration must not find its lock taken half-way.
    with engine.execution_options(portal_begin="BEGIN IMMEDIATE").begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
