"""What CONTRIBUTING.md shows to authors of applications is an application that loads."""

import re
from pathlib import Path

from portal.applications.catalog import load_checked

TEXT = Path(__file__).parents[2].joinpath("CONTRIBUTING.md").read_text("utf-8")


def block(language: str) -> str:
    """The first block of code in that language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_example_application_loads_without_a_warning(tmp_path: Path) -> None:
    folder = tmp_path / "word_count"
    folder.mkdir()
    (folder / "application.toml").write_text(block("toml"))
    (folder / "program.sh.j2").write_text(block("sh"))
    application, findings = load_checked(folder, {})
    assert application.title == "Word count"
    assert findings == []
