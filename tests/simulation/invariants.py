"""What must hold at the end of every history: the promises, against what really happened in the cluster.

The ledger of programs, the cluster's own knowledge and the mail server's are the truth; database, job directory and
mail are what the portal made of it.
"""

import json
import os
from collections import Counter, defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import select

from portal.jobs.models import Attempt, JobEvent, MailOutbox
from portal.jobs.states import CORRECTABLE_REASONS, FailureReason, JobState, may_follow
from portal.jobs.store import JobRecord, load_records
from portal.node import status_file
from portal.node.status_file import StatusFile
from portal.schedulers.base import SchedulerState
from tests.simulation.cluster import ClusterJob
from tests.simulation.nodes import ProgramRun
from tests.simulation.portal import MAX_ATTEMPTS
from tests.simulation.world import START

if TYPE_CHECKING:
    from tests.simulation.history import History

S = SchedulerState
R = FailureReason


def check(history: "History") -> None:
    """Note every promise that this history broke."""
    with history.portal.database.reading() as session:
        from portal.jobs.models import Job

        records = load_records(session, list(session.scalars(select(Job.job_id).order_by(Job.job_id))))
        mails = list(session.scalars(select(MailOutbox).order_by(MailOutbox.mail_id)))
    _nothing_is_lost(history, records)
    for record in records:
        for event in record.events:
            history.world.say(_line(event))
        judge = _Judge(history, record, [mail for mail in mails if mail.job_id == record.job.job_id])
        judge.check()
    _one_submission_a_name(history)
    _nothing_runs_on(history)


def _line(event: JobEvent) -> str:
    change = f"{event.from_state} -> {event.to_state}"
    return f"event {event.job_id}.{event.attempt_number} {change} {event.source} {event.detail}"


def _nothing_is_lost(history: "History", records: list[JobRecord]) -> None:
    known = {record.job.job_id for record in records}
    for job_id in sorted(history.portal.accepted - known):
        history.world.violate(f"{job_id} was accepted and is lost")
    folders = set(history.portal.folder.job_ids())
    for job_id in sorted(known - folders):
        history.world.violate(f"{job_id} has no directory")
    tokens = Counter(record.job.token for record in records)
    for token, number in tokens.items():
        if number > 1:
            history.world.violate(f"the form {token} became {number} jobs")


