"""The rules of the lint: what must not be done with a variable that holds what a visitor gave."""

import re

from portal.applications.shell_scan import Command, Mention

# Words and assignments before the command proper.
_PREFIX = (
    r"(?:(?:command|builtin|exec|env|nohup|nice|time|timeout\s+\S+|srun|mpirun)\s+"
    r"|[A-Za-z_]\w*\+?=(?:\"[^\"]*\"|'[^']*'|[^\s\"'])*\s+)*"
)
# A word that has begun and in which a double quote is open.
_OPEN_WORD = r"(?:'[^']*'|\"(?:[^\"\\]|\\.)*\"|[^\s\"'])*\"(?:[^\"\\]|\\.)*$"

_AT_COMMAND = re.compile(_PREFIX + r"\"?$")
_EVALUATES = re.compile(_PREFIX + r"(eval|let|source|\.|trap|alias|ssh)\s")
# An option, with its argument where it is known to take one, before the program text.
_OPTIONS = r"(?:\s+-e\s+(?:'[^']*'|\"[^\"]*\")|\s+-o\s+\w+|\s+-(?![vFfi]\b)\S+)*"
_CODE = re.compile(
    r"(?<![\w.-])(sh|bash|dash|ash|ksh|zsh|python[0-9.]*|perl|ruby|Rscript|node|php|lua)"
    + _OPTIONS
    + r"\s+-[A-Za-z]*[ceEr]\s*"
    + _OPEN_WORD
    + r"|(?<![\w.-])(su)\b.*\s-c\s*"
    + _OPEN_WORD
    + r"|(?<![\w.-])(awk|gawk|mawk|sed)"
    + _OPTIONS
    + r"\s+(?=[\"'])"
    + _OPEN_WORD,
    re.DOTALL,
)
_FORMAT = re.compile(_PREFIX + r"printf\s+(?:--\s+)?(?=[\"'])" + _OPEN_WORD, re.DOTALL)
_ARITHMETIC_TEST = re.compile(r"\[\[.*\s-(?:eq|ne|lt|le|gt|ge)\s", re.DOTALL)
_INTEGER_DECLARATION = re.compile(_PREFIX + r"(?:declare|typeset|local|export|readonly)\s+-[A-Za-z]*i")
_NAMES_VARIABLE = re.compile(
    _PREFIX + r"(?:unset|read|declare|typeset|local|export|readonly|getopts|mapfile|readarray)\b.*\s\"?$"
    r"|" + _PREFIX + r"(?:printf|\[|\[\[|test)\s(?:.*\s)?-v\s+\"?$",
    re.DOTALL,
)
_INDEX = re.compile(r"\w\[[^\]\s]*$")
_WRITTEN_FILE = re.compile(r">\|?\s*" + _OPEN_WORD, re.DOTALL)

_ALIAS = re.compile(r"(?:^|\s)([A-Za-z_]\w*)\+?=(?:\"[^\"]*|[^\s\"]*)$")
_LOOP_VARIABLE = re.compile(r"for\s+([A-Za-z_]\w*)\s+in\s")
_ARRAY = re.compile(r"([A-Za-z_]\w*)\+?=\($")


def misuse(mention: Mention, *, free_text: bool) -> str | None:
    """What is wrong with this use, to follow the variable's name; None where it is fine.

    `free_text` says that a visitor may have typed anything, a path such as `../x` included.
    """
    if mention.prefix == "#" or mention.operator == ":+" or mention.operator[:1] == "+":
        return None  # only its length is used, or whether there is a value
    return _in_surroundings(mention) or _in_commands(mention) or _in_its_command(mention, free_text=free_text)


def _in_surroundings(mention: Mention) -> str | None:
    if "arithmetic" in mention.surroundings:
        return "must not be used in arithmetic: the shell evaluates the text, and has 64 bits only; use expr or awk"
    if "here-document" in mention.surroundings:
        return f"must not be used in a here-document; write printf '%s\\n' \"${mention.name}\" | …"
    if "backticks" in mention.surroundings:
        return f'must not be used in backticks; write $(… "${mention.name}" …)'
    if mention.prefix == "!":
        return "must not be used to name another variable"
    if not mention.quoted:
        return f'must be in double quotes: "${mention.name}"'
    return None


def _in_commands(mention: Mention) -> str | None:
    """Texts that are evaluated once more, however deep within them the value is put together."""
    for command in mention.commands:
        before = mention.text_before(command)
        if match := _EVALUATES.match(command.words()):
            return f"must not be used in “{match.group(1)}”, which evaluates it once more"
        if match := _CODE.search(before):
            return f"must not be part of a program text for {match[match.lastindex or 0]}; hand it over as an argument"
    return None


def _in_its_command(mention: Mention, *, free_text: bool) -> str | None:
    command = mention.commands[-1]
    before = mention.text_before(command)
    if _AT_COMMAND.match(before) and not command.is_list:
        return "must not be the command: a visitor would choose the program"
    if _FORMAT.match(before):
        return f"must not be printf's format; write printf '%s\\n' \"${mention.name}\""
    if _is_arithmetic(command, before):
        return "must not be used in arithmetic: the shell evaluates the text"
    if _NAMES_VARIABLE.match(before):
        return "must not be used to name another variable"
    if free_text and _WRITTEN_FILE.search(before):
        return "must not name a file to write to unless the parameter has a pattern"
    return None


def _is_arithmetic(command: Command, before: str) -> bool:
    return bool(_ARITHMETIC_TEST.match(command.words()) or _INTEGER_DECLARATION.match(before) or _INDEX.search(before))


def direct_alias(mention: Mention) -> str | None:
    """The variable that is assigned straight from this one, if any."""
    command = mention.commands[-1]
    if command.is_list and len(mention.commands) > 1:
        match = _ARRAY.search(mention.text_before(mention.commands[-2]))
    else:
        before = mention.text_before(command)
        match = _ALIAS.search(before) or _LOOP_VARIABLE.match(before)
    return match.group(1) if match else None
