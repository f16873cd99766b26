"""What the portal of a crash test is made of: one application, settings, and the compute node's Python."""

from pathlib import Path

from portal.database import Database

APPLICATION = "crash"
EMAIL = "ann@example.org"
EMPTY_DATABASE = "empty.db"
SEQUENCE = ">q\nACGT\n"

_DEFINITION = """
title = "Crash"
[[parameters]]
name = "x"
type = "integer"
label = "X"
[[parameters]]
name = "sequence"
type = "longtext"
label = "Sequence"
[[outputs]]
path = "hits.tsv"
title = "Hits"
[answer]
file = "output.txt"
pattern = 'The answer is: (\\d+)'
[environment]
pass = ["CRASH_FOLDER"]
"""
_PROGRAM = """
echo start "$PWD" >> "$CRASH_FOLDER/witness"
until [ -e "$CRASH_FOLDER/go" ]; do sleep 0.02; done
echo hit > hits.tsv
echo 'The answer is: 4'
"""
SETTINGS = """
[portal]
jobs_dir = "{folder}/jobs"
database_url = "sqlite:///{folder}/portal.db"
templates_dir = "{shared}/templates"
stop_seconds = 0
[scheduler]
poll_seconds = 0.2
grace_seconds = 1
node_python = "{shared}/python"
[mail]
folder = "{folder}/mail"
"""
_PYTHON = """#!/bin/sh
exec '{python}' '{wrapper}' "$@"
"""


def write_shared_files(folder: Path, python: str) -> None:
    """What all runs have in common: the application, the compute node's Python, which is watched, an empty database."""
    application = folder / "templates" / APPLICATION
    application.mkdir(parents=True)
    (application / "application.toml").write_text(_DEFINITION)
    (application / "program.sh.j2").write_text(_PROGRAM)
    wrapper = Path(__file__).with_name("hooked_wrapper.py")
    (folder / "python").write_text(_PYTHON.format(python=python, wrapper=wrapper))
    (folder / "python").chmod(0o755)
    database = Database(f"sqlite:///{folder / EMPTY_DATABASE}")
    database.upgrade()
    database.close()
