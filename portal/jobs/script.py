"""The files of one attempt: `config.ini`, `program.sh` and `job.sh`. All three are written anew for each attempt.

What a visitor typed reaches a shell in one way only: as the single-quoted assignments at the head of `program.sh`.
`job.sh` holds the site's words and paths, quoted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from portal.applications.definition import Application
from portal.applications.shell_values import shell_assignments, single_quoted
from portal.jobs.directory import AttemptDirectory, JobDirectory, JobsFolder
from portal.jobs.job_config import JobConfig, render_sections
from portal.jobs.node_files import NodeFiles
from portal.node.durable import write_durably

_IN_A_FILE = frozenset({"file", "longtext"})


@dataclass(frozen=True)
class NodeMail:
    """How the node sends the mail of a success, where it does."""

    smtp_host: str
    smtp_port: int
    from_address: str
    timeout_seconds: float


@dataclass(frozen=True)
class AttemptPlan:
    """All that goes into an attempt's files."""

    number: int
    scheduler_name: str
    application: Application
    rendered_program: str
    """`program.sh.j2`, rendered."""
    folder_on_nodes: JobsFolder
    """The jobs folder as the nodes have it; where it is shared, the portal's own."""
    node_files: NodeFiles
    node_python: str
    heartbeat_seconds: float
    passed_on: Mapping[str, str]
    """Variables of the dispatcher that the application asked for."""
    directives: Sequence[str] = ()
    """Lines for the scheduler, such as `#SBATCH --mem=256M`."""
    reserved_exit_codes: Sequence[int] = ()
    mail: NodeMail | None = None


def write_attempt(directory: JobDirectory, config: JobConfig, plan: AttemptPlan) -> AttemptDirectory:
    """Make the attempt's folder and its three files, durably. Doing it again gives the same files. Raises OSError."""
    attempt = directory.attempt(plan.number)
    attempt.make()
    write_durably(str(attempt.config), render_sections(_attempt_sections(config, plan)))
    on_nodes = plan.folder_on_nodes.job(directory.job_id)
    write_durably(str(attempt.program_script), program_script(on_nodes, config, plan).encode(), mode=0o640)
    write_durably(str(attempt.job_script), job_script(on_nodes.attempt(plan.number), plan).encode(), mode=0o750)
    return attempt


def program_script(directory: JobDirectory, config: JobConfig, plan: AttemptPlan) -> str:
    """What the wrapper runs: the inputs as shell variables, then the application's own script.

    `directory` is the job's as the nodes have it.
    """
    kinds = {parameter.name: parameter.type for parameter in plan.application.parameters}
    values = dict.fromkeys(kinds, "") | {
        name: str(directory.path / text) if kinds.get(name) in _IN_A_FILE else text
        for name, text in config.inputs.items()
    }
    head = "# The inputs, as the portal checked them.\n" if values else ""
    return f"{head}{shell_assignments(values)}\n{plan.rendered_program}"


def job_script(attempt: AttemptDirectory, plan: AttemptPlan) -> str:
    """The batch script as submitted: directives, the environment, then `exec` of the wrapper.

    `attempt` is the folder as the nodes have it.
    """
    exports = _exports(plan)
    command = [plan.node_python, "-I", str(plan.node_files.wrapper), str(attempt.config)]
    lines = [
        "#!/bin/sh",
        *plan.directives,
        f"# The batch script of {plan.scheduler_name}. It may be submitted by hand while its attempt is unclaimed.",
        *(f"export {name}={single_quoted(value)}" for name, value in exports.items()),
        # -I: nothing in the working directory or in PYTHON* variables may change what the wrapper does.
        f"exec {' '.join(single_quoted(word) for word in command)}",
    ]
    return "\n".join(lines) + "\n"


def _exports(plan: AttemptPlan) -> dict[str, str]:
    return {**plan.application.environment.set_, **plan.passed_on}


def _attempt_sections(config: JobConfig, plan: AttemptPlan) -> dict[str, dict[str, str]]:
    application = plan.application
    sections = config.sections()
    sections["attempt"] = {
        "number": str(plan.number),
        "scheduler_name": plan.scheduler_name,
        "shell": application.shell,
        "success_rule": application.success.rule,
        "heartbeat_seconds": f"{plan.heartbeat_seconds:g}",
        "environment": " ".join(_exports(plan)),
        "bin_dir": str(plan.node_files.bin_dir),
        "reserved_exit_codes": " ".join(str(code) for code in plan.reserved_exit_codes),
    }
    if application.outputs:
        sections["outputs"] = {str(n): output.path for n, output in enumerate(application.outputs, start=1)}
    if plan.mail is not None:
        sections["mail"] = {
            "smtp_host": plan.mail.smtp_host,
            "smtp_port": str(plan.mail.smtp_port),
            "from_address": plan.mail.from_address,
            "to": config.email,
            "timeout_seconds": f"{plan.mail.timeout_seconds:g}",
        }
    return sections
