"""The inputs of a job as they would be typed again."""

from portal.jobs.job_files import read_job_file
from portal.jobs.store import JobRecord
from portal.web.context import web

_MAX_TEXT_BYTES = 4 * 1024 * 1024


def input_texts(record: JobRecord) -> dict[str, str]:
    """What to fill into a form so that it sends the same job again. Files are left out: no form can hold them."""
    folder = web().jobs.folder.job(record.job.job_id).inputs
    texts: dict[str, str] = {}
    for row in record.inputs:
        if row.kind == "longtext":
            content = read_job_file(folder, row.name, _MAX_TEXT_BYTES) or b""
            texts[row.name] = content.decode("utf-8", "replace")
        elif row.kind != "file":
            texts[row.name] = row.text
    return texts
