"""A visitor with a browser: fills in the form over HTTP, and knows only what the portal answered."""

import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from typing import Any, NamedTuple

_SECONDS = 30


class NoAnswerError(Exception):
    """The connection broke, or there was none: the visitor knows nothing."""


class Browser:
    """One browser with its cookies, and one form that was filled in."""

    def __init__(self, application: str) -> None:
        self._application = application
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(CookieJar()), _Stay()
        )
        self._form: dict[str, str] | None = None

    def open_form(self, port: int) -> None:
        """Load the form, unless it is open already. Raises NoAnswerError."""
        if self._form is None:
            page = self._request(port, f"/applications/{self._application}").body
            self._form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))

    def send_form(self, port: int, **fields: str) -> str:
        """Send the form that is open, with the token that it has; the id of the job. Raises NoAnswerError."""
        assert self._form is not None
        data = urllib.parse.urlencode({**self._form, **fields}).encode()
        answer = self._request(port, f"/applications/{self._application}/jobs", data)
        assert answer.status == 303, f"{answer.status}\n{answer.body[:2000]}"
        return answer.location.rpartition("/")[2]

    def _request(self, port: int, path: str, data: bytes | None = None) -> "_Answer":
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data)
        try:
            with self._open(request) as answer:
                return _Answer(answer.status, answer.headers["Location"] or "", answer.read().decode())
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswerError(str(error)) from error

    def _open(self, request: urllib.request.Request) -> Any:
        try:
            return self._opener.open(request, timeout=_SECONDS)
        except urllib.error.HTTPError as answer:
            return answer  # any status is an answer here


class _Answer(NamedTuple):
    status: int
    location: str
    body: str


class _Stay(urllib.request.HTTPRedirectHandler):
    """The answer to the form is what counts, not the page that it leads to."""

    def redirect_request(self, *_: Any) -> None:
        return None
