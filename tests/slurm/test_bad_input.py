"""What a real Slurm says to settings and folders that are wrong or odd: with `portal check`'s eyes, and with jobs."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from portal.applications.catalog import Catalog
from portal.applications.definition import Application
from portal.commands.scheduler_checks import would_take
from portal.errors import PortalError
from portal.schedulers.base import SchedulerState
from portal.settings import SchedulerSection
from portal.shipped import shipped_dir
from tests.slurm.test_slurm_scheduler import Bench, local_runner
from tests.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.daemon

ODD = """it's "a b" $HOME `id`;&x ü"""


@pytest.fixture
def bench(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("SLURM_CONF", "")
    bench = Bench(slurm, local_runner(slurm))
    yield bench
    bench.scheduler.close()


@pytest.fixture
def bench_in_odd_folder(slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("SLURM_CONF", "")
    monkeypatch.setattr(slurm, "jobs_dir", slurm.home / ODD)
    slurm.make_jobs_dir()
    bench = Bench(slurm, local_runner(slurm))
    yield bench
    bench.scheduler.close()


def test_a_jobs_folder_with_spaces_and_quotes(bench_in_odd_folder: Bench) -> None:
    bench = bench_in_odd_folder
    spec = bench.spec("pwd > where; echo said")
    [answer] = bench.scheduler.submit([spec])
    handle = getattr(answer, "handle", None)
    assert handle is not None, answer
    seen = bench.wait_for(handle, SchedulerState.COMPLETED)
    assert seen.exit_code == 0
    assert ODD in str(spec.working_dir)
    assert (spec.working_dir / "where").read_text() == f"{spec.working_dir}\n"
    assert (spec.working_dir / "scheduler.out").read_text() == "said\n"


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
    ("scheduler", "resources", "words"),
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
    bench: Bench, scheduler: dict[str, Any], resources: dict[str, Any], words: str
) -> None:
    with pytest.raises(PortalError) as raised:
        would_take(parts(scheduler, resources), bench.scheduler)
    assert str(raised.value).startswith("slow_div, ")
    assert "Slurm says: " in str(raised.value)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
