"""The helper that calls the scheduler's commands: as the jobs' account here, or on a cluster's login node.

    python3 -I jobs/.node/current/submit.pyz      one request as JSON on standard input, one answer on standard output

It may be the forced command of an SSH key, so it trusts nothing that it is sent: see `allowed_calls`. It needs
nothing but the standard library, ends by itself at the request's time-out, and says for each call how it ended.

    {"version": 1, "id": "…", "timeout_seconds": 60, "call_seconds": 30, "at_once": 4,
     "calls": [{"run": ["squeue", …]}, {"delete": "/…/work"},
               {"list": "/…/work", "first": ["output.txt", …], "without": ["claim", …]}],
     "jobs_dir": "/…"}                                                                     the last is optional
    {"version": 1, "id": "…", "answers": [{"exit_code": 0, "stdout": "…", "stderr": "…", "failure": null}, …]}
    {"version": 1, "id": "…", "error": "…"}                                               nothing was called

A call's `failure` is `refused`, `not_started` or `not_found` (it was certainly not made: it may not be, the time was
over, there is no such command here), `busy` (it was made and had certainly no effect: the controller takes no jobs at
the moment), `timed_out` (it was ended) or `too_long` (it wrote more than is read).
"""

import json
import os
import select
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence

from .allowed_calls import RefusedError, check_call, check_jobs_dir, work_folder
from .capped_process import GIVEN_UP, TIMED_OUT, run_capped
from .command_environment import environment_of_commands
from .deletion import empty_folder, open_below
from .listing import Listing, list_files

VERSION = 1
MOST_REQUEST_BYTES = 8 * 1024 * 1024
MOST_OUTPUT_BYTES = 32 * 1024 * 1024
"""Of one call: 100,000 jobs in the queue."""
MOST_CALLS = 10000
MOST_SECONDS = 3600.0
MOST_AT_ONCE = 8

REFUSED = "refused"
NOT_STARTED = "not_started"
NOT_FOUND = "not_found"
BUSY = "busy"

EXIT_BAD_REQUEST = 64
EXIT_CANNOT_WRITE = 74
_READ_SECONDS = 60.0

# What sbatch says when slurmctld has as many jobs as it may: it would try again for two minutes then.
_RETRYING = b"sleeping and retrying"

_SFTP_SERVERS = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/libexec/sftp-server",
    "/usr/lib/sftp-server",
)
_SFTP_NAMES = frozenset(("sftp", "internal-sftp", "sftp-server"))


class Request(NamedTuple):
    """A request that has the right form. What its calls ask for is not checked yet."""

    request_id: str
    timeout_seconds: float
    call_seconds: float
    at_once: int
    jobs_dir: Optional[str]
    calls: List[Dict[str, object]]


class Answer(NamedTuple):
    """How one call ended."""

    exit_code: Optional[int]
    stdout: str
    stderr: str
    failure: Optional[str]


class BadRequestError(Exception):
    """The request has not the right form; nothing was called."""


def main(argv: Sequence[str]) -> int:
    """Answer the request on standard input; the exit code is 0 where there is an answer to each call.

    Where SSH was asked for SFTP, this process becomes the host's SFTP server (not with `--no-sftp`).
    """
    program = os.path.realpath(argv[0])
    if "--no-sftp" not in argv[1:] and _asks_for_sftp(os.environ.get("SSH_ORIGINAL_COMMAND", "")):
        return _become_sftp_server()
    # jobs/.node/<version>/submit.pyz
    root = os.path.dirname(os.path.dirname(os.path.dirname(program)))
    request_id = ""
    try:
        request = parse_request(_read_request())
        request_id = request.request_id
        answers = answer_request(request, root, os.environ)
    except (BadRequestError, RefusedError) as error:
        _write({"version": VERSION, "id": request_id, "error": str(error)})
        return EXIT_BAD_REQUEST
    return _write({"version": VERSION, "id": request_id, "answers": [dict(answer._asdict()) for answer in answers]})


def answer_request(request: Request, root: str, environ: Mapping[str, str]) -> List[Answer]:
    """Make the calls that are allowed, in their order, `at_once` at a time; one answer each.

    `root` is the jobs folder that this helper belongs to. RefusedError, with nothing called, where the request names
    another one.
    """
    deadline = time.monotonic() + request.timeout_seconds
    jobs_dir = root if request.jobs_dir is None else check_jobs_dir(request.jobs_dir, root)
    caller = _Caller(jobs_dir, environment_of_commands(environ), request.call_seconds, deadline)
    with ThreadPoolExecutor(request.at_once) as pool:
        return list(pool.map(caller.answer, request.calls))


