"""The outbox: one message for each outcome, in order, whatever fails on the way, and never a different repeat."""

import shutil
import stat
import threading
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from portal.clock import utc_text
from portal.errors import MailError, StaleEpochError, StorageError
from portal.jobs.keys import Purpose
from portal.jobs.models import Attempt, Job
from portal.jobs.states import FailureReason, JobState
from portal.mail.message import parse_message
from portal.mail.outbox import BATCH, back_off_seconds, prepare_node_mail
from portal.mail.transport import FolderTransport
from portal.settings import MailSection
from tests.mail_bench import Bench, KeptMail, html_text, plain_text
from tests.waiting import wait_until


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def by_node(tmp_path: Path) -> MailSection:
    return MailSection(folder=tmp_path / "mail", sent_by="node")


def test_a_success_is_mailed_once_with_the_answer_and_the_key(bench: Bench, mail: KeptMail) -> None:
    job_id = bench.done_job()
    sender = bench.sender(mail)
    assert (sender.send_due(), sender.send_due()) == (1, 0)
    [message] = mail.messages
    key = bench.keys.key(Purpose.VIEW, job_id, 1)
    assert message["Subject"] == f"[Portal] Done: 8, 2 (job {job_id})"
    assert f"\nhttps://portal.example.org/jobs/{job_id}?key={key}\n" in plain_text(message)
    assert "Done: the answer is 4." in plain_text(message)
    assert "Slow division" in plain_text(message)
    row = bench.row()
    assert (row.sent_at, row.tries, row.last_error) == (bench.clock.now, 0, None)


def test_the_message_and_the_note_lie_in_the_attempt(bench: Bench, mail: KeptMail) -> None:
    attempt = bench.attempt(bench.done_job())
    bench.sender(mail).send_due()
    assert parse_message(attempt.mail.read_bytes()).as_bytes() == mail.messages[0].as_bytes()
    assert attempt.mail_sent.read_text() == f"{utc_text(bench.clock.now)} {bench.row().message_id}\n"
    assert stat.S_IMODE(attempt.mail.stat().st_mode) == 0o640


def test_an_outcome_is_owed_once(bench: Bench) -> None:
    job_id = bench.done_job()
    bench.owe(job_id, "succeeded")
    bench.owe(job_id, JobState.SUCCEEDED)
    assert bench.row().recipient == "ann@example.org"
    with pytest.raises(ValueError, match="bored"):
        bench.owe(job_id, "bored")


def test_nothing_goes_out_before_its_time(bench: Bench, mail: KeptMail) -> None:
    job_id = bench.running_job()
    bench.move(job_id, JobState.SUCCEEDED)
    bench.owe(job_id, "succeeded", not_before_seconds=60)
    sender = bench.sender(mail)
    assert sender.send_due() == 0
    bench.clock.turn(60)
    assert sender.send_due() == 1


def test_a_failure_carries_what_the_program_wrote_last(bench: Bench, mail: KeptMail) -> None:
    job_id = bench.running_job()
    lines = [f"line {number}" for number in range(100)]
    (bench.attempt(job_id).work / "err_output.txt").write_bytes("\n".join(lines).encode() + b"\nred \x1b[31m <b>\xff\n")
    bench.move(job_id, JobState.FAILED, FailureReason.PROGRAM_ERROR)
    bench.owe(job_id, "failed")
    bench.sender(mail).send_due()
    [message] = mail.messages
    assert message["Subject"] == f"[Portal] Failed: 8, 2 (job {job_id})"
    assert "    line 99\n    red \\x1b[31m <b>�\n" in plain_text(message)
    assert "line 70" not in plain_text(message)
    assert "<b>" not in html_text(message)


def test_an_error_output_that_is_a_link_is_not_mailed(bench: Bench, mail: KeptMail) -> None:
    job_id = bench.running_job()
    (bench.attempt(job_id).work / "err_output.txt").symlink_to("/etc/passwd")
    bench.move(job_id, JobState.FAILED, FailureReason.PROGRAM_ERROR)
    bench.owe(job_id, "failed")
    bench.sender(mail).send_due()
    assert "root" not in mail.texts()[0]


def test_an_application_that_has_gone_is_named_by_its_folder(bench: Bench, mail: KeptMail) -> None:
    bench.done_job()
    bench.titles.clear()
    bench.sender(mail).send_due()
    assert "Application: slow_div\n" in mail.texts()[0]


