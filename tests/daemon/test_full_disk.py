"""A disk that is full, read-only or gone: nothing is half-made, nothing is lost, and all goes on afterwards.

On a small disk of its own, with a whole portal of real processes.
"""

import json
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, ProxyHandler, Request, build_opener

import pytest

from tests.serving import Serving
from tests.small_disk import SmallDisk
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.daemon,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a disk of its own"),
]

DIVISION = {"x": "8", "y": "2", "email": "ann@example.org"}
SECONDS = 90


class Visitor:
    """A browser and a program that send jobs in; answers are status, headers and text."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._opener = build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar()))

    def ask(self, path: str, data: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], str]:
        request = Request(self._address + path, data, headers)
        try:
            with self._opener.open(request, timeout=60) as response:
                return response.status, dict(response.headers), response.read().decode()
        except HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read().decode()

    def hidden_fields(self) -> dict[str, str]:
        page = self.ask("/applications/slow_div")[2]
        return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))

    def send_form(self, hidden: dict[str, str]) -> tuple[int, dict[str, str], str]:
        return self.ask("/applications/slow_div/jobs", urlencode({**DIVISION, **hidden}).encode())

    def send_by_program(self) -> tuple[int, dict[str, str], str]:
        body = {"application": "slow_div", "inputs": {"x": 8, "y": 2}, "email": DIVISION["email"]}
        return self.ask("/api/v1/jobs", json.dumps(body).encode(), **{"Content-Type": "application/json"})

    def accepted(self) -> str:
        status, _, text = self.send_by_program()
        assert status == 201, text
        return str(json.loads(text)["job_id"])


class Site:
    """One portal, some of whose data lie on a small disk."""

    def __init__(self, disk: SmallDisk, serving: Serving, jobs_dir: Path) -> None:
        self.disk = disk
        self.serving = serving
        self.jobs_dir = jobs_dir
        self.visitor = Visitor(serving.address)

    def job_folders(self) -> list[str]:
        return sorted(path.name for path in self.jobs_dir.iterdir() if not path.name.startswith("."))

    def refuses(self, hidden: dict[str, str], words: str) -> None:
        """Form and REST interface both say what is wrong, and when to come back."""
        status, headers, text = self.visitor.send_form(hidden)
        assert (status, headers["Retry-After"]) == (503, "120"), text
        assert words in text
        status, headers, text = self.visitor.send_by_program()
        assert (status, headers["Retry-After"]) == (503, "120"), text
        assert headers["Content-Type"] == "application/problem+json"
        assert words in json.loads(text)["detail"]
        assert self.visitor.ask("/healthz")[0] == 200
        assert self.visitor.ask("/readyz")[0] == 503

    def wait_until_done(self, ids: list[str]) -> None:
        for job_id in ids:
            wait_until(partial(self.has_succeeded, job_id), SECONDS, f"the end of {job_id}")
            assert self.rows("SELECT answer FROM job_results WHERE job_id = ?", job_id) == [("4",)]

    def has_succeeded(self, job_id: str) -> bool:
        return self.serving.state(job_id) == "succeeded"

    def rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        """What the database says; a command for each look would keep the machine busy."""
        with closing(sqlite3.connect(self.serving.folder / "portal.db")) as connection:
            return connection.execute(query, values).fetchall()

    def wait_for_mails(self, ids: list[str], folder: Path) -> None:
        """One mail for each job in the end, and no more."""
        wait_until(lambda: len(list(folder.glob("*.eml"))) >= len(ids), SECONDS, "the mails")
        subjects = [re.findall(r"\(job\s+(\w+)\)", path.read_text()) for path in folder.glob("*.eml")]
        assert sorted(subject[0] for subject in subjects) == sorted(ids)


@contextmanager
def opened_site(*, whole: bool, slow_div_seconds: float) -> Iterator[Site]:
    """`whole`: the database, the mail and the log lie on the small disk as well as the jobs."""
    with tempfile.TemporaryDirectory(prefix="portal-disk-") as scratch:
        home = Path(scratch) / "home"
        home.mkdir()
        disk = SmallDisk(Path(scratch) / "disk")
        serving = None
        try:
            jobs_dir = disk.path / "jobs"
            settings = {} if whole else {"PORTAL_PORTAL__JOBS_DIR": str(jobs_dir)}
            folder = disk.path if whole else home
            serving = Serving(folder, slow_div_seconds=slow_div_seconds, settings=settings)
            serving.wait_until_ready()
            yield Site(disk, serving, jobs_dir)
        finally:
            if serving is not None:
                serving.kill_everything()
            disk.remove()


@pytest.mark.parametrize("whole", [False, True], ids=["jobs folder", "jobs folder, database, mail and log"])
def test_a_full_disk_loses_nothing_and_all_goes_on_when_there_is_room(whole: bool) -> None:
    with opened_site(whole=whole, slow_div_seconds=2) as site:
        ids = [site.visitor.accepted() for _ in range(3)]
        hidden = site.visitor.hidden_fields()
        wait_until(lambda: site.serving.state(ids[0]) == "running", SECONDS, "a job that runs")
        site.disk.fill()
        before = site.job_folders()
        site.refuses(hidden, "again in a few minutes" if whole else "The portal cannot write to its disk at the moment")
        assert site.job_folders() == before, "nothing is half-made"
        log = site.serving.log_file
        if not whole:
            wait_until(lambda: "No space left on device" in log.read_text(), SECONDS, "a dispatcher that finds out")
        assert all(site.serving.state(job_id) not in ("failed", "cancelled") for job_id in ids)
        site.disk.make_room()
        status, _, text = site.visitor.send_form(hidden)
        assert status == 200, text  # redirected to the job's page: the same form, once more
        site.wait_until_done(ids)
        [by_form] = set(site.job_folders()) - set(before)
        form_id = by_form.removeprefix("job-")
        site.wait_until_done([form_id])
        home = site.disk.path if whole else site.serving.folder
        site.wait_for_mails([*ids, form_id], home / "mail")
        assert site.serving.process.poll() is None
        for pid_of in ("web", "dispatcher", "client"):
            assert site.serving.child(pid_of), f"{pid_of} lives"


def test_a_wrapper_that_cannot_write_how_it_ended_is_found_out() -> None:
    """The program of attempt 1 ends while there is no room: nobody says that it succeeded, and another attempt runs."""
    with opened_site(whole=False, slow_div_seconds=1.5) as site:
        job_id = site.visitor.accepted()
        status_file = site.jobs_dir / f"job-{job_id}" / "attempts" / "1" / "work" / "status.json"
        wait_until(lambda: site.serving.state(job_id) == "running" and status_file.exists(), SECONDS, "a program")
        site.disk.fill()
        log = site.serving.log_file
        wait_until(lambda: f"{job_id}-1" in _cannot_settle(log), SECONDS, "an end that cannot be written down")
        assert site.serving.state(job_id) == "running"
        site.disk.make_room()
        site.wait_until_done([job_id])
        attempts = site.rows("SELECT state, failure_reason FROM attempts WHERE job_id = ? ORDER BY number", job_id)
        assert attempts == [("failed", "lost"), ("succeeded", None)]
        site.wait_for_mails([job_id], site.serving.folder / "mail")


def _cannot_settle(log: Path) -> str:
    return "".join(line for line in log.read_text().splitlines() if "cannot be settled yet" in line)


def away(site: Site) -> Callable[[], object]:
    aside = site.jobs_dir.with_name("aside")
    site.jobs_dir.rename(aside)
    return lambda: aside.rename(site.jobs_dir)


def read_only(site: Site) -> Callable[[], object]:
    site.disk.make_read_only()
    return site.disk.make_writable


@pytest.mark.parametrize("trouble", [read_only, away])
def test_a_jobs_folder_that_is_read_only_or_away_for_a_while(trouble: Callable[[Site], Callable[[], object]]) -> None:
    with opened_site(whole=False, slow_div_seconds=0) as site:
        done = site.visitor.accepted()
        site.wait_until_done([done])
        hidden = site.visitor.hidden_fields()
        mend = trouble(site)
        site.refuses(hidden, "The portal cannot write to its disk at the moment")
        assert site.visitor.ask("/")[0] == 200
        if trouble is away:
            assert not site.jobs_dir.exists(), "no empty folder takes its place"
        mend()
        later = site.visitor.accepted()
        site.wait_until_done([done, later])
        site.wait_for_mails([done, later], site.serving.folder / "mail")
