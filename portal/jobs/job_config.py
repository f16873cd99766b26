"""`config.ini`: what was asked for, in a form that people can read. With it, a directory is a job.

No interpolation, case-preserving, single-line values; what is written is read back and compared before the rename
that makes it count.
"""

import configparser
import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from portal.clock import parse_utc_text
from portal.errors import StorageError
from portal.node.durable import write_durably


@dataclass(frozen=True)
class JobConfig:
    """The contents of a job's `config.ini`."""

    job_id: str
    email: str
    owner: str
    results_url: str
    application: str
    token: str
    created_at: datetime
    session_id: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    """Canonical texts by parameter; of files and long texts, the path in the job directory. Empty ones are absent."""
    filenames: dict[str, str] = field(default_factory=dict)
    """What visitors called their files, for display only."""
    resources: dict[str, str] = field(default_factory=dict)

    def sections(self) -> dict[str, dict[str, str]]:
        """The file's sections, in the order in which they are written."""
        settings = {
            "job_id": self.job_id,
            "job_dirname": f"job-{self.job_id}",
            "email": self.email,
            "owner": self.owner,
            "results_url": self.results_url,
            "application": self.application,
            "token": self.token,
            "created_at": _precise_text(self.created_at),
        }
        if self.session_id:
            settings["session"] = self.session_id
        sections = {"settings": settings, "inputs": self.inputs, "resources": self.resources}
        if self.filenames:
            sections["filenames"] = self.filenames
        return sections


def _precise_text(moment: datetime) -> str:
    """As `utc_text`, with microseconds: jobs that came in the same second keep their order."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def new_parser() -> configparser.RawConfigParser:
    """The one dialect of INI that the portal writes and reads."""
    parser = configparser.RawConfigParser(
        interpolation=None, delimiters=("=",), comment_prefixes=("#",), default_section="\0none", strict=True
    )
    parser.optionxform = lambda optionstr: optionstr  # type: ignore[method-assign]  # keep the case of keys
    return parser


def render_sections(sections: dict[str, dict[str, str]]) -> bytes:
    """The sections as INI. Raises ValueError for a line break, and where reading it back would not give the same."""
    if any("\n" in value or "\r" in value for section in sections.values() for value in section.values()):
        raise ValueError("a value must be a single line")
    parser = new_parser()
    parser.read_dict(sections)
    stream = io.StringIO()
    parser.write(stream)
    text = stream.getvalue()
    if parse_sections(text) != sections:
        raise ValueError("a value cannot be kept in an INI file")
    return text.encode("utf-8")


def parse_sections(text: str) -> dict[str, dict[str, str]]:
    """The sections of an INI text. Raises ValueError."""
    parser = new_parser()
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise ValueError(f"not a config.ini: {error}") from error
    return {name: dict(parser.items(name)) for name in parser.sections()}


def write_job_config(file: Path, config: JobConfig) -> None:
    """Write it durably, all or nothing. Raises OSError, and StorageError where it would not read back the same."""
    try:
        data = render_sections(config.sections())
    except (ValueError, UnicodeEncodeError) as error:
        raise StorageError("This job's inputs cannot be stored.", log_detail=f"{file}: {error}") from error
    write_durably(str(file), data)


def read_job_config(file: Path) -> JobConfig:
    """What `write_job_config` wrote. Raises ValueError naming the file, or OSError."""
    try:
        sections = parse_sections(file.read_text("utf-8"))
        settings = sections["settings"]
        return JobConfig(
            job_id=settings["job_id"],
            email=settings["email"],
            owner=settings["owner"],
            results_url=settings["results_url"],
            application=settings["application"],
            token=settings["token"],
            created_at=parse_utc_text(settings["created_at"]),
            session_id=settings.get("session"),
            inputs=sections.get("inputs", {}),
            filenames=sections.get("filenames", {}),
            resources=sections.get("resources", {}),
        )
    except KeyError as error:
        raise ValueError(f"{file}: lacks {error}") from error
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
