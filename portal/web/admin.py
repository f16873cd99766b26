"""The administrator's first page and the outbox. Who is let in says `portal.web.administration`."""

from flask import Blueprint

from portal.jobs.states import JobState
from portal.jobs.stuck import find_stuck
from portal.mail.overview import outbox_overview
from portal.web.context import web
from portal.web.pages import render_page

blueprint = Blueprint("admin", __name__, url_prefix="/admin")


@blueprint.get("/")
def start() -> str:
    """How the portal is: its jobs by state, its scheduler, its mail, and what is stuck."""
    settings = web().settings
    with web().jobs.database.reading() as session:
        stuck = find_stuck(session, web().clock.now_utc(), settings.scheduler.grace_seconds, settings.limits)
    return render_page(
        "admin.html",
        stuck=stuck,
        counts=_counts(),
        outbox=outbox_overview(web().jobs.database),
    )


@blueprint.get("/mail")
def mail() -> str:
    """What waits in the outbox, what was refused, and what went out."""
    return render_page("admin_mail.html", outbox=outbox_overview(web().jobs.database))


def _counts() -> list[tuple[JobState, int]]:
    counted = web().jobs.count_by_state()
    return [(state, counted[state]) for state in JobState if counted.get(state)]
