"""The web application put together: its parts, its pages, and what holds for every request."""

from urllib.parse import urlsplit

from flask import Flask, request
from flask_bootstrap import Bootstrap5
from flask_wtf.csrf import CSRFProtect  # type: ignore[import-untyped]

from portal.people.sessions import LIFETIME
from portal.web import (
    admin,
    admin_jobs,
    api,
    applications,
    health,
    help,  # noqa: A004
    job_downloads,
    jobs,
    mail,
    sign_in,
)
from portal.web.access_log import install_access_log
from portal.web.administration import hide_administration
from portal.web.context import EXTENSION, Web
from portal.web.errors import install_error_handlers
from portal.web.headers import install_headers
from portal.web.hosts import BasePath, allowed_hosts, host_name
from portal.web.pages import install_filters
from portal.web.refusals import LengthRequiredError, WrongHostError

_MIB = 1024 * 1024
_MAX_FORM_PARTS = 300
"""An application has at most 200 parameters."""


def make_site(web: Web) -> Flask:
    """The Flask application over these parts."""
    app = Flask("portal.web")
    _configure(app, web)
    app.extensions[EXTENSION] = web
    install_access_log(app, web.clock)
    _refuse_other_hosts(app, web)
    _refuse_bodies_without_length(app)
    install_headers(app, web.settings)
    install_filters(app)
    install_error_handlers(app)
    Bootstrap5(app)
    hide_administration(app)  # before the check of tokens, whose answer would tell that there is something
    csrf = CSRFProtect(app)
    csrf.exempt(api.blueprint)  # it ignores cookies, so that nothing can be done in a browser's name
    for family in (applications, jobs, job_downloads, mail, health, help, sign_in, admin, admin_jobs, api):
        app.register_blueprint(family.blueprint)
    prefix = urlsplit(web.settings.portal.base_url).path
    if prefix:
        app.wsgi_app = BasePath(app.wsgi_app, prefix)  # type: ignore[method-assign]
    return app


def _configure(app: Flask, web: Web) -> None:
    limit_bytes = (web.settings.limits.upload_mib + 1) * _MIB
    app.config.update(
        SECRET_KEY=web.keys.cookie_secret(),
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=web.settings.portal.base_url.startswith("https:"),
        PERMANENT_SESSION_LIFETIME=LIFETIME,
        SESSION_REFRESH_EACH_REQUEST=False,
        MAX_CONTENT_LENGTH=limit_bytes,
        MAX_FORM_MEMORY_SIZE=limit_bytes,
        MAX_FORM_PARTS=_MAX_FORM_PARTS,
        BOOTSTRAP_SERVE_LOCAL=True,
        # A form may stay open over a weekend: its token lasts as long as the browser's session.
        WTF_CSRF_TIME_LIMIT=None,
        # Our own Referrer-Policy takes the header away that this would ask for under https.
        WTF_CSRF_SSL_STRICT=False,
    )
    # An address with two slashes is none of ours, and is not sent on to another one.
    app.url_map.merge_slashes = False
    app.jinja_env.globals.update(
        site_name=web.settings.portal.site_name,
        shows_mail=web.settings.mail.show_page,
    )


def _refuse_bodies_without_length(app: Flask) -> None:
    @app.before_request
    def check_length() -> None:
        # Werkzeug cuts such a body off at the limit without a word, and half an input must not become a job.
        if request.content_length is None and request.environ.get("HTTP_TRANSFER_ENCODING"):
            raise LengthRequiredError("A request with a body should say its length (Content-Length).")


def _refuse_other_hosts(app: Flask, web: Web) -> None:
    allowed = allowed_hosts(web.settings)

    @app.before_request
    def check_host() -> None:
        if host_name(request.host) not in allowed:
            raise WrongHostError(
                f"This portal does not answer under that name. Its address is {web.settings.portal.base_url}"
            )
