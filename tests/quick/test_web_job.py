"""The page of a job in every state, who may see it, and what it tells its script."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from portal.jobs.access import Viewer
from portal.jobs.keys import Purpose
from portal.jobs.models import MailOutbox, SchedulerHealth
from portal.jobs.states import FailureReason, JobState
from portal.people.sessions import LIFETIME
from tests.web_portal import WebPortal, make_everything, make_portal

MOMENT = datetime(2026, 11, 24, 7, 0, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
TO_RUNNING = (JobState.SUBMITTING, JobState.QUEUED, JobState.RUNNING)


@pytest.fixture
def portal(tmp_path: Path) -> WebPortal:
    return make_portal(tmp_path, templates_dir=make_everything(tmp_path))


def page_of(portal: WebPortal, job_id: str) -> str:
    response = portal.browser.get(f"/jobs/{job_id}")
    assert response.status_code == 200
    return response.get_data(as_text=True)


def view_key(portal: WebPortal, job_id: str) -> str:
    return portal.parts.keys.key(Purpose.VIEW, job_id, 1)


def tags_of(page: str) -> list[tuple[str, list[str]]]:
    """Every tag of a page with the names of its attributes, as a browser reads it."""
    found: list[tuple[str, list[str]]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.append((tag, [name for name, _ in attrs]))

    Reader().feed(page)
    return found


def test_accepted_waiting_and_running(portal: WebPortal) -> None:
    job_id = portal.job()
    page = page_of(portal, job_id)
    assert "<title>Accepted · 8, 2" in page
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page
    portal.move(job_id, JobState.SUBMITTING, JobState.QUEUED)
    assert "It is in the queue" in page_of(portal, job_id)
    portal.move(job_id, JobState.RUNNING, node="node3")
    (portal.work(job_id) / "output.txt").write_text("still dividing\x1b[31m\n")
    portal.clock.advance(18)
    page = page_of(portal, job_id)
    assert re.search(r"Running on node3 for <time[^>]*>18 s</time>\.", page)
    assert "Output so far" in page
    assert "still dividing\\x1b[31m" in page
    assert "Cancel the job" in page


def test_a_page_looks_again_where_a_job_that_has_ended_is_to_run_again(portal: WebPortal) -> None:
    job_id = portal.job()
    portal.move(job_id, *TO_RUNNING, JobState.FAILED, reason=FailureReason.NODE_FAILURE, node="node1")
    assert 'data-settled="yes"' in page_of(portal, job_id)
    portal.parts.resubmission.ask(Viewer(is_administrator=True), job_id)
    page = page_of(portal, job_id)
    assert 'data-settled="no"' in page
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in page


def test_done_with_an_answer(portal: WebPortal) -> None:
    job_id = portal.job()
    (portal.work(job_id) / "output.txt").write_text("The answer is: 4\n")
    portal.move(job_id, *TO_RUNNING, JobState.SUCCEEDED, answer="4", node="node1")
    page = page_of(portal, job_id)
    assert '<p class="answer">4</p>' in page
    assert "<title>Done · 8, 2" in page
    assert "refresh" not in page
    assert "Cancel the job" not in page
    assert f"/jobs/{job_id}/files/output.txt" in page
    assert "waited 9 s, ran 3 s, done" in page
    assert "1d7a46" in page  # the icon is green


def test_failed_shows_the_error_text_first(portal: WebPortal) -> None:
    job_id = portal.job("8", "0")
    work = portal.work(job_id)
    (work / "output.txt").write_text("reading arguments\n")
    (work / "err_output.txt").write_text("expr: division by zero\n")
    portal.move(
        job_id, *TO_RUNNING, JobState.FAILED, reason=FailureReason.PROGRAM_ERROR, detail="Exit code 2.", exit_code=2
    )
    page = page_of(portal, job_id)
    assert "The program ended with exit code 2." in page
    assert page.index("expr: division by zero") < page.index("reading arguments")
    assert "The program&#39;s error text" in page or "The program's error text" in page
    assert page.index("Exit code 2.") < page.index("Accepted: written to disk")  # the newest evidence first


def test_each_try_has_its_bar(portal: WebPortal) -> None:
    job_id = portal.job()
    portal.move(job_id, *TO_RUNNING, node="node1")
    portal.run_again(job_id)
    portal.move(job_id, *TO_RUNNING, JobState.FAILED, reason=FailureReason.OUT_OF_MEMORY, node="node2")
    page = page_of(portal, job_id)
    assert "First try, node1" in page
    assert "Second try, node2" in page
    assert "node failure" in page
    assert "Out of memory" in page
    assert "needed more than the 256 MiB" in page
    assert page.count('<svg class="bar"') == 2


@pytest.mark.parametrize("reason", list(FailureReason))
def test_every_failure_has_a_page(portal: WebPortal, reason: FailureReason) -> None:
    job_id = portal.job()
    portal.move(job_id, *TO_RUNNING, JobState.FAILED, reason=reason)
    page = page_of(portal, job_id)
    assert '<span class="state bad">' in page
    assert "Failed: " not in page


def test_cancel(portal: WebPortal) -> None:
    job_id = portal.job()
    fields = {"csrf_token": portal.form_fields()["csrf_token"]}
    assert portal.browser.post(f"/jobs/{job_id}/cancel").status_code == 400
    response = portal.browser.post(f"/jobs/{job_id}/cancel", data=fields)
    assert response.status_code == 303
    assert response.location == f"/jobs/{job_id}"
    page = page_of(portal, job_id)
    assert "Its cancellation has been asked for." in page
    assert "Cancel the job" not in page
    portal.move(job_id, JobState.CANCELLED)
    assert '<span class="state idle">Cancelled</span>' in page_of(portal, job_id)
    assert portal.browser.post(f"/jobs/{job_id}/cancel", data=fields).status_code == 409


def test_unknown_and_forbidden_look_the_same(portal: WebPortal) -> None:
    forbidden = portal.foreign_job()
    answers = [portal.browser.get(f"/jobs/{job_id}") for job_id in (forbidden, "bcdfghjk", "no-such-id", "é%00")]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.get_data() for answer in answers}) == 1
    assert "There is no such job here" in answers[0].get_data(as_text=True)
    token = portal.form_fields()["csrf_token"]
    for path in ("state", "files/output.txt"):
        assert portal.browser.get(f"/jobs/{forbidden}/{path}").status_code == 404
    assert portal.browser.post(f"/jobs/{forbidden}/cancel", data={"csrf_token": token}).status_code == 404


def test_the_mailed_key_opens_the_page_and_no_more(portal: WebPortal) -> None:
    job_id = portal.foreign_job()
    first = portal.browser.get(f"/jobs/{job_id}?key={view_key(portal, job_id)}")
    assert first.status_code == 302
    assert first.location == f"/jobs/{job_id}"
    assert first.headers["Cache-Control"] == "no-store"
    page = page_of(portal, job_id)
    assert "Cancel the job" not in page
    token = portal.form_fields()["csrf_token"]
    refused = portal.browser.post(f"/jobs/{job_id}/cancel", data={"csrf_token": token})
    assert refused.status_code == 403
    assert portal.parts.jobs.record(job_id).job.cancel_asked_at is None


@pytest.mark.parametrize("key", ["", "wrong", "é", "a" * 26, "owner"])
def test_a_wrong_key_is_not_found(portal: WebPortal, key: str) -> None:
    job_id = portal.foreign_job()
    if key == "owner":
        key = portal.parts.keys.key(Purpose.OWNER, job_id, 1)
    assert portal.browser.get(f"/jobs/{job_id}", query_string={"key": key}).status_code == 404
    assert portal.browser.get(f"/jobs/{job_id}").status_code == 404


def test_a_withdrawn_key_shows_nothing_more(portal: WebPortal) -> None:
    job_id = portal.foreign_job()
    portal.browser.get(f"/jobs/{job_id}?key={view_key(portal, job_id)}")
    with portal.parts.database.writing() as session:
        portal_job = portal.parts.jobs.record(job_id).job
        session.merge(portal_job).key_generation = 2
    assert portal.browser.get(f"/jobs/{job_id}").status_code == 404


@pytest.mark.thorough
def test_the_cookie_keeps_the_newest_fifty(portal: WebPortal) -> None:
    job_ids = [portal.foreign_job() for _ in range(52)]
    for job_id in job_ids:
        assert portal.browser.get(f"/jobs/{job_id}?key={view_key(portal, job_id)}").status_code == 302
    statuses = [portal.browser.get(f"/jobs/{job_id}").status_code for job_id in job_ids]
    assert statuses == [404, 404, *[200] * 50]
    cookie = portal.browser.get_cookie("session")
    assert cookie is not None
    assert len(cookie.value) < 3000


def test_a_tampered_cookie_shows_nothing(portal: WebPortal) -> None:
    job_id = portal.job()
    cookie = portal.browser.get_cookie("session")
    assert cookie is not None
    portal.browser.set_cookie("session", cookie.value[:-2] + ("AA" if cookie.value[-2:] != "AA" else "BB"))
    assert portal.browser.get(f"/jobs/{job_id}").status_code == 404


def test_an_expired_session_shows_nothing(portal: WebPortal) -> None:
    job_id = portal.job()
    assert portal.browser.get(f"/jobs/{job_id}").status_code == 200
    portal.clock.now += LIFETIME + timedelta(seconds=1)
    assert portal.browser.get(f"/jobs/{job_id}").status_code == 404
    assert "not sent anything in yet" in portal.browser.get("/jobs").get_data(as_text=True)


def test_my_jobs(portal: WebPortal) -> None:
    assert "not sent anything in yet" in portal.browser.get("/jobs").get_data(as_text=True)
    job_id, other = portal.job(), portal.foreign_job()
    portal.move(job_id, *TO_RUNNING, JobState.SUCCEEDED, answer="4" * 900)
    page = portal.browser.get("/jobs").get_data(as_text=True)
    assert f"/jobs/{job_id}" in page
    assert other not in page
    assert "4" * 39 + "…" in page


def test_state_and_its_tag(portal: WebPortal) -> None:
    job_id = portal.job()
    first = portal.browser.get(f"/jobs/{job_id}/state")
    assert first.status_code == 200
    assert first.json is not None
    assert first.json["state"] == "accepted"
    assert first.json["word"] == "Accepted"
    assert first.json["version"] == 1
    assert first.headers["Cache-Control"] == "no-store"
    tag = first.headers["ETag"]
    assert f"data-tag={tag}" in page_of(portal, job_id)
    same = portal.browser.get(f"/jobs/{job_id}/state", headers={"If-None-Match": tag})
    assert same.status_code == 304
    assert same.get_data() == b""
    portal.move(job_id, JobState.SUBMITTING)
    assert portal.browser.get(f"/jobs/{job_id}/state", headers={"If-None-Match": tag}).status_code == 200


def test_new_output_and_a_silent_scheduler_change_the_tag(portal: WebPortal) -> None:
    job_id = portal.job()
    tags = [portal.browser.get(f"/jobs/{job_id}/state").headers["ETag"]]
    (portal.work(job_id) / "output.txt").write_text("a line\n")
    tags.append(portal.browser.get(f"/jobs/{job_id}/state").headers["ETag"])
    portal.hear_from_scheduler(silent_since=portal.clock.now)
    tags.append(portal.browser.get(f"/jobs/{job_id}/state").headers["ETag"])
    portal.hear_from_scheduler(accounting_silent_since=portal.clock.now)
    tags.append(portal.browser.get(f"/jobs/{job_id}/state").headers["ETag"])
    assert len(set(tags)) == 4


def test_what_the_footer_and_the_banner_say(portal: WebPortal) -> None:
    job_id = portal.job()
    assert "nothing is known of the scheduler yet" in page_of(portal, job_id)
    portal.hear_from_scheduler()
    portal.clock.advance(2)
    page = page_of(portal, job_id)
    assert re.search(r"Scheduler answered <time[^>]*>2 s ago</time> · 14 running, 6 waiting", page)
    assert 'class="banner" role="status">\n<b>' not in page
    portal.hear_from_scheduler(silent_since=portal.clock.now)
    assert "The scheduler has not answered since" in page_of(portal, job_id)
    assert "Nothing is lost" in page_of(portal, job_id)
    portal.hear_from_scheduler()
    portal.clock.advance(3600)
    assert "The scheduler has not been asked since" in page_of(portal, job_id)


def test_accounting_that_does_not_answer_is_said_with_what_waits_for_it(portal: WebPortal) -> None:
    job_id = portal.job()
    portal.hear_from_scheduler(accounting_silent_since=portal.clock.now)
    page = page_of(portal, job_id)
    assert "The scheduler's accounting has not answered since" in page
    assert "these stay as they are until it answers" in page
    assert "Scheduler answered" in page


def test_the_banner_names_the_problem_in_plain_words_while_jobs_are_taken_in(portal: WebPortal) -> None:
    portal.hear_from_scheduler(silent_since=portal.clock.now)
    with portal.parts.database.writing() as session:
        session.get_one(SchedulerHealth, 1).detail = "The cluster cannot be reached at the moment."
    page = page_of(portal, portal.job())
    assert "The scheduler has not answered since" in page
    assert "The cluster cannot be reached at the moment." in page


def test_the_raw_words_stand_beneath_the_sentence_and_the_expected_start_by_the_line_of_time(portal: WebPortal) -> None:
    job_id = portal.job()
    waiting = (JobState.SUBMITTING, JobState.QUEUED)
    expected = portal.clock.now + timedelta(hours=2)
    portal.move(job_id, *waiting, reason=None, raw_state="PENDING", expected_start_at=expected)
    page = page_of(portal, job_id)
    assert "says:" not in page
    assert re.search(rf'expected to start <time datetime="{re.escape(expected.isoformat())}"', page)
    facts = {"raw_state": "NODE_FAIL", "node": "node<1>", "scheduler_id": "17"}
    portal.move(job_id, JobState.RUNNING, JobState.FAILED, reason=FailureReason.NODE_FAILURE, **facts)
    page = page_of(portal, job_id)
    assert '<p class="says soft">The scheduler says: NODE_FAIL, node&lt;1&gt;, job 17</p>' in page
    assert "expected to start" not in page


def test_results_leads_to_the_page(portal: WebPortal) -> None:
    response = portal.browser.get("/results?job_id=bcdfghjk&key=abc")
    assert response.status_code == 302
    assert response.location == "/jobs/bcdfghjk?key=abc"
    assert portal.browser.get("/results?job_id=bcdfghjk").location == "/jobs/bcdfghjk"
    for junk in ("", "//evil.example", "../admin", "bcdfghjk/files/x"):
        assert portal.browser.get("/results", query_string={"job_id": junk}).status_code == 404


def test_an_application_that_has_gone(portal: WebPortal, tmp_path: Path) -> None:
    job_id = portal.job()
    portal.parts.catalog.applications.pop("slow_div")  # type: ignore[attr-defined]
    page = page_of(portal, job_id)
    assert "slow_div" in page
    assert "Change inputs" not in page
    assert portal.browser.get("/jobs").status_code == 200


def test_an_applications_own_results(portal: WebPortal) -> None:
    response = portal.send({"sequence": ">a\nMKV", "title": "<i>mice</i>"}, "everything")
    job_id = (response.location or "").rpartition("/")[2]
    assert 'class="hits"' not in page_of(portal, job_id)
    portal.move(job_id, *TO_RUNNING, JobState.SUCCEEDED, answer="212 <hits>")
    page = page_of(portal, job_id)
    assert '<p class="hits">Hits: 212 &lt;hits&gt; for &lt;i&gt;mice&lt;/i&gt;</p>' in page


def test_a_results_template_that_fails_or_reaches_out_leaves_the_page(portal: WebPortal) -> None:
    response = portal.send({"sequence": ">a\nMKV"}, "everything")
    job_id = (response.location or "").rpartition("/")[2]
    portal.move(job_id, *TO_RUNNING, JobState.SUCCEEDED, answer="4")
    applications = portal.parts.catalog.applications
    for template in ("{{ 1 / 0 }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ config }}{{ answer.x.y }}"):
        changed = applications["everything"].model_copy(update={"results_template": template})
        applications["everything"] = changed  # type: ignore[index]
        page = page_of(portal, job_id)
        assert "job-results" not in page
        assert "subclasses" not in page


def test_nothing_that_people_or_programs_wrote_becomes_markup(portal: WebPortal) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    response = portal.send({"sequence": ">a\nMKV", "title": evil}, "everything")
    job_id = (response.location or "").rpartition("/")[2]
    work = portal.work(job_id)
    for name in ("output.txt", "err_output.txt"):
        (work / name).write_text("</pre>" + evil)
    portal.move(job_id, *TO_RUNNING, JobState.SUCCEEDED, answer=evil, detail=evil, node=evil, reason=None)
    bad = portal.send({"sequence": evil, "title": evil, "count": evil, evil: evil, "email": evil}, "everything")
    for page in (
        page_of(portal, job_id),
        portal.browser.get("/jobs").get_data(as_text=True),
        bad.get_data(as_text=True),
    ):
        for tag, attributes in tags_of(page):
            assert tag != "img"
            assert tag != "script" or "src" in attributes
            assert not any(name == "style" or name.startswith("on") for name in attributes)


def mail_row(portal: WebPortal, job_id: str, **values: object) -> MailOutbox:
    now = portal.clock.now_utc()
    row = MailOutbox(
        job_id=job_id,
        attempt_number=1,
        outcome="succeeded",
        recipient="ann@example.org",
        message_id=f"<{job_id}.1.succeeded@example.org>",
        created_at=now,
        next_try_at=now,
    )
    for name, value in values.items():
        setattr(row, name, value)
    return row


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "The mail to ann@example.org is about to be sent."),
        ({"sent_at": MOMENT}, "Mail to ann@example.org was sent at 2026-11-24 07:00 UTC."),
        (
            {"sent_at": MOMENT, "digest_id": "<digest.1.2@x>"},
            "Mail to ann@example.org was sent at 2026-11-24 07:00 UTC, together with news of other jobs.",
        ),
        (
            {"last_error": "The mail server does not answer."},
            "The mail to ann@example.org could not be sent yet, and is tried again.",
        ),
        (
            {"created_at": LONG_AGO, "next_try_at": LONG_AGO},
            "has not been sent yet; it waits for the mail server or a limit.",
        ),
        (
            {"refused_at": MOMENT, "last_error": "550 (mail.example.org:25)"},
            "The mail server does not take the mail to ann@example.org, and it is not tried again.",
        ),
    ],
)
def test_the_page_says_what_has_become_of_the_mail(portal: WebPortal, values: dict[str, object], sentence: str) -> None:
    job_id = portal.job()
    portal.move(job_id, *TO_RUNNING, JobState.SUCCEEDED)
    assert "job-mail" not in page_of(portal, job_id)
    with portal.parts.database.writing() as session:
        session.add(mail_row(portal, job_id, **values))
    page = page_of(portal, job_id)
    assert sentence in page
    assert "mail.example.org" not in page
