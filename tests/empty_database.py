"""A database that has been migrated already: the migrations have tests of their own, and take 70 ms each time."""

import functools
import shutil
import tempfile
from pathlib import Path

from portal.database import Database


def put_empty_database(file: Path) -> None:
    """A new SQLite database with all tables and no rows at `file`, in whose folder nothing else is needed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(empty_database(), file)


@functools.cache
def empty_database() -> Path:
    """The file of one, made once in each process; nobody may write to it."""
    file = Path(_scratch().name) / "portal.db"
    database = Database(f"sqlite:///{file}")
    database.upgrade()
    database.close()
    return file


@functools.cache
def _scratch() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="portal-database-")
