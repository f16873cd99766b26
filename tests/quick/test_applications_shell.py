"""Values on their way into a shell, and bin/slow_div as it is."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portal.applications.shell_values import shell_assignments, single_quoted
from portal.shipped import shipped_dir

SHELLS = [shell for shell in ("/bin/sh", shutil.which("dash"), shutil.which("bash")) if shell]
HOSTILE = [
    "",
    "8",
    "'",
    "''",
    "'\\''",
    '"',
    "\\",
    "\\'",
    "$(touch witness)",
    "`touch witness`",
    "'; touch witness; '",
    "'$(touch witness)'",
    "\n touch witness\n",
    "a\nEOF\ntouch witness",
    "${IFS}",
    "$HOME",
    "*",
    "~",
    "!!",
    "!touch witness",
    "{{ 7*7 }}",
    "{% raw %}",
    "%(x)s",
    "[settings]",
    "-x",
    "--help",
    "a[$(touch witness)]",
    "\x01\x1b\x7f",
    "é日本👩‍🔬",
    "\r\n",
    " a  b\t",
    "a" * 10_000,
    "-",
    "#",
    "&|;<>()",
]


def run(shell: str, values: Mapping[str, str], folder: Path) -> list[str]:
    """What the program received as its arguments."""
    names = " ".join(f'"$input_{name}"' for name in values)
    script = folder / "program.sh"
    script.write_bytes((shell_assignments(values) + f"printf '%s\\0' {names}\n").encode())
    done = subprocess.run([shell, str(script)], cwd=folder, capture_output=True, check=True, timeout=10)
    assert done.stderr == b""
    assert [path.name for path in folder.iterdir()] == ["program.sh"]
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_program_receives_exactly_what_was_typed(shell: str, tmp_path: Path) -> None:
    values = {f"v{number}": text for number, text in enumerate(HOSTILE)}
    assert run(shell, values, tmp_path) == HOSTILE


@pytest.mark.thorough
@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_any_text_survives_any_shell(shell: str, texts: list[str], tmp_path: Path) -> None:
    assert run(shell, {f"v{number}": text for number, text in enumerate(texts)}, tmp_path) == texts


def test_assignments() -> None:
    assert shell_assignments({"x": "8", "y": "it's"}) == "input_x='8'\ninput_y='it'\\''s'\n"
    assert shell_assignments({}) == ""
    assert single_quoted("") == "''"


@pytest.mark.parametrize("name", ["", "X", "1x", "x y", "x\n", "x=1;y", "x'", "ä", "_x"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a parameter's name"):
        shell_assignments({name: "1"})


def test_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        single_quoted("a\0b")


def slow_div(*arguments: str, seconds: str = "0") -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "SLOW_DIV_SECONDS": seconds}
    program = shipped_dir("bin") / "slow_div"
    return subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("x", "y", "answer"),
    [
        ("8", "2", "4"),
        ("0", "5", "0"),
        ("1", "5", "0"),
        ("-1", "5", "0"),
        ("-7", "2", "-3"),
        ("7", "-2", "-3"),
        ("9" * 1000, "3", "3" * 1000),
        ("1" + "0" * 400, "1" + "0" * 399, "10"),
    ],
)
def test_slow_div_divides(x: str, y: str, answer: str) -> None:
    done = slow_div(x, y)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"The answer is: {answer}\n", "")


@pytest.mark.parametrize("arguments", [("8", "0"), ("0", "0"), ("a", "2"), ("1.5", "2"), ("8", ""), ()])
def test_slow_div_says_what_expr_says(arguments: tuple[str, ...]) -> None:
    done = slow_div(*arguments)
    assert done.returncode > 1
    assert done.stdout == ""
    assert done.stderr.startswith("expr: ")


def test_slow_div_division_by_zero() -> None:
    assert slow_div("8", "0").stderr == "expr: division by zero\n"


def test_slow_div_waits_as_long_as_it_is_told() -> None:
    assert "invalid time interval" in slow_div("8", "2", seconds="soon").stderr


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_slow_div_is_clean() -> None:
    subprocess.run(["shellcheck", "--norc", shipped_dir("bin") / "slow_div"], check=True)


def test_what_is_shipped() -> None:
    assert os.access(shipped_dir("bin") / "slow_div", os.X_OK)
    assert (shipped_dir("job_templates") / "slow_div" / "application.toml").is_file()
    with pytest.raises(ValueError, match="nothing called"):
        shipped_dir("tests")


def test_what_a_wheel_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "portal"
    (tmp_path / "site-packages" / "bin").mkdir(parents=True)
    monkeypatch.setattr("portal.shipped._PACKAGE", package)
    assert shipped_dir("bin") == package / "_shipped" / "bin"
