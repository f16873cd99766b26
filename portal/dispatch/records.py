"""`submission.json` and `verdict.json`: what the database knows of an attempt, written before the commit that says so.

Each carries the epoch of the dispatcher that wrote it, and the highest wins: but a file alone stops no dispatcher. Only
the database knows whether a newer one is there; a file can be left from another database, or be spoilt.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from portal.clock import parse_utc_text, utc_text
from portal.dispatch.leadership import Leadership
from portal.jobs.directory import AttemptDirectory
from portal.jobs.models import Attempt
from portal.node.durable import write_durably

log = structlog.get_logger()

SCHEMA = 1
END_FIELDS = ("exit_code", "signal", "node", "reason", "raw_state", "started_at", "ended_at")
"""What a verdict and an attempt's row have in common."""


def write_submission(directory: AttemptDirectory, attempt: Attempt, leadership: Leadership) -> None:
    """Write down how the attempt was handed in. Raises StaleEpochError where a newer dispatcher is, or OSError."""
    _write(directory.submission, leadership, submission_record(attempt))


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


def write_verdict(directory: AttemptDirectory, verdict: dict[str, Any], leadership: Leadership) -> None:
    """Write down how the attempt ended. Raises StaleEpochError where a newer dispatcher is, or OSError."""
    _write(directory.verdict, leadership, verdict)


def read_record(file: Path) -> dict[str, Any] | None:
    """What one of the two files says; None where it is missing or cannot be understood."""
    try:
        values = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def as_json(value: Any) -> Any:
    """A value of a row as it stands in a record."""
    return utc_text(value) if isinstance(value, datetime) else value


def moment(values: dict[str, Any], key: str) -> datetime | None:
    """A time of a record; None where there is none."""
    text = values.get(key)
    return parse_utc_text(text) if isinstance(text, str) else None


def _write(file: Path, leadership: Leadership, values: dict[str, Any]) -> None:
    known_epoch = (read_record(file) or {}).get("epoch")
    if isinstance(known_epoch, int) and known_epoch > leadership.epoch:
        leadership.require()
        log.warning("a file of a newer dispatcher than there is is replaced", file=str(file), epoch=known_epoch)
    head = {"schema": SCHEMA, "epoch": leadership.epoch}
    text = json.dumps({**head, **values, **head}, indent=1, ensure_ascii=False)
    write_durably(str(file), text.encode() + b"\n")
