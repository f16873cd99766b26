"""One dispatcher at a time: a lock, and an epoch for the moment in which the lock is lost.

The lock (`flock` beside a SQLite database, an advisory lock in PostgreSQL) keeps a second dispatcher waiting. It is
not trusted alone: each take-over raises the epoch in the database, and every commit of a dispatcher checks in its
own transaction that no newer epoch is there.

The files of attempts carry epochs too, and outlive the database. So an epoch is at least the number of seconds since
2026: that of a new or a restored database is still higher than any that the lost one wrote.
"""

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, func, select
from sqlalchemy.orm import Session

from portal.clock import Clock
from portal.database import Database
from portal.errors import StaleEpochError
from portal.jobs.models import DispatcherEpoch

_LOOK_SECONDS = 0.25
_ADVISORY_KEY = 0x706F7274616C  # the letters of "portal"
_FIRST_EPOCH_AT = datetime(2026, 1, 1, tzinfo=UTC)


class Leadership:
    """The right to dispatch, held from `take` to `release`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._lock_file: IO[bytes] | None = None
        self._lock_connection: Connection | None = None
        self.epoch = 0
        self.previous_epoch = 0
        """The newest epoch of which this database knew before; a file with a newer one was written for another."""

    def take(self, stop: threading.Event) -> bool:
        """Wait for the lock and raise the epoch. False where `stop` was set first. Raises StorageError."""
        while not self._try_lock():
            if stop.wait(_LOOK_SECONDS):
                return False
        try:
            self._raise_epoch()
        except BaseException:
            self.release()
            raise
        return True

    def _raise_epoch(self) -> None:
        now = self._clock.now_utc()
        with self._database.writing() as session:
            row = session.get(DispatcherEpoch, 1, with_for_update=True)
            if row is None:
                row = DispatcherEpoch(row_id=1, epoch=0, holder="", taken_at=now)
                session.add(row)
            previous = row.epoch
            row.epoch = max(previous + 1, int((now - _FIRST_EPOCH_AT).total_seconds()))
            row.holder = f"{socket.gethostname()}:{os.getpid()}"
            row.taken_at = now
            epoch = row.epoch
        self.epoch, self.previous_epoch = epoch, previous

    @contextmanager
    def keeping_others_out(self) -> Iterator[bool]:
        """No dispatcher begins inside. It is False where one is at work; nothing is kept out then."""
        is_held = self._try_lock()
        try:
            yield is_held
        finally:
            self.release()

    def require(self) -> None:
        """Raise StaleEpochError where a newer dispatcher is: before files are written, which no rollback undoes."""
        with self._database.reading() as session:
            self.check(session)

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A write transaction that fails with StaleEpochError, and changes nothing, where a newer dispatcher is."""
        with self._database.writing() as session:
            self.check(session)
            yield session

    def check(self, session: Session) -> None:
        """Raise StaleEpochError where a newer dispatcher is; where not, none comes before this transaction ends."""
        epoch = session.scalar(select(DispatcherEpoch.epoch).with_for_update(read=True))
        if epoch != self.epoch:
            raise StaleEpochError(
                "Another dispatcher has taken over.", log_detail=f"epoch {epoch} instead of {self.epoch}"
            )

    def release(self) -> None:
        """Let the next dispatcher in; harmless when called twice."""
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None
        if self._lock_connection is not None:
            self._lock_connection.close()
            self._lock_connection = None

    def _try_lock(self) -> bool:
        file = self._database.sqlite_file
        return self._try_file(file) if file else self._try_advisory()

    def _try_file(self, database_file: Path) -> bool:
        lock = database_file.with_name(database_file.name + ".dispatcher.lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock_file = lock
        return True

    def _try_advisory(self) -> bool:
        # A session-level lock lives as long as its connection, which is kept out of the pool for that.
        connection = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        if connection.scalar(select(func.pg_try_advisory_lock(_ADVISORY_KEY))):
            self._lock_connection = connection
            return True
        connection.close()
        return False