def test_what_failed_for_now_is_tried_again_ever_more_rarely(bench: Bench, mail: KeptMail) -> None:
    bench.done_job()
    sender = bench.sender(mail)
    mail.refusal = MailError("The mail server does not answer.", log_detail="refused\x1b")
    waits = []
    for _ in range(11):
        assert sender.send_due() == 0
        wait = bench.row().next_try_at - bench.clock.now
        waits.append(wait.total_seconds())
        bench.clock.turn(wait.total_seconds() - 1)
        assert sender.send_due() == 0
        bench.clock.turn(1)
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
    assert (bench.row().tries, bench.row().last_error) == (11, "The mail server does not answer. (refused\\x1b)")
    mail.refusal = None
    assert sender.send_due() == 1
    assert bench.row().last_error is None


def test_what_may_have_gone_out_is_repeated_to_the_byte(bench: Bench, mail: KeptMail) -> None:
    bench.done_job()
    sender = bench.sender(mail)
    mail.refusal = MailError("The mail server does not answer.")
    assert sender.send_due() == 0
    first_try = bench.attempt(bench.row().job_id).mail.read_bytes()
    mail.refusal = None
    bench.clock.turn(3600)
    assert sender.send_due() == 1
    assert mail.messages[0].as_bytes() == first_try


def test_the_back_off_has_a_limit() -> None:
    assert back_off_seconds(10_000) == 3600


def test_what_is_refused_for_good_is_never_tried_again(bench: Bench, mail: KeptMail) -> None:
    bench.done_job()
    sender = bench.sender(mail)
    mail.refusal = MailError("No such mailbox.", permanent=True)
    assert sender.send_due() == 0
    row = bench.row()
    assert (row.refused_at, row.tries, row.last_error) == (bench.clock.now, 1, "No such mailbox.")
    mail.refusal = None
    bench.clock.turn(86400)
    assert sender.send_due() == 0
    assert mail.messages == []


@pytest.mark.thorough
@pytest.mark.parametrize("trouble", ["no directory", "no address", "a transport that breaks"])
def test_one_bad_row_does_not_stop_the_others(bench: Bench, mail: KeptMail, trouble: str) -> None:
    bad = bench.done_job(email="no address" if trouble == "no address" else "eve@example.org")
    good = bench.done_job(email="bob@example.org")
    if trouble == "no directory":
        shutil.rmtree(bench.folder.job(bad).path)
    transport = Picky(mail) if trouble == "a transport that breaks" else mail
    assert bench.sender(transport).send_due() == 1
    assert mail.ids() == [f"<{good}.1.succeeded@portal.example.org>"]
    failed = bench.rows()[0]
    assert failed.last_error
    assert (failed.tries, failed.sent_at, failed.refused_at) == (1, None, None)


class Picky(KeptMail):
    """Breaks on Eve."""

    def __init__(self, inner: KeptMail) -> None:
        super().__init__()
        self.messages = inner.messages

    def send(self, message: EmailMessage) -> None:
        if "eve@" in message["To"]:
            raise RuntimeError("a mistake in the portal")
        super().send(message)


