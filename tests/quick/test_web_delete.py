"""Deleting one's own job: on its page, with a question that needs no script, and over the REST interface."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from werkzeug.test import TestResponse

from portal.jobs.keys import Purpose
from portal.jobs.models import Job
from portal.jobs.states import JobState
from tests.web_portal import WebPortal, make_portal

TO_SUCCEEDED = (JobState.SUBMITTING, JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED)


@pytest.fixture
def portal(tmp_path: Path) -> WebPortal:
    return make_portal(tmp_path)


def ended(portal: WebPortal) -> str:
    job_id = portal.job()
    portal.move(job_id, *TO_SUCCEEDED, answer="4")
    with portal.parts.database.writing() as session:
        session.get_one(Job, job_id).kept_until = portal.clock.now + timedelta(days=90)
    return job_id


def page_of(portal: WebPortal, path: str) -> str:
    response = portal.browser.get(path)
    assert response.status_code == 200, path
    return response.get_data(as_text=True)


def token_in(page: str) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="(csrf_token)" value="([^"]*)">', page))


def delete(portal: WebPortal, job_id: str, page: str) -> TestResponse:
    return portal.browser.post(f"/jobs/{job_id}/delete", data=token_in(page))


def wish(portal: WebPortal, job_id: str) -> str | None:
    """Who wants it deleted."""
    with portal.parts.database.reading() as session:
        return session.get_one(Job, job_id).delete_asked_by


def test_the_page_of_an_ended_job_tells_how_long_it_is_kept_and_leads_to_the_question(portal: WebPortal) -> None:
    job_id = ended(portal)
    page = page_of(portal, f"/jobs/{job_id}")
    assert re.search(r"kept until <time[^>]*>22 Feb 2027, 06:00 UTC</time>, then deleted with its files", page)
    assert f'href="/jobs/{job_id}/delete"' in page
    question = page_of(portal, f"/jobs/{job_id}/delete")
    assert "Delete this job?" in question
    assert "This cannot be undone." in question
    assert "<script" not in question.partition("<main")[2], "it works without"
    assert wish(portal, job_id) is None, "to ask is not to do"


def test_deleting_it_leads_to_the_other_jobs_and_nobody_finds_it_any_more(portal: WebPortal) -> None:
    job_id, other = ended(portal), portal.job("9", "3")
    response = delete(portal, job_id, page_of(portal, f"/jobs/{job_id}/delete"))
    assert (response.status_code, response.location) == (303, f"/jobs?deleted={job_id}")
    page = page_of(portal, response.location)
    assert f'Job <span class="mono">{job_id}</span> is deleted' in page
    assert f"/jobs/{job_id}" not in page
    assert f"/jobs/{other}" in page
    for path in ("", "/delete", "/state", "/files/output.txt"):
        assert portal.browser.get(f"/jobs/{job_id}{path}").status_code == 404
    assert wish(portal, job_id) == "ann@example.org"


def test_it_needs_the_token_of_the_page(portal: WebPortal) -> None:
    job_id = ended(portal)
    assert portal.browser.post(f"/jobs/{job_id}/delete").status_code == 400
    assert wish(portal, job_id) is None


def test_one_that_goes_on_cannot_be_deleted_and_its_page_does_not_offer_it(portal: WebPortal) -> None:
    job_id = portal.job()
    page = page_of(portal, f"/jobs/{job_id}")
    assert "/delete" not in page
    assert "kept until" not in page
    assert portal.browser.get(f"/jobs/{job_id}/delete").status_code == 302
    response = delete(portal, job_id, page)
    assert response.status_code == 409
    assert "Please cancel it first" in response.get_data(as_text=True)


def test_the_mailed_link_shows_and_does_not_delete(portal: WebPortal) -> None:
    job_id = portal.foreign_job()
    portal.move(job_id, *TO_SUCCEEDED)
    own_page = page_of(portal, f"/jobs/{portal.job()}")
    assert delete(portal, job_id, own_page).status_code == 404
    key = portal.parts.keys.key(Purpose.VIEW, job_id, 1)
    portal.browser.get(f"/jobs/{job_id}?key={key}")
    assert f"/jobs/{job_id}/delete" not in page_of(portal, f"/jobs/{job_id}")
    assert portal.browser.get(f"/jobs/{job_id}/delete").status_code == 302
    response = delete(portal, job_id, own_page)
    assert response.status_code == 403
    assert "only who sent it in may delete it" in response.get_data(as_text=True)
    assert wish(portal, job_id) is None


def test_what_stands_in_the_address_is_only_shown_where_it_is_a_job_id(portal: WebPortal) -> None:
    assert "is deleted" not in page_of(portal, "/jobs?deleted=<b>all</b>")


def test_no_date_is_told_where_nothing_is_purged(tmp_path: Path) -> None:
    portal = make_portal(tmp_path, limits={"purge_expired": False})
    assert "kept until" not in page_of(portal, f"/jobs/{ended(portal)}")


# The REST interface


def test_over_the_rest_interface_the_owner_key_deletes(portal: WebPortal) -> None:
    job_id = ended(portal)
    client, path = portal.app.test_client(), f"/api/v1/jobs/{job_id}"
    view, owner = (portal.parts.keys.key(purpose, job_id, 1) for purpose in (Purpose.VIEW, Purpose.OWNER))
    for headers in ({}, {"X-Job-Key": view}, {"X-Job-Key": "nonsense"}):
        assert client.delete(path, headers=headers).status_code == 404
    assert portal.browser.delete(path).status_code == 404, "cookies count for nothing"
    response = client.delete(path, headers={"X-Job-Key": owner})
    assert (response.status_code, response.data) == (204, b"")
    again = client.delete(path, headers={"X-Job-Key": owner})
    assert (again.status_code, again.content_type) == (404, "application/problem+json")
    assert client.get(path, headers={"X-Job-Key": owner}).status_code == 404


def test_over_the_rest_interface_one_that_goes_on_is_a_conflict(portal: WebPortal) -> None:
    job_id = portal.job()
    owner = portal.parts.keys.key(Purpose.OWNER, job_id, 1)
    response = portal.app.test_client().delete(f"/api/v1/jobs/{job_id}", headers={"X-Job-Key": owner})
    assert (response.status_code, response.content_type) == (409, "application/problem+json")
    assert "cancel it first" in response.get_json(force=True)["detail"]
