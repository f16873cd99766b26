"""The file system: every change that a process makes in it is a step at which it can die, wait, or be refused.

The calls of `os` through which Python changes files are put in front of the real ones, so that no step has to be
listed by hand. Files really lie in a folder in memory. Where files lag behind, the nodes work in a tree of their
own, and what they write appears in the portal's a while later: the files of one folder in their order, as network
file systems show them to whoever lists the folder, and those of different folders as they like.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from portal.jobs.directory import AttemptDirectory, JobDirectory, JobsFolder
from portal.jobs.node_files import NodeFiles
from portal.node import claim as claims
from portal.node.claim import Claim
from portal.transfer.folders import Delivery, NodeFolders, Sent
from tests.simulation.world import World

LONGEST_LAG_SECONDS = 20.0
_MAKES = ("mkdir", "symlink", "link")
_CHANGES = ("rename", "replace", "unlink", "rmdir", "chmod")


class Disk:
    """The jobs folder, as the portal has it and as the nodes have it."""

    def __init__(self, world: World, portal_root: Path, node_root: Path) -> None:
        self._world = world
        self.portal_root = portal_root
        self.node_root = node_root
        """The same as the portal's where nothing lags."""
        self.refusal: int | None = None
        """ENOSPC or EROFS while the disk takes nothing."""
        self.database_refuses_too = False
        self._appears_at: dict[Path, float] = {}
        """By folder: when what was written last in it is seen; what came before it is never seen later."""

    @property
    def lags(self) -> bool:
        return self.node_root != self.portal_root

    @contextmanager
    def watched(self) -> Iterator[None]:
        """As long as this lasts, processes work on this disk."""
        with ExitStack() as stack:
            for name in (*_MAKES, *_CHANGES):
                stack.enter_context(mock.patch.object(os, name, self._watched(name, getattr(os, name))))
            stack.enter_context(mock.patch.object(os, "open", self._watched_open(os.open)))
            # Nothing here cuts the power.
            stack.enter_context(mock.patch.object(os, "fsync", return_value=None))
            yield

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self._world.process is None:
                return real(*arguments, **options)
            target = arguments[1] if name in ("link", "replace", "rename", "symlink") else arguments[0]
            what = f"{name} {self._shown(target)}"
            self._world.before_step(what)
            self._refuse(name in _MAKES, target)
            result = real(*arguments, **options)
            if name in ("link", "replace"):
                self.appear(Path(os.fspath(target)))
            self._world.after_step(what)
            return result

        return call

    def _watched_open(self, real: Callable[..., int]) -> Callable[..., int]:
        def call(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
            if self._world.process is None or not flags & os.O_CREAT:
                return real(path, flags, *arguments, **options)
            what = f"create {self._shown(path)}"
            self._world.before_step(what)
            self._refuse(True, path)
            return real(path, flags, *arguments, **options)

        return call

    def _refuse(self, makes: bool, target: Any) -> None:
        number = self.refusal
        if number == errno.ENOSPC and not makes:
            number = None  # renaming and removing need no room
        process = self._world.process
        if number is None and process is not None and self._world.faults.strikes("write error"):
            number = errno.EIO
        if number is not None:
            self._world.say(f"the disk says {errno.errorcode[number]} to {self._shown(target)}")
            raise OSError(number, os.strerror(number), str(target))

    def _shown(self, path: Any) -> str:
        """Without what differs from run to run."""
        text = os.fspath(path)
        for root in (self.node_root, self.portal_root):
            text = text.replace(f"{root}/", "")
        folder, _, name = text.rpartition("/")
        if name.startswith(".") and name.endswith(".tmp"):
            name = f"{name.rsplit('.', 2)[0]}.*"
        return f"{folder}/{name}"

    # What nodes write, and when it is seen

    def appear(self, on_node: Path) -> None:
        """A file was written on a node: the portal sees it, sooner or later."""
        if not self.lags or on_node.name.startswith(".") or not on_node.is_relative_to(self.node_root):
            return
        here = self.portal_root / on_node.relative_to(self.node_root)
        process = self._world.process
        with self._world.acting(None):
            content = on_node.read_bytes()
        now = self._world.seconds
        at = self._appears_at.get(on_node.parent, 0.0)
        if process is not None and process.on_node and self._world.faults.strikes("files lag behind"):
            at = max(at, now + self._world.between("lag", 0.5, LONGEST_LAG_SECONDS))
            self._appears_at[on_node.parent] = at
        if at <= now or process is None or not process.on_node:
            self._show(here, content)  # what the portal itself writes, it sees at once
        else:
            self._world.after(at - now, "appear", lambda: self._show(here, content))

    def _show(self, here: Path, content: bytes) -> None:
        with self._world.acting(None):
            if here.parent.is_dir():
                beside = here.with_name(f".{here.name}.appears")
                beside.write_bytes(content)
                beside.rename(here)


class LaggingFolders(NodeFolders):
    """One file system whose clients see each other's files late; that a name is taken is known at once."""

    def __init__(self, world: World, disk: Disk, node_files: NodeFiles) -> None:
        self._world = world
        self._disk = disk
        self.folder = JobsFolder(disk.node_root)
        self.node_files = node_files

    def send(self, attempts: Sequence[tuple[JobDirectory, AttemptDirectory]]) -> list[Sent]:
        with self._world.acting(None):
            for job, attempt in attempts:
                there = self.folder.job(job.job_id).attempt(int(attempt.path.name))
                there.work.mkdir(parents=True, exist_ok=True)
                there.config.write_bytes(attempt.config.read_bytes())
                there.mail.unlink(missing_ok=True)
                if attempt.mail.exists():
                    there.mail.write_bytes(attempt.mail.read_bytes())
        return [Sent(Delivery.THERE) for _ in attempts]

    def bring(self, attempt: AttemptDirectory, *, everything: bool) -> bool:
        return True

    def take_claim(self, attempt: AttemptDirectory, claim: Claim) -> bool:
        job_id = attempt.path.parents[1].name.removeprefix("job-")
        there = self.folder.job(job_id).attempt(int(attempt.path.name))
        with self._world.acting(None):
            there.work.mkdir(parents=True, exist_ok=True)
        return claims.take(str(there.work), claim)
