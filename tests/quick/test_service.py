"""Accepting a job: durable steps in a fixed order, nothing half-made after a failure, one job for one form."""

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

import portal.jobs.acceptance as acceptance_module
import portal.jobs.changes as changes_module
import portal.jobs.directory as directory_module
import portal.jobs.job_config as job_config_module
from portal.applications.parameters import TextParameter
from portal.applications.values import RefusedValueError, Upload
from portal.clock import utc_text
from portal.database import Database
from portal.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    StorageError,
    TooManyRequestsError,
)
from portal.jobs.acceptance import Submission
from portal.jobs.access import Viewer
from portal.jobs.changes import read_changes
from portal.jobs.directory import JobsFolder, make_folder, user_folder_name
from portal.jobs.ids import ALPHABET, is_job_id, new_job_id
from portal.jobs.job_config import JobConfig, parse_sections, read_job_config, render_sections, write_job_config
from portal.jobs.keys import Keys, Purpose
from portal.jobs.models import Job
from portal.jobs.service import JobService
from portal.jobs.states import JobState
from portal.node.durable import write_durably
from portal.people.sessions import session_id_of
from portal.settings import LimitsSection
from tests.portal_parts import ANN, Portal, make_service, opened_portal

TOKEN = "t" * 32
FULL = OSError(errno.ENOSPC, "No space left on device")
HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "a\\nb \\ c",
    "100% of [it] = #1 ; rem",
    "[settings] token = x",
    "= = =",
    "# not a comment",
    "%(email)s ${HOME} {{ 7 * 7 }} {% raw %}",
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "-rf /",
    "ÄÖÜ 🧬 \u200b \u3000 ж",
    "'" * 50,
    "x" * 1000,
]


@pytest.fixture
def portal() -> Iterator[Portal]:
    with opened_portal() as portal:
        yield portal


def with_files(**inputs: object) -> Submission:
    values = {"x": "8", "sequence": "ACGT\n", "query": Upload("q.fa", b">q\nACGT\n"), **inputs}
    return Submission("any_inputs", values, "Ann@Example.org", token=TOKEN)


def division(x: str = "8", y: str = "2", token: str = TOKEN, email: str = ANN, **more: Any) -> Submission:
    return Submission("slow_div", {"x": x, "y": y}, email, token=token, **more)


# What is made


def test_an_accepted_job_stands_on_disk_as_the_design_has_it(portal: Portal) -> None:
    accepted = portal.jobs.submit(with_files())
    directory = portal.directory(accepted.job_id)
    sections = parse_sections(directory.config.read_text("utf-8"))
    assert sections == {
        "settings": {
            "job_id": accepted.job_id,
            "job_dirname": f"job-{accepted.job_id}",
            "email": "Ann@example.org",
            "owner": ANN,
            "results_url": f"https://portal.example.org/jobs/{accepted.job_id}",
            "application": "any_inputs",
            "token": TOKEN,
            "created_at": "2026-11-24T06:00:00.123456Z",
        },
        "inputs": {"x": "8", "sequence": "inputs/sequence", "query": "inputs/query"},
        "resources": sections["resources"],
        "filenames": {"query": "q.fa"},
    }
    assert (directory.inputs / "sequence").read_bytes() == b"ACGT\n"
    assert (directory.inputs / "query").read_bytes() == b">q\nACGT\n"
    link = portal.folder.root / f"user-{ANN}" / f"job-{accepted.job_id}"
    assert (link.readlink(), link.resolve()) == (Path(f"../job-{accepted.job_id}"), directory.path)
    assert sorted(path.name for path in directory.path.iterdir()) == ["config.ini", "inputs"]
    assert portal.job(accepted.job_id).created_at == portal.clock.now_utc()
    assert is_job_id(accepted.job_id)


