"""`job.json`: what changes after a job was accepted, written before the commit that says so.

It lets `portal reindex`, and a database restored from an older copy, know of wishes that were promised to be heard.
"""

import json
from datetime import datetime
from typing import Any

from portal.clock import utc_text
from portal.jobs.directory import JobDirectory
from portal.jobs.wish import ResubmitWish
from portal.node.durable import write_durably


def note_cancel_wish(directory: JobDirectory, at: datetime, by: str) -> None:
    """Write down that somebody wants the job cancelled. Raises OSError."""
    _update(directory, {"cancel_asked_at": utc_text(at), "cancel_asked_by": by})


def note_delete_wish(directory: JobDirectory, at: datetime, by: str) -> None:
    """Write down that the job is to be deleted. Raises OSError."""
    _update(directory, {"delete_asked_at": utc_text(at), "delete_asked_by": by})


def forget_delete_wish(directory: JobDirectory) -> None:
    """Take back that the job is to be deleted: it was refused. Raises OSError."""
    if read_changes(directory).get("delete_asked_at") is not None:
        _update(directory, {"delete_asked_at": None, "delete_asked_by": None})


def note_resubmit_wish(directory: JobDirectory, wish: ResubmitWish) -> None:
    """Write down that somebody wants the job to run again. An earlier cancellation is over then. Raises OSError."""
    _update(directory, {"cancel_asked_at": None, "cancel_asked_by": None, "resubmit": wish.as_json()})


def forget_resubmit_wish(directory: JobDirectory, wish: ResubmitWish) -> None:
    """Take a wish away that came to nothing, unless another one stands there by now. Raises OSError."""
    if read_resubmit_wish(directory) == wish:
        _update(directory, {"resubmit": None})


def read_resubmit_wish(directory: JobDirectory) -> ResubmitWish | None:
    """The last wish that the job run again, carried out or not; None where there is none, or it was dropped."""
    try:
        return ResubmitWish.from_json(read_changes(directory).get("resubmit"))
    except ValueError:
        return None


def read_changes(directory: JobDirectory) -> dict[str, Any]:
    """What has changed since acceptance; empty where nothing has, or where the file cannot be understood."""
    try:
        values = json.loads(directory.changes.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _update(directory: JobDirectory, values: dict[str, Any]) -> None:
    text = json.dumps({"schema": 1, **read_changes(directory), **values}, indent=1, ensure_ascii=False)
    write_durably(str(directory.changes), text.encode() + b"\n")
