"""The wrapper: runs one attempt's program once, and leaves behind what happened.

    python3 wrapper.pyz attempts/1/config.ini

It works in the `work/` folder beside that file and writes nowhere else. Whatever instruction it is killed at,
the order of its steps (outputs, status, marker, each on the disk before the next) leaves nothing that claims
a success which was none: without a status file of phase `ended`, nothing is known.
"""

import json
import os
import resource
import time
from typing import Mapping, NamedTuple, Optional, Sequence

from . import claim, status_file
from .attempt_config import AttemptConfig, read_attempt_config
from .descendants import become_subreaper, end_descendants
from .durable import write_durably
from .heartbeat import Heart
from .mail import NotSentError, send_mail
from .outcome import CANNOT_START, Ending, ending_of, failure_of, wrapper_exit_code
from .output_files import OutputFiles, fsync_output
from .program import SCRIPT_NAME, LaunchError, build_environment, start_program
from .scheduler_environment import restart_count, scheduler_id
from .signals import SignalPipe
from .strict_json import printable, read_capped
from .supervision import LifelineLostError, open_lifeline, supervise
from .temporary_folder import make_temporary_folder, remove_temporary_folder
from .times import utc_now_text

WORK_NAME = "work"
SUCCESS_MARKER = "SUCCESS"
ERROR_MARKER = "ERROR"
_VERDICT_NAME = "verdict.json"
_MAX_VERDICT_BYTES = 1024 * 1024

# As in sysexits.h. None of them has a meaning of its own to a scheduler.
EXIT_USAGE = 64
EXIT_NO_INPUT = 66
EXIT_LIFELINE_LOST = 70
EXIT_CANNOT_WRITE = 74
EXIT_CLAIMED = 75
EXIT_BAD_CONFIG = 78


class Attempt(NamedTuple):
    """What is known before the program starts."""

    config: AttemptConfig
    attempt_dir: str
    work_dir: str
    scheduler_id: str
    restart_count: int
    host: str
    pid: int
    started_at: str


class Run(NamedTuple):
    """What is known after it has ended."""

    ending: Ending
    launch_failure: Optional[str]
    wrote_to_stderr: bool
    wall_seconds: float


