"""Who is let in below `/admin`: administrators. For everybody else nothing is there, as at any unknown address."""

from flask import Flask, abort, request

from portal.web.visitors import browser_viewer

_ROOT = "/admin"


def hide_administration(app: Flask) -> None:
    """Answer 404 to whoever is no administrator, whatever the method, before anything else looks at the request.

    By the path and not by the route: a wrong method, a missing token or a slash too few must not tell what there is.
    """

    @app.before_request
    def only_administrators() -> None:
        is_below = request.path == _ROOT or request.path.startswith(f"{_ROOT}/")
        if is_below and not browser_viewer().is_administrator:
            abort(404)
