"""Downloads of what a job wrote, which is hostile."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from portal.jobs.states import JobState
from tests.compute_clients import open_files
from tests.web_portal import WebPortal, make_everything, make_portal


@pytest.fixture
def portal(tmp_path: Path) -> WebPortal:
    return make_portal(tmp_path, templates_dir=make_everything(tmp_path))


@contextmanager
def nothing_is_left_open() -> Iterator[None]:
    """No file is opened meanwhile that is still open at the end. (What earlier tests left open may be closed.)"""
    before = Counter(open_files(os.getpid()))
    yield
    assert Counter(open_files(os.getpid())) - before == Counter()


def test_text_is_shown_and_everything_else_is_an_attachment(portal: WebPortal) -> None:
    response = portal.send({"sequence": ">a\nMKV"}, "everything")
    job_id = (response.location or "").rpartition("/")[2]
    work = portal.work(job_id)
    (work / "output.txt").write_bytes(b"<script>alert(1)</script>\n" * 10000)
    (work / "hits.tsv").write_text("a\t1\n")
    (work / "out").mkdir()
    (work / "out" / "plot.svg").write_text("<svg onload='alert(1)'/>")
    (work / "page.html").write_text("<script>alert(1)</script>")
    shown = portal.browser.get(f"/jobs/{job_id}/files/output.txt")
    assert shown.status_code == 200
    assert shown.content_type == "text/plain; charset=utf-8"
    assert shown.content_length == 260000 == len(shown.get_data())
    assert portal.browser.get(f"/jobs/{job_id}/files/hits.tsv").content_type == "text/plain; charset=utf-8"
    for path, name in (("out/plot.svg", "plot.svg"), ("page.html", "page.html")):
        answer = portal.browser.get(f"/jobs/{job_id}/files/{path}")
        assert answer.content_type == "application/octet-stream"
        assert answer.headers["Content-Disposition"].startswith(f'attachment; filename="{name}"')
        for header in (answer.headers, shown.headers):
            assert header["X-Content-Type-Options"] == "nosniff"
            assert header["Content-Security-Policy"].startswith("sandbox")
            assert header["Cache-Control"] == "no-store"


@pytest.mark.parametrize("name", ["tab\tname", 'quote".txt', "ü;x=.txt", "%41", "semi;colon", "-rf", "\x1b[31m"])
def test_any_name_is_a_lawful_header(portal: WebPortal, name: str) -> None:
    job_id = portal.job()
    (portal.work(job_id) / name).write_text("x")
    # The test client takes text that is encoded already.
    address = f"/jobs/{job_id}/files/" + "".join(f"%{byte:02X}" for byte in name.encode())
    answer = portal.browser.get(address)
    assert answer.status_code == 200
    disposition = answer.headers["Content-Disposition"]
    assert disposition.isascii()
    assert disposition.isprintable()
    assert disposition.count('"') == 2


@pytest.mark.thorough
@pytest.mark.parametrize(
    "path",
    [
        "../config.ini",
        "..%2fconfig.ini",
        "%2e%2e/config.ini",
        "out/../../config.ini",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "./output.txt",
        "out//x",
        "output.txt/",
        "output.txt%00",
        "..\\config.ini",
        "missing.txt",
        "link",
        "hard",
        "fifo",
        "out",
        "linked/passwd",
        "socket",
        "/".join(["deep"] * 40),
        "%ff%fe",
        "a" * 5000,
    ],
)
def test_nothing_but_the_jobs_own_regular_files(portal: WebPortal, path: str, tmp_path: Path) -> None:
    job_id = portal.job()
    work = portal.work(job_id)
    (work / "output.txt").write_text("x")
    (work / "out").mkdir()
    (work / "link").symlink_to("/etc/passwd")
    (work / "linked").symlink_to("/etc")
    (tmp_path / "elsewhere").write_text("secret")
    os.link(tmp_path / "elsewhere", work / "hard")
    os.mkfifo(work / "fifo")
    with nothing_is_left_open():
        answer = portal.browser.get(f"/jobs/{job_id}/files/{path}")
    assert answer.status_code == 404


def test_another_attempt(portal: WebPortal) -> None:
    job_id = portal.job()
    (portal.work(job_id, 1) / "output.txt").write_text("first")
    portal.move(job_id, JobState.SUBMITTING, JobState.QUEUED, JobState.RUNNING)
    portal.run_again(job_id)
    (portal.work(job_id, 2) / "output.txt").write_text("second")
    address = f"/jobs/{job_id}/files/output.txt"
    assert portal.browser.get(address).get_data() == b"second"
    assert portal.browser.get(f"{address}?attempt=1").get_data() == b"first"
    for junk in ("3", "0", "-1", "01", "x", "../1", ""):
        assert portal.browser.get(address, query_string={"attempt": junk}).status_code == 404


def test_files_are_closed_whatever_is_asked(portal: WebPortal) -> None:
    job_id = portal.job()
    (portal.work(job_id) / "output.txt").write_bytes(b"x" * 300_000)
    address = f"/jobs/{job_id}/files/output.txt"
    with nothing_is_left_open():
        head = portal.browser.head(address)
        assert head.content_length == 300_000
        assert head.get_data() == b""
        head.close()
        half = portal.browser.get(address, buffered=False)
        next(half.iter_encoded())
        half.close()


def test_a_page_with_hostile_files_in_place_of_outputs(portal: WebPortal) -> None:
    job_id = portal.job()
    work = portal.work(job_id)
    os.mkfifo(work / "output.txt")
    (work / "err_output.txt").symlink_to("/etc/passwd")
    page = portal.browser.get(f"/jobs/{job_id}")
    assert page.status_code == 200
    assert "root:" not in page.get_data(as_text=True)
