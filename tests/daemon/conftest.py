"""What several of these tests start."""

from tests.sshd import sshd

__all__ = ["sshd"]
