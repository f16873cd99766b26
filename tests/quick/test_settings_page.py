"""The page of the settings says what the settings are."""

from pathlib import Path

from portal.settings_page import settings_page

PAGE = Path(__file__).parent.parent.parent / "docs" / "settings.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text("utf-8") == settings_page(), "write it anew: see portal/settings_page.py"


def test_every_setting_has_a_description() -> None:
    assert "| None |" not in settings_page()
