"""A templates folder as a whole: what is offered, and what happens to an application that is broken."""

from pathlib import Path

import pytest

from portal.applications.catalog import BrokenApplicationError, Catalog
from portal.errors import DefinitionError, NotFoundError, SettingsError
from portal.shipped import shipped_dir

SITE = {"site_name": "Test", "base_url": "http://127.0.0.1:8080"}
TOML = '[[parameters]]\nname = "x"\ntype = "text"\n'


def add(templates: Path, name: str, title: str = "Test", program: str = 'tool "$input_x"\n') -> Path:
    directory = templates / name
    directory.mkdir()
    (directory / "application.toml").write_text(f'title = "{title}"\n{TOML}')
    (directory / "program.sh.j2").write_text(program)
    return directory


def test_what_is_shipped_is_sound() -> None:
    catalog = Catalog.load(shipped_dir("job_templates"), SITE)
    assert not catalog.broken
    assert not catalog.warnings
    assert "slow_div" in catalog.applications


def test_applications_are_sorted_by_title(tmp_path: Path) -> None:
    for name, title in [("a", "zebra"), ("b", "Apple"), ("c", "apple"), ("d", "Mango")]:
        add(tmp_path, name, title)
    assert list(Catalog.load(tmp_path, SITE).applications) == ["b", "c", "d", "a"]


def test_a_broken_application_does_not_hide_the_others(tmp_path: Path) -> None:
    add(tmp_path, "good")
    add(tmp_path, "careless", program="tool $input_x\ntool $input_x\n")
    add(tmp_path, "empty").joinpath("application.toml").unlink()
    add(tmp_path, "undefined", program='tool "$input_x" {{ site.database }}\n')
    add(tmp_path, "page").joinpath("results.html.j2").write_text("{{")
    add(tmp_path, "Bad Name")
    catalog = Catalog.load(tmp_path, SITE)
    assert list(catalog.applications) == ["good"]
    assert {name: str(error).removeprefix(f"{tmp_path}/") for name, error in catalog.broken.items()} == {
        "careless": 'careless/program.sh.j2: line 1: “$input_x” must be in double quotes: "$input_x" (and 1 more)',
        "empty": "empty/application.toml: is missing",
        "undefined": "undefined/program.sh.j2: line 1: 'dict object' has no attribute 'database'; "
        "a template may use site, resources and application",
        "page": "page/results.html.j2: line 1: unexpected 'end of template'",
        "Bad Name": "Bad Name: the folder's name should be lower-case letters, digits and “_”, a letter first",
    }


def test_get(tmp_path: Path) -> None:
    add(tmp_path, "good")
    add(tmp_path, "careless", program="tool $input_x\n")
    catalog = Catalog.load(tmp_path, SITE)
    assert catalog.get("good").name == "good"
    with pytest.raises(BrokenApplicationError) as broken:
        catalog.get("careless")
    assert isinstance(broken.value, DefinitionError)
    assert broken.value.http_status == 503
    assert broken.value.visitor_message == (
        "The application “careless” cannot be used at the moment: its definition has a mistake."
    )
    assert "must be in double quotes" in broken.value.log_detail


@pytest.mark.parametrize(
    ("name", "shown"),
    [("blast", "“blast”"), ("", "“”"), ("../good", "“../good”"), ("a\n\x1b[31m", "“a\\n\\x1b[31m”")],
)
def test_an_unknown_application_is_named_harmlessly(tmp_path: Path, name: str, shown: str) -> None:
    add(tmp_path, "good")
    with pytest.raises(NotFoundError) as caught:
        Catalog.load(tmp_path, SITE).get(name)
    assert caught.value.visitor_message == f"There is no application called {shown}."


def test_hidden_folders_and_files_are_not_applications(tmp_path: Path) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    add(templates, ".git")
    (templates / "README.md").write_text("x")
    (templates / "gone").symlink_to(tmp_path / "nowhere")
    (templates / "linked").symlink_to(add(tmp_path, "elsewhere"))
    catalog = Catalog.load(templates, SITE)
    assert list(catalog.applications) == ["linked"]
    assert not catalog.broken


def test_the_templates_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        Catalog.load(tmp_path / "none", SITE)
    assert caught.value.visitor_message == (
        f"portal.templates_dir: should be the folder of the applications; {tmp_path}/none: No such file or directory"
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"portal\.templates_dir"):
        Catalog.load(tmp_path / "file", SITE)


def test_warnings_are_kept(tmp_path: Path) -> None:
    directory = add(tmp_path, "good", program="tool\n")
    catalog = Catalog.load(tmp_path, SITE)
    assert [str(finding) for finding in catalog.warnings["good"]] == [
        f"{directory}/program.sh.j2: line 1: “$input_x” is never used"
    ]
