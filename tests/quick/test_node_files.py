"""What lands in `jobs/.node/`: deterministic, never changed, safe to install from many processes at once."""

import io
import multiprocessing
import stat
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import portal.node
from portal.errors import DefinitionError, StorageError
from portal.jobs.node_files import NodeFiles, current_helper, install_node_files, submit_archive, wrapper_archive


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    folder = tmp_path / "jobs"
    folder.mkdir()
    return folder


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "programs"
    folder.mkdir()
    add_program(folder, "slow_div", "#!/bin/sh\necho 4\n")
    (folder / "README").write_text("not a program")
    return folder


def add_program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("make", [wrapper_archive, submit_archive])
def test_the_archive_is_the_same_bytes_each_time_and_holds_every_module(make: Callable[[], bytes]) -> None:
    archive = make()
    assert archive == make()
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        held = file.namelist()
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    modules = {f"portal_node/{path.name}" for path in Path(portal.node.__path__[0]).glob("*.py")}
    assert held == sorted({"__main__.py"} | modules)


def test_what_is_installed(jobs: Path, programs: Path) -> None:
    installed = install_node_files(jobs, [programs])
    folder = jobs / ".node" / installed.version
    assert installed == NodeFiles(installed.version, folder / "wrapper.pyz", folder / "bin", folder / "submit.pyz")
    assert installed.version.startswith(f"{portal.__version__}-")
    assert installed.wrapper.read_bytes() == wrapper_archive()
    assert installed.submit.read_bytes() == submit_archive() != wrapper_archive()
    assert current_helper(jobs).samefile(installed.submit)
    assert [path.name for path in installed.bin_dir.iterdir()] == ["slow_div"]
    assert (jobs / ".node" / "current").readlink() == Path(installed.version)
    assert sorted(path.name for path in (jobs / ".node").iterdir()) == [installed.version, "current"]


def test_the_group_may_read_and_run_and_others_nothing(jobs: Path, programs: Path) -> None:
    installed = install_node_files(jobs, [programs])
    folders = [jobs / ".node", installed.wrapper.parent, installed.bin_dir]
    assert [mode(folder) for folder in folders] == [0o2750] * 3
    assert [mode(installed.wrapper), mode(installed.submit)] == [0o640] * 2
    assert mode(installed.bin_dir / "slow_div") == 0o750


def test_a_second_installation_changes_nothing(jobs: Path, programs: Path) -> None:
    first = install_node_files(jobs, [programs])
    inode = first.wrapper.stat().st_ino
    assert install_node_files(jobs, [programs]) == first
    assert first.wrapper.stat().st_ino == inode


def test_a_new_version_stands_beside_the_old_one(jobs: Path, programs: Path) -> None:
    first = install_node_files(jobs, [programs])
    add_program(programs, "slow_div", "#!/bin/sh\necho 5\n")
    second = install_node_files(jobs, [programs])
    assert second.version != first.version
    assert (first.bin_dir / "slow_div").read_text().endswith("echo 4\n")
    assert (jobs / ".node" / "current").readlink() == Path(second.version)


def test_two_applications_with_different_programs_of_one_name_are_refused(
    jobs: Path, programs: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    add_program(other, "slow_div", "#!/bin/sh\necho 4\n")
    install_node_files(jobs, [programs, other])
    add_program(other, "slow_div", "#!/bin/sh\necho 5\n")
    with pytest.raises(DefinitionError, match="slow_div"):
        install_node_files(jobs, [programs, other])


def test_a_missing_folder_of_programs_is_named(jobs: Path, tmp_path: Path) -> None:
    with pytest.raises(DefinitionError, match="nowhere"):
        install_node_files(jobs, [tmp_path / "nowhere"])


def test_a_jobs_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        install_node_files(tmp_path / "missing", [])


def test_many_processes_may_install_at_once(jobs: Path, programs: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = [pool.submit(install_node_files, jobs, [programs]) for _ in range(12)]
    [installed] = {result.result() for result in results}
    assert sorted(path.name for path in (jobs / ".node").iterdir()) == [installed.version, "current"]
