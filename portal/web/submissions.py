"""From a form that a browser sent to what the service takes."""

import re
import secrets

from flask import abort, request

from portal.applications.definition import Application
from portal.applications.parameters import Upload, form_inputs
from portal.jobs.acceptance import Submission
from portal.web.context import web
from portal.web.visitors import submitting_session_id

OWN_FIELDS = frozenset({"email", "csrf_token", "token"})
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,64}")
_MIB = 1024 * 1024


def new_token() -> str:
    """The one-time token of one rendered form: sent twice, it is one job."""
    return secrets.token_hex(16)


def typed_token() -> str:
    """The token that came with the form, or a new one where none came that could be one."""
    token = request.form.get("token", "")
    return token if _TOKEN.fullmatch(token) else new_token()


def typed_texts() -> dict[str, str]:
    """What was typed into the parameters' fields, to be shown again; files cannot be."""
    return {name: text for name, text in request.form.items() if name not in OWN_FIELDS}


def submission_from_form(application: Application) -> Submission:
    """All fields as they came; the service checks them."""
    uploads = uploads_from_form()
    check_total_size(uploads, sum(len(text) for text in request.form.values()))
    return Submission(
        application=application.name,
        inputs=form_inputs(application.parameters, {**typed_texts(), **uploads}),
        email=request.form.get("email", ""),
        token=typed_token(),
        session_id=submitting_session_id(),
    )


def uploads_from_form() -> dict[str, Upload]:
    """The files that were chosen, by field."""
    return {
        name: Upload(filename=file.filename or "", content=file.read())
        for name, file in request.files.items()
        if name not in OWN_FIELDS
    }


def check_total_size(uploads: dict[str, Upload], other_bytes: int = 0) -> None:
    """Answer 413 where one submission is larger than the site allows."""
    total = other_bytes + sum(len(upload.content) for upload in uploads.values())
    if total > web().settings.limits.upload_mib * _MIB:
        abort(413)
