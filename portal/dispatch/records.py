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


def write_submission(directory: AttemptDirectory, attempt: Attempt, epoch: int) -> None:
    """Write down how the attempt was handed in. Raises StaleEpochError where a newer dispatcher wrote, or OSError."""
    _write(
        directory.submission,
        epoch,
        {
            "attempt": attempt.number,
            "scheduler_name": attempt.scheduler_name,
            "scheduler_id": attempt.scheduler_id,
            "cluster": attempt.cluster,
            "counts": attempt.counts,
            "excluded_nodes": attempt.excluded_nodes,
            "created_at": utc_text(attempt.created_at),
            "intent_at": _text(attempt.intent_at),
            "submitted_at": _text(attempt.submitted_at),
        },
    )


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


def moment(values: dict[str, Any], key: str) -> datetime | None:
    """A time of a record; None where there is none."""
    text = values.get(key)
    return parse_utc_text(text) if isinstance(text, str) else None


def _write(file: Path, epoch: int, values: dict[str, Any]) -> None:
    existing = read_record(file)
    known_epoch = existing.get("epoch") if existing else None
    if isinstance(known_epoch, int) and known_epoch > epoch:
        raise StaleEpochError("Another dispatcher has taken over.", log_detail=f"{file} has epoch {known_epoch}")
    text = json.dumps({"schema": 1, "epoch": epoch, **values}, indent=1, ensure_ascii=False)
    write_durably(str(file), text.encode() + b"\n")


def _text(at: datetime | None) -> str | None:
    return utc_text(at) if at else None
