"""Signing in with a link, signing out, and the page of one's own account."""

from flask import Blueprint, abort, redirect, request, url_for
from flask.typing import ResponseReturnValue

from portal.people.sessions import count_sessions
from portal.web.context import web
from portal.web.pages import render_page
from portal.web.visitors import sign_in_with_link, sign_out, signed_in_person

blueprint = Blueprint("sign_in", __name__)


@blueprint.get("/sign-in")
def page() -> str:
    """A button, and nothing else: mail scanners fetch links, so that only a POST uses one up."""
    return render_page("sign_in.html", link=request.args.get("link", ""))


@blueprint.post("/sign-in")
def enter() -> ResponseReturnValue:
    """Use the link up; an administrator's next page is the administration, everybody else's their jobs."""
    person = sign_in_with_link(request.form.get("link", ""))
    return redirect(url_for("admin.start" if person.is_administrator else "jobs.mine"), 303)


@blueprint.get("/account")
def account() -> str:
    """Who is signed in here, and in how many browsers; 404 where nobody is."""
    person = signed_in_person()
    if person is None:
        abort(404)
    browsers = count_sessions(web().jobs.database, person.email, web().clock.now_utc())
    return render_page("account.html", browsers=browsers)


@blueprint.post("/sign-out")
def leave() -> ResponseReturnValue:
    """Sign this browser out."""
    sign_out()
    return redirect(url_for("applications.start"), 303)


@blueprint.post("/sign-out-everywhere")
def leave_everywhere() -> ResponseReturnValue:
    """Sign the person out of all browsers."""
    sign_out(everywhere=True)
    return redirect(url_for("applications.start"), 303)
