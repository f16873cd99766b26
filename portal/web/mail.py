"""The mail folder as a page, for trying the portal without a mail server. It holds links that give access."""

from flask import Blueprint, abort

from portal.mail.mailbox import list_messages, read_message
from portal.web.context import web
from portal.web.pages import render_page

blueprint = Blueprint("mail", __name__)

_MAX_MESSAGES = 100


@blueprint.before_request
def only_where_it_is_on() -> None:
    """404 unless `mail.show_page`, which the settings allow on a loopback address only."""
    if not web().settings.mail.show_page:
        abort(404)


@blueprint.get("/mail")
def folder() -> str:
    """The newest messages."""
    return render_page("mail.html", messages=list_messages(web().settings.mail.folder, _MAX_MESSAGES))


@blueprint.get("/mail/<name>")
def message(name: str) -> str:
    """One message as plain text, with its links."""
    return render_page("mail_message.html", message=read_message(web().settings.mail.folder, name))
