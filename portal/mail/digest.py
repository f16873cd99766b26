"""What a digest says: many outcomes that were held up, in one message. Pure, as `message` is."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from email.message import EmailMessage

from portal.mail.message import MailFacts, addressed, job_context, safe_domain, word

_TITLE_MAX_CHARACTERS = 100


def digest_id(message_ids: Sequence[str], domain: str) -> str:
    """`<digest.0f3a….34@portal.example.org>`: the same for the same members, and different for others."""
    key = hashlib.sha256("\n".join(message_ids).encode()).hexdigest()[:24]
    return f"<digest.{key}.{len(message_ids)}@{safe_domain(domain)}>"


def build_digest(members: Sequence[MailFacts], message_id: str, now: datetime) -> EmailMessage:
    """The message: every job's id at the start of a line, with how it ended and its link, in the order given.

    Raises ValueError where the recipient is no address.
    """
    first = members[0]
    counts = Counter(word(facts).lower() for facts in members)
    subject = f"[{first.site_name}] {_jobs(members)}: {', '.join(f'{n} {what}' for what, n in counts.items())}"
    context = {
        "heading": f"{_jobs(members)} have come to an end",
        "jobs": [_member(facts) for facts in members],
        "site_name": job_context(first)["site_name"],
    }
    return addressed(first, subject, message_id, now, "digest", context)


def _jobs(members: Sequence[MailFacts]) -> str:
    """`34 jobs`, or `34 messages about 33 jobs`: one job can have a failure and its correction."""
    jobs = len({facts.job_id for facts in members})
    return f"{jobs} jobs" if jobs == len(members) else f"{len(members)} messages about {jobs} jobs"


def _member(facts: MailFacts) -> dict[str, object]:
    context = job_context(facts)
    title = str(context["title"])
    return context | {
        "word": word(facts),
        "title": title if len(title) <= _TITLE_MAX_CHARACTERS else f"{title[:_TITLE_MAX_CHARACTERS]}…",
    }
