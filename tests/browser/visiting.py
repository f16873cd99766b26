"""What a visitor does with the pages, in a real browser."""

import re

from playwright.sync_api import Page, ViewportSize, expect

DESKTOP: ViewportSize = {"width": 1100, "height": 800}
ANSWER_MILLISECONDS = 30_000


def fill_in(page: Page, x: str, y: str, email: str = "ann@example.org") -> None:
    page.goto("/")
    page.get_by_label("Numerator").fill(x)
    page.get_by_label("Denominator").fill(y)
    page.get_by_label("Email").fill(email)


def submit(page: Page) -> str:
    """Press the button; the id of the job whose page comes up."""
    page.get_by_role("button", name="Divide").click()
    expect(page).to_have_url(re.compile("/jobs/[a-z]{8}$"), timeout=ANSWER_MILLISECONDS)
    return page.url.rpartition("/")[2]
