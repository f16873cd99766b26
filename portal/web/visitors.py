"""Who is at the other end: what the browser's signed cookie says, checked against the sessions on the server."""

from flask import g, request, session

from portal.errors import NotFoundError
from portal.jobs.access import Viewer
from portal.jobs.keys import Purpose
from portal.jobs.service import job_not_found
from portal.jobs.store import JobRecord
from portal.people.sessions import SignedIn, end_session, live_session_id, new_session_key, session_id_of, signed_in
from portal.web.context import web

KEY_HEADER = "X-Job-Key"
SIGNED_IN_KEY = "signed_in"
MAX_VIEWED = 50
"""Jobs whose mailed links a browser has opened, that its cookie holds; the oldest are forgotten first."""


def browser_viewer() -> Viewer:
    """Who asks for a page or a file: a browser, or a program that follows a job's `url`s with its key."""
    key = session.get("key")
    session_id = live_session_id(web().jobs.database, key, web().clock.now_utc()) if isinstance(key, str) else None
    person = signed_in_person()
    return Viewer(
        session_id=session_id,
        signed_in_session_id=person.session_id if person else None,
        person=person.email if person else None,
        viewed=dict(_viewed()),
        owner_key=request.headers.get(KEY_HEADER),
        is_administrator=person is not None and person.is_administrator,
    )


def signed_in_person() -> SignedIn | None:
    """Who is signed in at this browser; looked up once a request. Raises StorageError."""
    if "signed_in" not in g:
        key = session.get(SIGNED_IN_KEY)
        now = web().clock.now_utc()
        g.signed_in = signed_in(web().jobs.database, key, now) if isinstance(key, str) else None
    person: SignedIn | None = g.signed_in
    return person


def sign_in_with_link(token: str) -> SignedIn:
    """Use a sign-in link up. Raises NotFoundError where it is none, and TooManyRequestsError for whom guesses.

    The browser gets a key that nobody can have known before; what it was as nobody stays beside it.
    """
    try:
        key = web().people.sign_in(token)
    except NotFoundError:
        web().misses.count(_address())
        raise
    sign_out()
    session[SIGNED_IN_KEY] = key
    session.permanent = True
    g.pop("signed_in", None)
    person = signed_in_person()
    if person is None:
        raise NotFoundError("You were signed out again just now. Please ask for a new link.")
    return person


def sign_out(*, everywhere: bool = False) -> None:
    """End this browser's signed-in session, or all of that person; harmless where there is none."""
    person = signed_in_person()
    if person is not None and everywhere:
        web().people.sign_out_everywhere(person.email)
    elif person is not None:
        end_session(web().jobs.database, person.session_id)
    session.pop(SIGNED_IN_KEY, None)
    g.signed_in = None


def api_viewer() -> Viewer:
    """The program that calls the REST interface. Cookies count for nothing there."""
    return Viewer(owner_key=request.headers.get(KEY_HEADER))


def find_job(viewer: Viewer, job_id: str) -> JobRecord:
    """The job, if this viewer may see it. Raises NotFoundError, and TooManyRequestsError for whom guesses."""
    try:
        return web().jobs.record_for(viewer, job_id)
    except NotFoundError:
        web().misses.count(_address())
        raise


def open_with_mailed_key(job_id: str, key: str) -> None:
    """Let this browser see the job from now on, if the key is right. Raises as `find_job` does."""
    try:
        job = web().jobs.record(job_id).job
        if not web().keys.is_valid(key, Purpose.VIEW, job_id, job.key_generation):
            raise job_not_found()
    except NotFoundError:
        web().misses.count(_address())
        raise
    others = [entry for entry in _viewed() if entry[0] != job_id]
    session["viewed"] = [*others, (job_id, job.key_generation)][-MAX_VIEWED:]
    session.permanent = True


def ensure_session_key() -> None:
    """Give the browser a session key when it gets a form: a form sent twice at once must come from one session."""
    if not isinstance(session.get("key"), str):
        session["key"] = new_session_key()
        session.permanent = True


def submitting_session_id() -> str:
    """The session under which a job is sent in; one that is nobody's gets its row when the job is accepted."""
    person = signed_in_person()
    if person is not None:
        return person.session_id
    ensure_session_key()
    return session_id_of(session["key"])


def _viewed() -> list[tuple[str, int]]:
    return [(job_id, generation) for job_id, generation in session.get("viewed", [])]


def _address() -> str:
    return request.remote_addr or ""
