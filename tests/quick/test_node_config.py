"""An attempt's `config.ini`, the program's environment that follows from it, and the rules for success."""

from pathlib import Path

import pytest

from portal.node.attempt_config import AttemptConfig, MailConfig, parse_attempt_config
from portal.node.outcome import Ending, ending_of, failure_of, wrapper_exit_code
from portal.node.program import build_environment
from portal.node.scheduler_environment import restart_count, scheduler_id
from tests.wrapper_attempts import Attempt

MAIL = {
    "smtp_host": "mail.example.org",
    "smtp_port": "25",
    "from_address": "portal@example.org",
    "to": "ann@example.org",
    "timeout_seconds": "30",
}


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    settings = {"environment": "SLOW_DIV_SECONDS OTHER", "reserved_exit_codes": "99 100"}
    return Attempt(tmp_path, "", settings=settings, outputs=["hits.tsv", "sub/é x.txt"], mail=MAIL)


def parsed(attempt: Attempt, old: str = "", new: str = "") -> AttemptConfig:
    text = attempt.config_text()
    assert old in text
    return parse_attempt_config(text.replace(old, new).encode() if old else text.encode())


def test_everything_is_read(attempt: Attempt) -> None:
    assert parsed(attempt) == AttemptConfig(
        job_id="tcfnctbq",
        number=1,
        scheduler_name="portal-abcd-tcfnctbq-1",
        shell="/bin/sh",
        success_rule="exit_code",
        heartbeat_seconds=0.05,
        environment=("SLOW_DIV_SECONDS", "OTHER"),
        bin_dir="/nowhere/bin",
        reserved_exit_codes=frozenset({99, 100}),
        outputs=("hits.tsv", "sub/é x.txt"),
        mail=MailConfig("mail.example.org", 25, "portal@example.org", "ann@example.org", 30.0),
    )


def test_outputs_and_mail_may_be_missing_and_lists_empty(tmp_path: Path) -> None:
    config = parsed(Attempt(tmp_path, ""), "[outputs]\n", "")
    assert (config.outputs, config.mail) == ((), None)
    assert (config.environment, config.reserved_exit_codes) == ((), frozenset())


WRONG = [
    ("[settings]", "[other]", "settings"),
    ("[attempt]", "[other]", "attempt"),
    ("job_id = tcfnctbq", "job_id =", "job_id"),
    ("number = 1", "number = 0", "number"),
    ("number = 1", "number = one", "number"),
    ("number = 1", "number = -1", "number"),
    ("number = 1", "", "number"),
    ("number = 1", "number = 1\nnumber = 2", "number"),
    ("shell = /bin/sh", "shell = sh", "shell"),
    ("shell = /bin/sh", "shell = /bin/sh\n  more", "shell"),
    ("success_rule = exit_code", "success_rule = always", "success_rule"),
    ("heartbeat_seconds = 0.05", "heartbeat_seconds = 0", "heartbeat_seconds"),
    ("heartbeat_seconds = 0.05", "heartbeat_seconds = nan", "heartbeat_seconds"),
    ("heartbeat_seconds = 0.05", "heartbeat_seconds = 1e99", "heartbeat_seconds"),
    ("heartbeat_seconds = 0.05", "heartbeat_seconds = soon", "heartbeat_seconds"),
    ("SLOW_DIV_SECONDS OTHER", "SLOW-DIV", "environment"),
    ("99 100", "99 256", "reserved_exit_codes"),
    ("hits.tsv", "/etc/passwd", "outputs"),
    ("hits.tsv", "../hits.tsv", "outputs"),
    ("hits.tsv", "sub//hits.tsv", "outputs"),
    ("smtp_port = 25", "smtp_port = smtp", "smtp_port"),
    ("[attempt]", "attempt]", "config.ini"),
]


@pytest.mark.parametrize(("old", "new", "named"), WRONG)
def test_what_is_wrong_is_named_in_one_line(attempt: Attempt, old: str, new: str, named: str) -> None:
    with pytest.raises(ValueError, match=named) as refused:
        parsed(attempt, old, new)
    assert "\n" not in str(refused.value)