def test_the_steps_come_in_their_order(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is interrupted: with `config.ini` it is a job, and nobody has heard of it before that."""
    steps: list[str] = []

    def note(owner: Any, name: str, step: str) -> None:
        original = getattr(owner, name)

        def noting(*args: Any, **more: Any) -> Any:
            steps.append(step)
            return original(*args, **more)

        monkeypatch.setattr(owner, name, noting)

    note(JobsFolder, "claim_new_job", "mkdir")
    note(acceptance_module, "write_input_files", "inputs")
    note(acceptance_module, "write_job_config", "config.ini")
    note(JobsFolder, "link_for_owner", "link")
    note(Session, "commit", "commit")
    portal.jobs.submit(with_files())
    assert steps == ["mkdir", "inputs", "config.ini", "link", "commit"]


@pytest.mark.parametrize("umask", [0o077, 0o000])
def test_modes_do_not_depend_on_the_umask(umask: int) -> None:
    before = os.umask(umask)
    try:
        with opened_portal() as portal:
            job_id = portal.jobs.submit(with_files()).job_id
            portal.turn()
            portal.start_program(job_id)
            portal.ask_cancel(job_id)
            portal.end_program(job_id)
            portal.see(job_id, portal.scheduler.jobs.popitem()[1].state)
            modes = _modes(portal, job_id)
    finally:
        os.umask(before)
    job = f"job-{job_id}"
    assert modes == {
        ".": 0o2750,
        f"user-{ANN}": 0o2750,
        job: 0o2750,
        f"{job}/config.ini": 0o640,
        f"{job}/job.json": 0o640,
        f"{job}/inputs": 0o2750,
        f"{job}/inputs/query": 0o640,
        f"{job}/inputs/sequence": 0o640,
        f"{job}/attempts": 0o2750,
        f"{job}/attempts/1": 0o2750,
        f"{job}/attempts/1/config.ini": 0o640,
        f"{job}/attempts/1/program.sh": 0o640,
        f"{job}/attempts/1/job.sh": 0o750,
        f"{job}/attempts/1/submission.json": 0o640,
        f"{job}/attempts/1/work": 0o2770,
    }


def _modes(portal: Portal, job_id: str) -> dict[str, int]:
    """The modes of all that the portal itself made."""
    root = portal.folder.root
    paths = [root, root / f"user-{ANN}", portal.directory(job_id).path, *portal.directory(job_id).path.rglob("*")]
    return {
        str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode) for path in paths if path.parent.name != "work"
    }


def test_markers_are_readable_for_the_group_whatever_the_umask(portal: Portal) -> None:
    before = os.umask(0o077)
    try:
        job_id = portal.submit()
        portal.ask_cancel(job_id)
        portal.turn()
    finally:
        os.umask(before)
    assert stat.S_IMODE((portal.directory(job_id).path / "ERROR").stat().st_mode) == 0o640


def test_a_folder_whose_maker_died_before_its_mode_was_set_gets_it(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir(mode=0o700)
    make_folder(tmp_path / "work", 0o2770)
    assert stat.S_IMODE((tmp_path / "work").stat().st_mode) == 0o2770


# What fails


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_args: object, **_more: object) -> Any:
        raise error

    return fail


def fails_only_for(name: str) -> Callable[..., Any]:
    def write(path: Any, *rest: Any, **more: Any) -> Any:
        if Path(path).name == name:
            raise FULL
        return write_durably(path, *rest, **more)

    return write


FAILURES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "mkdir": lambda patch: patch.setattr(Path, "mkdir", raising(FULL)),
    "chmod": lambda patch: patch.setattr(Path, "chmod", raising(FULL)),
    "the folder's own sync": lambda patch: patch.setattr(directory_module, "fsync_folder", raising(FULL)),
    "an input file": lambda patch: patch.setattr(acceptance_module, "write_durably", fails_only_for("query")),
    "config.ini": lambda patch: patch.setattr(job_config_module, "write_durably", fails_only_for("config.ini")),
    "a value that cannot be kept": lambda patch: patch.setattr(
        job_config_module, "render_sections", raising(ValueError("no"))
    ),
    "the link": lambda patch: patch.setattr(Path, "symlink_to", raising(FULL)),
    "the rows": lambda patch: patch.setattr(acceptance_module, "insert_job", raising(StorageError("away"))),
}


@pytest.mark.parametrize("step", FAILURES)
def test_a_step_that_fails_leaves_nothing_half_made(portal: Portal, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        FAILURES[step](patch)
        with pytest.raises(StorageError) as caught:
            portal.jobs.submit(with_files())
    assert "/" not in caught.value.visitor_message
    assert (portal.job_folders(), portal.job_count()) == ([], 0)
    accepted = portal.jobs.submit(with_files())
    assert not accepted.repeated


def test_the_rows_that_fail_are_certain_even_where_the_database_is_away(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was sent to be committed: there is no doubt, and no need to ask a database that does not answer."""
    writing = Database.writing
    calls: list[int] = []

    def away(database: Database) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise StorageError("away")
        return writing(database)

    monkeypatch.setattr(Database, "writing", away)
    monkeypatch.setattr(acceptance_module, "insert_job", raising(StorageError("away")))
    with pytest.raises(StorageError):
        portal.jobs.submit(with_files())
    assert portal.job_folders() == []


def commit_fails(*, is_stored: bool, times: int) -> Callable[[Session], None]:
    """A commit whose answer is an error; `is_stored` says what it did all the same."""
    original = Session.commit
    left = [times]

    def commit(session: Session) -> None:
        if left[0]:
            left[0] -= 1
            if is_stored:
                original(session)
            raise OperationalError("COMMIT", {}, Exception("disk I/O error"))
        original(session)

    return commit


def test_a_commit_that_certainly_failed_leaves_nothing(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Session, "commit", commit_fails(is_stored=False, times=1))
        with pytest.raises(StorageError):
            portal.jobs.submit(with_files())
    assert (portal.job_folders(), portal.job_count()) == ([], 0)


@pytest.mark.parametrize(("is_stored", "times"), [(True, 1), (True, 2), (False, 9)])
def test_where_it_is_unknown_whether_it_was_stored_the_directory_stays(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, is_stored: bool, times: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Session, "commit", commit_fails(is_stored=is_stored, times=times))
        with pytest.raises(StorageError):
            portal.jobs.submit(with_files())
    [job_id] = portal.folder.job_ids()
    assert portal.directory(job_id).config.exists()
    again = portal.jobs.submit(with_files())
    assert again.repeated is is_stored
    portal.make_old(job_id, seconds=3600)
    portal.adoption.adopt_orphans(600)
    assert portal.job_count() == 1
    assert list(portal.folder.job_ids()) == [again.job_id]


def test_an_error_of_ours_while_it_writes_leaves_nothing(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(acceptance_module, "write_job_config", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            portal.jobs.submit(with_files())
    assert portal.job_folders() == []


def test_what_cannot_even_be_removed_is_no_job(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    """`config.ini` goes first, so that nobody adopts what is left."""
    with monkeypatch.context() as patch:
        patch.setattr(JobsFolder, "link_for_owner", raising(FULL))
        patch.setattr(shutil, "rmtree", raising(FULL))
        with pytest.raises(StorageError):
            portal.jobs.submit(with_files())
    [job_id] = portal.folder.job_ids()
    assert not portal.directory(job_id).config.exists()


def test_a_folder_that_goes_away_while_a_link_is_put_into_it_is_made_again(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = directory_module.make_folder
    calls: list[int] = []

    def make_and_lose(folder: Path, mode: int) -> None:
        original(folder, mode)
        calls.append(1)
        if len(calls) == 1:
            folder.rmdir()  # as another submission of this person does that is taken back

    monkeypatch.setattr(directory_module, "make_folder", make_and_lose)
    portal.folder.link_for_owner(ANN, "bcdfghjk")
    assert (portal.folder.root / f"user-{ANN}" / "job-bcdfghjk").is_symlink()


# Ids


def test_an_id_that_is_taken_is_not_used_again(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    first = portal.submit()
    ids = iter([first, first, "bcdfghjk"])
    monkeypatch.setattr(directory_module, "new_job_id", lambda: next(ids))
    assert portal.submit(owner="ben@example.org") == "bcdfghjk"
    assert portal.job(first).owner == ANN


def test_when_all_ids_are_taken_it_says_so(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    first = portal.submit()
    monkeypatch.setattr(directory_module, "new_job_id", lambda: first)
    with pytest.raises(StorageError, match="No free job id"):
        portal.submit(owner="ben@example.org")


def test_ids_are_eight_consonants() -> None:
    assert all(len(job_id) == 8 and set(job_id) <= set(ALPHABET) for job_id in (new_job_id() for _ in range(200)))
    for text in ("", "bcdfghj", "bcdfghjkm", "bcdfghja", "BCDFGHJK", "bcdfghj\n", "../bcdfg", "bcdfghjk\n"):
        assert not is_job_id(text), text
    with pytest.raises(ValueError, match="not a job id"):
        JobsFolder(Path("/nowhere")).job("../../etc")


# The same form twice


def test_the_same_form_sent_again_is_the_same_job(portal: Portal) -> None:
    first = portal.jobs.submit(with_files())
    again = portal.jobs.submit(with_files())
    assert (again.job_id, again.repeated) == (first.job_id, True)
    assert (portal.job_count(), len(list(portal.folder.job_ids()))) == (1, 1)


@pytest.mark.parametrize("other", [{"x": "9"}, {"sequence": "ACGA\n"}, {"query": Upload("q.fa", b"other")}])
def test_the_same_form_with_other_contents_is_another_job_and_that_only_once(
    portal: Portal, other: dict[str, object]
) -> None:
    first = portal.jobs.submit(with_files())
    second = portal.jobs.submit(with_files(**other))
    assert (second.repeated, second.job_id != first.job_id) == (False, True)
    assert portal.jobs.submit(with_files(**other)).job_id == second.job_id
    assert portal.jobs.submit(with_files()).job_id == first.job_id
    assert portal.job_count() == 2


def test_somebody_elses_form_with_the_same_token_is_another_job(portal: Portal) -> None:
    first = portal.jobs.submit(division())
    assert portal.jobs.submit(division(email="ben@example.org")).job_id != first.job_id


def test_an_idempotency_key_with_other_contents_is_refused(portal: Portal) -> None:
    portal.jobs.submit(division(token_is_strict=True))
    with pytest.raises(ConflictError, match="Idempotency-Key"):
        portal.jobs.submit(division(x="9", token_is_strict=True))
    assert portal.jobs.submit(division(token_is_strict=True)).repeated
    assert portal.job_count() == 1


def test_a_form_sent_by_eight_threads_at_once_is_one_job(portal: Portal) -> None:
    barrier = threading.Barrier(8)
    accepted: list[str] = []
    errors: list[BaseException] = []

    def send() -> None:
        try:
            barrier.wait()
            accepted.append(portal.jobs.submit(with_files()).job_id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (len(accepted), len(set(accepted)), portal.job_count()) == (8, 1, 1)
    assert portal.job_folders() == [f"job-{accepted[0]}", f"user-{ANN}"]


def test_a_form_sent_by_two_processes_at_once_is_one_job(portal: Portal) -> None:
    go_read, go_write = os.pipe()
    answer_read, answer_write = os.pipe()
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            _send_in_child(portal, go_read, answer_write)
        children.append(child)
    os.write(go_write, b"go")
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    answers = os.read(answer_read, 100).decode().split()
    for descriptor in (go_read, go_write, answer_read, answer_write):
        os.close(descriptor)
    assert codes == [0, 0]
    assert (len(answers), len(set(answers)), portal.job_count()) == (2, 1, 1)
    assert list(portal.folder.job_ids()) == [answers[0]]


def _send_in_child(portal: Portal, go: int, answer: int) -> None:
    code = 1
    try:
        database = Database(portal.settings.portal.database_url)
        catalog: Any = portal.shelf
        service = make_service(database, JobsFolder(portal.folder.root), catalog, portal.keys, portal.clock, "http://h")
        os.read(go, 1)
        os.write(answer, f"{service.submit(with_files()).job_id} ".encode())
        code = 0
    finally:
        os._exit(code)


# Hostile values


@pytest.mark.parametrize("text", HOSTILE)
def test_what_was_typed_stands_in_the_config_as_it_was_typed(portal: Portal, text: str) -> None:
    job_id = portal.jobs.submit(Submission("any_inputs", {"x": text}, ANN)).job_id
    config = read_job_config(portal.directory(job_id).config)
    assert config.inputs == {"x": text}
    assert f"\nx = {text}\n" in portal.directory(job_id).config.read_text("utf-8")
    [row] = portal.record(job_id).inputs
    assert row.text == text


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\0b", "a\x85b", "a\u2028b", "a\ud800b", "a\x1bb", "a\u202eb"])
def test_what_could_end_a_line_is_refused(portal: Portal, text: str) -> None:
    with pytest.raises(InvalidInputError):
        portal.jobs.submit(Submission("any_inputs", {"x": text}, ANN))
    assert portal.job_folders() == []


def test_all_mistakes_are_told_at_once_and_nothing_is_made(portal: Portal) -> None:
    with pytest.raises(InvalidInputError) as caught:
        portal.jobs.submit(Submission("slow_div", {"x": "eight", "z": "1"}, "nobody"))
    assert set(caught.value.field_errors) == {"x", "y", "z", "email"}
    with pytest.raises(NotFoundError):
        portal.jobs.submit(Submission("no_such", {}, ANN))
    assert portal.job_folders() == []


TEXT = TextParameter(type="text", name="x", label="X", allow_leading_dash=True)


@st.composite
def canonical_lines(draw: st.DrawFn) -> str:
    """Any text that the check of a text parameter lets through, in its canonical form."""
    raw = draw(st.text(max_size=40) | st.text(alphabet="=[]#;% \t'\"\\:\u00a0\u200b\u3000", max_size=20))
    try:
        value = TEXT.parse(raw)
    except RefusedValueError:
        return "x"
    return value.text if value else "x"


names = st.from_regex("[a-z][a-z0-9_]{0,20}", fullmatch=True)


@given(
    inputs=st.dictionaries(names, canonical_lines(), max_size=5),
    filenames=st.dictionaries(names, canonical_lines(), max_size=2),
    created_at=st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1)),  # noqa: DTZ001
)
def test_a_config_reads_back_as_it_was_written(
    inputs: dict[str, str], filenames: dict[str, str], created_at: datetime
) -> None:
    config = JobConfig(
        job_id="bcdfghjk",
        email="Ann@example.org",
        owner=ANN,
        results_url="https://portal.example.org/jobs/bcdfghjk",
        application="any_inputs",
        token=TOKEN,
        created_at=created_at.replace(tzinfo=UTC),
        session_id="s",
        inputs=inputs,
        filenames=filenames,
        resources={"cpus": "1"},
    )
    text = render_sections(config.sections()).decode("utf-8")
    assert parse_sections(text) == config.sections()


def test_a_config_in_a_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    config = JobConfig(
        "bcdfghjk", ANN, ANN, "https://h", "slow_div", TOKEN, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    )
    write_job_config(tmp_path / "config.ini", config)
    assert read_job_config(tmp_path / "config.ini") == config


@pytest.mark.parametrize("value", ["a\nb", " a", "a ", "a\r\nb", "\ud800"])
def test_a_value_that_would_not_read_back_is_not_written(tmp_path: Path, value: str) -> None:
    config = JobConfig("bcdfghjk", ANN, ANN, "https://h", "slow_div", TOKEN, datetime.now(UTC), inputs={"x": value})
    with pytest.raises(StorageError):
        write_job_config(tmp_path / "config.ini", config)
    assert list(tmp_path.iterdir()) == []


# Folders of people


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("ann@example.org", "user-ann@example.org"),
        ("Ann.O+tag_1-2@Example.ORG", "user-ann.o+tag_1-2@example.org"),
        ("o'neil/../x@example.org", "user-o%27neil%2F..%2Fx@example.org"),
        ("jürgen@example.org", "user-j%C3%BCrgen@example.org"),
        ("a%b@example.org", "user-a%25b@example.org"),
    ],
)
def test_a_persons_folder_is_named_by_the_address(owner: str, name: str) -> None:
    assert user_folder_name(owner) == name


def test_a_long_address_has_a_folder_of_its_own_and_of_bounded_length() -> None:
    names = {user_folder_name("ü" * 60 + f"{number}@example.org") for number in range(3)}
    assert len(names) == 3
    assert all(len(name) <= 255 for name in names)


# Cancelling, and who may see


def test_cancelling_is_asked_for_once(portal: Portal) -> None:
    job_id = portal.jobs.submit(division(session_id=session_id_of("k"))).job_id
    viewer = Viewer(session_id=session_id_of("k"))
    first = portal.jobs.ask_cancel(viewer, job_id).job
    asked_at = portal.clock.now_utc()
    portal.clock.advance(5)
    again = portal.jobs.ask_cancel(viewer, job_id).job
    assert (first.cancel_asked_at, again.cancel_asked_at, again.version) == (asked_at, asked_at, first.version)
    assert read_changes(portal.directory(job_id))["cancel_asked_by"] == ANN
    wishes = [change for change in portal.changes(job_id) if change[2] == "wish"]
    assert wishes == [("accepted", "accepted", "wish", ANN)]
    portal.turn()
    assert portal.state(job_id) is JobState.CANCELLED
    with pytest.raises(ConflictError):
        portal.jobs.ask_cancel(viewer, job_id)


def test_a_wish_that_cannot_be_written_to_disk_is_not_promised(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = portal.submit()
    monkeypatch.setattr(changes_module, "note_cancel_wish", raising(FULL))
    with pytest.raises(StorageError):
        portal.ask_cancel(job_id)
    assert portal.job(job_id).cancel_asked_at is None


KEYS = Keys(b"s" * 32)


def a_job(generation: int = 1) -> Job:
    return Job(job_id="bcdfghjk", owner=ANN, session_id="s1", key_generation=generation)


OWNER_KEY = KEYS.key(Purpose.OWNER, "bcdfghjk", 1)
VIEW_KEY = KEYS.key(Purpose.VIEW, "bcdfghjk", 1)
OTHERS_KEY = KEYS.key(Purpose.OWNER, "bcdfghjm", 1)


@pytest.mark.parametrize(
    ("viewer", "may_view", "may_change"),
    [
        (Viewer(), False, False),
        (Viewer(session_id="s1"), True, True),
        (Viewer(session_id="s2"), False, False),
        (Viewer(viewed={"bcdfghjk": 1}), True, False),
        (Viewer(viewed={"bcdfghjk": 0}), False, False),
        (Viewer(viewed={"bcdfghjk": 2}), False, False),
        (Viewer(viewed={"bcdfghjm": 1}), False, False),
        (Viewer(owner_key=OWNER_KEY), True, True),
        (Viewer(owner_key=VIEW_KEY), False, False),
        (Viewer(owner_key=OTHERS_KEY), False, False),
        (Viewer(owner_key=""), False, False),
        (Viewer(owner_key="ü"), False, False),
        (Viewer(is_administrator=True), True, True),
    ],
    ids=str,
)
def test_who_may_see_and_who_may_change(viewer: Viewer, may_view: bool, may_change: bool) -> None:
    assert (viewer.may_view(a_job(), KEYS), viewer.may_change(a_job(), KEYS)) == (may_view, may_change)


def test_a_job_without_a_session_is_nobodys_without_one() -> None:
    job = Job(job_id="bcdfghjk", owner=ANN, session_id=None, key_generation=1)
    assert not Viewer(session_id=None).may_view(job, KEYS)


def test_raising_the_generation_withdraws_all_keys() -> None:
    assert not Viewer(owner_key=OWNER_KEY).may_view(a_job(generation=2), KEYS)
    assert not Viewer(viewed={"bcdfghjk": 1}).may_view(a_job(generation=2), KEYS)


def test_who_may_look_may_not_cancel_and_others_hear_nothing(portal: Portal) -> None:
    job_id = portal.submit()
    with pytest.raises(ForbiddenError):
        portal.jobs.ask_cancel(Viewer(viewed={job_id: 1}), job_id)
    messages = set()
    for unknown in (job_id, "bcdfghjk", "../etc", ""):
        with pytest.raises(NotFoundError) as caught:
            portal.jobs.record_for(Viewer(), unknown)
        messages.add(caught.value.visitor_message)
    assert len(messages) == 1


def test_the_newest_come_first_even_within_one_second(portal: Portal) -> None:
    ids = []
    for _ in range(6):
        ids.append(portal.submit())
        portal.clock.advance(0.01)
    assert [record.job.job_id for record in portal.jobs.newest(4)] == ids[::-1][:4]


def limited(portal: Portal, **limits: int) -> JobService:
    catalog: Any = portal.shelf
    return make_service(
        portal.database, portal.folder, catalog, portal.keys, portal.clock, "http://here", LimitsSection(**limits)
    )


def test_a_person_has_so_many_jobs_at_a_time(portal: Portal) -> None:
    service = limited(portal, active_jobs_per_person=2)
    first = service.submit(division(token="00000000000000000000000000000001"))
    service.submit(division(token="00000000000000000000000000000002"))
    with pytest.raises(TooManyRequestsError, match=f"{ANN} has 2 jobs that wait or run, and 2 at a time are allowed"):
        service.submit(division(token="00000000000000000000000000000003"))
    service.submit(division(token="00000000000000000000000000000004", email="bea@example.org"))
    service.submit(division(token="00000000000000000000000000000005", is_limited=False))
    with portal.database.writing() as session:
        session.get_one(Job, first.job_id).state = JobState.CANCELLED
    with pytest.raises(TooManyRequestsError):  # the administrator's own has taken the place
        service.submit(division(token="00000000000000000000000000000006"))
    assert portal.job_count() == 4


def test_a_person_sends_in_so_many_jobs_an_hour(portal: Portal) -> None:
    service = limited(portal, jobs_per_hour_per_person=2)
    begin = portal.clock.now_utc()
    service.submit(division(token="00000000000000000000000000000007"))
    portal.clock.advance(600)
    token = "0123456789abcdef"
    service.submit(division(token=token))
    free_again = utc_text(begin + timedelta(hours=1))
    with pytest.raises(TooManyRequestsError, match=f"can go in from {free_again} on"):
        service.submit(division(token="00000000000000000000000000000008"))
    assert service.submit(division(token=token)).repeated, "what was accepted is never refused afterwards"
    portal.clock.advance(3000.5)
    service.submit(division(token="00000000000000000000000000000009"))
    assert len(list(portal.folder.job_ids())) == 3
