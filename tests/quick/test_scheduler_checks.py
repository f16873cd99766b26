"""`portal check` with Slurm: what is wrong is one clear line, found without a job.

Slurm's commands are scripts here.
"""

import re
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from portal.app import build_parts
from portal.cli import cli
from portal.jobs.node_files import install_node_files
from portal.settings import load_settings

COMMANDS = {
    "scontrol": "case $1 in ping) echo 'Slurmctld(primary) at head is UP';; *) echo 'slurm 22.05.8';; esac",
    "sbatch": "echo 'sbatch: Job 1 to start at 2026-11-24T09:24:18 using 1 processors' >&2",
}
SSH = """
[scheduler.ssh]
host = "127.0.0.1"
port = {port}
user = "{user}"
key_file = "{key}"
known_hosts_file = "known_hosts"
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    Path("bin").mkdir()
    for name, script in COMMANDS.items():
        command(name, script)
    settings()
    parts = build_parts(load_settings(Path("portal.toml")))
    parts.database.close()
    install_node_files(parts.folder.root, [])


def command(name: str, script: str) -> None:
    file = Path("bin", name)
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def settings(text: str = "", kind: str = "slurm") -> None:
    Path("portal.toml").write_text(f'[scheduler]\nkind = "{kind}"\n{text}')


def lines() -> dict[str, str]:
    """What `portal check` says: a line for each part, by its name."""
    result = CliRunner().invoke(cli, ["check"], catch_exceptions=False)
    found = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    assert all(re.match("ok|warning|BROKEN", rest) for _, rest in found), result.stdout
    assert (result.exit_code == 1) == ("BROKEN" in result.stdout)
    return dict(found)


def test_all_is_well() -> None:
    said = lines()
    assert said["scheduler"].split(maxsplit=1) == ["ok", "slurm: Slurm 22.05.8"]
    assert said["resources"].split(maxsplit=1) == ["ok", "Slurm would take the jobs of slow_div"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("sbatch: error: invalid partition specified: nope\nallocation failure: Invalid partition name specified",) * 2,
        ("allocation failure: Invalid account or account/partition combination specified",) * 2,
        ("allocation failure: Requested node configuration is not available",) * 2,
    ],
)
def test_what_no_job_could_get(words: str, told: str) -> None:
    settings('partition = "nope"\naccount = "lab"\n')
    command("sbatch", f"cat >&2 <<'END'\n{words}\nEND\nexit 1")
    line = lines()["resources"]
    assert line.startswith("BROKEN")
    assert "slow_div, partition nope, account lab, 256 MiB, 1 CPUs, 5 minutes: Slurm says: " in line
    assert told.splitlines()[-1].removeprefix("allocation failure: ") in line
    assert "sbatch: " not in line


def test_what_is_asked_for_is_asked_without_a_job() -> None:
    settings('partition = "short"\nqos = "high"\n')
    command("sbatch", 'echo "$@" >> "$(dirname "$0")/../asked"')
    assert lines()["resources"].startswith("ok")
    asked = "--partition=short --qos=high --cpus-per-task=1 --mem=256M --time=5"
    assert Path("asked").read_text().splitlines() == [f"--test-only --nodes=1 --ntasks=1 {asked} --wrap=:"]


def break_helper() -> None:
    Path("jobs/.node/current").unlink()


def break_python() -> None:
    settings('node_python = "/no/such/python3"\n')


def break_prefix() -> None:
    settings("command_prefix = ['/bin/false']\n")


def break_munge() -> None:
    command("scontrol", "echo 'scontrol: error: Protocol authentication error' >&2; exit 1")


def break_controller() -> None:
    command("scontrol", "echo 'Slurmctld(primary) at head is DOWN'")


@pytest.mark.parametrize(
    ("break_it", "word"),
    [
        (break_helper, "submit.pyz': [Errno 2] No such file"),
        (break_python, "/no/such/python3 cannot be started: No such file"),
        (break_prefix, "the helper ended with 1"),
        (break_munge, "Protocol authentication error"),
        (break_controller, "Slurmctld(primary) at head is DOWN"),
    ],
)
def test_a_scheduler_that_cannot_be_asked(break_it: object, word: str) -> None:
    break_it()  # type: ignore[operator]
    said = lines()
    assert said["scheduler"].startswith("BROKEN")
    assert word in said["scheduler"]
    assert "resources" not in said


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "scheduler.ssh.key_file"), ("SECRET", "is not a private key that can be used")],
)
def test_a_key_file_that_is_none(content: str | None, word: str) -> None:
    Path("known_hosts").touch()
    if content:
        Path("key").write_text(content)
    settings(SSH.format(port=1, user="portal-jobs", key="key"), kind="slurm-ssh")
    line = lines()["scheduler"]
    assert line.startswith("BROKEN")
    assert word in line
    assert "SECRET" not in line


@pytest.mark.parametrize("name", ["a%jb", "a\\b"])
def test_a_jobs_folder_that_slurm_cannot_write_into(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTAL_PORTAL__JOBS_DIR", name)
    line = lines()["disk"]
    assert line.startswith("BROKEN")
    assert "a backslash, a percent sign" in line


def test_only_the_folder_in_which_jobs_run_matters_to_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("known_hosts").touch()
    Path("key").touch()
    monkeypatch.setenv("PORTAL_PORTAL__JOBS_DIR", "a%jb")
    ssh = SSH.format(port=1, user="portal-jobs", key="key")
    settings(f'{ssh}remote_jobs_dir = "/shared/jobs"\n', kind="slurm-ssh")
    assert "percent sign" not in lines()["disk"]
    settings(f'{ssh}remote_jobs_dir = "/shared/100%"\n', kind="slurm-ssh")
    assert lines()["disk"].startswith("BROKEN")
    assert "scheduler.ssh.remote_jobs_dir: /shared/100%: Slurm cannot work in" in lines()["disk"]


@pytest.mark.parametrize("value", ["two words", "a;b", "$(id)", "a%j", "a\\nb"])
@pytest.mark.parametrize("key", ["partition", "account", "qos"])
def test_odd_characters_in_what_slurm_is_to_be_asked_for_are_refused_at_the_start(key: str, value: str) -> None:
    settings(f'{key} = "{value}"\n')
    result = CliRunner().invoke(cli, ["check"], catch_exceptions=False)
    [line] = result.stderr.splitlines()
    assert result.exit_code == 2
    assert f"scheduler.{key}: " in line


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ('gres = "gpu:1 --uid=0"', "resources.gres: should be letters, digits"),
        ('partition = "a%j"', "resources.partition: should be letters, digits"),
        # A job's name and comment are the portal's own, by which it finds the job again.
        ('comment = "mine"', "resources.comment: "),
        ('job_name = "mine"', "resources.job_name: "),
    ],
)
def test_what_an_application_may_not_ask_slurm_for(resources: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("templates/app").mkdir(parents=True)
    Path("templates/app/application.toml").write_text(f'title = "App"\n[resources]\n{resources}\n')
    Path("templates/app/program.sh.j2").write_text("true\n")
    monkeypatch.setenv("PORTAL_PORTAL__TEMPLATES_DIR", "templates")
    line = lines()["applications"]
    assert line.startswith("BROKEN")
    assert words in line


def test_one_account_or_two() -> None:
    assert "one account" in lines()["accounts"]
    settings('command_prefix = ["/usr/bin/env"]\n')
    assert "two accounts" in lines()["accounts"]
    assert "`/usr/bin/env`" in lines()["accounts"]
    Path("known_hosts").touch()
    settings(SSH.format(port=1, user="portal-jobs", key="key"), kind="slurm-ssh")
    assert "jobs run as portal-jobs on 127.0.0.1" in lines()["accounts"]


def test_compute_clients_are_started_for_the_embedded_scheduler_only(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    class Supervisor:
        def __init__(self, commands: list[object], *_: object, **__: object) -> None:
            started.extend(str(getattr(one, "name", one)) for one in commands)

        def run(self) -> int:
            return 0

    monkeypatch.setattr("portal.serve.Supervisor", Supervisor)
    monkeypatch.setattr("portal.serve.announce_when_ready", lambda *_: None)
    monkeypatch.setenv("PORTAL_PORTAL__BASE_URL", "http://127.0.0.1:8080")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr("portal.commands.daemons.open_listener", lambda *_: listener)
        for kind, expected in (("slurm", ["web", "dispatcher"]), ("local", ["web", "dispatcher", "client"])):
            settings(kind=kind)
            started.clear()
            assert CliRunner().invoke(cli, ["serve"], catch_exceptions=False).exit_code == 0
            assert started == expected
