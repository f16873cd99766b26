"""The page that explains the words that the portal uses."""

from flask import Blueprint

from portal.web.pages import render_page

blueprint = Blueprint("help", __name__)


@blueprint.get("/help")
def page() -> str:
    """What the states mean, and what a visitor can rely on."""
    return render_page("help.html")
