"""From a job directory's `config.ini` to its rows: what accepting, adopting and reindexing all do."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from portal.applications.definition import Application
from portal.jobs.job_config import JobConfig
from portal.jobs.models import Attempt, Job, JobInput
from portal.jobs.states import JobState
from portal.jobs.store import Change, add_event

_NUMERIC_KINDS = ("integer", "number")


def scheduler_name(instance: str, job_id: str, attempt_number: int) -> str:
    """The unique name under which an attempt goes to a scheduler: it tells it apart even where an answer is lost."""
    return f"portal-{instance}-{job_id}-{attempt_number}"


def insert_job(session: Session, config: JobConfig, application: Application | None, instance: str, source: str) -> Job:
    """Add the rows of a job that stands on disk, with its first attempt and its first event.

    `source` says where the evidence comes from: `form`, or `directory` for one that was adopted. IntegrityError at
    the flush where the id or the token has a row already.
    """
    job = Job(
        job_id=config.job_id,
        application=config.application,
        email=config.email,
        owner=config.owner,
        token=config.token,
        session_id=config.session_id,
        key_generation=1,
        state=JobState.ACCEPTED,
        failure_reason=None,
        attempt_number=1,
        resources=resources_of(config),
        created_at=config.created_at,
        version=0,
    )
    session.add(job)
    session.flush()
    session.add_all(_input_rows(config, application))
    session.add(new_attempt_row(config.job_id, 1, instance, config.created_at))
    detail = "Accepted: written to disk and to the database."
    if source == "directory":
        detail = "Found on disk without a row in the database, and taken up."
    add_event(session, job, None, Change(config.created_at, source, detail, by=config.owner))
    return job


def new_attempt_row(
    job_id: str, number: int, instance: str, created_at: datetime, excluded_nodes: Sequence[str] = ()
) -> Attempt:
    """The row of an attempt that nobody has handed in yet."""
    return Attempt(
        job_id=job_id,
        number=number,
        state=JobState.ACCEPTED,
        scheduler_name=scheduler_name(instance, job_id, number),
        cluster="",
        counts=True,
        excluded_nodes=list(excluded_nodes),
        created_at=created_at,
    )


def _input_rows(config: JobConfig, application: Application | None) -> list[JobInput]:
    kinds = {parameter.name: parameter.type for parameter in application.parameters} if application else {}
    return [
        JobInput(
            job_id=config.job_id,
            name=name,
            position=position,
            kind=kinds.get(name, "text"),
            text=text,
            number=as_number(text) if kinds.get(name) in _NUMERIC_KINDS else None,
            filename=config.filenames.get(name),
        )
        for position, (name, text) in enumerate(config.inputs.items())
    ]


def as_number(text: str) -> float | None:
    """A canonical number as a float, infinite where it is too large for one; None where it is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def resources_of(config: JobConfig) -> dict[str, int | str]:
    """The resources in a `config.ini`, of a job or of one attempt: numbers as numbers."""
    return {name: int(text) if re.fullmatch("[0-9]{1,18}", text) else text for name, text in config.resources.items()}


def resource_texts(resources: Mapping[str, object]) -> dict[str, str]:
    """A job's resources as `config.ini` has them."""
    return {name: str(value) for name, value in resources.items()}
