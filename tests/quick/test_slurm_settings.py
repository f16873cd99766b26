"""The settings of the Slurm backends, and the backend that is built from them; nothing is asked yet."""

from pathlib import Path

import pytest

from portal.app import Parts, build_parts, build_scheduler
from portal.errors import SchedulerError, SettingsError
from portal.schedulers.slurm_scheduler import SlurmScheduler
from portal.settings import load_settings

SSH = {"host": "'a'", "user": "'b'", "key_file": "'keys/c'", "known_hosts_file": "'d'"}


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(scheduler: str, ssh: dict[str, str] | None = None) -> None:
    lines = ["[scheduler]", scheduler]
    if ssh is not None:
        lines += ["[scheduler.ssh]", *(f"{key} = {value}" for key, value in ssh.items())]
    Path("portal.toml").write_text("\n".join(lines))


def parts() -> Parts:
    return build_parts(load_settings())


@pytest.mark.parametrize("missing", SSH)
def test_over_ssh_each_of_four_is_needed(missing: str) -> None:
    write("kind = 'slurm-ssh'", {key: value for key, value in SSH.items() if key != missing})
    with pytest.raises(SettingsError, match=rf"scheduler\.ssh\.{missing}: is needed"):
        load_settings()


@pytest.mark.parametrize("path", ["jobs", "/", "/lab/../jobs", "~/jobs", "/lab/jobs\\u0007"])
def test_a_jobs_folder_on_the_cluster_is_an_absolute_path_there(path: str) -> None:
    write("kind = 'slurm-ssh'", {**SSH, "remote_jobs_dir": f'"{path}"'})
    with pytest.raises(SettingsError, match=r"scheduler\.ssh\.remote_jobs_dir: should be the absolute path"):
        load_settings()


@pytest.mark.parametrize("key", ["partition", "account", "qos"])
def test_what_a_line_for_the_scheduler_cannot_hold_is_refused_at_start(key: str) -> None:
    write(f"kind = 'slurm'\n{key} = 'a b'")
    with pytest.raises(SettingsError, match=rf"scheduler\.{key}: should have letters") as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_drmaa_submits_as_the_dispatchers_own_account() -> None:
    write("kind = 'drmaa'\ncommand_prefix = ['sudo']")
    with pytest.raises(SettingsError, match=r"scheduler\.command_prefix: .*leave it out"):
        load_settings()


def test_slurm_needs_nothing_more() -> None:
    write("kind = 'slurm'\ncommand_prefix = ['sudo', '-n', '-u', 'portal-jobs']")
    scheduler = build_scheduler(parts())
    assert isinstance(scheduler, SlurmScheduler)
    assert scheduler.kind == "slurm"
    assert scheduler.capabilities.has_accounting


def test_over_ssh_files_are_relative_to_the_settings_and_a_missing_key_is_one_line() -> None:
    write("kind = 'slurm-ssh'", SSH)
    scheduler = build_scheduler(parts())
    assert scheduler.kind == "slurm-ssh"
    with pytest.raises(SchedulerError) as caught:
        scheduler.observe([])
    assert caught.value.log_detail == f"scheduler.ssh.key_file: {Path.cwd()}/keys/c: No such file or directory"
    assert "keys" not in caught.value.visitor_message
