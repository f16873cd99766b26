"""Downloads of what a job wrote. It is hostile: shown as plain text at most, and never run in the portal's name."""

from urllib.parse import quote

from flask import Blueprint, Response, request

from portal.errors import NotFoundError
from portal.jobs.store import JobRecord
from portal.web.context import web
from portal.web.visitors import browser_viewer, find_job

blueprint = Blueprint("job_downloads", __name__)

_SHOWN_KINDS = frozenset({"text", "table"})


@blueprint.get("/jobs/<job_id>/files/<path:path>")
def download(job_id: str, path: str) -> Response:
    """A file of the attempt that counts, or of the one that `?attempt=` names, a piece at a time."""
    record = find_job(browser_viewer(), job_id)
    file = web().jobs.open_file(record, path, _attempt_number(record))
    response = Response(file.chunks(), direct_passthrough=True)
    # The pieces close the file at their end; this does where nobody asks for them.
    response.call_on_close(file.close)
    response.content_length = file.size_bytes
    response.headers["Cache-Control"] = "no-store"
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'; frame-ancestors 'none'"
    if path in _shown_paths(record):
        response.content_type = "text/plain; charset=utf-8"
    else:
        response.content_type = "application/octet-stream"
        response.headers["Content-Disposition"] = _as_attachment(path.rpartition("/")[2])
    return response


def _attempt_number(record: JobRecord) -> int:
    asked = request.args.get("attempt")
    if asked is None:
        return record.job.attempt_number
    numbers = {str(attempt.number): attempt.number for attempt in record.attempts}
    if asked not in numbers:
        raise NotFoundError("This job has no such attempt.")
    return numbers[asked]


def _shown_paths(record: JobRecord) -> set[str]:
    """What may be shown in the browser, by the application's word and not by a name that a job chose."""
    return {output.path for output in web().jobs.outputs(record) if output.kind in _SHOWN_KINDS} | {
        "output.txt",
        "err_output.txt",
    }


def _as_attachment(name: str) -> str:
    """The header for a name with any characters in it."""
    ascii_name = "".join(char if char.isascii() and (char.isalnum() or char in "._- ") else "_" for char in name)
    return f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name, safe='')}"
