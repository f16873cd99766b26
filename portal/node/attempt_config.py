"""An attempt's `config.ini`, as the portal writes it for the wrapper.

Sections `[settings]` (of which only `job_id` matters here), `[attempt]`, and, where there is something to
say, `[outputs]` (one key for each declared output's path) and `[mail]`. The others are the portal's own.
"""

import configparser
import os
import re
from typing import FrozenSet, NamedTuple, Optional, Tuple

from .durable import AnyPath

SUCCESS_RULES = ("exit_code", "no_stderr", "exit_code_and_no_stderr")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_SECONDS = 3600
_DIGITS = re.compile(r"[0-9]{1,9}")


class MailConfig(NamedTuple):
    """How this node sends the mail of a success."""

    smtp_host: str
    smtp_port: int
    from_address: str
    to: str
    timeout_seconds: float


class AttemptConfig(NamedTuple):
    """What the wrapper needs to know of its attempt."""

    job_id: str
    number: int
    """From 1; the name of the attempt's folder."""
    scheduler_name: str
    shell: str
    success_rule: str
    """One of SUCCESS_RULES."""
    heartbeat_seconds: float
    environment: Tuple[str, ...]
    """Names of variables that the program gets from the wrapper's own environment."""
    bin_dir: str
    reserved_exit_codes: FrozenSet[int]
    """Exit codes that mean something else to this scheduler."""
    outputs: Tuple[str, ...]
    """Declared outputs, relative to `work/`, with `/`."""
    mail: Optional[MailConfig]
    """None where the portal itself sends it."""


def read_attempt_config(path: AnyPath) -> AttemptConfig:
    """The attempt's configuration; OSError where it cannot be read, ValueError where it is not right."""
    with open(os.fspath(path), "rb") as file:
        return parse_attempt_config(file.read())


def parse_attempt_config(data: bytes) -> AttemptConfig:
    """As `read_attempt_config`, from the file's content; ValueError names section, key and rule."""
    parser = _parser(data)
    attempt = _Section(parser, "attempt")
    return AttemptConfig(
        job_id=_Section(parser, "settings").text("job_id"),
        number=attempt.integer("number", 1, 1000000),
        scheduler_name=attempt.text("scheduler_name"),
        shell=attempt.absolute_path("shell"),
        success_rule=attempt.choice("success_rule", SUCCESS_RULES),
        heartbeat_seconds=attempt.seconds("heartbeat_seconds"),
        environment=attempt.names("environment"),
        bin_dir=attempt.absolute_path("bin_dir"),
        reserved_exit_codes=frozenset(attempt.integers("reserved_exit_codes", 1, 255)),
        outputs=_outputs(parser),
        mail=_mail(parser),
    )


class _Section:
    """One section; each method raises ValueError where the key is missing or its value is not right."""

    def __init__(self, parser: configparser.RawConfigParser, name: str) -> None:
        self._name = name
        if not parser.has_section(name):
            raise ValueError("config.ini has no section [{}]".format(name))
        self._values = dict(parser.items(name))

    def all_keys(self) -> Tuple[str, ...]:
        return tuple(self._values)

    def optional_text(self, key: str) -> str:
        if key not in self._values:
            raise self._error(key, "is missing")
        value = self._values[key]
        if not value.isprintable():
            raise self._error(key, "must be one line of printable characters")
        return value

    def text(self, key: str) -> str:
        value = self.optional_text(key)
        if not value:
            raise self._error(key, "must not be empty")
        return value

    def path(self, key: str) -> str:
        # Python 3.6 in a C locale takes file names for ASCII and carries other bytes as surrogates: the
        # file's UTF-8 has to be handed over in that form.
        return os.fsdecode(self.text(key).encode("utf-8"))

    def absolute_path(self, key: str) -> str:
        value = self.path(key)
        if not value.startswith("/"):
            raise self._error(key, "must be an absolute path")
        return value

    def choice(self, key: str, choices: Tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in choices:
            raise self._error(key, "must be one of {}".format(", ".join(choices)))
        return value

    def integer(self, key: str, lowest: int, highest: int) -> int:
        return self._integer(key, self.text(key), lowest, highest)

    def integers(self, key: str, lowest: int, highest: int) -> Tuple[int, ...]:
        words = self.optional_text(key).split()
        return tuple(self._integer(key, word, lowest, highest) for word in words)

    def names(self, key: str) -> Tuple[str, ...]:
        words = tuple(self.optional_text(key).split())
        if not all(_NAME.fullmatch(word) for word in words):
            raise self._error(key, "must be names of variables")
        return words

    def seconds(self, key: str) -> float:
        try:
            value = float(self.text(key))
        except ValueError as error:
            raise self._error(key, "must be a number of seconds") from error
        if not 0 < value <= _MOST_SECONDS:
            raise self._error(key, "must be more than 0 and at most {} seconds".format(_MOST_SECONDS))
        return value

    def _integer(self, key: str, word: str, lowest: int, highest: int) -> int:
        if not _DIGITS.fullmatch(word) or not lowest <= int(word) <= highest:
            raise self._error(key, "must be a whole number from {} to {}".format(lowest, highest))
        return int(word)

    def _error(self, key: str, problem: str) -> ValueError:
        return ValueError("config.ini: [{}] {} {}".format(self._name, key, problem))


def _parser(data: bytes) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(
        delimiters=("=",),
        comment_prefixes=("#",),
        # No section of the file may lend its values to all the others.
        default_section="\n",
        interpolation=None,
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string(data.decode("utf-8"), "config.ini")
    except (UnicodeDecodeError, configparser.Error) as error:
        raise ValueError("config.ini cannot be read: {}".format(" ".join(str(error).split()))) from error
    return parser


def _outputs(parser: configparser.RawConfigParser) -> Tuple[str, ...]:
    if not parser.has_section("outputs"):
        return ()
    section = _Section(parser, "outputs")
    paths = tuple(section.path(key) for key in section.all_keys())
    for path in paths:
        if any(part in ("", ".", "..") for part in path.split("/")):
            raise ValueError("config.ini: [outputs] must hold plain relative paths")
    return paths


def _mail(parser: configparser.RawConfigParser) -> Optional[MailConfig]:
    if not parser.has_section("mail"):
        return None
    section = _Section(parser, "mail")
    return MailConfig(
        smtp_host=section.text("smtp_host"),
        smtp_port=section.integer("smtp_port", 1, 65535),
        from_address=section.text("from_address"),
        to=section.text("to"),
        timeout_seconds=section.seconds("timeout_seconds"),
    )
