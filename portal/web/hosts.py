"""Under which names the portal answers, and under which path."""

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from portal.settings import Settings, is_loopback

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """The host names, without ports: base_url's, the trusted ones, and this machine's own when bound to loopback."""
    names = [urlsplit(settings.portal.base_url).hostname or "", *map(host_name, settings.portal.trusted_hosts)]
    if is_loopback(settings.bind_host):
        names += _LOOPBACK_NAMES
    return frozenset(name.lower() for name in names if name)


def host_name(host: str) -> str:
    """The name in a Host header, in lower case and without port and brackets; empty where it cannot be read."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class BasePath:
    """Puts the application beneath the path of base_url, whether or not the proxy in front has taken it away."""

    def __init__(self, application: "WSGIApplication", prefix: str) -> None:
        self._application = application
        self._prefix = prefix

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == self._prefix or path.startswith(f"{self._prefix}/"):
            environ["PATH_INFO"] = path[len(self._prefix) :] or "/"
        environ["SCRIPT_NAME"] = self._prefix
        return self._application(environ, start_response)
