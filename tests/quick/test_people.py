"""Signing in: links that are good for one use, sessions that end, and who is let in where."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from portal.errors import ConflictError, NotFoundError
from portal.people.sessions import SIGNED_IN_LIFETIME, session_id_of
from portal.people.sign_in import LINK_LIFETIME, SignInLink, sign_in_url
from tests.web_portal import EMAIL, WebPortal, make_portal

ADMIN = "root@example.org"


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[WebPortal]:
    portal = make_portal(tmp_path, limits={"misses_per_minute_per_ip": 5})
    portal.parts.people.add(ADMIN, is_administrator=True)
    yield portal
    portal.parts.database.close()


def link(portal: WebPortal, email: str = ADMIN) -> str:
    return portal.parts.people.new_link_token(email)


def csrf(browser: FlaskClient, path: str = "/sign-in?link=x") -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', browser.get(path).get_data(as_text=True))
    assert found is not None
    return found[1]


def use(browser: FlaskClient, token: str) -> TestResponse:
    """Press the button of the link's page."""
    return browser.post("/sign-in", data={"csrf_token": csrf(browser), "link": token})


def signed_in(portal: WebPortal, email: str = ADMIN) -> FlaskClient:
    """Another browser, in which this person is signed in."""
    browser = portal.app.test_client()
    assert use(browser, link(portal, email)).status_code == 303
    return browser


def is_in(browser: FlaskClient) -> bool:
    return browser.get("/account").status_code == 200


def test_a_link_signs_in_and_the_page_says_as_whom(portal: WebPortal) -> None:
    browser = portal.app.test_client()
    answer = use(browser, link(portal))
    assert (answer.status_code, answer.location) == (303, "/admin/")
    page = browser.get("/").get_data(as_text=True)
    assert ADMIN in page
    assert "Sign out" in page
    assert "/admin/" in page


def test_fetching_a_link_uses_nothing_up(portal: WebPortal) -> None:
    token = link(portal)
    for _ in range(3):
        page = portal.app.test_client().get(f"/sign-in?link={token}")
        assert page.status_code == 200
        assert page.headers["Cache-Control"] == "no-store"
        assert page.headers["Referrer-Policy"] == "no-referrer"
    assert use(portal.browser, token).status_code == 303


def test_used_expired_unknown_and_disabled_links_look_the_same(portal: WebPortal) -> None:
    portal.parts.people.add("gone@example.org", is_administrator=False)
    used, expired, disabled = link(portal), link(portal), link(portal, "gone@example.org")
    signed = portal.app.test_client()
    use(signed, used)
    portal.parts.people.disable("gone@example.org")
    answers = [use(portal.browser, token) for token in (used, disabled, "x" * 32, "")]
    portal.clock.advance(LINK_LIFETIME.total_seconds() + 1)
    answers.append(use(portal.browser, expired))
    assert {answer.status_code for answer in answers} == {404}
    assert len({re.sub("(?s)<script.*?</script>", "", answer.get_data(as_text=True)) for answer in answers}) == 1
    assert not is_in(portal.browser)


def test_a_link_works_once_and_another_one_for_the_same_person_still_works(portal: WebPortal) -> None:
    first, second = link(portal), link(portal)
    assert use(portal.app.test_client(), first).status_code == 303
    assert use(portal.app.test_client(), first).status_code == 404
    assert use(portal.app.test_client(), second).status_code == 303


def test_guessing_links_is_limited_like_guessing_keys(portal: WebPortal) -> None:
    answers = [use(portal.browser, f"guess{number}").status_code for number in range(7)]
    assert answers == [404] * 5 + [429] * 2


def test_only_hashes_are_stored(portal: WebPortal) -> None:
    token = link(portal)
    with portal.parts.database.reading() as session:
        (row,) = session.query(SignInLink).all()
    assert token not in (row.link_hash, row.person)
    assert row.link_hash == session_id_of(token)


def test_the_link_is_of_the_settings_address_and_no_host_header_changes_it(portal: WebPortal) -> None:
    assert sign_in_url("https://portal.example.org/x", "t") == "https://portal.example.org/x/sign-in?link=t"
    answer = portal.browser.get("/sign-in?link=t", headers={"Host": "evil.example"})
    assert answer.status_code == 400


def test_a_sign_in_without_its_forms_token_is_refused(portal: WebPortal) -> None:
    token = link(portal)
    assert portal.browser.post("/sign-in", data={"link": token}).status_code == 400
    assert use(portal.browser, token).status_code == 303, "and the link is still good"


def test_the_key_is_a_new_one_at_each_sign_in(portal: WebPortal) -> None:
    """A key that somebody planted in the browser before must not become a signed-in one."""
    browser = portal.browser
    portal.send_division()
    with browser.session_transaction() as cookie:
        planted = cookie["key"]
        cookie["signed_in"] = "planted"
    use(browser, link(portal))
    with browser.session_transaction() as cookie:
        first = cookie["signed_in"]
    assert first not in (planted, "planted")
    use(browser, link(portal))
    with browser.session_transaction() as cookie:
        assert cookie["signed_in"] not in (first, planted)
        cookie["signed_in"] = first
    assert not is_in(browser), "the session before has ended"


