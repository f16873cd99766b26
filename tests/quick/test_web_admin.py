"""The administrator's pages: who is let in, what they show, and jobs that run again from there."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from portal.jobs.keys import Purpose
from portal.jobs.models import Attempt, DispatcherReport, Job, MailOutbox
from portal.jobs.states import FailureReason, JobState
from portal.mail.outbox import owe_mail
from portal.web.admin_jobs import PAGE_ROWS
from tests.web_portal import EMAIL, WebPortal, make_portal

ADMIN = "root@example.org"
RAN = (JobState.SUBMITTING, JobState.QUEUED, JobState.RUNNING)


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[WebPortal]:
    portal = make_portal(tmp_path, scheduler={"kind": "slurm"})
    portal.parts.people.add(ADMIN, is_administrator=True)
    portal.hear_from_scheduler()
    yield portal
    portal.parts.database.close()


@pytest.fixture
def admin(portal: WebPortal) -> FlaskClient:
    return signed_in(portal, ADMIN)


def signed_in(portal: WebPortal, email: str) -> FlaskClient:
    browser = portal.app.test_client()
    token = portal.parts.people.new_link_token(email)
    assert browser.post("/sign-in", data={"csrf_token": csrf(browser), "link": token}).status_code == 303
    return browser


def csrf(browser: FlaskClient, path: str = "/sign-in?link=x") -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', browser.get(path).get_data(as_text=True))
    assert found is not None
    return found[1]


def text(browser: FlaskClient, path: str) -> str:
    answer = browser.get(path)
    assert answer.status_code == 200
    return answer.get_data(as_text=True)


def failed(portal: WebPortal, node: str = "node1", reason: FailureReason = FailureReason.NODE_FAILURE) -> str:
    job_id = portal.foreign_job()
    portal.move(job_id, *RAN, JobState.FAILED, reason=reason, node=node)
    return job_id


def post(browser: FlaskClient, path: str, **fields: object) -> TestResponse:
    return browser.post(path, data={"csrf_token": csrf(browser), **fields})


def shown_jobs(page: str) -> list[str]:
    return re.findall(r'name="jobs" value="(\w+):\d+"', page)


def wishes(portal: WebPortal) -> list[str]:
    with portal.parts.database.reading() as session:
        return sorted(job.job_id for job in session.query(Job) if job.resubmit_asked_at is not None)


# Who is let in


def strangers(portal: WebPortal) -> dict[str, FlaskClient]:
    """Everybody who is no administrator, however much else they have shown."""
    job_id = portal.job()
    viewer = portal.app.test_client()
    viewer.get(f"/jobs/{job_id}?key={portal.parts.keys.key(Purpose.VIEW, job_id, 1)}")
    portal.parts.people.add(EMAIL, is_administrator=False)
    return {
        "nobody": portal.app.test_client(),
        "who sent a job in": portal.browser,
        "who holds a mailed link": viewer,
        "who is signed in": signed_in(portal, EMAIL),
    }


def test_every_admin_address_is_no_address_for_everybody_else(portal: WebPortal) -> None:
    """By the map of addresses, so that a new one cannot be forgotten; with every method, and with a good token."""
    below = [rule for rule in portal.app.url_map.iter_rules() if rule.rule.startswith("/admin")]
    assert len(below) >= 5
    paths = {re.sub("<[^>]+>", "x", rule.rule) for rule in below} | {"/admin", "/admin/nothing", "/admin/jobs/"}
    for who, browser in strangers(portal).items():
        unknown = browser.get("/nothing-of-this-kind").get_data(as_text=True)
        token = csrf(browser)
        for path in sorted(paths):
            for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
                data = {"csrf_token": token} if method == "POST" else None
                answer = browser.open(path, method=method, data=data)
                assert answer.status_code == 404, (who, method, path)
                assert "Allow" not in answer.headers
                if method == "GET":
                    assert answer.get_data(as_text=True) == unknown, (who, path)
            assert browser.post(path).status_code == 404, "also without a token"


def test_the_owner_key_of_a_job_is_none_for_the_administration(portal: WebPortal) -> None:
    job_id = portal.foreign_job()
    key = portal.parts.keys.key(Purpose.OWNER, job_id, 1)
    assert portal.browser.get("/admin/", headers={"X-Job-Key": key}).status_code == 404


def test_every_post_needs_its_token(portal: WebPortal, admin: FlaskClient) -> None:
    rules = [rule for rule in portal.app.url_map.iter_rules() if "POST" in (rule.methods or ())]
    for rule in rules:
        if not rule.rule.startswith("/api/"):
            path = re.sub("<[^>]+>", "slow_div", rule.rule)
            assert admin.post(path).status_code == 400, path


def test_the_administrators_of_yesterday_see_nothing(portal: WebPortal, admin: FlaskClient) -> None:
    portal.parts.people.disable(ADMIN)
    assert admin.get("/admin/").status_code == 404


# What is shown


def test_the_first_page_of_an_empty_portal(admin: FlaskClient) -> None:
    page = text(admin, "/admin/")
    assert "Nothing waits for longer than it should." in page
    assert "14 of the portal&#39;s jobs run and 6 wait there" in page.replace("'", "&#39;")


def test_the_first_page_says_what_is_stuck_and_why(portal: WebPortal, admin: FlaskClient) -> None:
    job_id = portal.foreign_job()
    portal.move(job_id, JobState.SUBMITTING)
    with portal.parts.database.writing() as session:
        session.get_one(Attempt, (job_id, 1)).intent_at = portal.clock.now
    portal.clock.advance(1000)
    page = text(admin, "/admin/")
    assert f"/jobs/{job_id}" in page
    assert "Handed in without an answer" in page
    portal.hear_from_scheduler(silent_since=portal.clock.now)
    assert "waits for the scheduler, which does not answer" in text(admin, "/admin/")


def test_the_first_page_says_what_each_start_found_newest_first(portal: WebPortal, admin: FlaskClient) -> None:
    assert "It has never started here." in text(admin, "/admin/")
    with portal.parts.database.writing() as session:
        for epoch, adopted in ((1, 12), (2, 3)):
            numbers = {"mended": 0, "adopted": adopted, "resubmitted": 2, "lost": 1, "unreadable": 0}
            detail = f"{adopted} jobs adopted, 2 resubmitted, 1 lost"
            session.add(DispatcherReport(at=portal.clock.now, epoch=epoch, detail=detail, **numbers))
    page = text(admin, "/admin/")
    assert 0 < page.index("3 jobs adopted, 2 resubmitted, 1 lost") < page.index("12 jobs adopted")


def test_the_outbox_shows_what_waits_and_what_was_refused(portal: WebPortal, admin: FlaskClient) -> None:
    assert "No message waits." in text(admin, "/admin/mail")
    waiting, refused = failed(portal), failed(portal)
    with portal.parts.database.writing() as session:
        for job_id in (waiting, refused):
            owe_mail(session, session.get_one(Job, job_id), "failed", portal.clock.now, "example.org", portal.clock.now)
    with portal.parts.database.writing() as session:
        rows = {row.job_id: row for row in session.query(MailOutbox)}
        rows[waiting].last_error = "421 <try> later"
        rows[refused].last_error, rows[refused].refused_at = "550 no such user", portal.clock.now
    page = text(admin, "/admin/mail")
    assert "421 &lt;try&gt; later" in page
    assert page.index(waiting) < page.index("Refused") < page.index("550 no such user")


# The list


def test_the_list_shows_what_failed_unless_something_else_is_chosen(portal: WebPortal, admin: FlaskClient) -> None:
    one = failed(portal)
    other = failed(portal, "node2", FailureReason.TIME_LIMIT)
    waiting = portal.foreign_job()
    done = portal.foreign_job()
    portal.move(done, *RAN, JobState.SUCCEEDED, answer="4")
    expected = {
        "": [other, one],
        "?failure=node_failure": [one],
        "?node=node2": [other],
        "?application=slow_div&owner=ANN@example.org": [other, one],
        "?owner=eve@example.org": [],
        "?state=unfinished": [waiting],
        "?state=succeeded": [done],
        "?since=1d": [other, one],
        "?since=2026-11-25": [],
        "?until=2026-11-23": [],
    }
    assert {query: shown_jobs(text(admin, f"/admin/jobs{query}")) for query in expected} == expected


def test_a_filter_that_cannot_be_read_is_explained_field_by_field(admin: FlaskClient) -> None:
    page = text(admin, "/admin/jobs?since=yesterday&node=a+b&failure=bad+luck&state=x")
    assert admin.get("/admin/jobs?owner=%00&application=%00x%27&since=0001-01-01T00:00%2B23:00").status_code == 200
    for words in ("such as 30m, 6h, 1d or 2w", "the name of one node", "should be one of program_error", "failed"):
        assert words in page


@pytest.mark.thorough
def test_long_lists_come_in_pages_and_none_is_left_out(portal: WebPortal, admin: FlaskClient) -> None:
    expected = [portal.foreign_job() for _ in range(PAGE_ROWS + 3)]
    first = text(admin, "/admin/jobs?state=unfinished")
    link = re.search(r'href="(/admin/jobs\?cursor=[^"]+)">Older', first)
    assert link is not None
    second = text(admin, link[1].replace("&amp;", "&"))
    assert sorted(shown_jobs(first) + shown_jobs(second)) == sorted(expected)
    assert (len(shown_jobs(first)), "Older" in second) == (PAGE_ROWS, False)
    assert shown_jobs(text(admin, "/admin/jobs?state=unfinished&cursor=nonsense")) == shown_jobs(first)


def test_the_list_says_what_to_type_instead(portal: WebPortal, admin: FlaskClient) -> None:
    failed(portal)
    assert "portal resubmit --failure node_failure --node node1 --since 1d" in text(
        admin, "/admin/jobs?failure=node_failure&node=node1&since=1d"
    )


# Running again


def test_what_is_ticked_runs_again_once_it_is_confirmed(portal: WebPortal, admin: FlaskClient) -> None:
    one, two, other = failed(portal), failed(portal), failed(portal)
    page = post(
        admin,
        "/admin/jobs/confirm",
        jobs=[f"{one}:1", f"{two}:1"],
        memory="16G",
        exclude_node="node1, node2",
        filter="failure=node_failure",
    ).get_data(as_text=True)
    assert "Resubmit 2 jobs?" in page
    assert "with 16 GiB of memory, not on node1, node2" in page
    assert wishes(portal) == []
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))
    answer = admin.post("/admin/jobs/resubmit", data=fields)
    assert (answer.status_code, answer.location) == (303, "/admin/jobs?failure=node_failure")
    assert wishes(portal) == sorted([one, two])
    wish = portal.parts.jobs.record(one).job.resubmit_wish
    assert wish is not None
    assert (wish["by"], wish["resources"]["memory_mib"], wish["excluded_nodes"]) == (ADMIN, 16384, ["node1", "node2"])
    page = text(admin, "/admin/jobs")
    assert "2 jobs run again." in page
    assert "It was asked to run again." in page
    assert portal.parts.jobs.record(other).job.resubmit_asked_at is None
    admin.post("/admin/jobs/resubmit", data=fields)
    assert "2 had been asked for already." in text(admin, "/admin/jobs"), "a second click"


def test_all_jobs_of_a_filter_can_be_chosen_at_once(portal: WebPortal, admin: FlaskClient) -> None:
    ids = [failed(portal) for _ in range(3)]
    failed(portal, "node2")
    page = post(admin, "/admin/jobs/confirm", all="yes", filter="node=node1").get_data(as_text=True)
    assert "Resubmit 3 jobs?" in page
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))
    admin.post("/admin/jobs/resubmit", data=fields)
    assert wishes(portal) == sorted(ids)


def test_jobs_that_have_not_ended_are_asked_for_as_such(portal: WebPortal, admin: FlaskClient) -> None:
    job_id = portal.foreign_job()
    post(admin, "/admin/jobs/resubmit", jobs=f"{job_id}:1", filter="state=unfinished")
    wish = portal.parts.jobs.record(job_id).job.resubmit_wish
    assert wish is not None
    assert wish["unfinished"]


def test_values_that_are_wrong_are_named_and_nothing_is_asked_for(portal: WebPortal, admin: FlaskClient) -> None:
    job_id = failed(portal)
    answer = post(admin, "/admin/jobs/confirm", jobs=f"{job_id}:1", memory="16Q", time_limit="soon", exclude_node="a;b")
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    for words in ("Memory: &#39;16Q&#39; should be an amount of memory such as", "Time limit:", "Nodes to avoid:"):
        assert words in page
    assert 'value="16Q"' in page
    assert post(admin, "/admin/jobs/resubmit", jobs=f"{job_id}:1", memory="16Q").status_code == 422
    for nonsense in ("nonsense", f"{job_id}:", f"{job_id}:-1", f"{job_id}:{'9' * 5000}", "../x:1"):
        assert post(admin, "/admin/jobs/confirm", jobs=nonsense).status_code == 422
    assert wishes(portal) == []


def test_what_cannot_run_again_is_said(portal: WebPortal, admin: FlaskClient) -> None:
    job_id = portal.foreign_job()
    post(admin, "/admin/jobs/resubmit", jobs=f"{job_id}:1 bcdfghjk:1")
    assert "2 cannot run again" in text(admin, "/admin/jobs")


# The job's own page


def test_an_owner_runs_a_failed_job_again_from_its_page(portal: WebPortal) -> None:
    job_id = portal.job()
    portal.move(job_id, *RAN, JobState.FAILED, reason=FailureReason.PROGRAM_ERROR)
    page = text(portal.browser, f"/jobs/{job_id}")
    assert "Run again" in page
    answer = post(portal.browser, f"/jobs/{job_id}/resubmit", attempt="1")
    assert (answer.status_code, answer.location) == (303, f"/jobs/{job_id}")
    assert wishes(portal) == [job_id]
    page = text(portal.browser, f"/jobs/{job_id}")
    assert "It was asked that it run again." in page
    assert "Run again" not in page


def test_who_only_may_look_gets_no_button_and_no_other_way(portal: WebPortal) -> None:
    job_id = portal.foreign_job()
    portal.move(job_id, *RAN, JobState.FAILED, reason=FailureReason.PROGRAM_ERROR)
    browser = portal.app.test_client()
    browser.get(f"/jobs/{job_id}?key={portal.parts.keys.key(Purpose.VIEW, job_id, 1)}")
    assert "Run again" not in text(browser, f"/jobs/{job_id}")
    assert post(browser, f"/jobs/{job_id}/resubmit").status_code == 403
    assert post(portal.app.test_client(), f"/jobs/{job_id}/resubmit").status_code == 404
    assert wishes(portal) == []


def test_a_program_runs_its_job_again_with_its_key(portal: WebPortal) -> None:
    job_id = portal.foreign_job()
    path = f"/api/v1/jobs/{job_id}/resubmit"
    headers = {"X-Job-Key": portal.parts.keys.key(Purpose.OWNER, job_id, 1)}
    client = portal.app.test_client()
    assert client.post(path, headers=headers).status_code == 409
    portal.move(job_id, *RAN, JobState.FAILED, reason=FailureReason.PROGRAM_ERROR)
    answer = client.post(path, headers=headers)
    assert (answer.status_code, answer.get_json()["job_id"]) == (200, job_id)
    assert client.post(path, headers=headers).status_code == 200
    assert client.post(path).status_code == 404
    view = {"X-Job-Key": portal.parts.keys.key(Purpose.VIEW, job_id, 1)}
    assert client.post(path, headers=view).status_code == 404
    assert wishes(portal) == [job_id]


def test_an_administrator_cookie_counts_for_nothing_in_the_api(portal: WebPortal, admin: FlaskClient) -> None:
    assert admin.post(f"/api/v1/jobs/{failed(portal)}/resubmit").status_code == 404


def test_the_attempts_stand_beneath_each_other_with_their_times_and_who_asked(
    portal: WebPortal, admin: FlaskClient
) -> None:
    job_id = failed(portal)
    portal.run_again(job_id)
    portal.move(job_id, *RAN, node="node2")
    page = text(admin, f"/jobs/{job_id}")
    assert page.index("First try, node1") < page.index("Second try, node2")
    assert "opened by the portal" in page
    assert page.count("started <time") >= 3