class _Caller:
    def __init__(self, jobs_dir: str, environ: Dict[str, str], call_seconds: float, deadline: float) -> None:
        self._jobs_dir = jobs_dir
        self._environ = environ
        self._call_seconds = call_seconds
        self._deadline = deadline

    def answer(self, call: Dict[str, object]) -> Answer:
        if time.monotonic() >= self._deadline:
            return _not_made(NOT_STARTED, "the time of the whole request was over")
        try:
            if set(call) == {"run"}:
                return self._run(check_call(_words(call["run"]), self._jobs_dir))
            if set(call) == {"delete"}:
                return self._delete(work_folder(_words([call["delete"]])[0], self._jobs_dir))
            if set(call) == {"list", "first", "without"}:
                folder = work_folder(_words([call["list"]])[0], self._jobs_dir)
                return self._list(folder, _words(call["first"]), _words(call["without"]))
        except RefusedError as error:
            return _not_made(REFUSED, str(error))
        return _not_made(REFUSED, "it is neither a run nor a delete nor a list")

    def _run(self, command: List[str]) -> Answer:
        left = min(self._call_seconds, self._deadline - time.monotonic())
        program = _find(command[0], self._environ["PATH"])
        if program is None:
            return _not_made(NOT_FOUND, "there is no {} in {}".format(command[0], self._environ["PATH"]))
        try:
            retrying = _RETRYING if command[0] == "sbatch" else b""
            ended = run_capped([program] + command[1:], b"", self._environ, "/", left, MOST_OUTPUT_BYTES, retrying)
        except OSError as error:
            return _not_made(NOT_STARTED, "{}: {}".format(program, error.strerror))
        if ended.failure == GIVEN_UP:
            # It sleeps a second before it tries again: whatever was dead within a second of its start never has.
            ended = ended._replace(failure=BUSY if ended.seconds < 1 else TIMED_OUT)
        # What is cut is no answer, so none of it is handed on.
        stdout = "" if ended.failure else ended.stdout.decode("utf-8", "replace")
        return Answer(ended.exit_code, stdout, ended.stderr.decode("utf-8", "replace"), ended.failure)

    def _list(self, relative: str, first: List[str], without: List[str]) -> Answer:
        """Standard output is the listing as JSON; exit code 2 says that the folder is not there."""
        try:
            folder = open_below(self._jobs_dir, relative)
            try:
                ends = min(self._deadline, time.monotonic() + self._call_seconds / 2)
                listing = list_files(folder, first, without, ends)
            finally:
                os.close(folder)
        except FileNotFoundError as error:
            return Answer(2, "", "{}: {}".format(relative, error.strerror), None)
        except PermissionError:
            # The job closed its own folder.
            listing = Listing()
            listing.unreadable = 1
        except OSError as error:
            return Answer(1, "", "{}: {}".format(relative, error.strerror), None)
        return Answer(0, json.dumps(listing.as_fields()), "", None)

    def _delete(self, relative: str) -> Answer:
        try:
            folder = open_below(self._jobs_dir, relative)
            try:
                empty_folder(folder, min(self._deadline, time.monotonic() + self._call_seconds))
            finally:
                os.close(folder)
        except OSError as error:
            return Answer(1, "", "{}: {}".format(relative, error.strerror), None)
        return Answer(0, "", "", None)


def parse_request(data: bytes) -> Request:
    """The request; BadRequestError for anything that is not exactly right, in words that may go into a log."""
    if len(data) > MOST_REQUEST_BYTES:
        raise BadRequestError("the request is longer than {} bytes".format(MOST_REQUEST_BYTES))
    try:
        fields = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadRequestError("the request is not JSON") from error
    if not isinstance(fields, dict) or not set(fields) <= {"jobs_dir", *_FIELDS} or not set(fields) >= set(_FIELDS):
        raise BadRequestError("the request has not the fields that it should have")
    if fields["version"] != VERSION:
        raise BadRequestError("the request is of another version than this helper, which has {}".format(VERSION))
    calls = fields["calls"]
    if not isinstance(calls, list) or len(calls) > MOST_CALLS or not all(isinstance(call, dict) for call in calls):
        raise BadRequestError("calls is not a list of at most {} objects".format(MOST_CALLS))
    jobs_dir = fields.get("jobs_dir")
    if jobs_dir is not None:
        [jobs_dir] = _words([jobs_dir])
    return Request(
        request_id=_request_id(fields["id"]),
        timeout_seconds=_number(fields, "timeout_seconds", MOST_SECONDS),
        call_seconds=_number(fields, "call_seconds", MOST_SECONDS),
        at_once=max(1, int(_number(fields, "at_once", MOST_AT_ONCE))),
        jobs_dir=jobs_dir,
        calls=calls,
    )


_FIELDS = ("version", "id", "timeout_seconds", "call_seconds", "at_once", "calls")


def _request_id(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > 64:
        raise BadRequestError("id is not a short string")
    return value


def _number(fields: Dict[str, object], name: str, most: float) -> float:
    value = fields[name]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= most:
        raise BadRequestError("{} is not a number from 0 to {:g}".format(name, most))
    return float(value)


def _words(value: object) -> List[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise RefusedError("it is not a list of strings")
    try:
        # Python 3.6 in a C locale takes file names for ASCII and carries other bytes as surrogates.
        return [os.fsdecode(word.encode("utf-8", "surrogateescape")) for word in value]
    except UnicodeEncodeError as error:
        raise RefusedError("it holds characters that no argument can have") from error


def _not_made(failure: str, reason: str) -> Answer:
    return Answer(None, "", reason, failure)


def _find(command: str, path: str) -> Optional[str]:
    for folder in path.split(":"):
        program = os.path.join(folder, command)
        if os.path.isfile(program) and os.access(program, os.X_OK):
            return program
    return None


def _read_request() -> bytes:
    """All of standard input, in time: a connection that says nothing must not keep a process for ever."""
    deadline = time.monotonic() + _READ_SECONDS
    data = bytearray()
    while len(data) <= MOST_REQUEST_BYTES:
        ready, _, _ = select.select([0], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise BadRequestError("the request did not come in time")
        chunk = os.read(0, 65536)
        if not chunk:
            break
        data.extend(chunk)
    return bytes(data)


def _write(answer: Dict[str, object]) -> int:
    data = memoryview(json.dumps(answer).encode("ascii"))
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        # Whoever asked is gone.
        return EXIT_CANNOT_WRITE
    return 0


def _asks_for_sftp(original_command: str) -> bool:
    words = original_command.split()
    return bool(words) and os.path.basename(words[0]) in _SFTP_NAMES


def _become_sftp_server() -> int:
    for server in _SFTP_SERVERS:
        if os.access(server, os.X_OK):
            os.execv(server, [server])  # noqa: S606 - no shell is meant
    os.write(2, b"portal helper: this host has no sftp-server\n")
    return EXIT_BAD_REQUEST