class _Judge:
    """Compares one job with the truth."""

    def __init__(self, history: "History", record: JobRecord, mails: list[MailOutbox]) -> None:
        self._history = history
        self._record = record
        self._mails = mails
        self._job = record.job

    def check(self) -> None:
        if not self._job.state.is_final:
            self._violate(f"never ended: {self._job.state.value}")
            return
        self._attempts_agree()
        self._started_once()
        self._never_started_is_true()
        self._page_tells_the_truth()
        self._old_attempts_ended_for_a_reason()
        self._told_once()
        self._directory_is_whole()
        self._history_is_legal()

    def _violate(self, what: str) -> None:
        self._history.world.violate(f"{self._job.job_id}: {what}")

    # The truth about an attempt

    def _programs(self, number: int) -> list[ProgramRun]:
        return self._history.ledger.of(self._job.job_id, number)

    def _cluster_jobs(self, attempt: Attempt) -> list[ClusterJob]:
        return [job for job in self._history.cluster.jobs if job.name == attempt.scheduler_name]

    def _node_wrote(self, number: int) -> StatusFile | None:
        """The status file of the attempt's end, as it lies on the node."""
        root = self._history.disk.node_root
        file = root / f"job-{self._job.job_id}" / "attempts" / str(number) / "work" / status_file.FILE_NAME
        if not file.exists():
            return None
        status = status_file.parse(file.read_bytes())
        return status if status.succeeded is not None else None

    # The promises

    def _attempts_agree(self) -> None:
        numbers = [attempt.number for attempt in self._record.attempts]
        if numbers != list(range(1, self._job.attempt_number + 1)):
            self._violate(f"attempts {numbers}, of which {self._job.attempt_number} counts")
        last = self._record.attempts[-1]
        if (last.state, last.failure_reason) != (self._job.state, self._job.failure_reason):
            self._violate(f"the job is {self._job.state} and its attempt {last.state}")
        if sum(attempt.counts for attempt in self._record.attempts) > MAX_ATTEMPTS:
            self._violate(f"more attempts than max_attempts: {numbers}")

    def _started_once(self) -> None:
        for attempt in self._record.attempts:
            starts = len(self._programs(attempt.number))
            if starts > 1:
                self._violate(f"attempt {attempt.number} started its program {starts} times")

    def _never_started_is_true(self) -> None:
        for event in self._record.events:
            ended = event.attempt_number - (event.to_state is JobState.ACCEPTED)
            if "The program was never started." in event.detail and self._programs(ended):
                self._violate(f"attempt {ended} is told never to have started, and its program ran")

    def _page_tells_the_truth(self) -> None:
        job, number = self._job, self._job.attempt_number
        wrote = self._node_wrote(number)
        if job.state is JobState.SUCCEEDED:
            programs = self._programs(number)
            if not any(program.exit_code == 0 for program in programs):
                self._violate("Done, though its program did not succeed")
            result = self._record.result
            answers = {str(program.answer) for program in programs}
            if result is None or result.attempt_number != number or result.answer not in answers:
                self._violate(f"published {result and result.answer} of another attempt than the one that counts")
            return
        self._failure_is_true(self._record.attempts[-1])
        if wrote is not None and job.failure_reason in CORRECTABLE_REASONS:
            self._violate(f"{job.failure_reason} is shown, though the node wrote how it ended")
        was_cut_off = self._was_cut_off(self._record.attempts[-1])
        if wrote is not None and wrote.succeeded and job.failure_reason is not R.OUT_OF_MEMORY and not was_cut_off:
            self._violate(f"{job.state.value} ({job.failure_reason}), though the node wrote a success")

    def _failure_is_true(self, attempt: Attempt) -> None:
        """What is said of an attempt that did not succeed has really happened: an outage is never told as an end."""
        cluster_jobs, programs = self._cluster_jobs(attempt), self._programs(attempt.number)
        seen = {job.state for job in cluster_jobs} | {job.cause for job in cluster_jobs}
        is_true = True
        if attempt.state is JobState.CANCELLED:
            is_true = self._job.job_id in self._history.wishes or S.CANCELLED in seen or self._wish_is_recorded()
        elif attempt.failure_reason is R.PROGRAM_ERROR:
            wrote = self._node_wrote(attempt.number)
            is_true = wrote is not None and not wrote.succeeded
        elif attempt.failure_reason in _NAMED:
            is_true = _NAMED[attempt.failure_reason] in seen
        elif attempt.failure_reason is R.REJECTED:
            is_true = not programs
        elif attempt.failure_reason is R.LAUNCH_FAILED:
            is_true = not programs and any(self._had_ended(job, attempt) for job in cluster_jobs)
        elif attempt.failure_reason is R.LOST:
            is_true = self._was_lost(attempt, cluster_jobs)
        if not is_true:
            told = attempt.failure_reason or attempt.state
            self._violate(f"attempt {attempt.number} is told as {told.value}, which did not happen")

    def _was_lost(self, attempt: Attempt, cluster_jobs: list[ClusterJob]) -> bool:
        if self._node_wrote(attempt.number) is not None and not self._was_cut_off(attempt):
            return False
        return any(job.is_forgotten or self._had_ended(job, attempt) for job in cluster_jobs)

    def _had_ended(self, job: ClusterJob, attempt: Attempt) -> bool:
        """Whether it had when the portal said so."""
        told = [
            event for event in self._record.events if event.to_state.is_final or event.to_state is JobState.ACCEPTED
        ]
        ends = [e.at for e in told if e.attempt_number - (e.to_state is JobState.ACCEPTED) == attempt.number]
        return job.ended_at is not None and bool(ends) and START + timedelta(seconds=job.ended_at) <= ends[-1]

    def _wish_is_recorded(self) -> bool:
        """A web process may have died after it recorded the wish and before it could say so."""
        return self._job.cancel_asked_at is not None

    def _was_cut_off(self, attempt: Attempt) -> bool:
        """Its node was out of reach, or what ran there had been forgotten: what it wrote came when it came."""
        return any(run.was_cut_off for job in self._cluster_jobs(attempt) for run in job.runs)

    def _old_attempts_ended_for_a_reason(self) -> None:
        for attempt in self._record.attempts[:-1]:
            if attempt.state is not JobState.FAILED or attempt.failure_reason not in _REOPENED:
                self._violate(f"attempt {attempt.number} was followed by another after {attempt.state.value}")
            self._failure_is_true(attempt)

    def _told_once(self) -> None:
        told = Counter((mail.attempt_number, mail.outcome) for mail in self._mails)
        ids = {mail.message_id for mail in self._mails}
        if any(number > 1 for number in told.values()) or len(ids) != len(self._mails):
            self._violate(f"owed twice: {told}")
        if {mail.attempt_number for mail in self._mails} != {self._job.attempt_number}:
            self._violate("a mail about an attempt that does not count, or none about the one that does")
        self._last_mail_is_right()
        delivered = defaultdict(set)
        for delivery in self._history.mail.deliveries:
            if delivery.message_id.startswith(f"<{self._job.job_id}."):
                delivered[delivery.message_id].add(delivery.digest)
        for mail in self._mails:
            was_refused = mail.message_id in self._history.mail.refused
            if not delivered[mail.message_id] and not was_refused:
                self._violate(f"no mail {mail.message_id} went out")
            if len(delivered[mail.message_id]) > 1:
                self._violate(f"two different mails {mail.message_id} went out")
        strangers = {message_id for message_id, found in delivered.items() if found} - ids
        early = {one for one in strangers if not one.startswith(f"<{self._job.job_id}.{self._job.attempt_number}.")}
        if strangers:
            self._violate(f"mails that nobody owed went out: {sorted(strangers)} {sorted(early)}")

    def _last_mail_is_right(self) -> None:
        outcomes = [mail.outcome for mail in self._mails]
        by_node = self._history.portal.settings.mail.sent_by == "node" and self._job.state is JobState.SUCCEEDED
        correction = "succeeded" if by_node else "corrected"
        if outcomes in ([self._job.state.value], ["failed", correction]):
            return
        self._violate(f"the visitor was told {outcomes}, and the job is {self._job.state.value}")

    def _directory_is_whole(self) -> None:
        folder = self._history.portal.folder.job(self._job.job_id).path
        markers = [name for name in ("SUCCESS", "ERROR") if os.path.lexists(folder / name)]
        if markers != ["SUCCESS" if self._job.state is JobState.SUCCEEDED else "ERROR"]:
            self._violate(f"{self._job.state.value}, with the markers {markers}")
        for name in ("output.txt", "err_output.txt"):
            target = f"attempts/{self._job.attempt_number}/work/{name}"
            if not (folder / name).is_symlink() or str((folder / name).readlink()) != target:
                self._violate(f"{name} does not lead to {target}")
        for attempt in self._record.attempts:
            file = folder / "attempts" / str(attempt.number) / "verdict.json"
            verdict = json.loads(file.read_text()) if file.exists() else {}
            reason = attempt.failure_reason.value if attempt.failure_reason else None
            if (verdict.get("state"), verdict.get("failure_reason")) != (attempt.state.value, reason):
                self._violate(f"verdict.json of attempt {attempt.number} says {verdict.get('state')}")

    def _history_is_legal(self) -> None:
        before: JobState | None = None
        for event in self._record.events:
            if event.from_state is not before:
                self._violate(f"a gap in its history: {before} and then {event.from_state} -> {event.to_state}")
            if before is not None and event.to_state is not before and not may_follow(before, event.to_state):
                self._violate(f"{before.value} cannot become {event.to_state.value}")
            before = event.to_state
        if before is not self._job.state:
            self._violate(f"its history ends with {before}, and it is {self._job.state}")


_NAMED = {
    R.NODE_FAILURE: S.NODE_FAILURE,
    R.PREEMPTED: S.PREEMPTED,
    R.TIME_LIMIT: S.TIME_LIMIT,
    R.OUT_OF_MEMORY: S.OUT_OF_MEMORY,
}
_REOPENED = frozenset({R.NODE_FAILURE, R.PREEMPTED, R.LAUNCH_FAILED, R.LOST})


def _one_submission_a_name(history: "History") -> None:
    """A retry is handed in only when the first call is known to have had no effect.

    What nobody can help: a controller that forgot the first one, and a dispatcher that stood still right before its
    call, while another took its place. Then the claim decides.
    """
    taken = Counter(name for name, was_late in history.cluster.took_in if not was_late)
    for name, number in taken.items():
        was_forgotten = any(job.is_forgotten for job in history.cluster.jobs if job.name == name)
        if number > 1 and not was_forgotten:
            history.world.violate(f"{name} was handed in {number} times")


def _nothing_runs_on(history: "History") -> None:
    for job in history.cluster.jobs:
        if job.ended_at is None and not job.is_forgotten:
            history.world.violate(f"{job.name} ({job.scheduler_id}) is still in the cluster: {job.state.value}")
