"""Native specifications, as the two systems want them."""

from dataclasses import replace
from pathlib import Path

import pytest

from portal.errors import DefinitionError
from portal.schedulers.base import JobSpec
from portal.schedulers.drmaa_native import Drms, check_added, check_files, drms_of, native_specification

SPEC = JobSpec("portal-abcdef-tcfnctbq-1", Path("/j/job.sh"), Path("/j/work"), 90, memory_mib=256, cpus=1)
GRID_ENGINE_HEAD = "-b n -S /bin/sh -r n"


@pytest.mark.parametrize(
    ("info", "drms"),
    [
        ("SGE 8.1.9", Drms.GRID_ENGINE),
        ("OGS/GE 2011.11p1", Drms.GRID_ENGINE),
        ("UGE 8.6.14", Drms.GRID_ENGINE),
        ("Grid Engine", Drms.GRID_ENGINE),
        ("SLURM 22.05.8", Drms.SLURM),
        ("Torque", Drms.OTHER),
        ("GENERIC", Drms.OTHER),
        ("", Drms.OTHER),
    ],
)
def test_which_system_a_library_is_for(info: str, drms: Drms) -> None:
    assert drms_of(info) is drms


def test_grid_engine() -> None:
    assert native_specification(Drms.GRID_ENGINE, SPEC) == f"{GRID_ENGINE_HEAD} -l h_rt=5400,h_vmem=256M"


def test_grid_engine_all_of_it() -> None:
    spec = replace(
        SPEC, cpus=3, memory_mib=1000, gres="gpu:2,fpga:1", partition="all.q@@big", account="bio",
        exclude_nodes=("n1", "n2"),
    )  # fmt: skip
    assert native_specification(Drms.GRID_ENGINE, spec, " -P  biology ", "smp") == (
        f"{GRID_ENGINE_HEAD} -l h_rt=5400,h_vmem=334M,gpu=2,fpga=1,hostname=!(n1|n2)"
        " -pe smp 3 -q all.q@@big -A bio -P biology"
    )


def test_slurm() -> None:
    native = native_specification(Drms.SLURM, SPEC)
    assert native == "--time=01:30:00 --mem=256 --nodes=1 --ntasks=1 --no-requeue"


def test_slurm_all_of_it() -> None:
    spec = replace(
        SPEC, time_limit_minutes=6001, cpus=3, gres="gpu:2,fpga:1", partition="main", account="bio", qos="high",
        exclude_nodes=("n1", "n2"),
    )  # fmt: skip
    assert native_specification(Drms.SLURM, spec, "-C avx") == (
        "--time=100:01:00 --mem=256 --nodes=1 --ntasks=3 --no-requeue"
        " -p main -A bio --qos=high --gres=gpu:2,fpga:1 -x n1,n2 -C avx"
    )


@pytest.mark.parametrize(
    ("drms", "spec", "words"),
    [
        (Drms.GRID_ENGINE, replace(SPEC, qos="high"), "quality of service"),
        (Drms.GRID_ENGINE, replace(SPEC, cpus=2), "parallel_environment"),
        (Drms.GRID_ENGINE, replace(SPEC, gres="gpu"), "gpu:1"),
        (Drms.GRID_ENGINE, replace(SPEC, gres="gpu:a:1"), "gpu:1"),
        (Drms.GRID_ENGINE, replace(SPEC, partition="a b"), "'a b'"),
        (Drms.GRID_ENGINE, replace(SPEC, account="-V"), "'-V'"),
        (Drms.GRID_ENGINE, replace(SPEC, exclude_nodes=("a|b",)), "'a|b'"),
        (Drms.GRID_ENGINE, replace(SPEC, exclude_nodes=("node" * 300,)), "1023"),
        (Drms.SLURM, replace(SPEC, partition="a,b"), "'a,b'"),
        (Drms.SLURM, replace(SPEC, exclude_nodes=("n[1-2]",)), "n[1-2]"),
    ],
)
def test_what_cannot_be_said_is_refused(drms: Drms, spec: JobSpec, words: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        native_specification(drms, spec)
    assert words in refused.value.visitor_message


@pytest.mark.parametrize(
    ("drms", "added"),
    [
        (Drms.GRID_ENGINE, "-N name"),
        (Drms.GRID_ENGINE, "-l mem_free=1G -r y"),
        (Drms.GRID_ENGINE, "-V"),
        (Drms.GRID_ENGINE, "-A 'a b'"),
        (Drms.GRID_ENGINE, "-P a\n-N b"),
        (Drms.SLURM, "--requeue"),
        (Drms.SLURM, "--output=x"),
        (Drms.SLURM, "-J x"),
    ],
)
def test_what_the_site_may_not_add(drms: Drms, added: str) -> None:
    with pytest.raises(DefinitionError, match="native_specification"):
        check_added(drms, added)


def test_what_the_site_may_add() -> None:
    check_added(Drms.GRID_ENGINE, "-q all.q -l mem_free=1G,arch=lx-amd64 -P biology -p -10")
    check_added(Drms.SLURM, "-p main --comment=portal --reservation=course")
    check_added(Drms.SLURM, "")


@pytest.mark.parametrize(
    ("drms", "folder", "script"),
    [
        (Drms.GRID_ENGINE, "/j/$HOME/work", b""),
        (Drms.GRID_ENGINE, "/j/a\nb/work", b""),
        (Drms.GRID_ENGINE, "/j/work", b"#!/bin/sh\n#$ -q nowhere.q\n"),
        (Drms.SLURM, "/j/100%/work", b""),
        (Drms.SLURM, "/j/a\\b/work", b""),
    ],
)
def test_files_that_would_be_misunderstood(drms: Drms, folder: str, script: bytes) -> None:
    with pytest.raises(DefinitionError):
        check_files(drms, Path(folder), script)


def test_files_that_are_understood() -> None:
    script = b"#!/bin/sh\nexport X='#$ -q nowhere.q'\n"
    check_files(Drms.GRID_ENGINE, Path("/j/it's 100% a\\b/work"), script)
    check_files(Drms.SLURM, Path("/j/it's $HOME/work"), script + b"#$ -q nowhere.q\n")


OTHER = "-l walltime={time_limit_seconds},mem={memory_mib}mb -l procs={cpus}"


def test_of_another_system_the_site_says_all_of_it() -> None:
    native = native_specification(Drms.OTHER, replace(SPEC, cpus=2), OTHER)
    assert native == "-l walltime=5400,mem=256mb -l procs=2"
    minutes = native_specification(Drms.OTHER, SPEC, "--minutes {time_limit_minutes} --mem {memory_mib}")
    assert minutes == "--minutes 90 --mem 256"
    check_files(Drms.OTHER, Path("/j/$HOME/work"), b"#$ -q nowhere.q")


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ("", "such as -l walltime={time_limit_seconds},mem={memory_mib}mb"),
        ("-l walltime={time_limit_seconds}", "such as -l walltime"),
        ("-l mem={memory_mib}mb", "such as -l walltime"),
        (OTHER + " -N {name}", "there is no {name}, only time_limit_minutes, time_limit_seconds, memory_mib, cpus"),
    ],
)
def test_of_another_system_time_and_memory_have_to_be_said(added: str, words: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        native_specification(Drms.OTHER, SPEC, added)
    assert words in refused.value.visitor_message
