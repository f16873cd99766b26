"""The settings: one description, unit and default per field, from `portal.toml` and `PORTAL_*` variables.

A variable such as `PORTAL_SCHEDULER__POLL_SECONDS` wins over the file; variables that name no setting are ignored.
Relative paths are relative to the settings file, and without one to the working directory. Whatever is wrong is one
line that names the key (`SettingsError`), at start.
"""

import os
import re
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from portal.errors import SettingsError
from portal.shipped import shipped_dir

DEFAULT_FILE = "portal.toml"


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("should be an address such as https://portal.example.org")
    return text.rstrip("/")


def _bind(text: str) -> str:
    host, separator, port = text.rpartition(":")
    if not (separator and host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError("should be HOST:PORT, such as 127.0.0.1:8080")
    return text


def _database_url(text: str) -> str:
    try:
        backend = make_url(text).get_backend_name()
    except ArgumentError:
        backend = ""
    if backend not in ("sqlite", "postgresql"):
        raise ValueError("should be sqlite:///FILE or postgresql+psycopg://…")
    return text


def _directive_value(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_.:+=,-]+", text):
        raise ValueError("should have letters, digits and _.:+=,- only")
    return text


def _path_there(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts or path == Path("/") or not str(path).isprintable():
        raise ValueError("should be the absolute path of a folder on the cluster")
    return path


DirectiveValue = Annotated[str, AfterValidator(_directive_value)]
"""What may stand in a line for the scheduler in a batch script."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PortalSection(_Section):
    """The portal itself."""

    base_url: Annotated[str, AfterValidator(_base_url)] = Field(
        "http://127.0.0.1:8080", description="The address that people use; links in mail begin with it."
    )
    bind: Annotated[str, AfterValidator(_bind)] = Field(
        "127.0.0.1:8080", description="HOST:PORT on which the web server listens."
    )
    jobs_dir: Path = Field(Path("jobs"), description="The folder of the job directories.")
    database_url: Annotated[str, AfterValidator(_database_url)] = Field(
        "sqlite:///portal.db", description="The database, as an SQLAlchemy address."
    )
    templates_dir: Path = Field(
        default_factory=lambda: shipped_dir("job_templates"),
        description="The folder of the applications; by default those that come with the portal.",
    )
    access: Literal["open", "sign-in"] = Field("open", description="Who may submit; this version has `open` only.")
    secret_key_file: Path | None = Field(
        None,
        description="The file of the portal's one secret; by default made beside the database, mode 0600.",
    )
    trusted_hosts: list[str] = Field(
        default_factory=list,
        description="Host names other than base_url's under which the portal may be reached.",
    )
    site_name: str = Field("Portal", description="What the site is called on its pages and in its mail.")
    stop_seconds: float = Field(
        10,
        ge=0,
        le=3600,
        description="Seconds that running programs get to end by themselves when a client stops.",
    )


class SshSection(_Section):
    """How to reach a cluster's login node (`slurm-ssh` only)."""

    host: str | None = Field(None, description="The login node.")
    port: int = Field(22, ge=1, le=65535, description="Its SSH port.")
    user: str | None = Field(None, description="The account that jobs run as.")
    key_file: Path | None = Field(None, description="The private key.")
    known_hosts_file: Path | None = Field(None, description="The host keys that are accepted.")
    connect_timeout_seconds: float = Field(10, gt=0, description="Seconds to wait for a connection.")
    command_timeout_seconds: float = Field(30, gt=0, description="Seconds that one command may take.")
    remote_jobs_dir: Annotated[Path, AfterValidator(_path_there)] | None = Field(
        None,
        description="The jobs folder on the cluster, where none is shared: job directories go there by SFTP, and "
        "results come back.",
    )


class DrmaaSection(_Section):
    """A DRMAA library (`drmaa` only)."""

    library: Path | None = Field(None, description="The library's file; by default what DRMAA_LIBRARY_PATH names.")
    native_specification: str = Field(
        "",
        description="Added to each job's native specification. Where the cluster is neither Grid Engine nor Slurm it "
        "is the whole of it, with {time_limit_seconds} or {time_limit_minutes}, {memory_mib} and {cpus} in it.",
    )
    parallel_environment: str | None = Field(
        None, description="Grid Engine's parallel environment for jobs that ask for more than one CPU."
    )


class SchedulerSection(_Section):
    """Where jobs run."""

    kind: Literal["local", "slurm", "slurm-ssh", "drmaa"] = Field("local", description="Which scheduler.")
    poll_seconds: float = Field(2, gt=0, le=3600, description="Seconds from one look at the scheduler to the next.")
    grace_seconds_or_none: float | None = Field(
        None,
        alias="grace_seconds",
        ge=0,
        description="Seconds to wait for evidence that lags behind: 90, and 5 for the local scheduler.",
    )
    partition: DirectiveValue | None = Field(
        None, description="The partition, unless the application names one (not for `local`)."
    )
    account: DirectiveValue | None = Field(None, description="The account that is charged (not for `local`).")
    qos: DirectiveValue | None = Field(None, description="The quality of service (not for `local`).")
    node_python: str = Field("python3", description="Python 3.6 or newer on the compute nodes.")
    command_prefix: list[str] = Field(
        default_factory=list, description="Put before each of the scheduler's commands (not for `local`)."
    )
    ssh: SshSection = SshSection()
    drmaa: DrmaaSection = DrmaaSection()

    @property
    def grace_seconds(self) -> float:
        """Seconds to wait for evidence that lags behind: 90, and 5 for the local scheduler."""
        if self.grace_seconds_or_none is not None:
            return self.grace_seconds_or_none
        return 5 if self.kind == "local" else 90


class MailSection(_Section):
    """How mail goes out."""

    transport: Literal["folder", "smtp"] = Field("folder", description="Files in a folder, or an SMTP server.")
    folder: Path = Field(Path("mail"), description="The folder of the .eml files.")
    show_page: bool = Field(False, description="Show the folder as the page /mail; only when bound to loopback.")
    smtp_host: str = Field("localhost", description="The SMTP server.")
    smtp_port: int = Field(25, ge=1, le=65535, description="Its port.")
    smtp_user: str | None = Field(None, description="The name to log in with, if any.")
    smtp_password_file: Path | None = Field(None, description="The file of the password.")
    starttls: bool = Field(False, description="Encrypt with STARTTLS.")
    smtp_timeout_seconds: float = Field(20, gt=0, le=600, description="Seconds that one answer of the server may take.")
    from_address: str | None = Field(None, description="The sender; by default portal@ and base_url's host.")
    sent_by: Literal["portal", "node"] = Field("portal", description="Who sends the mail of a success.")


class LimitsSection(_Section):
    """Limits."""

    max_in_scheduler: int = Field(1000, ge=1, description="Jobs that are in the scheduler at once.")
    waiting_in_scheduler_per_person: int = Field(
        100,
        ge=1,
        description="Jobs of one person that wait in the scheduler's queue at once; further ones stay accepted until "
        "some have started, so that they are not ahead of the next person's.",
    )
    active_jobs_per_person: int = Field(1000, ge=1, description="Jobs of one person that are not final.")
    jobs_per_hour_per_person: int = Field(1000, ge=1, description="Jobs that one address may send in an hour.")
    jobs_per_hour_per_ip: int = Field(
        1000,
        ge=1,
        description="Jobs that one network address may send in an hour; not counted yet.",
    )
    mails_per_hour_per_person: int = Field(
        60,
        ge=1,
        description="Messages to one person in an hour; what goes over it waits, and becomes one message, a digest.",
    )
    mails_per_hour: int = Field(
        1000, ge=1, description="Messages to everybody in an hour; what goes over it waits and is not dropped."
    )
    upload_mib: int = Field(32, ge=1, le=4096, description="MiB of one submission, files and text together.")
    results_mib: int = Field(
        1024,
        ge=1,
        description="MiB of one job's results that are brought from a cluster that shares no jobs folder; files that "
        "go over it stay there, and the visitor is told which.",
    )
    purge_expired: bool = Field(
        True,
        description="Whether jobs are deleted once their application's `retention_days` are over; pages and mail tell "
        "the date.",
    )
    misses_per_minute_per_ip: int = Field(
        60,
        ge=1,
        description="Unknown or forbidden job ids and sign-in links that one network address may try in a minute.",
    )


class _KnownVariables(EnvSettingsSource):
    """`PORTAL_SECTION__KEY` for the keys that exist; any other variable of that form is left alone."""

    def __call__(self) -> dict[str, Any]:
        return _known_only(super().__call__(), self.settings_cls)

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """JSON where it is JSON; anything else goes on as it is, to be refused under its own key."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def _known_only(values: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    by_name = {(field.alias or name): field for name, field in model.model_fields.items()}
    known: dict[str, Any] = {}
    for name, value in values.items():
        if name not in by_name:
            continue
        inner: Any = by_name[name].annotation
        is_section = isinstance(inner, type) and issubclass(inner, BaseModel)
        if not isinstance(value, dict):
            known[name] = value
        elif is_section:  # parts of a variable's name below a key that has none belong to somebody else
            known[name] = _known_only(value, inner)
    return known


class Settings(BaseSettings):
    """All settings, checked. Paths are absolute."""

    model_config = SettingsConfigDict(
        env_prefix="PORTAL_", env_nested_delimiter="__", extra="forbid", frozen=True, case_sensitive=False
    )

    portal: PortalSection = PortalSection()
    scheduler: SchedulerSection = SchedulerSection()
    mail: MailSection = MailSection()
    limits: LimitsSection = LimitsSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return _KnownVariables(settings_cls), init_settings

    @model_validator(mode="after")
    def _check(self) -> "Settings":
        _check_what_this_version_can_do(self)
        if self.mail.show_page and not self._is_private():
            raise ValueError(
                "mail.show_page: the page /mail holds links that give access; "
                "it should be on only where portal.bind and portal.base_url are loopback addresses and "
                "portal.trusted_hosts is empty"
            )
        if self.mail.smtp_user and not self.mail.smtp_password_file:
            raise ValueError("mail.smtp_password_file: should name a file, since mail.smtp_user is set")
        return self

    def _is_private(self) -> bool:
        """Whether nobody but this machine reaches the portal, through no proxy either."""
        hosts = [self.bind_host, urlsplit(self.portal.base_url).hostname or "", *self.portal.trusted_hosts]
        return all(is_loopback(host) for host in hosts)

    @property
    def shares_no_files(self) -> bool:
        """Whether the cluster has a jobs folder of its own."""
        return self.scheduler.kind == "slurm-ssh" and self.scheduler.ssh.remote_jobs_dir is not None

    @property
    def bind_host(self) -> str:
        """The host part of `portal.bind`, without brackets."""
        return self.portal.bind.rpartition(":")[0].strip("[]")

    @property
    def bind_port(self) -> int:
        """The port part of `portal.bind`."""
        return int(self.portal.bind.rpartition(":")[2])

    @property
    def from_address(self) -> str:
        """The sender of all mail."""
        return self.mail.from_address or f"portal@{urlsplit(self.portal.base_url).hostname}"

    @property
    def secret_key_file(self) -> Path:
        """The file of the portal's one secret."""
        if self.portal.secret_key_file is not None:
            return self.portal.secret_key_file
        database = make_url(self.portal.database_url)
        if database.get_backend_name() == "sqlite" and database.database:
            return Path(database.database).with_name("secret_key")
        return self.portal.jobs_dir.parent / "secret_key"


def _check_what_this_version_can_do(settings: Settings) -> None:
    if settings.scheduler.kind == "slurm-ssh":
        _check_ssh(settings.scheduler.ssh)
    if settings.scheduler.kind == "drmaa" and settings.scheduler.command_prefix:
        raise ValueError(
            "scheduler.command_prefix: a DRMAA library submits as the dispatcher's own account; leave it out"
        )
    if settings.shares_no_files and settings.mail.sent_by == "node":
        raise ValueError(
            "mail.sent_by: should be 'portal', since scheduler.ssh.remote_jobs_dir is set: whether a node has sent a "
            "message would be known too late"
        )
    if settings.portal.access != "open":
        raise ValueError("portal.access: should be 'open'; this version has no signing in yet")


def _check_ssh(ssh: SshSection) -> None:
    for name in ("host", "user", "key_file", "known_hosts_file"):
        if getattr(ssh, name) is None:
            raise ValueError(f"scheduler.ssh.{name}: is needed, since scheduler.kind is 'slurm-ssh'")


SectionT = TypeVar("SectionT", bound=_Section)


def is_loopback(host: str) -> bool:
    """True for `localhost` and for every address of this machine to itself."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def load_settings(file: Path | None = None) -> Settings:
    """The settings from `file`, else `$PORTAL_CONFIG`, else `./portal.toml`, else the defaults.

    Raises SettingsError, one line that names the file, the key and what would be right. Nothing is created.
    """
    chosen = _choose_file(file)
    values = _read_toml(chosen) if chosen else {}
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError(_one_line(error, chosen)) from error
    except ValueError as error:  # a variable that should be JSON and is not
        raise SettingsError(f"environment: {error}") from error
    return _with_absolute_paths(settings, (chosen.parent if chosen else Path()).absolute())


def _choose_file(file: Path | None) -> Path | None:
    if file is None and os.environ.get("PORTAL_CONFIG"):
        file = Path(os.environ["PORTAL_CONFIG"])
    if file is None:
        default = Path(DEFAULT_FILE)
        return default if default.exists() else None
    if not file.exists():
        raise SettingsError(f"{file}: there is no such settings file")
    return file


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{file}: is not TOML: {error}") from error


def _one_line(error: ValidationError, file: Path | None) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        message = "there is no such setting"
    else:
        message = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if key and "input" in first and isinstance(first["input"], str | int | float | bool):
        message += f" (it is {first['input']!r})"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    where = f"{file}: " if file else ""
    return f"{where}{key}{': ' if key else ''}{message}{more}"


def _with_absolute_paths(settings: Settings, base: Path) -> Settings:
    return settings.model_copy(
        update={
            "portal": _absolute(settings.portal, base).model_copy(
                update={"database_url": _absolute_database_url(settings.portal.database_url, base)}
            ),
            "scheduler": settings.scheduler.model_copy(
                update={
                    "ssh": _absolute(settings.scheduler.ssh, base),
                    "drmaa": _absolute(settings.scheduler.drmaa, base),
                }
            ),
            "mail": _absolute(settings.mail, base),
        }
    )


def _absolute(section: SectionT, base: Path) -> SectionT:
    paths = {name: base / value for name, value in section if isinstance(value, Path)}
    return section.model_copy(update=paths)


def _absolute_database_url(url: str, base: Path) -> str:
    parts = make_url(url)
    if parts.get_backend_name() != "sqlite" or not parts.database:
        return url
    return parts.set(database=str(base / parts.database)).render_as_string(hide_password=False)