def test_other_encodings_are_refused(attempt: Attempt) -> None:
    with pytest.raises(ValueError, match=r"config\.ini"):
        parse_attempt_config(attempt.config_text().encode("latin-1"))


def test_the_environment_holds_only_what_it_should(attempt: Attempt) -> None:
    outer = {
        "PATH": "/evil",
        "HOME": "/evil",
        "SECRET": "s",
        "SSH_AUTH_SOCK": "s",
        "PORTAL_LIFELINE_FD": "3",
        "LD_PRELOAD": "s",
        "SLURM_JWT": "s",
        "TMPDIR": "/evil",
        "SLURM_JOB_ID": "17",
        "SGE_ROOT": "/sge",
        "PBS_JOBID": "1",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "NSLOTS": "4",
        "OTHER": 'it\'s\n"quoted" $HOME `x`',
    }
    environment = build_environment(parsed(attempt), outer, "/tmp/private")
    assert environment.pop("USER") == environment.pop("LOGNAME")
    assert environment.pop("HOME") != "/evil"
    assert environment == {
        "PATH": "/nowhere/bin:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp/private",
        "SLURM_JOB_ID": "17",
        "SGE_ROOT": "/sge",
        "PBS_JOBID": "1",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "NSLOTS": "4",
        "OTHER": 'it\'s\n"quoted" $HOME `x`',
    }


RULES = [
    ("exit_code", Ending(0, None), True, None),
    ("exit_code", Ending(2, None), False, "The program ended with exit code 2."),
    ("no_stderr", Ending(2, None), False, None),
    ("no_stderr", Ending(0, None), True, "The program wrote to its standard error."),
    ("no_stderr", Ending(None, 9), False, "The program was ended by signal 9."),
    ("exit_code_and_no_stderr", Ending(0, None), False, None),
    ("exit_code_and_no_stderr", Ending(0, None), True, "The program wrote to its standard error."),
    ("exit_code_and_no_stderr", Ending(1, None), False, "The program ended with exit code 1."),
]


@pytest.mark.parametrize(("rule", "ending", "wrote", "failure"), RULES)
def test_the_rules_for_success(rule: str, ending: Ending, wrote: bool, failure: str | None) -> None:
    assert failure_of(rule, ending, wrote, got_sigterm=False) == failure


def test_a_program_that_was_told_to_stop_and_did_is_no_success() -> None:
    failure = failure_of("no_stderr", Ending(143, None), wrote_to_stderr=False, got_sigterm=True)
    assert failure == "The program ended with exit code 143."
    assert failure_of("no_stderr", Ending(0, None), wrote_to_stderr=False, got_sigterm=True) is None


def test_exit_codes_for_the_scheduler() -> None:
    assert ending_of(3 << 8) == Ending(3, None)
    assert ending_of(11) == Ending(None, 11)
    assert wrapper_exit_code(Ending(3, None), {99}) == 3
    assert wrapper_exit_code(Ending(99, None), {99}) == 1
    assert wrapper_exit_code(Ending(None, 9), {99}) == 137
    assert wrapper_exit_code(Ending(None, 9), {137}) == 1


IDS = [
    ({"PORTAL_SCHEDULER_ID": "local-5", "SLURM_JOB_ID": "17"}, "local-5"),
    ({"SLURM_JOB_ID": "17", "JOB_ID": "18"}, "17"),
    ({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"}, "17_2"),
    ({"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": ""}, "17"),
    ({"JOB_ID": "18"}, "18"),
    ({"JOB_ID": "1\n8"}, "1?8"),
    ({}, "pid-4711@node1"),
]


@pytest.mark.parametrize(("environ", "expected"), IDS)
def test_the_scheduler_id(environ: dict[str, str], expected: str) -> None:
    assert scheduler_id(environ, 4711, "node1") == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, 0), ({"SLURM_RESTART_COUNT": "2"}, 2), ({"RESTARTED": "1"}, 1), ({"RESTARTED": "x"}, 0)],
)
def test_the_restart_count(environ: dict[str, str], expected: int) -> None:
    assert restart_count(environ) == expected
