"""Room for the library: the program starts once more, once, and nobody sees it afterwards."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from portal.schedulers.drmaa_loading import TUNABLES, make_room_for_library

ROOM = "glibc.rtld.optional_static_tls=4096"


def run(environ: dict[str, str]) -> tuple[dict[str, str], dict[str, str] | None]:
    """What is left in the environment, and what the next program would get, if there is one."""
    started: list[dict[str, str]] = []

    def execute(_file: str, _words: list[str], environment: Mapping[str, str]) -> None:
        started.append(dict(environment))

    make_room_for_library(environ, execute)
    return environ, started[0] if started else None


@pytest.mark.parametrize("before", [None, "", "glibc.malloc.check=1"])
def test_the_second_start_has_the_room_and_the_first_environment(before: str | None) -> None:
    first = {"HOME": "/x"} if before is None else {"HOME": "/x", TUNABLES: before}
    _, second = run(dict(first))
    assert second is not None
    assert second[TUNABLES].split(":")[-1] == ROOM
    assert second[TUNABLES].startswith(before or "")
    left, third = run(second)
    assert third is None
    assert left == {name: value for name, value in first.items() if value}


def test_a_number_that_somebody_chose_stays() -> None:
    environ = {TUNABLES: "glibc.rtld.optional_static_tls=8192"}
    assert run(dict(environ)) == (environ, None)


def test_a_real_process_starts_again_as_what_it_was() -> None:
    script = (
        "import json, os, sys\n"
        "from portal.schedulers.drmaa_loading import make_room_for_library\n"
        "print(os.getpid(), file=sys.stderr)\n"
        "make_room_for_library()\n"
        "print(json.dumps([sys.argv, dict(os.environ), os.getpid(), sys.flags.safe_path]))\n"
    )
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-P", "-c", script, "a b", "--c"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    argv, after, pid, is_safe = json.loads(done.stdout)
    assert (argv, is_safe) == (["-c", "a b", "--c"], True)
    assert after == environ
    assert done.stderr.split() == [str(pid)] * 2
