"""The address that a browser last used. It fills in the form, and proves nothing."""

from urllib.parse import quote, unquote

from flask import Response, request

from portal.jobs.address import parse_address
from portal.web.context import web

COOKIE = "email"
_ONE_YEAR_SECONDS = 365 * 24 * 3600


def remembered_email() -> str:
    """The remembered address; empty where there is none or where the cookie holds anything else."""
    try:
        return parse_address(unquote(request.cookies.get(COOKIE, ""), errors="strict")).email
    except ValueError:
        return ""


def remember_email(response: Response, email: str) -> None:
    """Keep an address that has been accepted for a year."""
    response.set_cookie(
        COOKIE,
        quote(email.strip(), safe="@"),
        max_age=_ONE_YEAR_SECONDS,
        path="/",
        secure=web().settings.portal.base_url.startswith("https:"),
        httponly=True,
        samesite="Lax",
    )
