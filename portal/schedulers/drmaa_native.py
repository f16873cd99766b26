"""Native specifications: what a job asks for, in the words of the system behind the DRMAA library.

DRMAA itself has no words for memory, CPUs and queues. The two systems have different ones, and different mistakes
to avoid: pure functions, one a system. Of any other system the site's own words are taken, with placeholders in them.
"""

import re
from enum import StrEnum
from pathlib import Path

from portal.errors import DefinitionError
from portal.schedulers.base import JobSpec
from portal.schedulers.slurm_directives import BAD_FOLDER, can_work_in


class Drms(StrEnum):
    """The system that a DRMAA library submits to."""

    GRID_ENGINE = "Grid Engine"
    SLURM = "Slurm"
    OTHER = "another system"


_GRID_ENGINE = re.compile(r"\b(SGE|UGE|OGE|OGS|OCS|GE|Grid ?Engine|Gridware)\b", re.IGNORECASE)
_VALUE = re.compile(r"[A-Za-z0-9_.:+@-]+")
_GRES = re.compile(r"([A-Za-z][A-Za-z0-9_.]*):([1-9][0-9]{0,5})")
_LONGEST = 1023
"""Characters of a DRMAA attribute (DRMAA_ATTR_BUFFER is 1024)."""

_OURS = {
    Drms.GRID_ENGINE: frozenset({"@", "C", "N", "S", "V", "b", "clear", "cwd", "e", "j", "o", "r", "shell", "t", "wd"}),
    Drms.SLURM: frozenset({"D", "J", "a", "array", "e", "error", "no-requeue", "o", "output", "requeue", "workdir"}),
}
"""Options for what the portal decides: the job's name, script, files and folder, that it runs once and is no array."""

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_NEEDS_OWN_WORDS = (
    "The portal does not know how this kind of cluster is asked for time and memory: say it in "
    "scheduler.drmaa.native_specification, such as -l walltime={time_limit_seconds},mem={memory_mib}mb."
)


def drms_of(info: str) -> Drms:
    """Which system a library's own description of it names.

    Grid Engine's says `SGE 8.1.9`, `OGS/GE 2011.11` or `UGE 8.6`, slurm-drmaa's `SLURM 22.05.8`.
    """
    if _GRID_ENGINE.search(info):
        return Drms.GRID_ENGINE
    return Drms.SLURM if "slurm" in info.lower() else Drms.OTHER


def native_specification(drms: Drms, spec: JobSpec, added: str = "", pe: str | None = None) -> str:
    """What the job asks for, then the site's `added`. Raises DefinitionError for what cannot be said there.

    `pe`: the parallel environment that gives a job of several CPUs slots of one host (Grid Engine).
    """
    check_added(drms, added)
    if drms is Drms.OTHER:
        words = [_filled(word, spec) for word in added.split()]
    else:
        words = [*(_grid_engine(spec, pe) if drms is Drms.GRID_ENGINE else _slurm(spec)), *added.split()]
    text = " ".join(words)
    if len(text) > _LONGEST:
        raise DefinitionError(f"What the job asks for is longer than the {_LONGEST} characters that DRMAA takes.")
    return text


def check_added(drms: Drms, added: str) -> None:
    """Raises DefinitionError where `scheduler.drmaa.native_specification` says what the portal must say itself."""
    if not added.isascii() or not added.isprintable() or re.search(r"""["'\\]""", added):
        # slurm-drmaa rejects quotes, and Grid Engine's answer to them is an error without a word about it.
        raise DefinitionError("scheduler.drmaa.native_specification may have no quotes and no backslashes.")
    if drms is Drms.OTHER:
        _check_placeholders(added)
        return
    for word in added.split():
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("-") and name in _OURS[drms]:
            raise DefinitionError(f"scheduler.drmaa.native_specification: {word} is the portal's own to say.")


def check_files(drms: Drms, working_dir: Path, script: bytes) -> None:
    """Raises DefinitionError where the system would take a part of a path, or of the script, for something else.

    Grid Engine expands `$HOME` and the like in paths, and takes lines that begin with `#$` for options: its library
    does so whatever `-C` says (seen with 8.1.9).
    """
    if drms is Drms.OTHER:
        return
    if drms is Drms.SLURM:
        if not can_work_in(working_dir):
            raise DefinitionError(BAD_FOLDER)
    elif re.search(r"[$\n]", str(working_dir)):
        raise DefinitionError("Grid Engine cannot work in a jobs folder whose path has a dollar sign or a line's end.")
    elif any(line.startswith(b"#$") for line in script.splitlines()):
        raise DefinitionError("Grid Engine takes a line of the script that begins with #$ for its options.")


