"""The wheel is the whole portal: applications, programs, pages and migrations travel in it."""

import stat
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.daemon

CHECKOUT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(CHECKOUT)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    (file,) = folder.glob("*.whl")
    return ZipFile(file)


@pytest.mark.parametrize(
    "name",
    [
        "portal/_shipped/job_templates/slow_div/application.toml",
        "portal/_shipped/job_templates/slow_div/program.sh.j2",
        "portal/_shipped/bin/slow_div",
        "portal/web/templates/layout.html",
        "portal/web/static/theme.css",
        "portal/mail/templates/outcome.txt.j2",
        "portal/migrations/env.py",
        "portal/node/wrapper.py",
    ],
)
def test_it_carries(wheel: ZipFile, name: str) -> None:
    assert name in wheel.namelist()


def test_programs_stay_executable(wheel: ZipFile) -> None:
    mode = wheel.getinfo("portal/_shipped/bin/slow_div").external_attr >> 16
    assert mode & stat.S_IXUSR


def test_it_carries_nothing_else(wheel: ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist()} == {"portal", "portal-0.1.0.dist-info"}