def test_jobs_that_are_sent_in_while_signed_in_are_not_those_of_the_browser_before(portal: WebPortal) -> None:
    browser = portal.browser
    portal.parts.people.add("ann2@example.org", is_administrator=False)
    before = portal.job()
    use(browser, link(portal, "ann2@example.org"))
    mine = portal.job()
    assert [browser.get(f"/jobs/{job_id}").status_code for job_id in (before, mine)] == [200, 200]
    browser.post("/sign-out", data={"csrf_token": csrf(browser)})
    assert [browser.get(f"/jobs/{job_id}").status_code for job_id in (before, mine)] == [200, 404]


def test_who_is_signed_in_sees_all_jobs_of_their_address(portal: WebPortal) -> None:
    foreign = portal.foreign_job()
    portal.parts.people.add(EMAIL, is_administrator=False)
    portal.parts.people.add("eve@example.org", is_administrator=False)
    ann, eve = signed_in(portal, EMAIL), signed_in(portal, "eve@example.org")
    assert foreign in ann.get("/jobs").get_data(as_text=True)
    assert foreign not in eve.get("/jobs").get_data(as_text=True)
    assert (ann.get(f"/jobs/{foreign}").status_code, eve.get(f"/jobs/{foreign}").status_code) == (200, 404)


def test_an_administrator_sees_every_job_and_somebody_who_is_signed_in_does_not(portal: WebPortal) -> None:
    foreign = portal.foreign_job()
    assert signed_in(portal).get(f"/jobs/{foreign}").status_code == 200
    assert portal.browser.get(f"/jobs/{foreign}").status_code == 404


def test_signing_out_ends_this_browsers_session_on_the_server(portal: WebPortal) -> None:
    browser, other = signed_in(portal), signed_in(portal)
    with browser.session_transaction() as cookie:
        key = cookie["signed_in"]
    assert browser.post("/sign-out", data={"csrf_token": csrf(browser, "/account")}).status_code == 303
    assert not is_in(browser)
    with browser.session_transaction() as cookie:
        cookie["signed_in"] = key
    assert not is_in(browser), "a copy of the cookie is worth nothing"
    assert is_in(other)


def test_signing_out_everywhere_ends_all_of_a_persons_sessions_and_nobody_elses(portal: WebPortal) -> None:
    portal.parts.people.add("eve@example.org", is_administrator=False)
    browser, other, eve = signed_in(portal), signed_in(portal), signed_in(portal, "eve@example.org")
    assert "2 browsers are signed in" in browser.get("/account").get_data(as_text=True)
    browser.post("/sign-out-everywhere", data={"csrf_token": csrf(browser, "/account")})
    assert [is_in(one) for one in (browser, other, eve)] == [False, False, True]


def test_signing_out_needs_the_token_of_its_form(portal: WebPortal) -> None:
    browser = signed_in(portal)
    assert [browser.post(path).status_code for path in ("/sign-out", "/sign-out-everywhere")] == [400, 400]
    assert is_in(browser)


def test_a_session_ends_after_its_time_whatever_is_sent_in_meanwhile(portal: WebPortal) -> None:
    browser = signed_in(portal)
    portal.clock.advance(SIGNED_IN_LIFETIME.total_seconds() - 60)
    assert portal.send({"x": "8", "y": "2"}, browser=browser).status_code == 303
    assert is_in(browser)
    portal.clock.advance(61)
    assert not is_in(browser)
    assert browser.get("/admin/").status_code == 404


def test_a_disabled_person_is_out_at_once_and_gets_no_link(portal: WebPortal) -> None:
    browser = signed_in(portal)
    portal.parts.people.disable(ADMIN)
    assert not is_in(browser)
    with pytest.raises(ConflictError, match="disabled"):
        link(portal)
    portal.parts.people.enable(ADMIN)
    assert not is_in(browser), "the sessions of before have ended"
    assert is_in(signed_in(portal))


def test_a_person_who_is_there_becomes_an_administrator_and_never_stops_being_one_by_accident(
    portal: WebPortal,
) -> None:
    people = portal.parts.people
    people.add("eve@example.org", is_administrator=False)
    assert people.add("eve@example.org", is_administrator=True).was_promoted
    assert not people.add("eve@example.org", is_administrator=False).was_promoted
    assert {person.email: person.is_administrator for person in people.list()} == {ADMIN: True, "eve@example.org": True}


def test_nobody_unknown_gets_a_link(portal: WebPortal) -> None:
    with pytest.raises(NotFoundError, match="There is nobody with the address"):
        link(portal, "nobody@example.org")
