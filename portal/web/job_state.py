"""What the script of a job's page asks for every other second: whether there is anything new to show."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from portal.jobs import words
from portal.jobs.job_files import file_size
from portal.jobs.store import JobRecord
from portal.web.context import web
from portal.web.scheduler_status import SchedulerStatus

OUTPUT = "output.txt"
ERROR_OUTPUT = "err_output.txt"


@dataclass(frozen=True)
class JobStateText:
    """The state as JSON."""

    text: str

    @cached_property
    def tag(self) -> str:
        """The ETag: another one means that there is something new."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]


def job_state(record: JobRecord, scheduler: SchedulerStatus) -> JobStateText:
    """The state of a job with what its page shows of output and scheduler."""
    job = record.job
    work = web().jobs.folder.job(job.job_id).attempt(job.attempt_number).work
    state = {
        "job_id": job.job_id,
        "state": job.state.value,
        "word": words.state_word(record),
        "summary": words.summary(record),
        "version": job.version,
        "is_final": job.state.is_final,
        "output_bytes": sum(file_size(work, name) or 0 for name in (OUTPUT, ERROR_OUTPUT)),
        "scheduler": scheduler.kind,
        "accounting": "silent" if scheduler.accounting_silent_since else "answering",
    }
    return JobStateText(json.dumps(state, ensure_ascii=False))