def test_a_commit_that_fails_after_sending_repeats_nothing(
    bench: Bench, mail: KeptMail, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.done_job()
    sender = bench.sender(mail)
    with monkeypatch.context() as broken:
        broken.setattr(bench.database, "writing", Away)
        with pytest.raises(StorageError):
            sender.send_due()
    assert len(mail.messages) == 1
    assert bench.row().sent_at is None
    assert sender.send_due() == 1
    assert len(mail.messages) == 1
    assert bench.row().sent_at == bench.clock.now


def test_a_crash_before_the_note_repeats_the_very_same_message(
    bench: Bench, mail: KeptMail, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = bench.attempt(bench.done_job())
    sender = bench.sender(mail)
    with monkeypatch.context() as broken:
        broken.setattr(bench.database, "writing", Away)
        with pytest.raises(StorageError):
            sender.send_due()
    attempt.mail_sent.unlink()
    bench.clock.turn(3600)
    assert sender.send_due() == 1
    first, second = mail.messages
    assert first.as_bytes() == second.as_bytes()


class Away:
    """In place of `Database.writing`: a transaction that cannot be made."""

    def __enter__(self) -> Session:
        raise StorageError("The database is away.")

    def __exit__(self, *details: object) -> None:
        pass


class Removes(KeptMail):
    """Takes the attempt's folder away as the message goes out, so that nothing can be noted."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def send(self, message: EmailMessage) -> None:
        super().send(message)
        shutil.rmtree(self.folder)


def test_a_note_that_cannot_be_written_does_not_send_again(bench: Bench) -> None:
    transport = Removes(bench.attempt(bench.done_job()).path)
    sender = bench.sender(transport)
    assert (sender.send_due(), sender.send_due()) == (1, 0)
    assert len(transport.messages) == 1


def test_a_correction_follows_the_failure_and_says_so(bench: Bench, mail: KeptMail) -> None:
    job_id = bench.running_job()
    bench.move(job_id, JobState.FAILED, FailureReason.NODE_FAILURE)
    bench.owe(job_id, "failed")
    sender = bench.sender(mail)
    sender.send_due()
    bench.move(job_id, JobState.SUCCEEDED, answer="4")
    bench.owe(job_id, "corrected")
    sender.send_due()
    failed, corrected = mail.messages
    assert failed["Subject"] == f"[Portal] Failed: 8, 2 (job {job_id})"
    assert corrected["Subject"] == f"[Portal] Correction (done): 8, 2 (job {job_id})"
    assert "Done: the answer is 4." in plain_text(corrected)
    attempt = bench.attempt(job_id)
    assert parse_message(attempt.mail.read_bytes())["Message-ID"] == corrected["Message-ID"]
    assert all(row.message_id in attempt.mail_sent.read_text() for row in bench.rows())


def test_a_correction_waits_for_what_it_corrects(bench: Bench, mail: KeptMail) -> None:
    job_id = bench.running_job()
    bench.move(job_id, JobState.FAILED, FailureReason.LOST)
    bench.owe(job_id, "failed")
    sender = bench.sender(mail)
    mail.refusal = MailError("The mail server does not answer.")
    sender.send_due()
    mail.refusal = None
    bench.move(job_id, JobState.SUCCEEDED, answer="4")
    bench.owe(job_id, "corrected")
    assert sender.send_due() == 0
    bench.clock.turn(10)
    assert (sender.send_due(), sender.send_due()) == (1, 1)
    failed, corrected = mail.messages
    assert failed["Subject"] == f"[Portal] Failed: 8, 2 (job {job_id})"
    assert "That mail was wrong" in plain_text(corrected)


def test_a_failure_that_was_corrected_before_it_could_be_told_says_so(bench: Bench, mail: KeptMail) -> None:
    job_id = bench.running_job()
    bench.move(job_id, JobState.FAILED, FailureReason.LOST)
    bench.owe(job_id, "failed")
    bench.move(job_id, JobState.SUCCEEDED, answer="4")
    bench.owe(job_id, "corrected")
    sender = bench.sender(mail)
    assert (sender.send_due(), sender.send_due()) == (1, 1)
    failed, corrected = mail.texts()
    assert "seemed to be gone" in failed
    assert "how it really ended is told apart from this" in failed
    assert "the answer is 4" not in failed
    assert "That mail was wrong" in corrected


def test_a_failure_is_told_as_it_was_even_where_a_new_attempt_runs(bench: Bench, mail: KeptMail) -> None:
    job_id = bench.running_job()
    bench.move(job_id, JobState.FAILED, FailureReason.TIME_LIMIT)
    bench.owe(job_id, "failed")
    with bench.database.writing() as session:
        job = session.get(Job, job_id)
        assert job is not None
        session.add(
            Attempt(job_id=job_id, number=2, state=JobState.ACCEPTED, scheduler_name="two", created_at=bench.clock.now)
        )
        job.state, job.failure_reason, job.attempt_number = JobState.ACCEPTED, None, 2
    bench.sender(mail).send_due()
    [text] = mail.texts()
    assert text.startswith("Failed: the program was stopped at its time limit of 5 minutes.\n")
    assert "as attempt 2" in text


@pytest.mark.thorough
def test_a_batch_is_bounded(bench: Bench, mail: KeptMail) -> None:
    for number in range(BATCH + 1):
        bench.done_job(email=f"ann{number}@example.org")
    sender = bench.sender(mail)
    assert (sender.send_due(), sender.send_due(), sender.send_due()) == (BATCH, 1, 0)


def test_what_the_node_mailed_is_not_mailed_again(tmp_path: Path, mail: KeptMail) -> None:
    bench = Bench(tmp_path, by_node(tmp_path))
    job_id = bench.done_job()
    (bench.attempt(job_id).work / "mail.sent").write_text("2026-11-24T06:00:00Z <x>\n")
    assert bench.sender(mail).send_due() == 1
    assert mail.messages == []
    assert bench.row().sent_at == bench.clock.now
    bench.close()


def test_a_note_that_is_a_link_does_not_count(tmp_path: Path, mail: KeptMail) -> None:
    bench = Bench(tmp_path, by_node(tmp_path))
    job_id = bench.done_job()
    (bench.attempt(job_id).work / "mail.sent").symlink_to("/etc/passwd")
    bench.sender(mail).send_due()
    assert len(mail.messages) == 1
    bench.close()


def test_a_note_of_the_job_counts_for_a_success_on_a_mailing_node_only(tmp_path: Path, mail: KeptMail) -> None:
    for section, outcome in ((None, "succeeded"), (by_node(tmp_path), "failed")):
        folder = tmp_path / outcome
        folder.mkdir()
        bench = Bench(folder, section)
        job_id = bench.running_job()
        (bench.attempt(job_id).work / "mail.sent").write_text("x")
        bench.move(job_id, JobState(outcome))
        bench.owe(job_id, outcome)
        bench.sender(mail).send_due()
        bench.close()
    assert len(mail.messages) == 2


def test_a_nodes_mail_is_ready_before_it_starts_and_is_what_the_portal_sends_in_its_place(
    tmp_path: Path, mail: KeptMail
) -> None:
    bench = Bench(tmp_path, by_node(tmp_path))
    job_id = bench.running_job()
    attempt = bench.attempt(job_id)
    for _ in range(2):
        bench.clock.turn(1)
        prepare_node_mail(
            bench.record(job_id), bench.folder.job(job_id), bench.settings, bench.keys, bench.clock, bench.title, 90
        )
    prepared = attempt.mail.read_bytes()
    message = parse_message(prepared)
    assert message["Subject"] == f"[Portal] Done: 8, 2 (job {job_id})"
    assert "Your job is done." in plain_text(message)
    assert "Ended" not in plain_text(message)
    assert "Kept for:    90 days after its end, then it is deleted with its files\n" in plain_text(message)
    bench.move(job_id, JobState.SUCCEEDED, answer="4")
    bench.owe(job_id, "succeeded")
    bench.sender(mail).send_due()
    assert mail.messages[0].as_bytes() == prepared
    bench.close()


def test_a_failure_leaves_alone_what_a_node_that_comes_back_would_send(tmp_path: Path, mail: KeptMail) -> None:
    bench = Bench(tmp_path, by_node(tmp_path))
    job_id = bench.running_job()
    directory = bench.folder.job(job_id)
    prepare_node_mail(bench.record(job_id), directory, bench.settings, bench.keys, bench.clock, bench.title)
    prepared = bench.attempt(job_id).mail.read_bytes()
    bench.move(job_id, JobState.FAILED, FailureReason.NODE_FAILURE)
    bench.owe(job_id, "failed")
    bench.sender(mail).send_due()
    assert mail.messages[0]["Subject"] == f"[Portal] Failed: 8, 2 (job {job_id})"
    assert bench.attempt(job_id).mail.read_bytes() == prepared
    bench.close()


def test_a_deleted_jobs_mail_is_not_sent(bench: Bench, mail: KeptMail) -> None:
    job_id = bench.done_job()
    with bench.database.writing() as session:
        session.delete(session.get_one(Job, job_id))
    assert bench.sender(mail).send_due() == 0
    assert mail.messages == []


def test_a_sender_whose_time_is_over_sends_nothing(bench: Bench, mail: KeptMail) -> None:
    bench.done_job()

    def guard(session: Session) -> None:
        raise StaleEpochError("A newer dispatcher has taken over.")

    sender = bench.sender(mail, guard)
    with pytest.raises(StaleEpochError):
        sender.send_due()
    sender.run(threading.Event(), 60)
    assert mail.messages == []


def test_a_sender_that_was_overtaken_while_it_wrote_the_message_does_not_send_it(bench: Bench, mail: KeptMail) -> None:
    """The newer one may have sent it by then, and its bytes are other ones."""
    attempt = bench.attempt(bench.done_job())

    def guard(session: Session) -> None:
        if attempt.mail.exists():
            raise StaleEpochError("A newer dispatcher has taken over.")

    with pytest.raises(StaleEpochError):
        bench.sender(mail, guard).send_due()
    assert mail.messages == []


def test_the_loop_survives_a_dead_database_and_ends_when_told(
    bench: Bench, mail: KeptMail, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = bench.sender(mail)
    failures: list[str] = []
    working = sender.send_due

    def sometimes(stop: threading.Event | None = None) -> int:
        if len(failures) < 2:
            failures.append("once")
            raise StorageError("The database is away.") if len(failures) == 1 else RuntimeError("a mistake")
        return working(stop)

    monkeypatch.setattr(sender, "send_due", sometimes)
    bench.done_job()
    stop = threading.Event()
    thread = threading.Thread(target=sender.run, args=(stop, 0.01))
    thread.start()
    try:
        wait_until(lambda: bench.row().sent_at, 10, "the mail is sent")
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
    assert len(mail.messages) == 1


def test_a_stopped_sender_begins_nothing_more(bench: Bench, mail: KeptMail) -> None:
    bench.done_job()
    stop = threading.Event()
    stop.set()
    assert bench.sender(mail).send_due(stop) == 0


def test_mail_in_a_folder_end_to_end(bench: Bench) -> None:
    folder = bench.settings.mail.folder
    job_id = bench.done_job()
    bench.sender(FolderTransport(folder)).send_due()
    assert [file.name for file in folder.iterdir()] == [f"{job_id}.1.succeeded@portal.example.org.eml"]
