"""The REST interface, version 1. It ignores cookies: a job's `access_key` in `X-Job-Key` gives the owner's rights."""

from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, jsonify, request, url_for
from flask.typing import ResponseReturnValue

from portal.errors import ForbiddenError
from portal.jobs.keys import Purpose
from portal.jobs.store import JobRecord
from portal.jobs.view import rest_object
from portal.web.api_requests import submission_from_request
from portal.web.context import web
from portal.web.hosts import allowed_hosts, host_name
from portal.web.visitors import api_viewer, find_job

blueprint = Blueprint("api", __name__, url_prefix="/api/v1")

_MIB = 1024 * 1024


@blueprint.before_request
def allow_for_base64() -> None:
    """A file in JSON takes a third more than the file itself, which is what the limit is about."""
    request.max_content_length = (web().settings.limits.upload_mib * 4 // 3 + 2) * _MIB


@blueprint.before_request
def refuse_foreign_pages() -> None:
    """A page of another site must not act through its visitor's browser; programs send neither of these headers."""
    origin = request.headers.get("Origin")
    is_foreign = request.headers.get("Sec-Fetch-Site") == "cross-site" or (
        origin is not None and host_name(urlsplit(origin).netloc) not in allowed_hosts(web().settings)
    )
    if request.method != "GET" and is_foreign:
        raise ForbiddenError("Pages of other sites may not use this interface.")


@blueprint.post("/jobs")
def submit() -> ResponseReturnValue:
    """Send a job in: 201 with the job and its key, or 200 where this Idempotency-Key had made it before."""
    accepted = web().jobs.submit(submission_from_request())
    record = web().jobs.record(accepted.job_id)
    job = record.job
    key = web().keys.key(Purpose.OWNER, job.job_id, job.key_generation)
    response = jsonify(_job(record) | {"access_key": key})
    response.status_code = HTTPStatus.OK if accepted.repeated else HTTPStatus.CREATED
    response.headers["Location"] = url_for("api.show", job_id=job.job_id)
    return response


@blueprint.get("/jobs/<job_id>")
def show(job_id: str) -> Response:
    """The job, to whom shows its key."""
    return jsonify(_job(find_job(api_viewer(), job_id)))


@blueprint.post("/jobs/<job_id>/cancel")
def cancel(job_id: str) -> Response:
    """Ask that the job be cancelled; it is when its state says so."""
    find_job(api_viewer(), job_id)
    return jsonify(_job(web().jobs.ask_cancel(api_viewer(), job_id)))


@blueprint.delete("/jobs/<job_id>")
def delete(job_id: str) -> ResponseReturnValue:
    """Delete the job with its files: 204, and from then on it is not found."""
    find_job(api_viewer(), job_id)
    web().jobs.ask_delete(api_viewer(), job_id)
    return "", HTTPStatus.NO_CONTENT


@blueprint.post("/jobs/<job_id>/resubmit")
def resubmit(job_id: str) -> Response:
    """Ask that the job run again, with the same inputs; 409 as long as it goes on."""
    find_job(api_viewer(), job_id)
    web().resubmission.ask(api_viewer(), job_id)
    return jsonify(_job(web().jobs.record(job_id)))


def _job(record: JobRecord) -> dict[str, Any]:
    return rest_object(record, web().jobs.outputs(record), web().jobs.base_url)
