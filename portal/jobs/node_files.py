"""What the compute nodes need, put where they can read it: `jobs/.node/<version>/`.

The wrapper and the helper that calls the scheduler's commands, each as one file that any Python can run, and the
applications' programs. A version is never changed
once it is there, because jobs that wait in the queue were written for it; an upgrade of the portal adds
another one.
"""

import contextlib
import hashlib
import io
import os
import secrets
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import portal
from portal.errors import DefinitionError, StorageError
from portal.node.durable import fsync_folder, write_durably

NODE_FOLDER = ".node"
CURRENT = "current"
WRAPPER = "wrapper.pyz"
SUBMIT = "submit.pyz"
BIN = "bin"

FOLDER_MODE = 0o2750
FILE_MODE = 0o640
EXECUTABLE_MODE = 0o750

_PACKAGE = "portal_node"
_MAIN = f"import sys\n\nfrom {_PACKAGE}.wrapper import main\n\nsys.exit(main(sys.argv[1:]))\n"
_SUBMIT_MAIN = f"import sys\n\nfrom {_PACKAGE}.submit import main\n\nsys.exit(main(sys.argv))\n"
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class NodeFiles:
    """One installed version. The paths are absolute where the jobs folder's was."""

    version: str
    wrapper: Path
    bin_dir: Path
    submit: Path
    """The helper; what calls it goes by `.node/current/`, so that a key or a sudo rule can name it."""


def install_node_files(jobs_dir: Path, program_dirs: Sequence[Path]) -> NodeFiles:
    """Put this portal's wrapper and helper, and the executables of `program_dirs` under `jobs_dir`; make them current.

    What is there under the same version is left alone; any number of processes may do this at once. Group
    members can read everything, others nothing. DefinitionError where two folders have a program of the same
    name, or one cannot be read; StorageError where the jobs folder cannot be written: at worst a hidden
    temporary folder is left then, and `current` is what it was.
    """
    programs = _read_programs(program_dirs)
    archives = {WRAPPER: wrapper_archive(), SUBMIT: submit_archive()}
    version = f"{portal.__version__}-{_digest(archives, programs)}"
    node_dir = jobs_dir / NODE_FOLDER
    try:
        _make_folder(node_dir)
        if not (node_dir / version).is_dir():
            _install(node_dir, version, archives, programs)
        _make_current(node_dir, version)
    except OSError as error:
        detail = f"cannot install the node's files in {node_dir}: {error}"
        raise StorageError("The jobs folder cannot be written.", log_detail=detail) from error
    folder = node_dir / version
    return NodeFiles(version, folder / WRAPPER, folder / BIN, folder / SUBMIT)


def current_helper(jobs_dir: Path) -> Path:
    """Where the helper of the version in use is found, whichever that is."""
    return jobs_dir / NODE_FOLDER / CURRENT / SUBMIT


def wrapper_archive() -> bytes:
    """`wrapper.pyz`: the same bytes for the same sources, wherever and whenever it is made."""
    return _archive(_MAIN)


def submit_archive() -> bytes:
    """`submit.pyz`: as `wrapper.pyz`, with another beginning."""
    return _archive(_SUBMIT_MAIN)


def _archive(main: str) -> bytes:
    members = {"__main__.py": main.encode()}
    for source in files("portal.node").iterdir():
        if source.name.endswith(".py"):
            members[f"{_PACKAGE}/{source.name}"] = source.read_bytes()
    archive = io.BytesIO()
    # Stored, not compressed: the output of zlib depends on its version.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for name in sorted(members):
            file.writestr(zipfile.ZipInfo(name, _ZIP_EPOCH), members[name])
    return archive.getvalue()


def _read_programs(program_dirs: Sequence[Path]) -> dict[str, bytes]:
    programs: dict[str, bytes] = {}
    for folder in program_dirs:
        try:
            for path in sorted(folder.iterdir()):
                if _is_executable(path):
                    _add(programs, path)
        except OSError as error:
            raise DefinitionError(f"The programs in {folder} cannot be read: {error}.") from error
    return programs


def _is_executable(path: Path) -> bool:
    return path.is_file() and bool(path.stat().st_mode & stat.S_IXUSR)


def _add(programs: dict[str, bytes], path: Path) -> None:
    content = path.read_bytes()
    if programs.setdefault(path.name, content) != content:
        raise DefinitionError(f"{path}: another application has a different program of this name.")


def _digest(archives: Mapping[str, bytes], programs: Mapping[str, bytes]) -> str:
    total = hashlib.sha256(b"".join(hashlib.sha256(archives[name]).digest() for name in sorted(archives)))
    for name in sorted(programs):
        # Of fixed length each, so that no two sets of programs can look alike.
        total.update(hashlib.sha256(os.fsencode(name)).digest())
        total.update(hashlib.sha256(programs[name]).digest())
    return total.hexdigest()[:12]


def _install(node_dir: Path, version: str, archives: Mapping[str, bytes], programs: Mapping[str, bytes]) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{version}.", dir=node_dir))
    try:
        for name, content in archives.items():
            write_durably(temporary / name, content, FILE_MODE)
        _make_folder(temporary / BIN)
        for name, content in programs.items():
            write_durably(temporary / BIN / name, content, EXECUTABLE_MODE)
        temporary.chmod(FOLDER_MODE)
        fsync_folder(temporary)
        _rename_unless_there(temporary, node_dir / version)
        fsync_folder(node_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename_unless_there(temporary: Path, final: Path) -> None:
    try:
        temporary.rename(final)
    except OSError:
        # Another process was faster: a folder that is not empty cannot be replaced by a rename.
        if not final.is_dir():
            raise


def _make_folder(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    # Also where it was there: whoever made it may have died before this step.
    if stat.S_IMODE(folder.stat().st_mode) != FOLDER_MODE:
        folder.chmod(FOLDER_MODE)
    fsync_folder(folder.parent)


def _make_current(node_dir: Path, version: str) -> None:
    link = node_dir / CURRENT
    if link.is_symlink() and link.readlink() == Path(version):
        return
    if link.is_symlink():
        with contextlib.suppress(OSError):
            os.utime(node_dir / link.readlink())  # out of use from now on: see remove_unused_versions
    temporary = node_dir / f".{CURRENT}.{secrets.token_hex(6)}"
    temporary.symlink_to(version)
    try:
        temporary.replace(link)
    except OSError:
        temporary.unlink()
        raise
    fsync_folder(node_dir)


def remove_unused_versions(jobs_dir: Path, needed: Collection[str], before_seconds: float) -> list[str]:
    """Remove versions that are not needed and were last current before then; their names. Raises OSError.

    What a cut-off installation left goes as well.
    """
    node_dir = jobs_dir / NODE_FOLDER
    current = (node_dir / CURRENT).readlink().name
    removed = []
    for folder in sorted(node_dir.iterdir()):
        facts = folder.lstat()
        is_old = stat.S_ISDIR(facts.st_mode) and facts.st_mtime < before_seconds
        if is_old and folder.name != current and folder.name not in needed:
            shutil.rmtree(folder)
            removed.append(folder.name)
    return removed
