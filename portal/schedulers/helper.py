"""Asking the helper: a list of calls becomes one request, and its answer becomes one result a call."""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portal.errors import SchedulerError
from portal.node.submit import BUSY, NOT_FOUND, NOT_STARTED, REFUSED, VERSION
from portal.schedulers.commands import NO_ANSWER, NotReachedError, Runner

AT_ONCE = 4
"""Calls of one request side by side: with more slurmctld only queues them (sbatch: 82/s one by one, 153/s so)."""
LOCAL_CALL_SECONDS = 30.0
"""How long a call may take on this machine; over SSH that is a setting."""
WHOLE_CALLS = 2.0
"""The time of a whole request, in times of a single call."""
_MARGIN_SECONDS = 5.0
"""For the way there and back, and for a Python to start."""

CERTAINLY_WITHOUT_EFFECT = frozenset({REFUSED, NOT_STARTED, NOT_FOUND, BUSY})


@dataclass(frozen=True)
class Result:
    """How one call ended."""

    exit_code: int | None
    stdout: str
    stderr: str
    failure: str | None
    """None where the command ran and exited; else why not (see `portal.node.submit`)."""

    @property
    def is_good(self) -> bool:
        """It ran and exited with 0."""
        return self.failure is None and self.exit_code == 0

    @property
    def problem(self) -> str:
        """What was wrong, in one line, for a log."""
        said = " ".join(self.stderr.split())[:500]
        if self.failure is not None:
            return f"{self.failure}: {said}" if said else self.failure
        return f"exit code {self.exit_code}: {said}" if said else f"exit code {self.exit_code}"


class Helper:
    """The helper of one jobs folder, through one runner."""

    def __init__(self, runner: Runner, jobs_dir: Path, call_seconds: float) -> None:
        self._runner = runner
        self._jobs_dir = jobs_dir
        self._call_seconds = call_seconds

    @property
    def longest_seconds(self) -> float:
        """How long a request may go on having effects, even where its answer was lost."""
        return self._call_seconds * WHOLE_CALLS + _MARGIN_SECONDS

    def call(self, calls: Sequence[Sequence[str]], at_once: int = 1) -> list[Result]:
        """Make the calls in one round trip, in their order; one result each.

        Raises NotReachedError where certainly none was made, and SchedulerError where that is not known.
        """
        return self._ask([{"run": list(call)} for call in calls], at_once)

    def empty(self, folders: Sequence[Path]) -> None:
        """Delete all that is in these `work/` folders, as the account that jobs run as.

        Raises SchedulerError where one is not empty at the end, or that is not known.
        """
        results = self._ask([{"delete": str(folder)} for folder in folders], 1) if folders else []
        for folder, result in zip(folders, results, strict=True):
            if not result.is_good:
                raise SchedulerError("A job's files cannot be deleted.", log_detail=f"{folder}: {result.problem}")

    def list_files(self, folder: Path, first: Sequence[str], without: Sequence[str]) -> dict[str, Any] | None:
        """What lies in a `work/` folder, as `portal.node.listing` says it; None where the folder is not there.

        Raises SchedulerError.
        """
        [result] = self._ask([{"list": str(folder), "first": list(first), "without": list(without)}], 1)
        if result.failure is None and result.exit_code == 2:
            return None
        if not result.is_good:
            raise SchedulerError("A job's files cannot be listed.", log_detail=f"{folder}: {result.problem}")
        try:
            listing: dict[str, Any] = json.loads(result.stdout)
        except ValueError as error:
            raise SchedulerError(NO_ANSWER, log_detail=f"{folder}: not a listing") from error
        return listing

    def _ask(self, calls: Sequence[Mapping[str, object]], at_once: int) -> list[Result]:
        request_id = secrets.token_hex(8)
        request = {
            "version": VERSION,
            "id": request_id,
            "timeout_seconds": self._call_seconds * WHOLE_CALLS,
            "call_seconds": self._call_seconds,
            "at_once": at_once,
            "jobs_dir": str(self._jobs_dir),
            "calls": calls,
        }
        answer = self._runner.run(json.dumps(request).encode(), self.longest_seconds)
        return parse_answer(answer, request_id, len(calls))

    def close(self) -> None:
        self._runner.close()


def parse_answer(data: bytes, request_id: str, count: int) -> list[Result]:
    """The results in an answer to that request; raises as `Helper.call` does.

    Anything but one whole answer to exactly this request is none: a login script may print, a connection may break.
    """
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _not_an_answer(data) from error
    if not isinstance(answer, dict) or answer.get("version") != VERSION:
        raise _not_an_answer(data)
    if isinstance(answer.get("error"), str) and answer.get("id") in ("", request_id):
        raise NotReachedError(NO_ANSWER, log_detail=f"the helper refuses the request: {answer['error'][:500]}")
    answers = answer.get("answers")
    if answer.get("id") != request_id or not isinstance(answers, list) or len(answers) != count:
        raise _not_an_answer(data)
    return [_result(one, data) for one in answers]


def _result(answer: Any, data: bytes) -> Result:
    if not isinstance(answer, dict):
        raise _not_an_answer(data)
    exit_code, failure = answer.get("exit_code"), answer.get("failure")
    texts = answer.get("stdout"), answer.get("stderr")
    is_right = (
        all(isinstance(text, str) for text in texts)
        and (isinstance(failure, str) or failure is None)
        and isinstance(exit_code, int) is (failure is None)
    )
    if not is_right:
        raise _not_an_answer(data)
    return Result(exit_code, str(texts[0]), str(texts[1]), failure)


def _not_an_answer(data: bytes) -> SchedulerError:
    begin = data[:200].decode("utf-8", "replace")
    detail = f"not a whole answer of the helper ({len(data)} bytes), which begins with {begin!r}"
    return SchedulerError(NO_ANSWER, log_detail=detail)
