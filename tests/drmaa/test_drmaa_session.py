"""The session over a library that is not there, breaks, hangs, or answers with each of DRMAA's errors."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from portal.errors import SchedulerError
from portal.schedulers.base import Deferred, InDoubt, Rejected
from portal.schedulers.drmaa_session import LIBRARY_VARIABLE, DrmaaSession, NoSuchJobError, Template

TEMPLATE = Template("portal-a-b-1", Path("/j/job.sh"), Path("/j/work"), Path("/j/work/scheduler.out"), "-r n")


class FakeTemplate:
    deleted = 0

    def delete(self) -> None:
        FakeTemplate.deleted += 1


class FakeLibrary:
    """What `drmaa` offers, with a failure for each call that is to have one."""

    def __init__(self) -> None:
        self.fail: dict[str, Callable[[], object]] = {}
        self.calls: list[str] = []
        self.drmsInfo = "SGE 8.1.9"
        self.version = "1.0"
        self.contact = "session=host1.17"
        self.template: FakeTemplate | None = None

    def Session(self) -> "FakeLibrary":
        return self

    def __call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fail:
            self.fail[name]()

    def initialize(self) -> None:
        self.__call("initialize")

    def exit(self) -> None:
        self.__call("exit")

    def createJobTemplate(self) -> FakeTemplate:
        self.template = FakeTemplate()
        return self.template

    def runJob(self, _template: FakeTemplate) -> str:
        self.__call("runJob")
        return "17"

    def control(self, _job: str, _action: str) -> None:
        self.__call("control")

    def jobStatus(self, _job: str) -> str:
        self.__call("jobStatus")
        return "running"


def error_of(name: str, words: str = "code 1: words") -> Callable[[], object]:
    """A failure with the error of that name, as `drmaa.errors` has them."""
    kinds: dict[str, type[BaseException]] = {"Exception": Exception, "StopIteration": StopIteration}
    kind = kinds.get(name) or type(name, (Exception,), {})

    def fail() -> object:
        raise kind(words)

    return fail


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    fake = FakeLibrary()
    module = ModuleType("drmaa")
    module.Session = fake.Session  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "drmaa", module)
    return fake


@pytest.fixture
def session(library: FakeLibrary) -> Iterator[DrmaaSession]:
    session = DrmaaSession()
    yield session
    session.close()


def test_a_job_goes_in_with_what_the_template_says(session: DrmaaSession, library: FakeLibrary) -> None:
    before = FakeTemplate.deleted
    assert session.submit(TEMPLATE) == "17"
    assert vars(library.template) == {
        "remoteCommand": "/j/job.sh",
        "jobName": "portal-a-b-1",
        "workingDirectory": "/j/work",
        "outputPath": ":/j/work/scheduler.out",
        "joinFiles": True,
        "nativeSpecification": "-r n",
    }
    assert FakeTemplate.deleted == before + 1
    assert session.system() == "SGE 8.1.9"
    assert library.calls.count("initialize") == 1


def test_which_library_it_is_and_whom_it_talks_to(
    session: DrmaaSession, library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRMAA_LIBRARY_PATH", "/opt/libdrmaa.so")
    assert session.origin() == "/opt/libdrmaa.so, DRMAA 1.0, contact 'session=host1.17'"


@pytest.mark.parametrize(
    ("name", "kind", "leaves"),
    [
        ("DeniedByDrmException", Rejected, False),
        ("InvalidAttributeValueException", Rejected, False),
        ("InvalidAttributeFormatException", Rejected, False),
        ("ConflictingAttributeValuesException", Rejected, False),
        ("InvalidArgumentException", Rejected, False),
        ("InvalidJobTemplateException", Rejected, False),
        ("UnsupportedAttributeException", Rejected, False),
        ("TryLaterException", Deferred, True),
        ("AuthorizationException", Deferred, True),
        ("NoActiveSessionException", Deferred, True),
        ("DrmCommunicationException", InDoubt, True),
        ("InternalException", InDoubt, True),
        ("OutOfMemoryException", InDoubt, True),
        ("DrmaaException", InDoubt, True),
        ("Exception", InDoubt, True),
        ("StopIteration", InDoubt, True),
        ("UnicodeDecodeErrorOrAnything", InDoubt, True),
    ],
)
def test_what_each_error_of_a_submission_means(
    session: DrmaaSession, library: FakeLibrary, name: str, kind: type[Rejected | Deferred | InDoubt], leaves: bool
) -> None:
    library.fail["runJob"] = error_of(name)
    answer = session.submit(TEMPLATE)
    assert answer == kind("words")
    assert ("exit" in library.calls) is leaves
    library.fail.clear()
    assert session.submit(TEMPLATE) == "17"
    assert library.calls.count("initialize") == (2 if leaves else 1)


@pytest.mark.parametrize(
    "words",
    [
        "code 17: job rejected: only 2 jobs are allowed per user (current job count: 7)",
        "code 17: job rejected: only 2 jobs are allowed per cluster",
    ],
)
def test_a_limit_passes(session: DrmaaSession, library: FakeLibrary, words: str) -> None:
    library.fail["runJob"] = error_of("DeniedByDrmException", words)
    assert isinstance(session.submit(TEMPLATE), Deferred)


def test_nothing_went_in_where_no_session_could_be_opened(session: DrmaaSession, library: FakeLibrary) -> None:
    library.fail["initialize"] = error_of("DrmCommunicationException")
    assert isinstance(session.submit(TEMPLATE), Deferred)
    assert "runJob" not in library.calls


def test_a_template_that_cannot_be_freed_takes_no_job_back(
    session: DrmaaSession, library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeTemplate, "delete", lambda _self: error_of("InternalException")())
    assert session.submit(TEMPLATE) == "17"


@pytest.mark.parametrize("error", [RuntimeError, OSError, AttributeError, ImportError])
def test_a_library_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name == "drmaa":
                raise error("no such thing")

    monkeypatch.delitem(sys.modules, "drmaa", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    monkeypatch.setenv(LIBRARY_VARIABLE, "/before")
    session = DrmaaSession(Path("/opt/libdrmaa.so"))
    with pytest.raises(SchedulerError, match=r"scheduler\.drmaa\.library: /opt/libdrmaa\.so: no such thing"):
        session.system()
    assert os.environ[LIBRARY_VARIABLE] == "/opt/libdrmaa.so"
    assert isinstance(session.submit(TEMPLATE), Deferred)
    session.close()


def test_an_unknown_job_is_no_outage(session: DrmaaSession, library: FakeLibrary) -> None:
    for verb in ("control", "jobStatus"):
        library.fail[verb] = error_of("InvalidJobException")
    for ask in (session.terminate, session.status):
        with pytest.raises(NoSuchJobError):
            ask("17")
    assert "exit" not in library.calls


@pytest.mark.parametrize("name", ["DrmCommunicationException", "Exception", "StopIteration"])
def test_an_outage_has_the_session_opened_anew(session: DrmaaSession, library: FakeLibrary, name: str) -> None:
    library.fail["control"] = error_of(name)
    with pytest.raises(SchedulerError, match="words"):
        session.terminate("17")
    library.fail.clear()
    session.terminate("17")
    assert library.calls == ["initialize", "control", "exit", "initialize", "control"]


def test_a_session_that_could_not_be_left_is_gone_on_with(session: DrmaaSession, library: FakeLibrary) -> None:
    library.fail = {"exit": error_of("DrmsExitException"), "control": error_of("DrmCommunicationException")}
    with pytest.raises(SchedulerError):
        session.terminate("17")
    library.fail = {"initialize": error_of("AlreadyActiveSessionException")}
    assert session.submit(TEMPLATE) == "17"


def test_leaving_may_fail(library: FakeLibrary) -> None:
    session = DrmaaSession()
    library.fail["exit"] = error_of("DrmsExitException")
    assert session.status("17") == "running"
    session.close()
    session.close()
    assert library.calls.count("exit") == 1


def test_a_call_that_hangs_holds_nobody_up(library: FakeLibrary) -> None:
    go_on = threading.Event()
    library.fail["runJob"] = go_on.wait
    session = DrmaaSession(call_seconds=0.05)
    assert isinstance(session.submit(TEMPLATE), InDoubt)
    assert isinstance(session.submit(TEMPLATE), Deferred)
    with pytest.raises(SchedulerError, match="hangs"):
        session.status("17")
    assert library.calls == ["initialize", "runJob"]
    go_on.set()
    session = DrmaaSession()
    assert session.submit(TEMPLATE) == "17"
    session.close()
