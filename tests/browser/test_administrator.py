"""An administrator's way in a real browser: the link, what is stuck, what failed, and running it again."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import RunningPortal
from tests.browser.visiting import ANSWER_MILLISECONDS, fill_in, submit

pytestmark = pytest.mark.daemon


def test_a_failed_job_is_found_ticked_and_run_again(page: Page, running_portal: RunningPortal, artefacts: Path) -> None:
    fill_in(page, "1", "0")
    job_id = submit(page)
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible(timeout=ANSWER_MILLISECONDS)

    link = running_portal.command("user", "add", "--admin", "root@example.org").splitlines()[-1]
    page.goto(link)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()
    page.goto("/admin/")
    expect(page.get_by_role("heading", name="Starts of the dispatcher")).to_be_visible()
    expect(page.get_by_text("0 jobs adopted").first).to_be_visible()
    page.screenshot(path=artefacts / "admin.png", full_page=True)

    page.goto("/admin/jobs")
    page.get_by_label("Failure").select_option("program_error")
    page.get_by_role("button", name="Show").click()
    page.get_by_label(f"Job {job_id}").check()
    page.screenshot(path=artefacts / "admin-jobs.png", full_page=True)
    page.get_by_role("button", name="Resubmit what is ticked").click()
    expect(page.get_by_text(job_id).first).to_be_visible()
    page.screenshot(path=artefacts / "admin-confirm.png", full_page=True)
    page.get_by_role("button", name="Resubmit 1 job").click()
    expect(page.get_by_role("status")).to_be_visible()

    page.goto(f"/jobs/{job_id}")
    expect(page.locator(".life")).to_contain_text("asked for by an administrator", timeout=ANSWER_MILLISECONDS)
    expect(page.locator(".life-name")).to_have_count(2)
    expect(page.get_by_text("Failed", exact=True).first).to_be_visible(timeout=ANSWER_MILLISECONDS)
    page.screenshot(path=artefacts / "admin-job.png", full_page=True)
