"""What waits for longer than it should is found, with what the portal waits for; and nothing else is."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from portal.jobs import stuck as stuck_module
from portal.jobs.models import Attempt, Job, MailOutbox, SchedulerHealth
from portal.jobs.states import FailureReason, JobState
from portal.jobs.stuck import Stuck, find_stuck
from portal.mail.outbox import owe_mail
from portal.settings import LimitsSection
from tests.web_portal import WebPortal, make_portal

GRACE_SECONDS = 90.0
S = JobState


@pytest.fixture
def portal(tmp_path: Path) -> Iterator[WebPortal]:
    portal = make_portal(tmp_path)
    portal.hear_from_scheduler()
    yield portal
    portal.parts.database.close()


def found(portal: WebPortal, **limits: Any) -> list[Stuck]:
    """What is stuck while a dispatcher is at work."""
    with portal.parts.database.writing() as session:
        session.execute(update(SchedulerHealth).values(asked_at=portal.clock.now))
    return found_without_a_dispatcher(portal, **limits)


def found_without_a_dispatcher(portal: WebPortal, **limits: Any) -> list[Stuck]:
    with portal.parts.database.reading() as session:
        return find_stuck(session, portal.clock.now, GRACE_SECONDS, LimitsSection(**limits))


def job(portal: WebPortal, *states: JobState, attempt: dict[str, Any] | None = None, **values: Any) -> str:
    """A job in the last of these states, with these values in its row and its attempt's."""
    job_id = portal.foreign_job()
    if states:
        portal.move(job_id, *states, reason=FailureReason.NODE_FAILURE)
    with portal.parts.database.writing() as session:
        for row, changed in (
            (session.get_one(Job, job_id), values),
            (session.get_one(Attempt, (job_id, 1)), attempt or {}),
        ):
            for name, value in changed.items():
                setattr(row, name, value)
    return job_id


def submitting(portal: WebPortal) -> str:
    return job(portal, S.SUBMITTING, attempt={"intent_at": portal.clock.now})


def put_off(portal: WebPortal) -> str:
    return job(portal, attempt={"reason": "its files cannot be written at the moment"})


def left_lying(portal: WebPortal) -> str:
    return job(portal)


def cancelling(portal: WebPortal) -> str:
    return job(portal, S.SUBMITTING, S.QUEUED, cancel_asked_at=portal.clock.now, cancel_asked_by="ann")


def resubmitting(portal: WebPortal) -> str:
    return job(portal, S.SUBMITTING, S.FAILED, resubmit_asked_at=portal.clock.now)


def silent_end(portal: WebPortal) -> str:
    return job(portal, S.SUBMITTING, S.QUEUED, S.RUNNING, attempt={"end_seen_at": portal.clock.now})


def over_time(portal: WebPortal) -> str:
    return job(portal, S.SUBMITTING, S.QUEUED, S.RUNNING, attempt={"node": "node1"})


def mail(portal: WebPortal) -> str:
    job_id = job(portal, S.SUBMITTING, S.FAILED)
    with portal.parts.database.writing() as session:
        owe_mail(session, session.get_one(Job, job_id), "failed", portal.clock.now, "example.org", portal.clock.now)
    return job_id


KINDS: dict[str, tuple[Callable[[WebPortal], str], timedelta, str]] = {
    "submitting": (submitting, stuck_module.SUBMITTING, "waits for the scheduler to say whether it has a job"),
    "accepted": (put_off, stuck_module.ACCEPTED, "its files cannot be written at the moment. It is tried again"),
    "accepted ": (left_lying, stuck_module.ACCEPTED, "waits for the dispatcher"),
    "cancelling": (cancelling, stuck_module.CANCELLING, "waits for the scheduler to end it"),
    "resubmitting": (resubmitting, stuck_module.RESUBMITTING, "to say that it does not have the old attempt"),
    "without_answer": (
        silent_end,
        stuck_module.WITHOUT_ANSWER + timedelta(seconds=GRACE_SECONDS),
        "word from its node",
    ),
    "over_time": (over_time, stuck_module.OVER_TIME + timedelta(minutes=5), "Running on node1 past its time limit"),
    "mail": (mail, stuck_module.MAIL, "Mail to ann@example.org waits"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_found_once_it_has_waited_too_long_and_says_what_for(portal: WebPortal, kind: str) -> None:
    make, patience, words = KINDS[kind]
    job_id = make(portal)
    portal.clock.advance(patience.total_seconds() - 15)
    assert found(portal) == []
    portal.clock.advance(60)
    (stuck,) = found(portal)
    assert (stuck.kind, stuck.job_id) == (kind.strip(), job_id)
    assert words in stuck.sentence


def test_a_scheduler_that_does_not_answer_is_what_is_waited_for(portal: WebPortal) -> None:
    for make in (submitting, cancelling, put_off):
        make(portal)
    portal.hear_from_scheduler(silent_since=portal.clock.now)
    portal.clock.advance(3600)
    shown = found(portal)
    assert {stuck.kind for stuck in shown} == {"submitting", "cancelling"}, "nobody could hand the accepted ones in"
    assert all("the scheduler, which does not answer" in stuck.sentence for stuck in shown)


def test_a_dispatcher_that_is_not_there_is_what_is_waited_for(portal: WebPortal) -> None:
    submitting(portal)
    portal.clock.advance(3600)
    (stuck,) = found_without_a_dispatcher(portal)
    assert "waits for a dispatcher: the last one asked the scheduler at 20" in stuck.sentence


def test_many_that_may_run_for_long_do_not_hide_one_that_may_not(
    portal: WebPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stuck_module, "MOST_OF_A_KIND", 2)
    for _ in range(3):
        job(portal, S.SUBMITTING, S.QUEUED, S.RUNNING, resources={"time_limit_minutes": 5000})
    late = over_time(portal)
    portal.clock.advance(stuck_module.OVER_TIME.total_seconds() + 1000)
    assert [stuck.job_id for stuck in found(portal)] == [late]


def test_accounting_that_does_not_answer_is_what_is_waited_for(portal: WebPortal) -> None:
    silent_end(portal)
    portal.hear_from_scheduler(accounting_silent_since=portal.clock.now)
    portal.clock.advance(1200)
    (stuck,) = found(portal)
    assert "accounting, which does not answer" in stuck.sentence


def test_what_waits_its_turn_behind_a_cap_is_not_stuck(portal: WebPortal) -> None:
    job(portal, S.SUBMITTING, S.QUEUED)
    left_lying(portal)
    portal.clock.advance(3600)
    assert len(found(portal)) == 1
    assert found(portal, max_in_scheduler=1) == []
    assert found(portal, waiting_in_scheduler_per_person=1) == []


def test_the_mail_that_went_out_or_was_refused_is_not_stuck(portal: WebPortal) -> None:
    sent, refused = mail(portal), mail(portal)
    with portal.parts.database.writing() as session:
        for row in session.query(MailOutbox):
            if row.job_id == sent:
                row.sent_at = portal.clock.now
            else:
                assert row.job_id == refused
                row.refused_at = portal.clock.now
    portal.clock.advance(7200)
    assert found(portal) == []


def test_what_has_waited_longest_comes_first(portal: WebPortal) -> None:
    first = cancelling(portal)
    portal.clock.advance(100)
    second = submitting(portal)
    portal.clock.advance(1000)
    assert [stuck.job_id for stuck in found(portal)] == [first, second]
