"""The lines for Slurm at the head of a batch script."""

from dataclasses import replace
from pathlib import Path

import pytest

from portal.errors import SiteError
from portal.schedulers.base import JobSpec
from portal.schedulers.slurm_directives import directives
from tests.portal_parts import opened_portal
from tests.quick.test_script import assert_as_recorded, placeholders

SPEC = JobSpec("portal-abcdef-tcfnctbq-1", Path("/a b/job.sh"), Path("/a b/work"), 90, memory_mib=256, cpus=2)


def test_the_lines_that_every_script_has() -> None:
    assert directives(SPEC) == [
        "#SBATCH --job-name=portal-abcdef-tcfnctbq-1",
        "#SBATCH --comment=portal-abcdef-tcfnctbq-1",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --cpus-per-task=2",
        "#SBATCH --mem=256M",
        "#SBATCH --time=90",
        "#SBATCH --output=scheduler.out",
        "#SBATCH --error=scheduler.out",
        "#SBATCH --open-mode=append",
        "#SBATCH --export=NONE",
        "#SBATCH --no-requeue",
    ]


def test_what_the_site_and_the_application_add() -> None:
    spec = replace(
        SPEC, partition="short", account="lab", qos="high", gres="gpu:a100:1", exclude_nodes=("node1", "node2")
    )
    added = set(directives(spec)) - set(directives(SPEC))
    assert added == {
        "#SBATCH --partition=short",
        "#SBATCH --account=lab",
        "#SBATCH --qos=high",
        "#SBATCH --gres=gpu:a100:1",
        "#SBATCH --exclude=node1,node2",
    }


@pytest.mark.parametrize("value", ["a b", "a\n#SBATCH --uid=root", "$(id)", "a;b", "ä", "`id`", "'a'", "a%j"])
@pytest.mark.parametrize("field", ["name", "partition", "account", "qos", "gres"])
def test_a_value_that_a_line_cannot_hold_is_refused(field: str, value: str) -> None:
    with pytest.raises(SiteError, match="not safe"):
        directives(replace(SPEC, **{field: value}))  # type: ignore[arg-type]
    with pytest.raises(SiteError, match="--exclude"):
        directives(replace(SPEC, exclude_nodes=("node1", value)))


@pytest.mark.parametrize("name", ["a%jb", "a%%b", "a\\b", "a\nb"])
def test_a_folder_that_slurm_mistakes_is_refused_and_others_are_not(name: str) -> None:
    with pytest.raises(SiteError, match="jobs folder"):
        directives(replace(SPEC, working_dir=Path("/jobs", name, "work")))
    odd = Path('/it\'s "a b" $HOME `id`;&x ü/work')
    assert directives(replace(SPEC, working_dir=odd)) == directives(SPEC)


def test_the_batch_script_of_slow_div_for_slurm_is_as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOW_DIV_SECONDS", "3")
    with opened_portal() as portal:
        monkeypatch.setattr(portal.scheduler, "directives", directives)
        job_id = portal.queued()
        text = portal.files(job_id).job_script.read_text("utf-8")
        for value, placeholder in placeholders(portal, job_id).items():
            text = text.replace(value, placeholder)
    assert_as_recorded(text, "slow_div.slurm.job.sh")
