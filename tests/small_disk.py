"""A small disk of its own for a test, that can be filled, made read-only, and taken away."""

import contextlib
import errno
import os
import subprocess
from pathlib import Path

SIZE_MIB = 16
_PIECES = (1024 * 1024, 4096, 1)


class SmallDisk:
    """A tmpfs at `path`. Needs root."""

    def __init__(self, path: Path, size_mib: int = SIZE_MIB) -> None:
        self.path = path
        self._size_mib = size_mib
        self._filling = path / "filling"
        path.mkdir()
        self._mount()

    def _mount(self) -> None:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self._size_mib}m,mode=0755", "tmpfs", self.path], check=True
        )

    def fill(self) -> None:
        """Leave no byte."""
        with self._filling.open("ab", buffering=0) as file:
            for piece in _PIECES:
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * piece)
        assert self.is_full()

    def is_full(self) -> bool:
        """Whether nothing can be written."""
        probe = self.path / "probe"
        try:
            probe.write_bytes(b"\0" * 4096)
        except OSError as error:
            return error.errno == errno.ENOSPC
        finally:
            probe.unlink(missing_ok=True)
        return False

    def make_room(self) -> None:
        """Somebody has tidied up."""
        self._filling.unlink()

    def make_read_only(self) -> None:
        """As a disk does that had an error: the writes of open files fail from now on, too."""
        subprocess.run(["mount", "-o", "remount,ro", self.path], check=True)

    def make_writable(self) -> None:
        """And back."""
        subprocess.run(["mount", "-o", "remount,rw", self.path], check=True)

    def remove(self) -> None:
        """Unmount it, whoever still has files open."""
        if os.path.ismount(self.path):
            subprocess.run(["umount", "-l", self.path], check=True)
