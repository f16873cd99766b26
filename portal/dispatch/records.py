"""`submission.json` and `verdict.json`: what the database knows of an attempt, written before the commit that says so.

Each carries the epoch of the dispatcher that wrote it; the highest wins.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from portal.clock import parse_utc_text, utc_text
from portal.errors import StaleEpochError
from portal.jobs.directory import AttemptDirectory
from portal.jobs.models import Attempt
from portal.node.durable import write_durably

SCHEMA = 1
END_FIELDS = ("exit_code", "signal", "node", "reason", "raw_state", "started_at", "ended_at")
"""What a verdict and an attempt's row have in common."""


def write_submission(directory: AttemptDirectory, attempt: Attempt, epoch: int) -> None:
    """Write down how the attempt was handed in. Raises StaleEpochError where a newer dispatcher wrote, or OSError."""
    _write(directory.submission, epoch, submission_record(attempt))


def submission_record(attempt: Attempt) -> dict[str, Any]:
    """What `submission.json` says of the row."""
    return {
        "attempt": attempt.number,
        "scheduler_name": attempt.scheduler_name,
        "scheduler_id": attempt.scheduler_id,
        "cluster": attempt.cluster,
        "counts": attempt.counts,
        "excluded_nodes": attempt.excluded_nodes,
        "created_at": as_json(attempt.created_at),
        "intent_at": as_json(attempt.intent_at),
        "submitted_at": as_json(attempt.submitted_at),
    }


def write_verdict(directory: AttemptDirectory, verdict: dict[str, Any], epoch: int) -> None:
    """Write down how the attempt ended. Raises StaleEpochError where a newer dispatcher wrote, or OSError."""
    _write(directory.verdict, epoch, verdict)


def read_record(file: Path) -> dict[str, Any] | None:
    """What one of the two files says; None where it is missing or cannot be understood."""
    try:
        values = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def as_json(value: Any) -> Any:
    """A value of a row as it stands in a record."""
    return utc_text(value) if isinstance(value, datetime) else value


def moment(values: dict[str, Any], key: str) -> datetime | None:
    """A time of a record; None where there is none."""
    text = values.get(key)
    return parse_utc_text(text) if isinstance(text, str) else None


def _write(file: Path, epoch: int, values: dict[str, Any]) -> None:
    existing = read_record(file)
    known_epoch = existing.get("epoch") if existing else None
    if isinstance(known_epoch, int) and known_epoch > epoch:
        raise StaleEpochError("Another dispatcher has taken over.", log_detail=f"{file} has epoch {known_epoch}")
    head = {"schema": SCHEMA, "epoch": epoch}
    text = json.dumps({**head, **values, **head}, indent=1, ensure_ascii=False)
    write_durably(str(file), text.encode() + b"\n")
