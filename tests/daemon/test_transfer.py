"""Job directories over SFTP, with a real sshd and the real helper: whole, resumed after a cut, and never too much."""

import math
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from portal.dispatch.tidying import Tidying
from portal.errors import SchedulerError
from portal.jobs.directory import AttemptDirectory, JobDirectory, JobsFolder
from portal.jobs.models import Job, JobEvent
from portal.jobs.node_files import install_node_files, submit_archive
from portal.jobs.states import JobState
from portal.node import claim as claims
from portal.node import status_file
from portal.node.claim import Claim
from portal.node.status_file import StatusFile
from portal.schedulers.helper import Helper
from portal.schedulers.ssh import SshConnection, SshRunner, SshTarget
from portal.shipped import shipped_dir
from portal.transfer import remote_files, sftp_folders
from portal.transfer.folders import Delivery, NodesUnreachableError, Sent
from portal.transfer.session import SftpSession
from portal.transfer.sftp_folders import SftpFolders
from portal.transfer.shortfall import KEPT_DAYS
from tests.cut_wire import Wire, wire_to
from tests.portal_parts import Portal, opened_portal
from tests.sshd import USER, Sshd
from tests.status_files import STARTED
from tests.wrapper_attempts import Attempt

pytestmark = pytest.mark.daemon

JOB_ID = "tcfnctbq"
MIB = 1024 * 1024
NAME = f"portal-abcdef-{JOB_ID}-1"
THERE = Sent(Delivery.THERE)


class Bench:
    """A portal's job on this side, and a cluster's jobs folder on the other."""

    def __init__(self, folder: Path, sshd: Sshd, wire: Wire) -> None:
        self.there = folder / "there"
        helper = self.there / ".node" / "current" / "submit.pyz"
        helper.parent.mkdir(parents=True)
        helper.write_bytes(submit_archive())
        sshd.force(f"exec /usr/bin/python3 -I {helper}")
        jobs = folder / "jobs"
        jobs.mkdir()
        self.node_files = install_node_files(jobs, [shipped_dir("bin")])
        self.job: JobDirectory = JobsFolder(jobs).job(JOB_ID)
        Attempt(self.job.path, "echo 4\n", outputs=["hits.tsv"])
        self.attempt: AttemptDirectory = self.job.attempt(1)
        self.attempt.job_script.write_text("#!/bin/sh\n")
        self.job.inputs.mkdir()
        self.target = SshTarget("127.0.0.1", wire.port, USER, sshd.user_key, sshd.known_hosts, 5)
        sshd.known_hosts.write_text(sshd.known_hosts.read_text().replace(f":{sshd.port} ", f":{wire.port} "))
        self.wire = wire

    @contextmanager
    def folders(
        self, most_mib: int = 64, answer_seconds: float = 20, root: Path | None = None
    ) -> Iterator[SftpFolders]:
        connection = SshConnection(self.target)
        helper = Helper(SshRunner(connection, "helper"), self.there, 20)
        session = SftpSession(connection, answer_seconds)
        folders = SftpFolders(session, helper, root or self.there, self.node_files, most_mib)
        folders.begin_round()
        try:
            yield folders
        finally:
            folders.close()
            connection.close()

    def send(self, folders: SftpFolders) -> Sent:
        [answer] = folders.send([(self.job, self.attempt)])
        return answer

    @property
    def attempt_there(self) -> Path:
        return self.there / self.job.path.name / "attempts" / "1"

    @property
    def work_there(self) -> Path:
        return self.attempt_there / "work"

    def begin(self) -> None:
        """The wrapper begins there."""
        self.work_there.mkdir(parents=True, exist_ok=True)
        assert claims.take(self.work_there, a_claim("wrapper"))
        (self.work_there / "heartbeat").write_text("1")
        (self.work_there / "status.json").write_bytes(status_file.encode(a_status(ended=False)))

    def end(self) -> None:
        """The wrapper ends there; the program had succeeded."""
        (self.work_there / "status.json").write_bytes(status_file.encode(a_status(ended=True)))
        (self.work_there / "SUCCESS").touch()

    def tells_the_end(self) -> bool:
        """Whether this side's status file does."""
        return status_file.parse((self.attempt.work / "status.json").read_bytes()).succeeded is not None

    def here(self) -> list[str]:
        """All files on this side."""
        return sorted(
            str(path.relative_to(self.attempt.work)) for path in self.attempt.work.rglob("*") if path.is_file()
        )


