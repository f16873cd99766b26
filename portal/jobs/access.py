"""Who may see a job and who may change it, in one place.

Its owner who is signed in, an administrator, the browser session that sent it in and the holder of its owner key may
do both; the holder of the mailed key may look. A typed or remembered address proves nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from portal.jobs.keys import Keys, Purpose
from portal.jobs.models import Job


@dataclass(frozen=True)
class Viewer:
    """Somebody at the other end, by what they have shown."""

    session_id: str | None = None
    """Hash of their browser session, if it has sent something in."""
    signed_in_session_id: str | None = None
    """Hash of the session of the same browser that is signed in."""
    person: str | None = None
    """The address, in its canonical form, as which they are signed in."""
    viewed: Mapping[str, int] = field(default_factory=dict)
    """Jobs whose mailed key this browser has shown, with the key's generation."""
    owner_key: str | None = None
    """What came in the header X-Job-Key."""
    is_administrator: bool = False

    @property
    def session_ids(self) -> tuple[str, ...]:
        """The sessions that they have."""
        return tuple(one for one in (self.session_id, self.signed_in_session_id) if one is not None)

    def may_change(self, job: Job, keys: Keys) -> bool:
        """Whether they may cancel, resubmit or delete it."""
        if self.is_administrator or self.person == job.owner:
            return True
        if job.session_id is not None and job.session_id in self.session_ids:
            return True
        return self.owner_key is not None and keys.is_valid(
            self.owner_key, Purpose.OWNER, job.job_id, job.key_generation
        )

    def may_view(self, job: Job, keys: Keys) -> bool:
        """Whether they may see it at all; where not, it must look as if it did not exist."""
        return self.viewed.get(job.job_id) == job.key_generation or self.may_change(job, keys)

    def name_for(self, job: Job) -> str:
        """What the job's history calls them."""
        return self.person or ("administrator" if self.is_administrator else job.owner)
