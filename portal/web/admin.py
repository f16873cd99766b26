"""The administrator's first page and the outbox. Who is let in says `portal.web.administration`."""

from flask import Blueprint

from portal.jobs.states import JobState
from portal.jobs.store import read_start_reports
from portal.jobs.stuck import find_stuck
from portal.mail.overview import outbox_overview
from portal.web.context import web
from portal.web.pages import render_page

blueprint = Blueprint("admin", __name__, url_prefix="/admin")

_STARTS_SHOWN = 5


@blueprint.get("/")
def start() -> str:
    """How the portal is: what is stuck, its jobs by state, its mail, its scheduler, and what each start found."""
    settings = web().settings
    with web().jobs.database.reading() as session:
        stuck = find_stuck(session, web().clock.now_utc(), settings.scheduler.grace_seconds, settings.limits)
        starts = read_start_reports(session, _STARTS_SHOWN)
    return render_page(
        "admin.html",
        stuck=stuck,
        starts=starts,
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
