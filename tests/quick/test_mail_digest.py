"""What is held up for one person becomes one digest: nobody hears twice, and nothing is dropped, whatever crashes."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from portal.errors import MailError
from portal.jobs.models import Job, MailOutbox
from portal.jobs.states import FailureReason, JobState
from portal.mail import digest_files, letters
from portal.mail.ledger import GIVE_UP_TRIES, Ledger
from portal.node.durable import write_durably
from portal.settings import MailSection
from tests.mail_bench import Bench, KeptMail, html_text, plain_text

NOT_NOW = MailError("The mail server does not take the address.", log_detail="451 greylisted", was_not_taken=True)
AWAY = MailError("The mail server does not answer.", server_is_away=True, was_not_taken=True)
NO_ANSWER = MailError("The mail server does not answer.")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def told(message: EmailMessage) -> list[str]:
    """The jobs whose ids stand at the start of a line."""
    return re.findall("^([a-z]{8})  ", plain_text(message), re.MULTILINE)


def held_up(bench: Bench, number: int, email: str = "ann@example.org") -> list[str]:
    """Jobs whose mail could not go out when it was owed."""
    job_ids = [bench.done_job(email) for _ in range(number)]
    bench.clock.turn(3600)
    return job_ids


def digests(bench: Bench) -> list[Path]:
    return sorted(bench.folder.digests.glob("*"))


def test_a_digest_tells_of_each_job_with_its_link_and_notes_it_in_each_directory(bench: Bench, mail: KeptMail) -> None:
    job_ids = held_up(bench, 3)
    assert bench.sender(mail).send_due() == 1
    [message] = mail.messages
    assert message["Subject"] == "[Portal] 3 jobs: 3 done"
    assert told(message) == job_ids
    for job_id in job_ids:
        link = f"https://portal.example.org/jobs/{job_id}?key="
        assert link in plain_text(message)
        assert link in html_text(message)
        note = bench.attempt(job_id).mail_sent.read_text().split()
        assert note[1:] == [f"<{job_id}.1.succeeded@portal.example.org>", "in", message["Message-ID"]]
    assert {row.sent_at for row in bench.rows()} == {bench.clock.now}
    assert digests(bench) == []


def test_a_digest_says_what_failed_and_cannot_be_forged_by_what_people_typed(bench: Bench, mail: KeptMail) -> None:
    done, failed = bench.done_job(), bench.running_job()
    bench.move(failed, JobState.FAILED, FailureReason.TIME_LIMIT)
    bench.owe(failed, "failed")
    bench.titles["slow_div"] = "<b>Slow\nkkkkkkkk  division"
    bench.clock.turn(3600)
    bench.sender(mail).send_due()
    [message] = mail.messages
    assert message["Subject"] == "[Portal] 2 jobs: 1 done, 1 failed"
    assert told(message) == [done, failed]
    assert "Failed: the program was stopped at its time limit of 5 minutes." in plain_text(message)
    assert "<b>" not in html_text(message)


def test_fresh_mail_goes_out_one_by_one(bench: Bench, mail: KeptMail) -> None:
    for _ in range(3):
        bench.done_job()
    assert bench.sender(mail).send_due() == 3
    assert all(not row.digest_id for row in bench.rows())


def test_each_person_and_each_address_has_a_digest_of_its_own(bench: Bench, mail: KeptMail) -> None:
    for email in ("ann@example.org", "bob@example.org", "Ann@example.org"):
        bench.done_job(email)
        bench.done_job(email)
    bench.clock.turn(3600)
    assert bench.sender(mail).send_due() == 3
    assert sorted(str(message["To"]) for message in mail.messages) == [
        "Ann@example.org",
        "ann@example.org",
        "bob@example.org",
    ]


def test_a_server_that_is_away_is_asked_ever_more_rarely_and_by_one_message(bench: Bench, mail: KeptMail) -> None:
    for number in range(20):
        bench.done_job(f"person{number}@example.org")
    asked = Counting(AWAY)
    sender = bench.sender(asked)
    for _ in range(3600):
        sender.send_due()
        bench.clock.turn(1)
    # 10 s, 20 s, 40 s, 80 s, 160 s, then each 300 s
    assert asked.times == 5 + 1 + (3600 - 310) // 300
    assert {row.tries for row in bench.rows()} == {0}
    assert all(row.sent_at is None and row.refused_at is None for row in bench.rows())


class Counting(KeptMail):
    """Fails, and counts how often."""

    def __init__(self, refusal: Exception) -> None:
        super().__init__()
        self.refusal = refusal
        self.times = 0

    def send(self, message: EmailMessage) -> None:
        self.times += 1
        super().send(message)


@pytest.mark.thorough
def test_what_the_server_did_not_take_for_now_becomes_one_digest_with_what_came_since(
    bench: Bench, mail: KeptMail
) -> None:
    sender = bench.sender(mail)
    mail.refusal = NOT_NOW
    job_ids = []
    for _ in range(50):
        job_ids.append(bench.done_job())
        sender.send_due()
        bench.clock.turn(120)
    mail.refusal = None
    bench.clock.turn(3600)
    assert (sender.send_due(), sender.send_due()) == (1, 0)
    assert told(mail.messages[0]) == job_ids
    assert max(row.tries for row in bench.rows()) < 12  # 10 s, 20 s … an hour: what comes in does not hurry the rest


def test_the_cap_lets_out_what_it_may_and_the_rest_becomes_one_digest(tmp_path: Path, mail: KeptMail) -> None:
    bench = Bench(tmp_path, mails_per_hour=2)
    anns = []
    for _ in range(5):
        anns.append(bench.done_job())
        bench.clock.turn(5)
    bob = bench.done_job(email="bob@example.org")
    sender = bench.sender(mail)
    assert sender.send_due() == 3
    assert mail.ids() == [f"<{job_id}.1.succeeded@portal.example.org>" for job_id in (*anns[:2], bob)]
    assert {row.tries for row in bench.rows()} == {0}
    bench.clock.turn(3599)
    assert sender.send_due() == 0
    bench.clock.turn(1)
    assert (sender.send_due(), sender.send_due()) == (1, 0)
    assert told(mail.messages[3]) == anns[2:]
    bench.close()


def test_a_digest_counts_as_one_message(tmp_path: Path, mail: KeptMail) -> None:
    bench = Bench(tmp_path, mails_per_hour=2)
    held_up(bench, 10)
    sender = bench.sender(mail)
    assert sender.send_due() == 1
    bench.done_job()
    bench.done_job()
    assert sender.send_due() == 1
    bench.close()


def test_the_limit_for_everybody_delays_and_drops_nothing(tmp_path: Path, mail: KeptMail) -> None:
    bench = Bench(tmp_path, for_everybody=3)
    for number in range(8):
        bench.done_job(f"person{number}@example.org")
    sender = bench.sender(mail)
    sent = []
    for _ in range(3):
        sent.append(sender.send_due())
        assert sender.send_due() == 0
        bench.clock.turn(3600)
    assert sent == [3, 3, 2]
    bench.close()


def test_what_may_have_gone_out_by_itself_is_never_told_again_in_a_digest(bench: Bench, mail: KeptMail) -> None:
    first = bench.done_job()
    sender = bench.sender(mail)
    mail.refusal = NO_ANSWER
    sender.send_due()
    mail.refusal = None
    others = held_up(bench, 2)
    assert sender.send_due() == 2
    assert mail.ids()[0] == f"<{first}.1.succeeded@portal.example.org>"
    assert told(mail.messages[1]) == others


def test_what_a_node_may_have_mailed_goes_out_by_itself(tmp_path: Path, mail: KeptMail) -> None:
    bench = Bench(tmp_path, MailSection(folder=tmp_path / "mail", sent_by="node"))
    held_up(bench, 3)
    assert bench.sender(mail).send_due() == 3
    bench.close()


def test_a_failure_and_its_correction_keep_their_order_in_a_digest(bench: Bench, mail: KeptMail) -> None:
    job_id = bench.running_job()
    bench.move(job_id, JobState.FAILED, FailureReason.LOST)
    bench.owe(job_id, "failed")
    bench.move(job_id, JobState.SUCCEEDED, answer="4")
    bench.owe(job_id, "corrected")
    bench.clock.turn(3600)
    assert bench.sender(mail).send_due() == 1
    [message] = mail.messages
    assert message["Subject"] == "[Portal] 2 messages about 1 jobs: 1 failed, 1 correction (done)"
    assert told(message) == [job_id, job_id]
    assert all(row.message_id in bench.attempt(job_id).mail_sent.read_text() for row in bench.rows())


def test_a_refused_digest_is_refused_for_each_of_its_jobs(bench: Bench, mail: KeptMail) -> None:
    held_up(bench, 3)
    mail.refusal = MailError("The mail server does not take the address.", permanent=True)
    sender = bench.sender(mail)
    assert sender.send_due() == 0
    assert {(row.refused_at, row.last_error) for row in bench.rows()} == {
        (bench.clock.now, "The mail server does not take the address.")
    }
    assert digests(bench) == []
    mail.refusal = None
    bench.clock.turn(86400)
    assert sender.send_due() == 0


@pytest.mark.thorough
def test_what_the_server_puts_off_for_five_days_is_given_up(bench: Bench, mail: KeptMail) -> None:
    bench.done_job()
    began = bench.clock.now
    sender = bench.sender(mail)
    mail.refusal = NOT_NOW
    while bench.row().refused_at is None:
        sender.send_due()
        bench.clock.turn(max(1, (bench.row().next_try_at - bench.clock.now).total_seconds()))
    row = bench.row()
    assert row.refused_at is not None
    assert 4.5 < (row.refused_at - began).total_seconds() / 86400 < 6
    assert row.tries == GIVE_UP_TRIES
    assert str(row.last_error).startswith("Given up after 128 tries: The mail server does not take the address.")


def test_one_job_that_cannot_be_told_does_not_take_the_others_with_it(
    bench: Bench, mail: KeptMail, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, *good = held_up(bench, 3)
    working = letters.Letters.facts

    def facts(self: letters.Letters, owed: Any) -> Any:
        if owed.row.job_id == bad:
            raise RuntimeError("a mistake in the portal")
        return working(self, owed)

    monkeypatch.setattr(letters.Letters, "facts", facts)
    assert bench.sender(mail).send_due() == 1
    assert told(mail.messages[0]) == good
    assert [row.tries for row in bench.rows()] == [1, 0, 0]


def test_a_digest_whose_jobs_were_all_deleted_leaves_nothing(bench: Bench, mail: KeptMail) -> None:
    job_ids = held_up(bench, 2)
    mail.refusal = NO_ANSWER
    bench.sender(mail).send_due()
    assert len(digests(bench)) == 2
    with bench.database.writing() as session:
        for job_id in job_ids:
            session.delete(session.get_one(Job, job_id))
            shutil.rmtree(bench.folder.job(job_id).path)
    mail.refusal = None
    bench.clock.turn(3600)
    assert bench.sender(mail).send_due() == 0
    assert (mail.messages, digests(bench)) == ([], [])


def test_a_list_of_members_that_cannot_be_read_is_left_and_stops_nothing(bench: Bench, mail: KeptMail) -> None:
    bench.folder.digests.mkdir()
    for name, text in (("junk", "{"), ("other", json.dumps({"digest_id": "<digest.x@y>", "members": []}))):
        (bench.folder.digests / f"{name}.json").write_text(text)
    bench.done_job()
    assert bench.sender(mail).send_due() == 1
    assert len(digests(bench)) == 2


class Crash(BaseException):
    """The process ends here."""


class Steps:
    """Counts the steps that last, whichever there are, and crashes before or after one of them."""

    def __init__(self, crash_at: int, *, before: bool) -> None:
        self.crash_at = crash_at
        self.before = before
        self.taken: list[str] = []

    def wrap(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.taken.append(name)
            is_here = len(self.taken) == self.crash_at
            if is_here and self.before:
                raise Crash
            done = step(*arguments, **options)
            if is_here:
                raise Crash
            return done

        return wrapped

    def record(self, monkeypatch: pytest.MonkeyPatch, mail: KeptMail) -> None:
        """Every durable write of mail, every change of rows, every hand-over and every removal counts."""
        monkeypatch.setattr(digest_files, "write_durably", self.wrap("write", write_durably))
        monkeypatch.setattr(letters, "write_durably", self.wrap("note", write_durably))
        monkeypatch.setattr(mail, "send", self.wrap("send", mail.send))
        monkeypatch.setattr(Path, "unlink", self.wrap("unlink", Path.unlink))
        monkeypatch.setattr(Ledger, "_update", self.wrap("commit", Ledger._update))


STEPS = ["write", "commit", "write", "send", "note", "note", "note", "commit", "unlink", "unlink"]


def run_with_a_crash(bench: Bench, mail: KeptMail, steps: Steps) -> None:
    with pytest.MonkeyPatch.context() as patched:
        steps.record(patched, mail)
        try:
            bench.sender(mail).send_due()
        except Crash:
            return


def test_the_steps_of_a_digest_are_these(bench: Bench, mail: KeptMail) -> None:
    steps = Steps(0, before=True)
    held_up(bench, 3)
    run_with_a_crash(bench, mail, steps)
    assert steps.taken == STEPS


@pytest.mark.thorough
@pytest.mark.parametrize("database_is_lost", [False, True])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("crash_at", range(1, len(STEPS) + 1))
def test_a_crash_at_any_step_repeats_the_same_message_with_the_same_members_at_most(
    bench: Bench, mail: KeptMail, crash_at: int, before: bool, database_is_lost: bool
) -> None:
    """With the database lost, rows come back from the directories as owed, in no digest."""
    job_ids = held_up(bench, 3)
    run_with_a_crash(bench, mail, Steps(crash_at, before=before))
    if database_is_lost:
        with bench.database.writing() as session:
            session.execute(update(MailOutbox).values(sent_at=None, digest_id=None))
    bench.done_job()
    bench.clock.turn(3600)
    sender = bench.sender(mail)
    while sender.send_due():
        pass
    about_these = [message for message in mail.messages if set(job_ids) & set(told(message))]
    assert {str(message["Message-ID"]) for message in about_these} == {str(about_these[0]["Message-ID"])}
    assert len({message.as_bytes() for message in about_these}) == 1
    assert [told(message)[:3] for message in about_these] == [job_ids] * len(about_these)
    assert len(about_these) <= 2
    assert not {f"<{job_id}.1.succeeded@portal.example.org>" for job_id in job_ids} & set(mail.ids())
    assert all(row.sent_at for row in bench.rows())
    assert all(str(about_these[0]["Message-ID"]) in bench.attempt(job_id).mail_sent.read_text() for job_id in job_ids)
    assert digests(bench) == []
