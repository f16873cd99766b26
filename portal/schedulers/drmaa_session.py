"""The one DRMAA session of this process: opened at the first call, opened anew after an outage, closed at the end.

PyPI's `drmaa` loads the library as it is imported, so it is imported as late as that. What a failed call means is told
by the type of its error alone, and the rest of the portal never sees one of DRMAA's exceptions.

Types: the error codes of DRMAA 1.0 (GFD.133, section 3.3). Code 24 comes as a plain `Exception` and code 25 as
`StopIteration`, and a text that is no UTF-8 as `UnicodeDecodeError`; so everything is caught, and what is not in the
tables below is "it cannot be told".
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import structlog

from portal.errors import SchedulerError
from portal.schedulers.base import Deferred, InDoubt, Rejected
from portal.schedulers.commands import NO_ANSWER
from portal.schedulers.drmaa_thread import BusyError, LibraryThread, StuckError

log = structlog.get_logger()

T = TypeVar("T")

LIBRARY_VARIABLE = "DRMAA_LIBRARY_PATH"
CALL_SECONDS = 30.0
"""How long a call may take. Grid Engine's answer in a millisecond, slurm-drmaa's fail after 8 s at an outage."""

_REFUSED = frozenset(
    {
        "ConflictingAttributeValuesException",
        "DeniedByDrmException",
        "InvalidArgumentException",
        "InvalidAttributeFormatException",
        "InvalidAttributeValueException",
        "InvalidJobTemplateException",
        "UnsupportedAttributeException",
    }
)
"""The system, or its library, looked at the job and does not take it."""
_PUT_OFF = frozenset({"AuthorizationException", "NoActiveSessionException", "TryLaterException"})
"""The job was not looked at: an administrator has to do something, or time to pass."""
_NO_SUCH_JOB = frozenset({"InvalidJobException"})
_LIMIT_WORDS = ("jobs are allowed", "number of jobs", "too many", "limit")
"""In the words of a refusal they mean that the same job will be taken later. All calls are made by one thread, so the
words are this refusal's own."""


@dataclass(frozen=True)
class Template:
    """One job for the library: a script without arguments."""

    name: str
    script: Path
    working_dir: Path
    output: Path
    """Where what the script itself writes goes, both streams; absolute."""
    native_specification: str


class NoSuchJobError(Exception):
    """The session, or the system, does not know this id. It says nothing about how the job ended."""


