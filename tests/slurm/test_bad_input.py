"""What a real Slurm says to settings and folders that are wrong or odd: with `portal check`'s eyes, and with jobs."""

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from portal.applications.catalog import Catalog
from portal.applications.definition import Application
from portal.cli import cli
from portal.commands.scheduler_checks import would_take
from portal.errors import PortalError
from portal.jobs import words
from portal.jobs.states import FailureReason, JobState
from portal.settings import SchedulerSection
from portal.shipped import shipped_dir
from tests.contract.sites import SlurmSite, SshSite
from tests.slurm.portal_site import PLAIN, PortalSite, open_folder
from tests.slurm.test_slurm_scheduler import Bench, local_runner
from tests.slurm_cluster import SlurmCluster
from tests.waiting import wait_until

pytestmark = pytest.mark.daemon

ODD = """it's "a b" $HOME `id`;&x ü"""
SECRET = "abracadabra"


@pytest.fixture
def folder(slurm: SlurmCluster) -> Iterator[Path]:
    """For a site."""
    with open_folder(slurm) as folder:
        yield folder


def check(site: SlurmSite) -> Result:
    """`portal check`, as the portal's account."""
    with site.as_portal():
        return CliRunner().invoke(cli, ["--config", str(site.folder / "portal.toml"), "check"], catch_exceptions=False)


def line_of(result: Result, part: str) -> str:
    """What it says of one part."""
    [line] = [line for line in result.stdout.splitlines() if line.split()[0] == part]
    return line


def test_a_job_in_a_jobs_folder_with_spaces_and_quotes(slurm: SlurmCluster, folder: Path) -> None:
    jobs_dir = folder / ODD
    with closing(PortalSite(folder, slurm, jobs_dir=jobs_dir)) as site:
        job_id = site.send_in("app", "succeed")
        with site.dispatching():
            site.wait_for_page(job_id, "4", "The answer is")
        result = check(site)
        assert result.exit_code == 0, result.stdout
    assert [" ".join(line) for line in site.witness.lines()] == [f"start {site.work(job_id)}"]
    assert site.work(job_id).startswith(str(jobs_dir))


@pytest.mark.parametrize("name", ["100%jobs", "back\\slash"])
def test_a_jobs_folder_in_which_slurm_would_kill_each_job(slurm: SlurmCluster, folder: Path, name: str) -> None:
    problem = "Slurm cannot work in a folder whose path has a backslash, a percent sign or an end of line"
    with closing(PortalSite(folder, slurm, jobs_dir=folder / name)) as site:
        result = check(site)
        assert result.exit_code == 1
        line = line_of(result, "disk")
        assert "BROKEN" in line
        assert line.endswith(f" portal.jobs_dir: {folder / name}: {problem}.")
        job_id = site.send_in("app")
        with site.dispatching():
            site.wait_for_page(job_id, f"It waits (An administrator has to move the portal's jobs folder: {problem}).")
        assert site.record(job_id).job.state is JobState.ACCEPTED


@pytest.mark.parametrize(
    ("applications", "settings", "told"),
    [
        (
            {"app": 'partition = "nope"', "huge": "memory_mib = 9_000_000"},
            {},
            {
                "app": "invalid partition specified: nope; Invalid partition name specified",
                "huge": "Memory specification can not be satisfied; Requested node configuration is not available",
            },
        ),
        (PLAIN, {"account": "nope"}, {"app": "Invalid account or account/partition combination specified"}),
    ],
    ids=["partition and memory", "account"],
)
def test_what_slurm_refuses_is_told_in_its_own_words(
    slurm: SlurmCluster,
    folder: Path,
    applications: Mapping[str, str],
    settings: Mapping[str, object],
    told: Mapping[str, str],
) -> None:
    with closing(PortalSite(folder, slurm, applications, settings)) as site:
        job_ids = {name: site.send_in(name) for name in applications}
        with site.dispatching():
            for name, job_id in job_ids.items():
                site.wait_for_page(
                    job_id,
                    "The scheduler does not take it.",
                    f"Slurm says: {told[name]}",
                    "Nothing is wrong with your inputs.",
                )
                assert site.record(job_id).job.failure_reason is FailureReason.REJECTED
        line = line_of(check(site), "resources")
        for name, said in told.items():
            assert name in line
            assert said.split("; ")[-1] in line


def test_an_application_whose_script_does_not_render(slurm: SlurmCluster, folder: Path) -> None:
    with closing(PortalSite(folder, slurm, {"app": "memory_mib = 60", "good": "memory_mib = 60"})) as site:
        waiting, good = site.send_in("app"), site.send_in("good", "succeed")
        (folder / "templates" / "app" / "program.sh.j2").write_text("echo {{ nobody_knows }}\n")
        with site.dispatching():
            site.wait_for_page(good, "4", "The answer is")
            page = site.wait_for_page(waiting, "Accepted")
        assert any(text.startswith("It waits (its application cannot be used at the moment") for text in page), page
        result = check(site)
        assert result.exit_code == 1
        line = line_of(result, "applications")
        assert "BROKEN" in line
        assert "program.sh.j2" in line
        assert "nobody_knows" in line


class MistakenSite(SshSite):
    """A portal with something wrong in [scheduler.ssh]."""

    def __init__(self, folder: Path, cluster: SlurmCluster, mistake: Callable[[Path], Mapping[str, object]]) -> None:
        self._mistake = mistake
        super().__init__(folder, cluster)

    def _more_of_ssh(self) -> Mapping[str, object]:
        return self._mistake(self.folder)


