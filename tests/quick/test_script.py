"""The scripts of an attempt: as recorded, and with nothing in them that a visitor could make run."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from portal.applications.values import Upload
from portal.dispatch.submission import _plan
from portal.jobs.job_config import parse_sections, read_job_config
from portal.jobs.script import NodeMail, job_script, write_attempt
from portal.node.attempt_config import read_attempt_config
from tests.portal_parts import Portal, opened_portal

GOLDEN = Path(__file__).parent.parent / "data" / "golden"


@pytest.fixture
def portal() -> Iterator[Portal]:
    with opened_portal() as portal:
        yield portal


def placeholders(portal: Portal, job_id: str) -> dict[str, str]:
    """What differs from run to run, longest first."""
    return {
        str(portal.node_files.wrapper.parent): "{NODE_FILES}",
        str(portal.folder.root): "{JOBS}",
        portal.folder.instance(): "{INSTANCE}",
        job_id: "{JOB_ID}",
    }


def assert_as_recorded(text: str, name: str) -> None:
    """The text is what `tests/data/golden/<name>` says; a record that is missing is a failure, and is not made."""
    file = GOLDEN / name
    assert file.exists(), f"there is no record {file}; if this is right, write it:\n{text}"
    assert text == file.read_text("utf-8"), f"not as recorded in {file}"


@pytest.mark.parametrize("script", ["job.sh", "program.sh"])
def test_the_scripts_of_slow_div_are_as_recorded(portal: Portal, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOW_DIV_SECONDS", "3")
    job_id = portal.queued()
    text = (portal.files(job_id).path / script).read_text("utf-8")
    for value, placeholder in placeholders(portal, job_id).items():
        text = text.replace(value, placeholder)
    assert_as_recorded(text, f"slow_div.{script}")


def test_a_record_that_is_missing_fails() -> None:
    with pytest.raises(AssertionError, match="there is no record"):
        assert_as_recorded("", "no_such.sh")


def test_both_scripts_are_whole_shell(portal: Portal) -> None:
    job_id = portal.queued()
    for script in (portal.files(job_id).job_script, portal.files(job_id).program_script):
        assert subprocess.run(["/bin/sh", "-n", str(script)], check=False).returncode == 0


def test_the_batch_script_starts_the_wrapper(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run as it is, with another wrapper in the place of ours."""
    monkeypatch.setenv("SLOW_DIV_SECONDS", "it's; 3")
    job_id = portal.queued()
    script = portal.files(job_id).job_script
    wrapper = portal.folder_path / "wrapper.py"
    wrapper.write_text("import os, sys\nprint(sys.argv[1], os.environ['SLOW_DIV_SECONDS'], sys.flags.isolated)\n")
    text = script.read_text().replace(str(portal.node_files.wrapper), str(wrapper))
    done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == f"{portal.files(job_id).config} it's; 3 1\n"


HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "'\\''; touch pwned #",
    "x\\'; touch pwned; \\'",
    "${IFS}touch${IFS}pwned",
    "* ? [a-z] ~ {a,b} !!",
    "a  b   c",
    "\\",
    "-n",
    "\u201c\u2019; touch pwned",
]


def run_program(portal: Portal, job_id: str) -> "subprocess.CompletedProcess[str]":
    """`program.sh` as the wrapper runs it, with nothing on its PATH but a `slow_div` that shows its arguments."""
    bin_dir = portal.folder_path / "bin"
    bin_dir.mkdir()
    fake = bin_dir / "slow_div"
    fake.write_text('#!/bin/sh\nfor word; do printf "<%s>\\n" "$word"; done\n')
    fake.chmod(0o755)
    files = portal.files(job_id)
    environment = {"PATH": f"{bin_dir}{os.pathsep}/usr/bin{os.pathsep}/bin", "LANG": "C.UTF-8"}
    return subprocess.run(
        ["/bin/sh", str(files.program_script)],
        cwd=files.work,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )


def test_slow_div_gets_its_two_numbers(portal: Portal) -> None:
    job_id = portal.queued(x="-8", y="2")
    assert run_program(portal, job_id).stdout == "<-8>\n<2>\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_value_reaches_the_program_and_does_not_run(portal: Portal, text: str) -> None:
    job_id = portal.queued(application="any_inputs", x=text)
    done = run_program(portal, job_id)
    assert (done.stdout, done.stderr) == (f"{text}\n", "")
    assert list(portal.files(job_id).work.iterdir()) == []
    assert not any(portal.folder_path.rglob("pwned"))


def test_files_and_long_texts_are_handed_over_by_their_paths(portal: Portal) -> None:
    job_id = portal.queued(application="any_inputs", sequence="ACGT\n", query=Upload("$(x).fa", b"q"))
    inputs = portal.directory(job_id).inputs
    text = portal.files(job_id).program_script.read_text()
    assert f"input_sequence='{inputs}/sequence'\ninput_query='{inputs}/query'\n" in text
    assert "$(x)" not in text


def test_an_optional_input_without_a_value_is_empty_and_not_left_to_the_environment(portal: Portal) -> None:
    job_id = portal.queued(application="any_inputs")
    text = portal.files(job_id).program_script.read_text()
    assert "input_x=''\ninput_sequence=''\ninput_query=''\n" in text


def test_the_attempts_config_is_the_jobs_and_what_the_wrapper_needs(portal: Portal) -> None:
    job_id = portal.queued(application="any_inputs", x="ä = [b]")
    job_sections = parse_sections(portal.directory(job_id).config.read_text("utf-8"))
    sections = parse_sections(portal.files(job_id).config.read_text("utf-8"))
    assert {name: sections[name] for name in job_sections} == job_sections
    config = read_attempt_config(str(portal.files(job_id).config))
    assert (config.job_id, config.number, config.scheduler_name) == (job_id, 1, portal.name(job_id))
    assert (config.success_rule, config.outputs, config.mail) == ("exit_code", ("hits.tsv",), None)
    assert config.bin_dir == str(portal.node_files.bin_dir)


def test_writing_an_attempt_again_gives_the_same_files(portal: Portal) -> None:
    job_id = portal.queued()
    files = portal.files(job_id)
    before = {path.name: path.read_bytes() for path in files.path.iterdir() if path.is_file()}
    _write_again(portal, job_id)
    assert {path.name: path.read_bytes() for path in files.path.iterdir() if path.is_file()} == before


def test_directives_come_before_everything_else_and_mail_is_for_the_visitor(portal: Portal) -> None:
    job_id = portal.queued()
    mail = NodeMail("mail.example.org", 25, "portal@example.org", 20)
    plan = _write_again(portal, job_id, directives=["#SBATCH --mem=256M"], mail=mail, reserved_exit_codes=[99, 100])
    assert job_script(portal.files(job_id), plan).splitlines()[:2] == ["#!/bin/sh", "#SBATCH --mem=256M"]
    config = read_attempt_config(str(portal.files(job_id).config))
    assert config.reserved_exit_codes == {99, 100}
    assert config.mail is not None
    assert (config.mail.to, config.mail.smtp_host, config.mail.timeout_seconds) == (
        "ann@example.org",
        mail.smtp_host,
        20,
    )


def _write_again(portal: Portal, job_id: str, **changes: Any) -> Any:
    directory = portal.directory(job_id)
    attempt = portal.attempt(job_id)
    application = portal.shelf.get(portal.job(job_id).application)
    plan = replace(_plan(portal.dispatch, application, attempt), **changes)
    write_attempt(directory, read_job_config(directory.config), plan)
    return plan
