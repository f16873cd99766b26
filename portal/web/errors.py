"""What a visitor or a program reads when something is wrong, and what the log says about it."""

import secrets
import time
from dataclasses import dataclass, field
from http import HTTPStatus

import structlog
from flask import Flask, Response, jsonify, make_response, render_template, request
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError  # type: ignore[import-untyped]
from werkzeug.exceptions import HTTPException

from portal.errors import InvalidInputError, PortalError
from portal.web.applications import SUBMIT_ENDPOINT, form_once_more
from portal.web.context import web

log = structlog.get_logger("portal.web")

_DRAIN_BYTES = 512 * 1024 * 1024
_DRAIN_SECONDS = 30.0
_RETRY_AFTER_SECONDS = 120
"""What a program is told to wait where disk or database cannot be used: somebody has to tidy up first."""

_HTTP_TEXTS = {
    400: ("Not understood", "The portal could not understand this request."),
    404: ("Not found", "There is no page at this address."),
    405: ("Not possible here", "This address does not take this kind of request."),
    413: (
        "Too large",
        "That is more than the portal takes: one submission may have at most {limit} MiB in all. Nothing was sent in.",
    ),
    414: ("Too long", "This address is longer than the portal takes."),
    415: ("Not understood", "The contents are of a kind that is not taken here."),
}
_FORM_TOO_OLD = (
    "The form was not accepted, because it had been open for very long or because your browser has lost its cookie. "
    "Please go back, load the page again and try once more."
)
_UNEXPECTED = "Something went wrong in the portal itself. Jobs that were taken in are safe. Please try again."


@dataclass(frozen=True)
class Problem:
    """One error as people and programs read it."""

    status: int
    title: str
    detail: str
    field_errors: dict[str, str] = field(default_factory=dict)
    reference: str = ""
    """What finds it in the log; empty where the log says no more than the page."""


def install_error_handlers(app: Flask) -> None:
    """Every error becomes a page in the portal's look or, for programs, `application/problem+json`."""
    app.register_error_handler(PortalError, _portal_error)
    app.register_error_handler(CSRFError, _csrf_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected_error)


def _portal_error(error: PortalError) -> ResponseReturnValue:
    fields = error.field_errors if isinstance(error, InvalidInputError) else {}
    reference = ""
    if error.log_detail or error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        reference = secrets.token_hex(4)
        log.error("request failed", reference=reference, error=type(error).__name__, detail=error.log_detail)
    return _answer(Problem(error.http_status, error.title, error.visitor_message, fields, reference))


def _csrf_error(error: CSRFError) -> ResponseReturnValue:
    if request.endpoint == SUBMIT_ENDPOINT:
        try:
            return form_once_more()
        except PortalError as other:  # no such application, or a database that does not answer
            return _portal_error(other)
    return _answer(Problem(error.code or 400, "Please try once more", _FORM_TOO_OLD))


def _http_error(error: HTTPException) -> ResponseReturnValue:
    status = error.code or 500
    if status < HTTPStatus.BAD_REQUEST:
        return error.get_response()  # a redirection of the router's
    title, detail = _HTTP_TEXTS.get(status, (error.name, error.description or ""))
    response = _answer(Problem(status, title, detail.format(limit=web().settings.limits.upload_mib)))
    for name, value in error.get_headers(request.environ):
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _unexpected_error(error: Exception) -> ResponseReturnValue:
    reference = secrets.token_hex(4)
    log.error("unexpected error", reference=reference, path=request.path, exc_info=error)
    return _answer(Problem(500, "Something went wrong", _UNEXPECTED, reference=reference))


def _answer(problem: Problem) -> Response:
    if problem.status in (HTTPStatus.LENGTH_REQUIRED, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
        _read_to_the_end()
    if request.path.startswith("/api/") or request.endpoint == "jobs.state":
        response = _problem_json(problem)
    else:
        # Nothing here may need the database or a writable disk: one of them may be what failed.
        response = make_response(render_template("error.html", problem=problem))
    response.status_code = problem.status
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
    return response


def _problem_json(problem: Problem) -> Response:
    body: dict[str, object] = {
        "type": "about:blank",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
    }
    if problem.field_errors:
        body["errors"] = [{"field": name, "message": message} for name, message in problem.field_errors.items()]
    if problem.reference:
        body["reference"] = problem.reference
    response = jsonify(body)
    response.mimetype = "application/problem+json"
    return response


def _read_to_the_end() -> None:
    """Read and forget what is still being sent, within limits: a browser that is cut off shows no answer at all."""
    limit = request.max_content_length or 0
    if (request.content_length or 0) > limit:
        remaining = min(request.content_length or 0, _DRAIN_BYTES)
    else:
        remaining = _DRAIN_BYTES if request.environ.get("wsgi.input_terminated") else 0
    stream, end = request.environ["wsgi.input"], time.monotonic() + _DRAIN_SECONDS
    while remaining > 0 and time.monotonic() < end:
        piece = stream.read(min(remaining, 64 * 1024))
        if not piece:
            return
        remaining -= len(piece)