class _StopError(Exception):
    """End with this exit code and this message."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main(argv: Sequence[str]) -> int:
    """Run the attempt whose `config.ini` is the only argument; the exit code for the scheduler.

    The program's own code, 128 + the signal that ended it, or 1 where the scheduler gives that code a meaning
    of its own; 127 where it could not be started. Otherwise the program was not run, or its end could not be
    recorded: 64 wrong usage, 66 or 78 no folder or a bad configuration, 70 the compute client died, 74
    something could not be written, 75 the attempt is claimed already. Those say why on stderr.
    """
    os.umask(0o007)
    try:
        return _run_attempt(argv)
    except _StopError as stop:
        _say(str(stop))
        return stop.exit_code
    except LifelineLostError:
        _say("the compute client died; everything was ended")
        return EXIT_LIFELINE_LOST
    except OSError as error:
        _say("cannot record the attempt: {}".format(error))
        return EXIT_CANNOT_WRITE


def _run_attempt(argv: Sequence[str]) -> int:
    attempt = _open_attempt(argv, os.environ)
    lifeline = _open_lifeline()
    signals = SignalPipe()
    _take_claim(attempt)
    if not become_subreaper():
        _say("this node cannot keep track of processes that leave their session")
    _write_status(attempt, _started(attempt))
    temporary = None
    try:
        temporary = _make_temporary_folder()
        run = _run_program(attempt, signals, lifeline, temporary)
        return _finish(attempt, run, signals)
    except LaunchError as error:
        failed = Run(Ending(CANNOT_START, None), str(error), wrote_to_stderr=False, wall_seconds=0.0)
        return _finish(attempt, failed, signals)
    finally:
        if temporary is not None:
            remove_temporary_folder(temporary)


def _open_attempt(argv: Sequence[str], environ: Mapping[str, str]) -> Attempt:
    if len(argv) != 1:
        raise _StopError(EXIT_USAGE, "usage: wrapper.pyz CONFIG_INI")
    path = os.path.abspath(argv[0])
    try:
        config = read_attempt_config(path)
    except OSError as error:
        raise _StopError(EXIT_NO_INPUT, "cannot read the attempt: {}".format(error)) from error
    except ValueError as error:
        raise _StopError(EXIT_BAD_CONFIG, "{}: {}".format(path, error)) from error
    attempt_dir = os.path.dirname(path)
    work_dir = os.path.join(attempt_dir, WORK_NAME)
    if not os.path.isdir(work_dir):
        raise _StopError(EXIT_NO_INPUT, "there is no folder {}".format(work_dir))
    host, pid = printable(os.uname().nodename, status_file.LONGEST_TEXT), os.getpid()
    return Attempt(
        config,
        attempt_dir,
        work_dir,
        scheduler_id(environ, pid, host),
        restart_count(environ),
        host,
        pid,
        utc_now_text(),
    )


def _open_lifeline() -> Optional[int]:
    try:
        return open_lifeline(os.environ)
    except ValueError as error:
        raise _StopError(EXIT_BAD_CONFIG, str(error)) from error


def _take_claim(attempt: Attempt) -> None:
    mine = claim.Claim(
        by="wrapper",
        scheduler_id=attempt.scheduler_id,
        name=attempt.config.scheduler_name,
        host=attempt.host,
        pid=attempt.pid,
        at=attempt.started_at,
    )
    try:
        taken = claim.take(attempt.work_dir, mine)
    except ValueError as error:
        raise _StopError(EXIT_BAD_CONFIG, str(error)) from error
    if not taken:
        raise _StopError(EXIT_CLAIMED, "this attempt is claimed already, {}".format(_holder(attempt)))


def _holder(attempt: Attempt) -> str:
    try:
        path = os.path.join(attempt.work_dir, claim.FILE_NAME)
        held = claim.parse(read_capped(path, claim.MAX_BYTES))
    except (OSError, ValueError) as error:
        return "by a claim that cannot be read: {}".format(error)
    job = "" if held.scheduler_id is None else " as scheduler job {}".format(held.scheduler_id)
    return "by the {}{} on {} (process {}) at {}".format(held.by, job, held.host, held.pid, held.at)


def _make_temporary_folder() -> str:
    try:
        return make_temporary_folder(os.environ)
    except OSError as error:
        raise LaunchError(error) from error


def _run_program(attempt: Attempt, signals: SignalPipe, lifeline: Optional[int], temporary: str) -> Run:
    """Start the program and wait until it and all that came from it has ended; its output is durable then."""
    config = attempt.config
    try:
        output = OutputFiles(attempt.work_dir)
    except OSError as error:
        raise LaunchError(error) from error
    command = [config.shell, os.path.join(attempt.attempt_dir, SCRIPT_NAME)]
    environment = build_environment(config, os.environ, temporary)
    heart = Heart(attempt.work_dir, config.heartbeat_seconds)
    began = time.monotonic()
    process = start_program(command, attempt.work_dir, environment, output)
    try:
        wait_status = supervise(process.pid, signals, lifeline, heart)
        wall_seconds = time.monotonic() - began
    finally:
        # Daemons that the program left behind, or, where the client died or something broke, all of it.
        if not end_descendants():
            _say("some processes of the program could not be ended")
        # It was reaped here, behind the back of subprocess.
        process.returncode = 0
    output.fsync()
    return Run(ending_of(wait_status), None, output.wrote_to_stderr(), round(wall_seconds, 3))


def _finish(attempt: Attempt, run: Run, signals: SignalPipe) -> int:
    for path in attempt.config.outputs:
        fsync_output(attempt.work_dir, path)
    # As late as can be: a scheduler signals the program and the wrapper at once, and the program may be
    # faster.
    signals.drain()
    failure = run.launch_failure or failure_of(
        attempt.config.success_rule, run.ending, run.wrote_to_stderr, signals.got_sigterm
    )
    _write_status(attempt, _ended(attempt, run, failure, signals.got_sigterm))
    _write_marker(attempt.work_dir, succeeded=failure is None)
    if failure is None:
        _send_mail(attempt)
    return wrapper_exit_code(run.ending, attempt.config.reserved_exit_codes)


def _started(attempt: Attempt) -> status_file.StatusFile:
    return status_file.StatusFile(
        schema=status_file.SCHEMA,
        job_id=attempt.config.job_id,
        attempt=attempt.config.number,
        phase="started",
        scheduler_id=attempt.scheduler_id,
        restart_count=attempt.restart_count,
        host=attempt.host,
        pid=attempt.pid,
        started_at=attempt.started_at,
        ended_at=None,
        exit_code=None,
        signal=None,
        wall_seconds=None,
        peak_memory_mib=None,
        got_sigterm=False,
        succeeded=None,
        failure=None,
    )


def _ended(attempt: Attempt, run: Run, failure: Optional[str], got_sigterm: bool) -> status_file.StatusFile:
    return _started(attempt)._replace(
        phase="ended",
        ended_at=utc_now_text(),
        exit_code=run.ending.exit_code,
        signal=run.ending.signal,
        wall_seconds=run.wall_seconds,
        peak_memory_mib=_peak_memory_mib(),
        got_sigterm=got_sigterm,
        succeeded=failure is None,
        failure=None if failure is None else printable(failure, status_file.LONGEST_FAILURE),
    )


def _peak_memory_mib() -> float:
    """Of the largest process reaped. Linux counts from the fork on, so it is at least the wrapper's own."""
    return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1)


def _write_status(attempt: Attempt, status: status_file.StatusFile) -> None:
    try:
        data = status_file.encode(status)
    except ValueError as error:
        raise _StopError(EXIT_BAD_CONFIG, str(error)) from error
    write_durably(os.path.join(attempt.work_dir, status_file.FILE_NAME), data)


def _write_marker(work_dir: str, succeeded: bool) -> None:
    names = (SUCCESS_MARKER, ERROR_MARKER) if succeeded else (ERROR_MARKER, SUCCESS_MARKER)
    try:
        # The program's own, if there is one: two markers would contradict each other.
        os.unlink(os.path.join(work_dir, names[1]))
    except FileNotFoundError:
        pass
    write_durably(os.path.join(work_dir, names[0]), b"")


def _send_mail(attempt: Attempt) -> None:
    mail = attempt.config.mail
    if mail is None or _is_followed(attempt):
        return
    try:
        send_mail(mail, attempt.attempt_dir, attempt.work_dir)
    except NotSentError as error:
        _say(str(error))


def _is_followed(attempt: Attempt) -> bool:
    """Whether the portal has opened another attempt, or says in its verdict that it will: that one is told of."""
    newer = os.path.join(os.path.dirname(attempt.attempt_dir), str(attempt.config.number + 1))
    if os.path.lexists(newer):
        return True
    try:
        data = read_capped(os.path.join(attempt.attempt_dir, _VERDICT_NAME), _MAX_VERDICT_BYTES)
        verdict = json.loads(data.decode("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(verdict, dict) and verdict.get("next_attempt") is not None


def _say(message: str) -> None:
    """One line on stderr, past Python's buffer, whose last flush fails where stderr is on a full disk."""
    line = "portal wrapper: {}\n".format(printable(message, 2000))
    try:
        os.write(2, line.encode("utf-8", "replace"))
    except OSError:
        pass