def a_claim(by: str) -> Claim:
    return Claim(by, "17", NAME, "node1", 4711, "2026-11-24T06:00:00Z")


def a_status(*, ended: bool) -> StatusFile:
    begun = STARTED
    if not ended:
        return begun
    return begun._replace(
        phase="ended",
        ended_at="2026-11-24T06:00:30Z",
        exit_code=0,
        wall_seconds=30.0,
        peak_memory_mib=10.0,
        succeeded=True,
    )


@pytest.fixture
def wire(sshd: Sshd) -> Iterator[Wire]:
    with wire_to(sshd.port) as wire:
        yield wire


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine may be busy: a turn ends where a test says so."""
    monkeypatch.setattr(sftp_folders, "ROUND_SECONDS", 100.0)
    monkeypatch.setattr(sftp_folders, "TURN_SECONDS", 100.0)


@pytest.fixture
def bench(tmp_path: Path, sshd: Sshd, wire: Wire) -> Bench:
    return Bench(tmp_path, sshd, wire)


# Sending


def test_what_is_sent_is_what_the_portal_wrote_with_the_programs_and_again_changes_nothing(bench: Bench) -> None:
    (bench.job.inputs / "query").write_bytes(os.urandom(100_000))
    with bench.folders() as folders:
        assert bench.send(folders) == THERE
        for name in ("config.ini", "program.sh", "job.sh"):
            assert (bench.attempt_there / name).read_bytes() == (bench.attempt.path / name).read_bytes()
        sent = bench.there / bench.job.path.name / "inputs" / "query"
        assert sent.read_bytes() == (bench.job.inputs / "query").read_bytes()
        assert folders.node_files.wrapper.read_bytes() == bench.node_files.wrapper.read_bytes()
        assert os.access(folders.node_files.bin_dir / "slow_div", os.X_OK)
        known = sent.stat().st_ino
        assert bench.send(folders) == THERE
        assert sent.stat().st_ino == known
    assert not list(bench.there.rglob(".*.*"))


def test_one_that_was_started_there_by_hand_is_not_written_over(bench: Bench) -> None:
    with bench.folders() as folders:
        bench.send(folders)
        bench.begin()
        (bench.attempt.job_script).write_text("another\n")
        assert bench.send(folders) == Sent(Delivery.CLAIMED)
    assert (bench.attempt_there / "job.sh").read_text() == "#!/bin/sh\n"


def test_a_folder_that_is_not_there_is_said_and_not_made(bench: Bench) -> None:
    missing = bench.there / "missing"
    with bench.folders(root=missing) as folders:
        answer = bench.send(folders)
        assert (answer.delivery, str(missing) in answer.problem) == (Delivery.REFUSED, True)
        with pytest.raises(SchedulerError, match=r"remote_jobs_dir: .*missing cannot be written"):
            folders.check()
    assert not missing.exists()


def test_what_the_server_refuses_is_said_and_the_session_goes_on(bench: Bench) -> None:
    (bench.attempt_there / "program.sh" / "in-the-way").mkdir(parents=True)
    with bench.folders() as folders:
        assert bench.send(folders).delivery is Delivery.REFUSED
        assert str(bench.there) in folders.check()
    assert not (bench.attempt_there / "job.sh").exists()


def test_an_upload_that_is_cut_goes_on_where_it_was(bench: Bench, wire: Wire) -> None:
    (bench.job.inputs / "query").write_bytes(os.urandom(8 * MIB))
    with bench.folders(answer_seconds=5) as folders:
        wire.break_after(5 * MIB)
        with pytest.raises(NodesUnreachableError):
            bench.send(folders)
        sent = bench.there / bench.job.path.name / "inputs" / "query"
        part = sent.with_name(".query.part")
        assert 3 * MIB < part.stat().st_size < 8 * MIB
        assert not sent.exists()
        assert not (bench.attempt_there / "job.sh").exists()
        wire.break_after(None)
        before = wire.carried_bytes
        folders.begin_round()
        assert bench.send(folders) == THERE
        assert wire.carried_bytes - before < 6 * MIB
    assert sent.read_bytes() == (bench.job.inputs / "query").read_bytes()
    assert not part.exists()


def test_a_round_that_is_over_puts_off_what_is_left(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.job.inputs / "query").write_bytes(os.urandom(MIB))
    with bench.folders() as folders:
        monkeypatch.setattr(sftp_folders, "TURN_SECONDS", 0.0)
        assert bench.send(folders) == Sent(Delivery.NOT_YET)
        monkeypatch.setattr(sftp_folders, "ROUND_SECONDS", -1.0)
        folders.begin_round()
        assert bench.send(folders) == Sent(Delivery.NOT_YET)
        assert not folders.bring(bench.attempt, everything=True)
        monkeypatch.setattr(sftp_folders, "TURN_SECONDS", 100.0)
        monkeypatch.setattr(sftp_folders, "ROUND_SECONDS", 100.0)
        folders.begin_round()
        assert bench.send(folders) == THERE


# Bringing


def test_the_start_is_known_at_once_and_the_results_come_with_the_end(bench: Bench) -> None:
    with bench.folders() as folders:
        bench.send(folders)
        assert folders.bring(bench.attempt, everything=False)
        assert bench.here() == []
        bench.begin()
        (bench.work_there / "output.txt").write_text("half a")
        assert folders.bring(bench.attempt, everything=False)
        assert bench.here() == ["claim", "heartbeat", "status.json"]
        assert not bench.tells_the_end()
        (bench.work_there / "output.txt").write_text("The answer is: 4\n")
        (bench.work_there / "deep" / "er").mkdir(parents=True)
        (bench.work_there / "deep" / "er" / "file.txt").write_bytes(b"\0" * 70_000)
        (bench.work_there / "empty").touch()
        bench.end()
        assert folders.bring(bench.attempt, everything=False)
        assert bench.tells_the_end()
        expected = ["SUCCESS", "claim", "deep/er/file.txt", "empty", "heartbeat", "output.txt", "status.json"]
        assert bench.here() == expected
        assert (bench.attempt.work / "output.txt").read_text() == "The answer is: 4\n"
        assert (bench.attempt.work / "deep" / "er" / "file.txt").stat().st_size == 70_000
        assert folders.shortfall(bench.attempt) is None
    assert not (bench.attempt.path / ".incoming").exists()


def test_an_end_whose_marker_is_being_written_is_looked_at_again(bench: Bench) -> None:
    with bench.folders() as folders:
        bench.begin()
        bench.end()
        (bench.work_there / "SUCCESS").unlink()
        assert not folders.bring(bench.attempt, everything=False)
        assert not (bench.attempt.work / "status.json").exists()
        # Once the scheduler says that it is over, no marker will come any more.
        assert folders.bring(bench.attempt, everything=True)
        assert bench.tells_the_end()


def test_results_that_are_cut_on_their_way_go_on_where_they_were(bench: Bench, wire: Wire) -> None:
    bench.begin()
    content = os.urandom(24 * MIB)
    (bench.work_there / "hits.tsv").write_bytes(content)
    (bench.work_there / "output.txt").write_text("first\n")
    bench.end()
    with bench.folders(answer_seconds=5) as folders:
        wire.break_after(14 * MIB, of_answers=True)
        with pytest.raises(NodesUnreachableError):
            folders.bring(bench.attempt, everything=True)
        assert bench.here() == ["SUCCESS", "output.txt"]
        [part] = (bench.attempt.path / ".incoming").iterdir()
        assert 8 * MIB <= part.stat().st_size < 24 * MIB
        wire.break_after(None)
        before = wire.answered_bytes
        folders.begin_round()
        assert folders.bring(bench.attempt, everything=True)
        assert wire.answered_bytes - before < 18 * MIB
    assert (bench.attempt.work / "hits.tsv").read_bytes() == content
    assert bench.tells_the_end()


def test_a_part_of_another_state_of_the_file_is_not_gone_on_with(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.begin()
    hits = bench.work_there / "hits.tsv"
    hits.write_bytes(b"a" * 9 * MIB)
    with bench.folders() as folders:
        ticks = iter([0.0] * 10 + [math.inf])  # the turn is over in the middle of the file
        monkeypatch.setattr(remote_files, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
        folders.begin_round()
        assert not folders.bring(bench.attempt, everything=True)
        monkeypatch.setattr(remote_files, "time", time)
        assert len(list((bench.attempt.path / ".incoming").iterdir())) == 1
        hits.write_bytes(b"b" * 9 * MIB)
        os.utime(hits, (1, 1))
        folders.begin_round()
        assert folders.bring(bench.attempt, everything=True)
    assert (bench.attempt.work / "hits.tsv").read_bytes() == b"b" * 9 * MIB


def test_too_much_stays_there_and_the_visitor_is_told_what(bench: Bench) -> None:
    """The output and the declared files come first; what is left is left whole."""
    bench.begin()
    sizes = {"a_huge": 3 * MIB, "b_small": 1000, "hits.tsv": MIB // 2, "output.txt": MIB // 4}
    for name, size in sizes.items():
        (bench.work_there / name).write_bytes(b"x" * size)
    bench.end()
    with bench.folders(most_mib=1) as folders:
        assert folders.bring(bench.attempt, everything=True)
        assert {"b_small", "hits.tsv", "output.txt", "status.json"} < set(bench.here())
        assert "a_huge" not in bench.here()
        said = folders.shortfall(bench.attempt)
    assert said == (
        "One file (3 MiB) stayed on the cluster, since at most 1 MiB of a job's results are brought here: "
        "a_huge (3 MiB). It is kept there for 7 days."
    )


def test_however_short_its_turn_each_brings_something(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.begin()
    for number in range(4):
        (bench.work_there / f"file{number}").write_bytes(os.urandom(2 * MIB // 5))
    bench.end()
    monkeypatch.setattr(sftp_folders, "TURN_SECONDS", 0.0)
    with bench.folders() as folders:
        turns = 1
        while not folders.bring(bench.attempt, everything=True):
            assert not (bench.attempt.work / "status.json").exists()
            turns += 1
            assert turns < 30
    assert turns > 4
    assert bench.tells_the_end()


def test_what_the_job_removed_after_an_early_look_goes_here_too(bench: Bench) -> None:
    bench.begin()
    (bench.work_there / "deep").mkdir()
    (bench.work_there / "deep" / "scratch").write_text("x")
    with bench.folders() as folders:
        assert folders.bring(bench.attempt, everything=True)
        assert "deep/scratch" in bench.here()
        shutil.rmtree(bench.work_there / "deep")
        bench.end()
        assert folders.bring(bench.attempt, everything=True)
    assert bench.here() == ["SUCCESS", "claim", "heartbeat", "status.json"]
    assert not (bench.attempt.work / "deep").exists()


def test_links_pipes_odd_names_and_what_lies_too_deep_are_left_and_told(bench: Bench, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    bench.begin()
    (bench.work_there / "link").symlink_to(secret)
    (bench.work_there / "folder").symlink_to(tmp_path)
    os.mkfifo(bench.work_there / "pipe")
    Path(os.fsdecode(os.fsencode(bench.work_there) + b"/caf\xe9.txt")).write_text("x")
    deep = bench.work_there
    for _ in range(20):
        deep = deep / "d"
        deep.mkdir()
    (deep / "file").touch()
    bench.end()
    with bench.folders() as folders:
        assert folders.bring(bench.attempt, everything=True)
        assert folders.shortfall(bench.attempt) == (
            "Left there, too: folders more than 16 deep (1). Left there, too: files or folders whose names are no text "
            "(1). It is kept there for 7 days."
        )
    assert bench.here() == ["SUCCESS", "claim", "heartbeat", "status.json"]


def test_a_claim_that_is_there_and_no_file_says_that_something_started(bench: Bench) -> None:
    bench.begin()
    (bench.work_there / "claim").unlink()
    (bench.work_there / "claim" / "inside").mkdir(parents=True)
    (bench.work_there / "claim" / "file").write_text("x")
    with bench.folders() as folders:
        assert folders.bring(bench.attempt, everything=True)
        assert (bench.attempt.work / "claim").read_bytes() == b""
        (bench.attempt.work / "claim").unlink()
        assert not folders.take_claim(bench.attempt, a_claim("dispatcher"))


def test_a_pipe_in_the_place_of_the_status_file_holds_up_nobody(bench: Bench) -> None:
    bench.begin()
    (bench.work_there / "status.json").unlink()
    os.mkfifo(bench.work_there / "status.json")
    with bench.folders(answer_seconds=5) as folders:
        assert folders.bring(bench.attempt, everything=True)
    assert bench.here() == ["claim", "heartbeat"]


def test_what_was_brought_stays_when_the_cluster_tidies_up(bench: Bench) -> None:
    bench.begin()
    bench.end()
    with bench.folders() as folders:
        assert folders.bring(bench.attempt, everything=True)
        shutil.rmtree(bench.there / bench.job.path.name)
        assert folders.bring(bench.attempt, everything=True)
    assert bench.tells_the_end()


# The claim


def test_exactly_one_of_wrapper_and_dispatcher_takes_the_claim(bench: Bench) -> None:
    with bench.folders() as folders:
        winners = set()
        for _ in range(30):
            shutil.rmtree(bench.attempt_there, ignore_errors=True)
            bench.work_there.mkdir(parents=True)
            (bench.attempt.work / "claim").unlink(missing_ok=True)
            start = threading.Barrier(2)
            taken: list[bool] = []

            def wrapper(start: threading.Barrier = start, taken: list[bool] = taken) -> None:
                start.wait()
                taken.append(claims.take(bench.work_there, a_claim("wrapper")))

            thread = threading.Thread(target=wrapper)
            thread.start()
            start.wait()
            by_dispatcher = folders.take_claim(bench.attempt, a_claim("dispatcher"))
            thread.join()
            assert taken == [not by_dispatcher]
            by = claims.parse((bench.work_there / "claim").read_bytes()).by
            assert by == ("dispatcher" if by_dispatcher else "wrapper")
            winners.add(by)
    assert not list(bench.work_there.glob(".claim*"))
    assert winners


def test_one_that_was_never_sent_can_be_claimed_while_nobody_is_there(bench: Bench, sshd: Sshd) -> None:
    sshd.stop()
    bench.attempt.job_script.unlink()
    with bench.folders() as folders:
        assert folders.take_claim(bench.attempt, a_claim("dispatcher"))
    assert claims.parse((bench.attempt.work / "claim").read_bytes()).by == "dispatcher"


def test_a_folder_that_is_not_mounted_does_not_pass_for_an_empty_one(bench: Bench) -> None:
    mounted = bench.there / ".node"
    with bench.folders() as folders:
        folders.check()
        mounted.rename(bench.there / "away")
        with pytest.raises(NodesUnreachableError, match="is it mounted"):
            folders.take_claim(bench.attempt, a_claim("dispatcher"))
        assert not (bench.attempt.work / "claim").exists()
        (bench.there / "away").rename(mounted)
        assert folders.bring(bench.attempt, everything=True)
        assert folders.take_claim(bench.attempt, a_claim("dispatcher"))


# What is in the way


def test_a_server_that_says_nothing_is_given_up_in_time(bench: Bench, wire: Wire) -> None:
    with bench.folders(answer_seconds=3) as folders:
        bench.send(folders)
        wire.silence_after(0)
        with pytest.raises(NodesUnreachableError, match="the SFTP session broke"):
            folders.bring(bench.attempt, everything=False)
        wire.cut()
        folders.begin_round()
        assert folders.bring(bench.attempt, everything=False)


def test_a_key_that_gives_no_sftp_is_said_with_the_reason(bench: Bench, sshd: Sshd) -> None:
    sshd.force(f"exec /usr/bin/python3 -I {bench.there}/.node/current/submit.pyz --no-sftp")
    with bench.folders(answer_seconds=1) as folders, pytest.raises(NodesUnreachableError, match="--no-sftp"):
        folders.check()


def test_what_a_login_script_prints_is_garbage_to_sftp(bench: Bench, sshd: Sshd) -> None:
    sshd.force(f"echo Welcome to the cluster!; exec /usr/bin/python3 -I {bench.there}/.node/current/submit.pyz")
    with bench.folders() as folders:
        for _ in range(30):  # more than there may be sessions at once
            with pytest.raises(NodesUnreachableError, match="gives no SFTP"):
                folders.check()


def test_a_server_that_is_away_is_not_reached(bench: Bench, sshd: Sshd) -> None:
    sshd.stop()
    with bench.folders() as folders, pytest.raises(NodesUnreachableError) as caught:
        folders.check()
    assert caught.value.visitor_message == "The cluster's files cannot be reached at the moment."


def test_check_says_where_things_go(bench: Bench) -> None:
    with bench.folders() as folders:
        assert str(bench.there) in folders.check()


# Tidying up


def test_a_copy_is_removed_with_whatever_the_job_left_and_no_other(bench: Bench) -> None:
    other = bench.there / "job-bcdfghjk"
    (other / "attempts" / "1" / "work").mkdir(parents=True)
    with bench.folders() as folders:
        (bench.job.inputs / "query").write_text("x")
        bench.send(folders)
        bench.begin()
        deep = bench.work_there
        for _ in range(300):
            deep = deep / "d"
        deep.mkdir(parents=True)
        (bench.work_there / "closed").mkdir(mode=0)
        (bench.work_there / "link").symlink_to(other)
        folders.remove(bench.job)
        assert not (bench.there / bench.job.path.name).exists()
        folders.remove(bench.job)
    assert (other / "attempts" / "1" / "work").is_dir()


@pytest.fixture
def portal() -> Iterator[Portal]:
    with opened_portal() as portal:
        yield portal


def test_copies_of_jobs_that_ended_long_ago_go_and_all_others_stay(bench: Bench, portal: Portal) -> None:
    """By the portal's own clock, whatever the node said of the time."""
    old, recent, active = (portal.submit() for _ in range(3))
    stranger = "zzzzzzzz"
    for job_id in (old, recent, active, stranger):
        (bench.there / f"job-{job_id}" / "attempts" / "1" / "work").mkdir(parents=True)
    for job_id, days in ((old, KEPT_DAYS + 1), (recent, KEPT_DAYS - 1)):
        with portal.database.writing() as session:
            job = session.get_one(Job, job_id)
            job.state = JobState.SUCCEEDED
            job.ended_at = portal.clock.now_utc() - timedelta(days=3000)
            session.query(JobEvent).filter_by(job_id=job_id).update(
                {"at": portal.clock.now_utc() - timedelta(days=days)}
            )
    with bench.folders() as folders:
        object.__setattr__(portal.dispatch, "nodes", folders)
        tidying = Tidying()
        assert [tidying.tidy(portal.dispatch) for _ in range(2)] == [1, 0]
    left = sorted(path.name for path in bench.there.glob("job-*"))
    assert left == sorted(f"job-{job_id}" for job_id in (recent, active, stranger))


def test_a_helper_that_is_missing_is_a_line_that_says_where_it_goes(bench: Bench, sshd: Sshd, tmp_path: Path) -> None:
    sshd.force("exec /usr/lib/openssh/sftp-server")
    (bench.there / ".node" / "current" / "submit.pyz").unlink()
    with (
        bench.folders() as folders,
        pytest.raises(SchedulerError, match=r"install .*/\.node/current/submit\.pyz first"),
    ):
        folders.check()
