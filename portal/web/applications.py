"""The start page, and the forms of the applications."""

from collections.abc import Mapping

from flask import Blueprint, make_response, redirect, request, url_for
from flask.typing import ResponseReturnValue

from portal.applications.definition import Application
from portal.errors import InvalidInputError
from portal.web.context import web
from portal.web.email_cookie import remember_email, remembered_email
from portal.web.form import Form, default_texts, example_texts, make_form
from portal.web.job_inputs import input_texts
from portal.web.pages import render_page
from portal.web.submissions import new_token, submission_from_form, typed_texts, typed_token
from portal.web.visitors import browser_viewer, ensure_session_key, find_job

blueprint = Blueprint("applications", __name__)
SUBMIT_ENDPOINT = "applications.submit"

_SEND_AGAIN = (
    "This form had been open for very long, or your browser has lost its cookie, so nothing was sent in. "
    "Here it is again as you filled it in: please send it once more."
)


@blueprint.get("/")
def start() -> str:
    """The applications as cards; a single one's form at once."""
    applications = list(web().jobs.catalog.applications.values())
    if len(applications) == 1:
        return _fresh_form(applications[0])
    return render_page("start.html", applications=applications)


@blueprint.get("/applications/<name>")
def form(name: str) -> str:
    """An application's form; `?example=` fills in one of its examples, and `?from=` the inputs of an earlier job."""
    return _fresh_form(web().jobs.catalog.get(name))


@blueprint.post("/applications/<name>/jobs")
def submit(name: str) -> ResponseReturnValue:
    """Send a job in; on success the job's page is next, and with a mistake the form comes back."""
    application = web().jobs.catalog.get(name)
    submission = submission_from_form(application)
    try:
        accepted = web().jobs.submit(submission)
    except InvalidInputError as error:
        return _form_again(application, error.field_errors), error.http_status
    response = make_response(redirect(url_for("jobs.page", job_id=accepted.job_id), 303))
    remember_email(response, submission.email)
    return response


def form_once_more() -> ResponseReturnValue:
    """The form that was just sent without a valid token, as it was filled in, to be sent again."""
    application = web().jobs.catalog.get((request.view_args or {})["name"])
    return _form_again(application, {}, notice=_SEND_AGAIN), 400


def _fresh_form(application: Application) -> str:
    form = make_form(
        application,
        _starting_texts(application),
        email=remembered_email(),
        token=new_token(),
        upload_mib=web().settings.limits.upload_mib,
    )
    return _render(form)


def _starting_texts(application: Application) -> dict[str, str]:
    earlier = request.args.get("from")
    if earlier is not None:
        return default_texts(application) | input_texts(find_job(browser_viewer(), earlier))
    return example_texts(application, request.args.get("example", ""))


def _form_again(application: Application, errors: Mapping[str, str], notice: str = "") -> str:
    form = make_form(
        application,
        typed_texts(),
        email=request.form.get("email", ""),
        token=typed_token(),
        upload_mib=web().settings.limits.upload_mib,
        errors=errors,
    )
    return _render(form, notice)


def _render(form: Form, notice: str = "") -> str:
    ensure_session_key()
    others = [other for other in web().jobs.catalog.applications.values() if other.name != form.application.name]
    return render_page(
        "application.html", form=form, notice=notice, others=others, is_remembered=bool(remembered_email())
    )
