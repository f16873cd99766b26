"""The REST object of a job: the same from the API, `portal show`, `portal submit` and `portal jobs`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from portal.applications.definition import Application
from portal.clock import utc_text
from portal.jobs import words
from portal.jobs.directory import JobDirectory
from portal.jobs.job_files import file_size
from portal.jobs.models import Attempt, JobInput
from portal.jobs.store import JobRecord

_STANDARD_OUTPUTS = (("output.txt", "Output", "text"), ("err_output.txt", "Error output", "text"))


@dataclass(frozen=True)
class Output:
    """One file of a job that can be downloaded."""

    path: str
    """Relative to the `work/` of the attempt that counts."""
    title: str
    kind: str
    size_bytes: int


def results_url(base_url: str, job_id: str) -> str:
    """The address of a job's page; it carries no key."""
    return f"{base_url}/jobs/{job_id}"


def job_outputs(record: JobRecord, directory: JobDirectory, application: Application | None) -> list[Output]:
    """The files of the attempt that counts that are there: what the program printed, then what is declared."""
    work = directory.attempt(record.job.attempt_number).work
    declared = [(output.path, output.title, output.kind) for output in application.outputs] if application else []
    named = {path for path, _, _ in declared}
    candidates = [standard for standard in _STANDARD_OUTPUTS if standard[0] not in named] + declared
    sized = ((path, title, kind, file_size(work, path)) for path, title, kind in candidates)
    return [Output(path, title, kind, size) for path, title, kind, size in sized if size is not None]


def rest_object(record: JobRecord, outputs: Sequence[Output], base_url: str) -> dict[str, Any]:
    """The job as JSON-ready data, exactly as the contract has it."""
    job = record.job
    return {
        "job_id": job.job_id,
        "application": job.application,
        "owner": job.owner,
        "state": job.state.value,
        "failure_reason": job.failure_reason.value if job.failure_reason else None,
        "summary": words.summary(record),
        "answer": record.result.answer if record.result else None,
        "inputs": {row.name: input_value(row) for row in record.inputs},
        "resources": job.resources,
        "created_at": utc_text(job.created_at),
        "started_at": _time(job.started_at),
        "ended_at": _time(job.ended_at),
        "results_url": results_url(base_url, job.job_id),
        "attempts": [_attempt(attempt) for attempt in record.attempts],
        "evidence": [
            {
                "at": utc_text(event.at),
                "from": event.from_state.value if event.from_state else None,
                "to": event.to_state.value,
                "source": event.source,
                "detail": event.detail,
                "by": event.by,
            }
            for event in record.events
        ],
        "outputs": [
            {
                "path": output.path,
                "title": output.title,
                "kind": output.kind,
                "size_bytes": output.size_bytes,
                "url": f"{results_url(base_url, job.job_id)}/files/{quote(output.path)}",
            }
            for output in outputs
        ],
    }


def input_value(row: JobInput) -> int | float | str | bool | None:
    """An input as JSON: whole numbers whole however large, files by what the visitor called them."""
    if row.kind == "integer":
        return int(row.text) if row.text else None
    if row.kind == "number":
        return float(row.text) if row.text else None
    if row.kind == "boolean":
        return row.text == "true"
    if row.kind == "file":
        return row.filename
    return row.text or None


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "state": attempt.state.value,
        "failure_reason": attempt.failure_reason.value if attempt.failure_reason else None,
        "scheduler_id": attempt.scheduler_id,
        "node": attempt.node,
        "exit_code": attempt.exit_code,
        "signal": attempt.signal,
        "reason": attempt.reason,
        "started_at": _time(attempt.started_at),
        "ended_at": _time(attempt.ended_at),
    }


def _time(moment: datetime | None) -> str | None:
    return utc_text(moment) if moment else None
