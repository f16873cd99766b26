"""`make demo`: one job through the portal as a visitor sees it, from the web form to the mail. Needs no library.

Starts `portal serve` on a free port with its data in a temporary folder, and takes everything away at the end.
"""

import email
import email.policy
import html.parser
import http.cookiejar
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

APPLICATION = "slow_div"
FIELDS = {"x": "8", "y": "2", "email": "ann@example.org"}
START_SECONDS = 60
STOP_SECONDS = 60
MAIL_SECONDS = 60
MARGIN_SECONDS = 120
"""How long the job may take beyond what the program sleeps."""
POLL_SECONDS = 0.25

ResultT = TypeVar("ResultT")


class DemoError(Exception):
    """The demonstration did not work: what was waited for in vain, or what came instead."""


class Page(html.parser.HTMLParser):
    """What the demonstration reads from a page: the fields of its forms, and the text of its answer."""

    _VOID = frozenset({"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[tuple[str, dict[str, str]]] = []
        self._answer: list[str] = []
        self._depth_in_answer = 0
        self.feed(text)

    @property
    def answer(self) -> str:
        """The text of the element of class `answer`."""
        return " ".join("".join(self._answer).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note forms, their fields, and where the answer begins."""
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append((values.get("action", ""), {}))
        if tag == "input" and self.forms and values.get("name"):
            self.forms[-1][1][values["name"]] = values.get("value", "")
        if tag in self._VOID:
            return
        if self._depth_in_answer or "answer" in values.get("class", "").split():
            self._depth_in_answer += 1

    def handle_endtag(self, tag: str) -> None:
        """Note where the answer ends."""
        if self._depth_in_answer and tag not in self._VOID:
            self._depth_in_answer -= 1

    def handle_data(self, data: str) -> None:
        """Keep the answer's text."""
        if self._depth_in_answer:
            self._answer.append(data)


class Browser:
    """Keeps cookies and follows redirects, and no more."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),  # the portal is on this machine, whatever the environment says
            urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()),
        )

    def open(self, path: str, fields: dict[str, str] | None = None) -> tuple[str, str]:
        """The address at which a request ended, and what came. Raises DemoError for an error page."""
        data = urllib.parse.urlencode(fields).encode() if fields is not None else None
        try:
            with self._opener.open(urllib.parse.urljoin(self.base_url, path), data, timeout=30) as response:
                return response.url, response.read().decode()
        except urllib.error.HTTPError as error:
            raise DemoError(f"{path} answered {error.code}:\n{error.read().decode(errors='replace')}") from error


class Portal:
    """A `portal serve` of its own in a folder."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str] | None = None, command_prefix: Sequence[str] = ()
    ) -> None:
        """With `settings`, `PORTAL_*` variables, beside the demonstration's own; the prefix may change the account."""
        self.mail_folder = folder / "mail"
        self._log = folder / "log"
        environment = os.environ | {
            "PORTAL_PORTAL__BIND": "127.0.0.1:0",
            "PORTAL_PORTAL__BASE_URL": "http://127.0.0.1:8080",  # the default: `serve` puts the real port in
            "PORTAL_PORTAL__JOBS_DIR": str(folder / "jobs"),
            "PORTAL_PORTAL__DATABASE_URL": f"sqlite:///{folder}/portal.db",
            "PORTAL_PORTAL__SECRET_KEY_FILE": str(folder / "secret_key"),
            "PORTAL_MAIL__TRANSPORT": "folder",
            "PORTAL_MAIL__FOLDER": str(self.mail_folder),
            "PORTAL_MAIL__SHOW_PAGE": "true",
            **(settings or {}),
        }
        environment.pop("PORTAL_CONFIG", None)
        self._output = folder / "address"
        with self._log.open("wb") as log, self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*command_prefix, sys.executable, "-P", "-m", "portal", "serve"],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
            )

    def address(self) -> str:
        """Where it serves, once it says so; empty before. Raises DemoError where it has ended."""
        if self._process.poll() is not None:
            raise DemoError(f"portal serve ended with exit code {self._process.returncode}")
        found = re.search(r"http://[^\s,]+", self._output.read_text())
        return found[0] if found else ""

    def stop(self) -> None:
        """SIGTERM, and wait. Raises DemoError where it did not end cleanly."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            exit_code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait()
            raise DemoError(f"portal serve did not stop within {STOP_SECONDS} s") from error
        if exit_code != 0:
            raise DemoError(f"portal serve stopped with exit code {exit_code}")

    def log(self) -> str:
        """All that it has logged."""
        return self._log.read_text(errors="replace")


def wait_for(what: str, seconds: float, look: Callable[[], ResultT | None]) -> ResultT:
    """The first true thing that `look` returns. Raises DemoError after so many seconds."""
    deadline_seconds = time.monotonic() + seconds
    while not (result := look()):
        if time.monotonic() > deadline_seconds:
            raise DemoError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(POLL_SECONDS)
    return result


def run_job(browser: Browser) -> tuple[str, str]:
    """Fill in the form and follow the job to its end: its id and the answer on its page."""
    _, text = browser.open(f"/applications/{APPLICATION}")
    target = f"/applications/{APPLICATION}/jobs"
    fields = next((fields for action, fields in Page(text).forms if action.endswith(target)), None)
    if fields is None:
        raise DemoError(f"the page has no form that leads to {target}")
    print(f"Sending {FIELDS['x']} / {FIELDS['y']} through the form …", flush=True)
    job_url, _ = browser.open(target, fields | FIELDS)
    print(f"Job page: {job_url}", flush=True)
    seconds = float(os.environ.get("SLOW_DIV_SECONDS") or 30)
    shown: list[str] = []

    def final_state() -> dict[str, object] | None:
        state: dict[str, object] = json.loads(browser.open(f"{job_url}/state")[1])
        if state["word"] not in shown:
            shown.append(str(state["word"]))
            print(f"  {state['word']}", flush=True)
        return state if state["is_final"] else None

    state = wait_for("the end of the job", seconds + MARGIN_SECONDS, final_state)
    _, text = browser.open(job_url)
    if state["state"] != "succeeded":
        raise DemoError(f"the job did not succeed: {state['summary']}")
    return str(state["job_id"]), Page(text).answer


def find_mail(folder: Path, job_id: str) -> str:
    """The text part of the message about the job, with its head; empty while there is none."""
    for file in sorted(folder.glob("*.eml")):
        message = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        body = message.get_body(("plain",))
        if job_id in str(message["Subject"]) and body is not None:
            head = "\n".join(f"{name}: {message[name]}" for name in ("From", "To", "Subject"))
            return f"{head}\n\n{body.get_content().rstrip()}"
    return ""


def demonstrate(portal: Portal) -> str:
    """The whole story; the job's id. Raises DemoError, or OSError where the portal cannot be reached."""
    address = wait_for("the web server", START_SECONDS, portal.address)
    print(f"The portal serves on {address}", flush=True)
    started_seconds = time.monotonic()
    job_id, answer = run_job(Browser(address))
    mail = wait_for("the mail", MAIL_SECONDS, lambda: find_mail(portal.mail_folder, job_id))
    took_seconds = time.monotonic() - started_seconds
    print(f"The page says: the answer is {answer}")
    print("The mail:\n" + "\n".join(f"  | {line}".rstrip() for line in mail.splitlines()))
    if answer != str(int(FIELDS["x"]) // int(FIELDS["y"])):
        raise DemoError(f"the answer on the page is {answer!r}")
    print(f"From the form to the mail: {took_seconds:.1f} s", flush=True)
    return job_id


def free_base(bases: Iterable[int], offsets: Iterable[int]) -> int:
    """The first base of which nobody listens on any of the ports at these offsets now. Raises DemoError."""
    wanted = tuple(offsets)
    for base in bases:
        if not any(_is_listened_on(base + offset) for offset in wanted):
            return base
    raise DemoError("there are no free ports")


def _is_listened_on(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run_demonstration(portal: Portal, tell: Callable[[Portal], object]) -> int:
    """Let `tell` have the portal, and stop it; the exit code. A failure is shown under all that the portal logged."""
    problem: Exception | None = None
    try:
        tell(portal)
    except (DemoError, OSError, KeyError, ValueError) as error:
        problem = error
    finally:
        try:
            portal.stop()
        except DemoError as error:
            problem = problem or error
    if problem is None:
        return 0
    print(f"{portal.log()}\nThe demonstration failed: {problem}", file=sys.stderr)
    return 1


def main() -> int:
    """The exit code."""
    folder = Path(tempfile.mkdtemp(prefix="portal-demo-"))
    try:
        return run_demonstration(Portal(folder), demonstrate)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
