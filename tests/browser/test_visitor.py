"""A visitor's whole way in a real browser: the form, the wait, the answer, the program's error, the mail."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from tests.browser.conftest import RunningPortal
from tests.browser.visiting import ANSWER_MILLISECONDS, fill_in, submit

pytestmark = pytest.mark.daemon

PHONE: ViewportSize = {"width": 390, "height": 780}


def test_a_visitor_divides_and_the_page_shows_the_answer_by_itself(page: Page, artefacts: Path) -> None:
    page.goto("/")
    page.screenshot(path=artefacts / "start.png", full_page=True)
    fill_in(page, "8", "2")
    submit(page)
    expect(page.get_by_text("Running", exact=True).first).to_be_visible(timeout=ANSWER_MILLISECONDS)
    page.screenshot(path=artefacts / "running.png", full_page=True)

    expect(page.locator(".answer")).to_have_text("4", timeout=ANSWER_MILLISECONDS)
    expect(page).to_have_title(re.compile("Done"))
    page.screenshot(path=artefacts / "answer.png", full_page=True)
    page.set_viewport_size(PHONE)
    page.screenshot(path=artefacts / "answer-phone.png", full_page=True)


def test_the_email_is_filled_in_the_next_time(page: Page) -> None:
    fill_in(page, "9", "3", email="bea@example.org")
    submit(page)
    page.goto("/")
    expect(page.get_by_label("Email")).to_have_value("bea@example.org")


def test_a_mistake_is_shown_beside_the_field_with_what_was_typed(page: Page, artefacts: Path) -> None:
    fill_in(page, "8", "2.5")
    page.get_by_role("button", name="Divide").click()
    field = page.get_by_label("Denominator")
    expect(field).to_have_value("2.5")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_text("a whole number is needed")).to_be_visible()
    page.screenshot(path=artefacts / "mistake.png", full_page=True)


def test_the_programs_error_text_is_what_the_visitor_sees(page: Page, artefacts: Path) -> None:
    fill_in(page, "1", "0")
    submit(page)
    expect(page.get_by_text("division by zero").first).to_be_visible(timeout=ANSWER_MILLISECONDS)
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible()
    page.screenshot(path=artefacts / "error.png", full_page=True)


def test_a_double_click_makes_one_job(page: Page, running_portal: RunningPortal) -> None:
    before = set((running_portal.data / "jobs").glob("job-*"))
    fill_in(page, "12", "4", email="dora@example.org")
    box = page.get_by_role("button", name="Divide").bounding_box()
    assert box is not None
    # With the mouse itself: the second click lands wherever the first has led to.
    page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page).to_have_url(re.compile("/jobs/[a-z]{8}$"), timeout=ANSWER_MILLISECONDS)
    made = set((running_portal.data / "jobs").glob("job-*")) - before
    assert len(made) == 1


def test_cancelling_from_the_page(page: Page, artefacts: Path) -> None:
    fill_in(page, "7", "2")
    submit(page)
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Cancelled by you").first).to_be_visible(timeout=ANSWER_MILLISECONDS)
    page.screenshot(path=artefacts / "cancelled.png", full_page=True)


def test_without_javascript_the_page_still_comes_to_the_answer(browser: Browser, running_portal: RunningPortal) -> None:
    context = browser.new_context(java_script_enabled=False, base_url=running_portal.url)
    page = context.new_page()
    fill_in(page, "-7", "2")
    submit(page)
    expect(page.locator(".answer")).to_have_text("-3", timeout=ANSWER_MILLISECONDS)
    context.close()


def test_the_mailed_link_opens_the_page_in_another_browser(
    page: Page, browser: Browser, running_portal: RunningPortal
) -> None:
    fill_in(page, "0", "5", email="eva@example.org")
    job_id = submit(page)
    expect(page.locator(".answer")).to_have_text("0", timeout=ANSWER_MILLISECONDS)

    other = browser.new_context(base_url=running_portal.url)
    stranger = other.new_page()
    stranger.goto(f"/jobs/{job_id}")
    expect(stranger.get_by_text("There is no such job").first).to_be_visible()
    stranger.goto("/mail")
    stranger.get_by_role("link", name=re.compile(job_id)).click()
    stranger.get_by_role("link", name=f"{running_portal.url}/jobs/{job_id}").first.click()
    expect(stranger).to_have_url(f"{running_portal.url}/jobs/{job_id}", timeout=ANSWER_MILLISECONDS)
    expect(stranger.locator(".answer")).to_have_text("0")
    expect(stranger.get_by_role("button", name="Cancel")).to_have_count(0)
    other.close()