def a_key(folder: Path, passphrase: str = "") -> Path:
    """One that nobody knows."""
    key = folder / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "stranger", "-f", key], check=True)
    shutil.chown(key, "portal", "portal")
    return key


def wrong_key(folder: Path) -> Mapping[str, object]:
    return {"key_file": str(a_key(folder))}


def key_with_passphrase(folder: Path) -> Mapping[str, object]:
    return {"key_file": str(a_key(folder, SECRET))}


def no_key_at_all(folder: Path) -> Mapping[str, object]:
    file = folder / "key"
    file.write_text(f"password: {SECRET}\n")
    return {"key_file": str(file)}


def unknown_host(folder: Path) -> Mapping[str, object]:
    (folder / "nobody").touch()
    return {"known_hosts_file": str(folder / "nobody")}


def changed_host_key(folder: Path) -> Mapping[str, object]:
    known = (folder / "known_hosts").read_text().split()[0]
    public = a_key(folder).with_suffix(".pub").read_text()
    (folder / "changed").write_text(f"{known} {public}")
    return {"known_hosts_file": str(folder / "changed")}


def wrong_port(folder: Path) -> Mapping[str, object]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return {"port": unused.getsockname()[1]}


@pytest.mark.parametrize(
    ("mistake", "setting", "problem"),
    [
        (wrong_key, "scheduler.ssh.key_file", "does not let portal-jobs in with"),
        (key_with_passphrase, "scheduler.ssh.key_file", "has a passphrase, which nobody is there to type"),
        (no_key_at_all, "scheduler.ssh.key_file", "is not a private key that can be used"),
        (unknown_host, "scheduler.ssh.known_hosts_file", "has no host key in"),
        (changed_host_key, "scheduler.ssh.known_hosts_file", "shows another host key than"),
        (wrong_port, "scheduler.ssh.port", "cannot be connected to: Connection refused"),
    ],
)
def test_a_login_node_that_does_not_let_the_portal_in(
    slurm: SlurmCluster, folder: Path, mistake: Callable[[Path], Mapping[str, object]], setting: str, problem: str
) -> None:
    with closing(MistakenSite(folder, slurm, mistake)) as site:
        result = check(site)
        assert result.exit_code == 1
        line = line_of(result, "scheduler")
        assert "BROKEN" in line
        assert problem in line
        assert setting in line
        assert SECRET not in result.output
        assert "PRIVATE KEY" not in result.output
        assert "Traceback" not in result.output


def test_jobs_wait_for_a_login_node_that_does_not_let_the_portal_in(slurm: SlurmCluster, folder: Path) -> None:
    with closing(MistakenSite(folder, slurm, key_with_passphrase)) as site:
        job_id = site.submit()
        with site.dispatching():
            said = "has a passphrase, which nobody is there to type"
            wait_until(lambda: said in site.log() and site.record(job_id).attempt.reason, 30, "the refusal")
        assert site.record(job_id).job.state is JobState.ACCEPTED
        assert words.summary(site.record(job_id)) == "Accepted: it waits (The cluster cannot be reached at the moment)."
        assert SECRET not in site.log()


@pytest.fixture
def bench(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("SLURM_CONF", "")
    bench = Bench(slurm, local_runner(slurm))
    yield bench
    bench.scheduler.close()


def parts(scheduler: dict[str, Any], resources: dict[str, Any]) -> Any:
    """As much of a portal as the check looks at: its settings, and slow_div asking for something else."""
    catalog = Catalog.load(shipped_dir("job_templates"), {"site_name": "Portal", "base_url": "http://127.0.0.1"})
    application: Application = catalog.get("slow_div")
    changed = application.resources.model_copy(update=resources)
    return SimpleNamespace(
        settings=SimpleNamespace(scheduler=SchedulerSection(kind="slurm", **scheduler)),
        catalog=SimpleNamespace(applications={"slow_div": application.model_copy(update={"resources": changed})}),
    )


def test_what_the_cluster_would_take(bench: Bench) -> None:
    everything = ("squeue", "-h", "-a", "-t", "all")
    before = bench.cluster.run(*everything).stdout
    assert would_take(parts({}, {}), bench.scheduler).detail == "Slurm would take the jobs of slow_div"
    assert bench.cluster.run(*everything).stdout == before


@pytest.mark.parametrize(
    ("scheduler", "resources", "told"),
    [
        ({"partition": "nope"}, {}, "Invalid partition name specified"),
        ({"account": "nope"}, {}, "Invalid account or account/partition combination specified"),
        ({"qos": "nope"}, {}, "Invalid qos specification"),
        ({}, {"memory_mib": 9_999_999}, "Requested node configuration is not available"),
        ({}, {"memory_mib_max": 9_999_999}, "Requested node configuration is not available"),
        ({}, {"gres": "gpu:1"}, "Invalid generic resource (gres) specification"),
        ({"partition": "short"}, {"time_limit_minutes": 9999}, "Requested time limit is invalid"),
    ],
)
def test_what_no_job_could_get_is_told_without_one(
    bench: Bench, scheduler: dict[str, Any], resources: dict[str, Any], told: str
) -> None:
    with pytest.raises(PortalError) as raised:
        would_take(parts(scheduler, resources), bench.scheduler)
    assert str(raised.value).startswith("slow_div, ")
    assert "Slurm says: " in str(raised.value)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)
