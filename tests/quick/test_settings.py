"""The settings: whatever is wrong is one line that names the key, and the environment wins."""

from pathlib import Path

import pytest

from portal.errors import SettingsError
from portal.settings import load_settings


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "portal.toml") -> Path:
    file = Path(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


MISTAKES = {
    "no such section": ("[portl]\nbind = 'a'", "portl", "no such setting"),
    "no such key": ("[portal]\nbnd = 'a'", "portal.bnd", "no such setting"),
    "no such key in a subsection": ("[scheduler.ssh]\nhots = 'a'", "scheduler.ssh.hots", "no such setting"),
    "bind without port": ("[portal]\nbind = '127.0.0.1'", "portal.bind", "HOST:PORT"),
    "bind with a port too large": ("[portal]\nbind = '127.0.0.1:65536'", "portal.bind", "HOST:PORT"),
    "base_url without scheme": ("[portal]\nbase_url = 'portal.example.org'", "portal.base_url", "https://"),
    "base_url with query": ("[portal]\nbase_url = 'https://a.example/?x=1'", "portal.base_url", "https://"),
    "another database": ("[portal]\ndatabase_url = 'mysql://a/b'", "portal.database_url", "sqlite:///FILE"),
    "no database": ("[portal]\ndatabase_url = 'nonsense'", "portal.database_url", "sqlite:///FILE"),
    "access": ("[portal]\naccess = 'closed'", "portal.access", "'open'"),
    "trusted_hosts": ("[portal]\ntrusted_hosts = 'a'", "portal.trusted_hosts", "list"),
    "stop_seconds": ("[portal]\nstop_seconds = -1", "portal.stop_seconds", "0"),
    "a number as text": ("[scheduler]\npoll_seconds = 'often'", "scheduler.poll_seconds", "number"),
    "poll_seconds": ("[scheduler]\npoll_seconds = 0", "scheduler.poll_seconds", "greater than 0"),
    "grace_seconds": ("[scheduler]\ngrace_seconds = -1", "scheduler.grace_seconds", "0"),
    "an unknown scheduler": ("[scheduler]\nkind = 'pbs'", "scheduler.kind", "'local'"),
    "a table where a value belongs": ("[portal.bind]\nx = 1", "portal.bind", "string"),
    "a value where a table belongs": ("portal = 1", "portal", "dictionary"),
    "smtp_port": ("[mail]\nsmtp_port = 70000", "mail.smtp_port", "65535"),
    "transport": ("[mail]\ntransport = 'pigeon'", "mail.transport", "'folder'"),
    "a user without password": ("[mail]\nsmtp_user = 'a'", "mail.smtp_password_file", "file"),
    "mail page on the network": (
        "[portal]\nbind = '0.0.0.0:80'\n[mail]\nshow_page = true",
        "mail.show_page",
        "loopback",
    ),
    "mail page behind a proxy": (
        "[portal]\nbase_url = 'https://portal.example.org'\n[mail]\nshow_page = true",
        "mail.show_page",
        "loopback",
    ),
    "mail page under another name": (
        "[portal]\ntrusted_hosts = ['portal.example.org']\n[mail]\nshow_page = true",
        "mail.show_page",
        "trusted_hosts",
    ),
    "limits": ("[limits]\nmax_in_scheduler = 0", "limits.max_in_scheduler", "1"),
    "not TOML": ("[portal\n", "portal.toml", "not TOML"),
    "not UTF-8": ("[portal]\nsite_name = '\udcff'", "portal.toml", "not TOML"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_key_and_what_would_be_right(name: str) -> None:
    text, key, hint = MISTAKES[name]
    Path("portal.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert key in message
    assert hint in message
    assert "portal.toml" in message
    assert "\n" not in message


def test_a_missing_file_is_named_however_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml"):
        load_settings(Path("nowhere.toml"))
    monkeypatch.setenv("PORTAL_CONFIG", "elsewhere.toml")
    with pytest.raises(SettingsError, match=r"elsewhere\.toml"):
        load_settings()


def test_a_file_that_cannot_be_read_is_named() -> None:
    Path("portal.toml").mkdir()
    with pytest.raises(SettingsError, match=r"portal\.toml.*cannot be read"):
        load_settings()


def test_defaults_without_a_file() -> None:
    settings = load_settings()
    assert settings.portal.bind == "127.0.0.1:8080"
    assert settings.portal.jobs_dir == Path.cwd() / "jobs"
    assert settings.portal.database_url == f"sqlite:///{Path.cwd()}/portal.db"
    assert settings.secret_key_file == Path.cwd() / "secret_key"
    assert settings.scheduler.grace_seconds == 5
    assert not any(Path.cwd().iterdir())


def test_the_file_in_the_working_directory_the_variable_and_the_option_in_rising_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write("[portal]\nsite_name = 'here'")
    assert load_settings().portal.site_name == "here"
    write("[portal]\nsite_name = 'variable'", "b/portal.toml")
    monkeypatch.setenv("PORTAL_CONFIG", "b/portal.toml")
    assert load_settings().portal.site_name == "variable"
    option = write("[portal]\nsite_name = 'option'", "c/portal.toml")
    assert load_settings(option).portal.site_name == "option"


def test_variables_win_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[portal]\nsite_name = 'file'\nstop_seconds = 3\n[scheduler]\ngrace_seconds = 7")
    monkeypatch.setenv("PORTAL_PORTAL__SITE_NAME", "variable")
    monkeypatch.setenv("PORTAL_SCHEDULER__GRACE_SECONDS", "9")
    monkeypatch.setenv("PORTAL_PORTAL__TRUSTED_HOSTS", '["a.example.org"]')
    settings = load_settings()
    assert settings.portal.site_name == "variable"
    assert settings.portal.stop_seconds == 3
    assert settings.scheduler.grace_seconds == 9
    assert settings.portal.trusted_hosts == ["a.example.org"]


@pytest.mark.parametrize("name", ["PORTAL_PORTAL__BIND", "portal_portal__bind"])
def test_a_mistake_in_a_variable_names_the_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "nonsense")
    with pytest.raises(SettingsError, match=r"portal\.bind.*HOST:PORT"):
        load_settings()


def test_a_variable_that_should_be_json_and_is_not_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTAL_PORTAL__TRUSTED_HOSTS", "a.example.org")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == "portal.trusted_hosts: should be a valid list (it is 'a.example.org')"


@pytest.mark.parametrize(
    "name", ["PORTAL_X", "PORTAL_PORTAL__X", "PORTAL_X__BIND", "PORTAL_SCHEDULER__SSH__X", "PORTAL_PORTAL__BIND__X"]
)
def test_unknown_variables_are_ignored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert load_settings().portal.bind == "127.0.0.1:8080"


def test_relative_paths_are_relative_to_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(
        "[portal]\njobs_dir = 'jobs'\ndatabase_url = 'sqlite:///db/portal.db'\nsecret_key_file = 'secret'\n"
        "[mail]\nfolder = '../mail'\nsmtp_password_file = '/etc/password'",
        "site/portal.toml",
    )
    monkeypatch.setenv("PORTAL_PORTAL__TEMPLATES_DIR", "apps")
    settings = load_settings(file)
    base = Path.cwd() / "site"
    assert settings.portal.jobs_dir == base / "jobs"
    assert settings.portal.database_url == f"sqlite:///{base}/db/portal.db"
    assert settings.secret_key_file == base / "secret"
    assert settings.portal.templates_dir == base / "apps"
    assert settings.mail.folder == base / "../mail"
    assert settings.mail.smtp_password_file == Path("/etc/password")
