"""What makes the quick tests quick: what comes out the same each time is done once by each process that tests."""

import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from flask import Flask
from jinja2.bccache import Bucket, BytecodeCache

from portal.applications import lint
from portal.applications.shellcheck import Comment, shellcheck
from portal.database import Database
from tests.empty_database import empty_database
from tests.mail_bench import KeptMail

_really_upgrade = Database.upgrade


@pytest.fixture(scope="session")
def session_patch() -> Iterator[pytest.MonkeyPatch]:
    """For the whole session."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="session")
def migrated_file() -> Path:
    """A database as the migrations leave it, with nothing in it; made before `Database.upgrade` is patched."""
    return empty_database()


@pytest.fixture(autouse=True)
def migrations_are_copied(migrated_file: Path) -> Iterator[None]:
    """A new SQLite database begins as a copy of `migrated_file`, and is then upgraded: to find out that it is current.

    Each run of the migrations takes 50 ms, and SQLAlchemy keeps what they made for the rest of the process. Tests of
    the migrations put a fixture of this name in the place of this one.
    """

    def upgrade(database: Database) -> None:
        file = database.sqlite_file
        # What stands in the way is for the real thing to say.
        with suppress(OSError):
            if file is not None and file.parent.is_dir() and not file.exists():
                shutil.copyfile(migrated_file, file)
        _really_upgrade(database)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "upgrade", upgrade)
        yield


class MemoryCache(BytecodeCache):
    """Compiled templates. Not in files, which other accounts of this process's tests could not write."""

    def __init__(self) -> None:
        self._compiled: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._compiled:
            bucket.bytecode_from_string(self._compiled[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._compiled[bucket.key] = bucket.bytecode_to_string()


@pytest.fixture(scope="session", autouse=True)
def templates_are_compiled_once(session_patch: pytest.MonkeyPatch) -> None:
    """The pages' templates, which each Flask application would compile anew."""
    session_patch.setattr(Flask, "jinja_options", {**Flask.jinja_options, "bytecode_cache": MemoryCache()})


@pytest.fixture(scope="session", autouse=True)
def scripts_are_checked_once(session_patch: pytest.MonkeyPatch) -> None:
    """By shellcheck, a process of its own for each program of each catalog that is loaded."""

    @functools.cache
    def checked(script: str, shell: str, _path: str | None) -> list[Comment]:
        return shellcheck(script, shell)

    # Tests put another shellcheck, or none, on PATH.
    session_patch.setattr(lint, "shellcheck", lambda script, shell: checked(script, shell, os.environ.get("PATH")))


@pytest.fixture
def mail() -> KeptMail:
    """A mail server that keeps what it is given."""
    return KeptMail()
