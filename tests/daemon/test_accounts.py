"""Commands that root runs: each works as the owner of the jobs folder, in a process of its own, or says why not."""

import functools
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from portal.cli import cli

pytestmark = [
    pytest.mark.daemon,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to another account"),
]

SUBMIT = ("submit", "slow_div", "--set", "x=8", "--set", "y=2", "--email", "ann@example.org")
NOBODY = pwd.getpwnam("nobody")
NO_ACCOUNT = 54321


CHANGE_ACCOUNT = """
import os, sys
from pathlib import Path
from portal.errors import PortalError
from portal.privileges import work_as_owner_of_jobs
from portal.settings import load_settings
file, uid = sys.argv[1:]
settings = load_settings(Path(file))
os.setuid(int(uid))
try:
    work_as_owner_of_jobs(settings, Path(file))
except PortalError as error:
    print(error)
else:
    print(f"uid {os.getuid()} in {os.getcwd()}")
"""


def submitted() -> None:
    """A job of the account that runs the tests, and with it all that a portal makes."""
    result = CliRunner().invoke(cli, list(SUBMIT), catch_exceptions=False)
    assert result.exit_code == 0, result.output


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, since it changes its account for good."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "portal", *arguments], capture_output=True, text=True, check=False
    )


def change_account(site: Path, cwd: Path, uid: int) -> str:
    """What comes of the change alone, by a process that has loaded all it needs, in another folder."""
    file = site / "portal.toml"
    file.touch()
    return subprocess.run(
        [sys.executable, "-P", "-c", CHANGE_ACCOUNT, str(file), str(uid)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@functools.cache
def others_can_run_it() -> bool:
    """Whether this checkout, its `.venv` and its Python can be reached by other accounts: not below root's home."""
    try:
        done = subprocess.run([sys.executable, "-P", "-c", "import portal.app"], user=NOBODY.pw_uid, check=False)
    except PermissionError:
        return False
    return done.returncode == 0


@pytest.fixture
def shared_site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that other accounts can reach; pytest's own cannot be."""
    folder = Path(tempfile.mkdtemp(prefix="portal-test-"))
    folder.chmod(0o755)
    monkeypatch.chdir(folder)
    yield folder
    shutil.rmtree(folder)


def give(site: Path, uid: int, gid: int) -> None:
    for path in (site, *site.rglob("*")):
        os.chown(path, uid, gid, follow_symlinks=False)


@pytest.mark.parametrize(("uid", "gid"), [(NOBODY.pw_uid, NOBODY.pw_gid), (NO_ACCOUNT, NO_ACCOUNT)])
def test_root_works_as_the_owner_of_the_jobs_folder(shared_site: Path, uid: int, gid: int) -> None:
    submitted()
    give(shared_site, uid, gid)
    before = set(shared_site.rglob("*"))
    result = run(*SUBMIT)
    if not others_can_run_it():
        assert result.returncode == 1
        assert re.fullmatch(r"portal: /\S+ cannot be read by .*\n", result.stderr)
        return
    assert result.returncode == 0, result.stderr
    made = set(shared_site.rglob("*")) - before
    assert any(path.name == "config.ini" for path in made)
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in shared_site.rglob("*")} == {(uid, gid)}
    assert [path for path in made if not path.is_symlink() and path.stat().st_mode & 0o007] == []


@pytest.mark.parametrize("name", ["portal.db", "secret_key", "portal.toml", "."])
def test_root_refuses_where_the_owner_could_not_work(shared_site: Path, name: str) -> None:
    Path("portal.toml").write_text("")
    submitted()
    give(shared_site, NOBODY.pw_uid, NOBODY.pw_gid)
    refused = shared_site / name
    os.chown(refused, 0, 0)
    refused.chmod(0o755 if refused.is_dir() else 0o600)
    before = sorted(shared_site.rglob("*"))
    result = run(*SUBMIT)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert not others_can_run_it() or line.startswith(f"portal: {refused} cannot be ")
    assert "nobody" in line
    assert sorted(shared_site.rglob("*")) == before


def test_anybody_else_is_told_whose_folder_it_is(shared_site: Path) -> None:
    submitted()
    said = change_account(shared_site, shared_site, NOBODY.pw_uid)
    assert re.fullmatch(r".*/jobs belongs to root, and you are nobody: run this command as root, .*\n", said)


def test_a_working_directory_that_the_owner_cannot_enter_is_left(shared_site: Path, tmp_path: Path) -> None:
    submitted()
    give(shared_site, NOBODY.pw_uid, NOBODY.pw_gid)
    tmp_path.chmod(0o700)
    said = change_account(shared_site, tmp_path, 0)
    assert said == f"uid {NOBODY.pw_uid} in /\n" or not others_can_run_it()
    assert (
        change_account(shared_site, shared_site, 0) == f"uid {NOBODY.pw_uid} in {shared_site}\n"
        or not others_can_run_it()
    )
