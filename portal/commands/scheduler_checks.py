"""What `portal check` asks of the scheduler: whether it answers, and whether it would take the applications' jobs."""

from pathlib import Path

from portal.app import Parts
from portal.applications.definition import Application
from portal.commands.site_checks import Seen
from portal.errors import PortalError
from portal.jobs.words import scheduler_title
from portal.schedulers.base import JobSpec, Scheduler
from portal.settings import SshSection
from portal.transfer.folders import NodeFolders

_NOWHERE = Path("/")


def answers(parts: Parts, scheduler: Scheduler) -> Seen:
    """A sign of life. Raises PortalError with what is wrong, as exactly as it is known."""
    settings = parts.settings.scheduler
    kind = settings.kind
    health = scheduler.health()
    if not health.ok:
        where = _setting_to_look_at(settings.ssh, health.log_detail) if kind == "slurm-ssh" else ""
        raise PortalError(f"{kind}: {health.detail}", log_detail=f"{health.log_detail}{where}")
    return Seen(f"{kind}: {health.detail}")


def _setting_to_look_at(ssh: SshSection, detail: str) -> str:
    """The setting whose value the detail speaks of, for the end of that; empty where it is named, or is another."""
    values = {
        "known_hosts_file": ssh.known_hosts_file,
        "key_file": ssh.key_file,
        "host and scheduler.ssh.port": f"{ssh.host}:{ssh.port}",
    }
    if "scheduler.ssh." in detail:
        return ""
    return next((f"; see scheduler.ssh.{name}" for name, value in values.items() if str(value) in detail), "")


def files(nodes: NodeFolders) -> Seen:
    """Whether job directories can go to a cluster that shares no files. Raises PortalError with what is in the way."""
    return Seen(nodes.check())


def would_take(parts: Parts, scheduler: Scheduler) -> Seen:
    """Whether it would take each application's jobs, at the usual and at the most that they ask for; none goes in.

    Raises PortalError with what it says of those that it would not.
    """
    asked = [ask for application in parts.catalog.applications.values() for ask in _asks(parts, application)]
    name = scheduler_title(parts.settings.scheduler.kind)
    reasons = scheduler.refusals([spec for _, spec in asked])
    refused = [
        f"{application}, {_in_words(spec)}: {name} says: {reason}"
        for (application, spec), reason in zip(asked, reasons, strict=True)
        if reason is not None
    ]
    if refused:
        raise PortalError("; ".join(refused))
    return Seen(f"{name} would take the jobs of {', '.join(parts.catalog.applications)}")


def _asks(parts: Parts, application: Application) -> list[tuple[str, JobSpec]]:
    asked = application.resources
    usual = (asked.time_limit_minutes, asked.memory_mib, asked.cpus)
    most = (
        asked.time_limit_minutes_max or asked.time_limit_minutes,
        asked.memory_mib_max or asked.memory_mib,
        asked.cpus_max or asked.cpus,
    )
    site = parts.settings.scheduler
    return [
        (
            application.name,
            JobSpec(
                name="portal-check",
                script=_NOWHERE,
                working_dir=_NOWHERE,
                time_limit_minutes=minutes,
                memory_mib=memory_mib,
                cpus=cpus,
                partition=asked.partition or site.partition,
                account=site.account,
                qos=site.qos,
                gres=asked.gres,
            ),
        )
        for minutes, memory_mib, cpus in dict.fromkeys((usual, most))
    ]


def _in_words(spec: JobSpec) -> str:
    where = [
        f"{label} {value}"
        for label, value in (("partition", spec.partition), ("account", spec.account), ("qos", spec.qos))
        if value
    ]
    much = [f"{spec.memory_mib} MiB", f"{spec.cpus} CPUs", f"{spec.time_limit_minutes} minutes"]
    return ", ".join([*where, *much])