class DrmaaSession:
    """The session, from any thread; each call takes at most `call_seconds`."""

    def __init__(self, library: Path | None = None, call_seconds: float = CALL_SECONDS) -> None:
        self._library = library
        self._thread = LibraryThread(call_seconds)
        self._drmaa: ModuleType | None = None
        self._session: Any = None

    def system(self) -> str:
        """The name and version of the system behind the library, such as `SGE 8.1.9`. Raises SchedulerError."""
        return str(self._ask(lambda: self._open().drmsInfo))

    def origin(self) -> str:
        """Which library it is, and whom it talks to, for an administrator. Raises SchedulerError."""
        return str(self._ask(self._describe))

    def submit(self, template: Template) -> str | Rejected | Deferred | InDoubt:
        """Hand it in: the job's id, or why not. Never raises for what befell the job."""
        try:
            return str(self._thread.call(lambda: self._run_job(template)))
        except BusyError:
            return Deferred(NO_ANSWER)
        except Exception as error:  # see the head of this file
            return self._not_submitted(error)

    def terminate(self, scheduler_id: str) -> None:
        """Ask for the job's end. Raises NoSuchJobError, or SchedulerError where it was not heard."""
        self._ask(lambda: self._open().control(scheduler_id, "terminate"))

    def status(self, scheduler_id: str) -> str:
        """DRMAA's word for the job's state, such as `queued_active`. Raises NoSuchJobError or SchedulerError.

        It says whether the job is alive. How it ended is not to be taken from here: slurm-drmaa calls a job `done`
        that exited 4, and Grid Engine's library every one that ended.
        """
        return str(self._ask(lambda: self._open().jobStatus(scheduler_id)))

    def close(self) -> None:
        """Leave the session; harmless when called twice. The next call opens a new one."""
        try:
            self._thread.call(self._leave)
        except (StuckError, BusyError):
            log.warning("the DRMAA library hangs and cannot be closed")
        self._thread.close()

    def _ask(self, function: Callable[[], T]) -> T:
        try:
            return self._thread.call(function)
        except SchedulerError:
            raise
        except StuckError as error:
            raise SchedulerError(NO_ANSWER, log_detail="a call of the DRMAA library does not return") from error
        except BusyError as error:
            raise SchedulerError(NO_ANSWER, log_detail="an earlier call of the DRMAA library hangs") from error
        except Exception as error:
            if type(error).__name__ in _NO_SUCH_JOB:
                raise NoSuchJobError from error
            self._give_up_session()
            raise SchedulerError(NO_ANSWER, log_detail=f"DRMAA: {_words(error)}") from error

    def _open(self) -> Any:
        """The open session. In the thread. Raises SchedulerError where the library cannot be had."""
        if self._session is None:
            drmaa = self._import()
            session = drmaa.Session()
            try:
                session.initialize()
            except Exception as error:
                # One that could not be left: there is one a process, and this is its only user.
                if type(error).__name__ != "AlreadyActiveSessionException":
                    raise
            self._session = session
        return self._session

    def _describe(self) -> str:
        """In the thread."""
        session = self._open()
        library = os.environ.get(LIBRARY_VARIABLE, "the library that was found")
        return f"{library}, DRMAA {session.version}, contact {session.contact!r}"

    def _import(self) -> ModuleType:
        if self._drmaa is None:
            if self._library is not None:
                # What drmaa looks at; there is no argument for it.
                os.environ[LIBRARY_VARIABLE] = str(self._library)
            try:
                import drmaa
            except (ImportError, RuntimeError, OSError, AttributeError) as error:
                # No library named or found, none at that place or not loadable, and one that has nothing of DRMAA.
                detail = f"scheduler.drmaa.library: {os.environ.get(LIBRARY_VARIABLE, 'none')}: {_words(error)}"
                raise SchedulerError("The DRMAA library cannot be loaded.", log_detail=detail) from error
            self._drmaa = drmaa
        return self._drmaa

    def _run_job(self, template: Template) -> str:
        """In the thread. Raises SchedulerError where certainly nothing was handed in."""
        try:
            session = self._open()
            job = session.createJobTemplate()
        except SchedulerError:
            raise
        except Exception as error:
            raise SchedulerError(NO_ANSWER, log_detail=f"DRMAA: {_words(error)}") from error
        try:
            job.remoteCommand = str(template.script)
            job.jobName = template.name
            job.workingDirectory = str(template.working_dir)
            # The colon ends the name of a host, which is left out.
            job.outputPath = f":{template.output}"
            job.joinFiles = True
            job.nativeSpecification = template.native_specification
            return str(session.runJob(job))
        finally:
            self._free(job)

    def _free(self, job: Any) -> None:
        """It must not turn a job that went in into an error."""
        try:
            job.delete()
        except Exception as error:
            log.warning("a DRMAA job template cannot be freed", error=_words(error))

    def _not_submitted(self, error: Exception) -> Rejected | Deferred | InDoubt:
        if isinstance(error, StuckError):
            return InDoubt("the DRMAA library does not return")
        if isinstance(error, SchedulerError):
            self._give_up_session()
            return Deferred(str(error))
        name = type(error).__name__
        words = _words(error)
        if name in _REFUSED:
            is_limit = any(word in words.lower() for word in _LIMIT_WORDS)
            return Deferred(words) if is_limit else Rejected(words)
        self._give_up_session()
        return Deferred(words) if name in _PUT_OFF else InDoubt(words)

    def _give_up_session(self) -> None:
        """After an error that is not about one job: the next call opens a new session."""
        try:
            self._thread.call(self._leave)
        except (StuckError, BusyError):
            log.warning("the DRMAA library hangs")

    def _leave(self) -> None:
        """In the thread."""
        if self._session is None:
            return
        session, self._session = self._session, None
        try:
            session.exit()
        except Exception as error:  # it is left, whatever the library has to say about that
            log.info("leaving the DRMAA session failed", error=_words(error))


def _words(error: BaseException) -> str:
    """What the library said, in one line, without the number of its error."""
    text = " ".join(str(error).split())
    if text.startswith("code ") and ": " in text:
        text = text.partition(": ")[2]
    return (text or type(error).__name__)[:500]
