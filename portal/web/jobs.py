"""The pages of jobs: one job, its state for the script, the wishes to cancel, run again or delete it, the own list."""

from flask import Blueprint, Response, make_response, redirect, request, url_for
from flask.typing import ResponseReturnValue

from portal.jobs.ids import is_job_id
from portal.jobs.service import job_not_found
from portal.web.changes import attempt_number, changes_from_form
from portal.web.context import web
from portal.web.job_list import build_job_list
from portal.web.job_page import build_job_page
from portal.web.job_state import job_state
from portal.web.pages import render_page
from portal.web.scheduler_status import scheduler_status
from portal.web.visitors import browser_viewer, find_job, open_with_mailed_key

blueprint = Blueprint("jobs", __name__)


@blueprint.get("/jobs")
def mine() -> str:
    """The jobs that this browser sent in, newest first."""
    deleted = request.args.get("deleted", "")
    rows = build_job_list(browser_viewer())
    return render_page("jobs.html", rows=rows, deleted=deleted if is_job_id(deleted) else "")


@blueprint.get("/jobs/<job_id>")
def page(job_id: str) -> ResponseReturnValue:
    """A job. With the key of the mailed link, the browser is let in and sent on to the address without it."""
    key = request.args.get("key")
    if key is not None:
        open_with_mailed_key(job_id, key)
        return redirect(url_for("jobs.page", job_id=job_id))
    viewer = browser_viewer()
    job_page = build_job_page(find_job(viewer, job_id), viewer)
    return render_page("job.html", page=job_page, scheduler=job_page.scheduler)


@blueprint.get("/jobs/<job_id>/state")
def state(job_id: str) -> Response:
    """The job's state as JSON, and 304 to whom knows it already."""
    present = job_state(find_job(browser_viewer(), job_id), scheduler_status())
    response = make_response(present.text)
    response.mimetype = "application/json"
    response.set_etag(present.tag)
    response.make_conditional(request)
    return response


@blueprint.post("/jobs/<job_id>/cancel")
def cancel(job_id: str) -> ResponseReturnValue:
    """Ask that the job be cancelled, and show it again."""
    viewer = browser_viewer()
    find_job(viewer, job_id)
    web().jobs.ask_cancel(viewer, job_id)
    return redirect(url_for("jobs.page", job_id=job_id), 303)


@blueprint.get("/jobs/<job_id>/delete")
def confirm_delete(job_id: str) -> ResponseReturnValue:
    """Ask whether the job is really to be deleted: it cannot be brought back."""
    viewer = browser_viewer()
    job_page = build_job_page(find_job(viewer, job_id), viewer)
    if not job_page.may_delete:
        return redirect(url_for("jobs.page", job_id=job_id))
    return render_page("delete.html", page=job_page)


@blueprint.post("/jobs/<job_id>/delete")
def delete(job_id: str) -> ResponseReturnValue:
    """Delete the job, and show the others."""
    viewer = browser_viewer()
    find_job(viewer, job_id)
    web().jobs.ask_delete(viewer, job_id)
    return redirect(url_for("jobs.mine", deleted=job_id), 303)


@blueprint.post("/jobs/<job_id>/resubmit")
def resubmit(job_id: str) -> ResponseReturnValue:
    """Ask that the job run again, and show it again; the attempt that the page showed makes a second click harmless."""
    viewer = browser_viewer()
    find_job(viewer, job_id)
    after_attempt = attempt_number(request.form.get("attempt", ""))
    web().resubmission.ask(viewer, job_id, changes_from_form(), after_attempt=after_attempt)
    return redirect(url_for("jobs.page", job_id=job_id), 303)


@blueprint.get("/results")
def results() -> ResponseReturnValue:
    """The address of results pages in the portal's first days: leads to the job's page."""
    job_id = request.args.get("job_id", "")
    if not is_job_id(job_id):
        raise job_not_found()
    return redirect(url_for("jobs.page", job_id=job_id, key=request.args.get("key")))