def _check_placeholders(added: str) -> None:
    names = _PLACEHOLDER.findall(added)
    known = _placeholders(JobSpec("", Path(), Path(), 1, 1, 1))
    for name in names:
        if name not in known:
            detail = f"scheduler.drmaa.native_specification: there is no {{{name}}}, only {', '.join(known)}."
            raise DefinitionError(detail)
    if not {"time_limit_minutes", "time_limit_seconds"} & set(names) or "memory_mib" not in names:
        raise DefinitionError(_NEEDS_OWN_WORDS)


def _placeholders(spec: JobSpec) -> dict[str, int]:
    return {
        "time_limit_minutes": spec.time_limit_minutes,
        "time_limit_seconds": spec.time_limit_minutes * 60,
        "memory_mib": spec.memory_mib,
        "cpus": spec.cpus,
    }


def _filled(word: str, spec: JobSpec) -> str:
    values = _placeholders(spec)
    return _PLACEHOLDER.sub(lambda match: str(values[match[1]]), word)


def _grid_engine(spec: JobSpec, pe: str | None) -> list[str]:
    """Options of qsub(1)."""
    if spec.qos:
        raise DefinitionError("Grid Engine has no quality of service: take scheduler.qos away.")
    requests = [
        f"h_rt={spec.time_limit_minutes * 60}",
        # What is asked for counts for each slot.
        f"h_vmem={-(-spec.memory_mib // spec.cpus)}M",
    ]
    if spec.gres:
        requests += [f"{name}={count}" for name, count in (_gres(one) for one in spec.gres.split(","))]
    if spec.exclude_nodes:
        requests.append(f"hostname=!({'|'.join(_value('a node', node) for node in spec.exclude_nodes)})")
    return [
        # -b n: the script itself goes in, as it is now, and no path to it.
        *("-b", "n", "-S", "/bin/sh", "-r", "n"),
        *("-l", ",".join(requests)),
        *_parallel(spec, pe),
        *_option("-q", spec.partition),
        *_option("-A", spec.account),
    ]


def _parallel(spec: JobSpec, pe: str | None) -> list[str]:
    if spec.cpus == 1:
        return []
    if pe is None:
        raise DefinitionError("For jobs with several CPUs, scheduler.drmaa.parallel_environment must name one.")
    return ["-pe", _value("a parallel environment", pe), str(spec.cpus)]


def _gres(text: str) -> tuple[str, str]:
    match = _GRES.fullmatch(text)
    if match is None:
        raise DefinitionError(f"resources.gres: Grid Engine wants a name and a number, such as gpu:1, not {text!r}.")
    return match[1], match[2]


def _slurm(spec: JobSpec) -> list[str]:
    """Those options of sbatch(1) that every slurm-drmaa knows, as it wants them: memory in MB, a time with hours.

    Several CPUs are tasks of one node: `--cpus-per-task` is not among them.
    """
    hours, minutes = divmod(spec.time_limit_minutes, 60)
    gres = ",".join(_value("resources.gres", one) for one in (spec.gres or "").split(",") if one)
    nodes = ",".join(_value("a node", node) for node in spec.exclude_nodes)
    return [
        f"--time={hours:02}:{minutes:02}:00",
        f"--mem={spec.memory_mib}",
        "--nodes=1",
        f"--ntasks={spec.cpus}",
        "--no-requeue",
        *_option("-p", spec.partition),
        *_option("-A", spec.account),
        *([f"--qos={_value('a quality of service', spec.qos)}"] if spec.qos else []),
        *([f"--gres={gres}"] if gres else []),
        *(["-x", nodes] if nodes else []),
    ]


def _option(name: str, value: str | None) -> list[str]:
    return [name, _value(name, value)] if value else []


def _value(what: str, text: str) -> str:
    if not _VALUE.fullmatch(text) or text.startswith("-"):
        raise DefinitionError(f"{text!r} cannot stand for {what} in a native specification.")
    return text
