"""Where a shell script mentions its variables, and in what surroundings: enough of the shell's grammar for the lint.

It knows quotes, substitutions, arithmetic, here-documents, comments and where commands begin and end. What it cannot
follow it refuses, so that nothing goes unseen.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

Surroundings = Literal["arithmetic", "backticks", "here-document"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACED = re.compile(r"\$\{([#!]?)([A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-])")
_HERE_DOCUMENT = re.compile(r"<<(-?)[ \t]*('[^'\n]*'|\"[^\"\n]*\"|\\?[^\s;|&<>()'\"]+)")
# Words after which a command begins.
_BEFORE_COMMAND = re.compile(r"(?:\s*(?:if|then|else|elif|while|until|do|time|!|\{)(?=\s))*\s*")


class ScanError(ValueError):
    """The script cannot be followed; `line` is where what is not closed begins."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(eq=False)
class Command:
    """One simple command or, with `is_list`, the words of an array. Its text is set when its end is known."""

    start: int
    is_list: bool = False
    text: str = ""

    def words(self) -> str:
        """The command without the reserved words before it."""
        return self.text[_before_command(self.text) :]


@dataclass(frozen=True)
class Mention:
    """One place where a variable's value, or with `#` or `!` something made of it, is used."""

    name: str
    line: int
    offset: int
    quoted: bool
    surroundings: tuple[Surroundings, ...]
    commands: tuple[Command, ...]  # from the outermost to the one that it stands in
    prefix: str = ""  # `#` of `${#x}`, `!` of `${!x}`
    operator: str = ""  # what follows the name within braces, up to two characters

    def text_before(self, command: Command) -> str:
        """What `command`, one of `commands`, says before this place or before the substitution that holds it.

        Without reserved words such as `if`.
        """
        inner = self.commands[self.commands.index(command) + 1 :]
        end = inner[0].start if inner else self.offset
        before = command.text[: end - command.start]
        return before[_before_command(before) :]


def _before_command(text: str) -> int:
    match = _BEFORE_COMMAND.match(text)
    return match.end() if match else 0


@dataclass
class Scan:
    """What a script holds."""

    mentions: list[Mention] = field(default_factory=list)
    single_quoted: list[tuple[int, str]] = field(default_factory=list)  # line and text


def scan(script: str) -> Scan:
    """The mentions of all variables in `script`. Raises ScanError where a quote or a bracket is not closed."""
    scanner = _Scanner(script)
    try:
        scanner.commands(closer="")
    except RecursionError as error:
        raise ScanError(1, "is nested too deeply") from error
    return scanner.found


class _Scanner:
    def __init__(self, script: str) -> None:
        self.text = script
        self.at = 0
        self.found = Scan()
        self._surroundings: list[Surroundings] = []
        self._commands: list[Command] = []
        self._here_documents: list[tuple[str, bool, bool]] = []  # delimiter, whether expanded, whether tabs go

    # Places

    def _next(self, length: int = 1) -> str:
        return self.text[self.at : self.at + length]

    def _line(self, at: int | None = None) -> int:
        return self.text.count("\n", 0, self.at if at is None else at) + 1

    def _unclosed(self, start: int, what: str) -> ScanError:
        return ScanError(self._line(start), f"{what} is not closed")

    # Commands

    def commands(self, closer: str, *, is_list: bool = False) -> None:
        """Scan up to and past `closer`; an empty one is the script's end."""
        start = self.at
        self._begin_command(is_list=is_list)
        cases = 0  # within `case`, a `)` ends a pattern
        while self.at < len(self.text):
            char = self._next()
            if char == closer and not (char == ")" and (cases or self._in_test())):
                break
            if char.isalnum() or char == "_":
                cases = max(0, cases + self._word())
            else:
                self._command_character(char, is_list=is_list)
        self._end_command()
        if closer and self.at >= len(self.text):
            raise self._unclosed(start, f"what ends with {closer}")
        self.at += len(closer)

    def _word(self) -> int:
        """Skip a word; 1 where it opens a `case`, -1 where it ends one."""
        command = self._commands[-1]
        first = not self.text[command.start + _before_command(self.text[command.start : self.at]) : self.at]
        begun = self.at
        while self.at < len(self.text) and (self._next().isalnum() or self._next() == "_"):
            self.at += 1
        word = self.text[begun : self.at]
        return {"case": 1, "esac": -1}.get(word, 0) if first else 0

    def _command_character(self, char: str, *, is_list: bool) -> None:
        previous = self.text[self.at - 1 : self.at]
        if char in "&|()" and self._in_test():
            self.at += 1
        elif char == "#" and (not previous or previous in " \t\n;|&()"):
            self._skip_comment()
        elif char == "(":
            self._parenthesis(previous)
        elif char == "\n" or char in ";|)" or (char == "&" and previous not in "<>" and self._next(2) != "&>"):
            self.at += 1
            if char == "\n":
                self._read_here_documents()
            self._end_command()
            self._begin_command(is_list=is_list)
        elif char == "<" and self._next(3) != "<<<" and (match := _HERE_DOCUMENT.match(self.text, self.at)):
            tabs, word = match.groups()
            self._here_documents.append((word.strip("'\"\\"), word[0] not in "'\"\\", tabs == "-"))
            self.at = match.end()
        elif self._next(3) == "<<<":
            self.at += 3
        else:
            self._word_character(char, quoted=False)

    def _in_test(self) -> bool:
        """Within `[[ … ]]`, where `&&`, `||` and brackets belong to the test."""
        command = self._commands[-1]
        text = self.text[command.start : self.at]
        return text.startswith("[[", _before_command(text)) and "]]" not in text

    def _parenthesis(self, previous: str) -> None:
        if self._next(2) == "((":
            self.at += 2
            self._arithmetic("))")
            return
        self.at += 1
        self.commands(")", is_list=previous == "=")
        if previous != "=":
            self._end_command()
            self._begin_command()

    def _begin_command(self, *, is_list: bool = False) -> None:
        self._commands.append(Command(self.at, is_list=is_list))

    def _end_command(self) -> None:
        command = self._commands.pop()
        command.text = self.text[command.start : self.at]

    def _skip_comment(self) -> None:
        end = self.text.find("\n", self.at)
        self.at = len(self.text) if end < 0 else end

    # Words

    def _word_character(self, char: str, *, quoted: bool) -> None:
        if char == "\\":
            self.at += 2
        elif char == "'" and not quoted:
            self._single_quotes()
        elif char == '"':
            self._double_quotes()
        elif char == "$":
            self._dollar(quoted=quoted)
        elif char == "`":
            self._backticks()
        else:
            self.at += 1

    def _single_quotes(self) -> None:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise self._unclosed(self.at, "a single quote")
        self.found.single_quoted.append((self._line(), self.text[self.at + 1 : end]))
        self.at = end + 1

    def _double_quotes(self) -> None:
        start = self.at
        self.at += 1
        while self._next() != '"':
            if self.at >= len(self.text):
                raise self._unclosed(start, "a double quote")
            self._word_character(self._next(), quoted=True)
        self.at += 1

    def _backticks(self) -> None:
        self.at += 1
        self._surroundings.append("backticks")
        self.commands("`")
        self._surroundings.pop()

    def _dollar(self, *, quoted: bool) -> None:
        if self._next(3) == "$((":
            self.at += 3
            self._arithmetic("))")
        elif self._next(2) == "$(":
            self.at += 2
            self.commands(")")
        elif self._next(2) == "$[":
            self.at += 2
            self._arithmetic("]")
        elif self._next(2) == "${":
            self._braces(quoted=quoted)
        elif self._next(2) == "$'" and not quoted:
            self._ansi_quotes()
        elif match := _NAME.match(self.text, self.at + 1):
            self._mention(match.group(), quoted=quoted)
            self.at = match.end()
        else:
            self.at += 2 if self.text[self.at + 1 : self.at + 2] in tuple("@*#?$!-0123456789") else 1

    def _ansi_quotes(self) -> None:
        start = self.at
        self.at += 2
        while self._next() != "'":
            if self.at >= len(self.text):
                raise self._unclosed(start, "a single quote")
            self.at += 2 if self._next() == "\\" else 1
        self.at += 1

    def _braces(self, *, quoted: bool) -> None:
        start = self.at
        match = _BRACED.match(self.text, self.at)
        if match is None:
            raise ScanError(self._line(), "“${” is followed by no variable's name")
        operator = self.text[match.end() : match.end() + 2]
        self._mention(match.group(2), quoted=quoted, prefix=match.group(1), operator=operator)
        self.at = match.end()
        if operator[:1] == "[":
            self.at += 1
            self._arithmetic("]")
        elif operator[:1] == ":" and operator[1:] not in ("-", "+", "=", "?"):
            self._arithmetic("}")
            return
        while self._next() != "}":
            if self.at >= len(self.text):
                raise self._unclosed(start, "“${”")
            self._word_character(self._next(), quoted=quoted)
        self.at += 1

    def _arithmetic(self, closer: str) -> None:
        """In arithmetic a bare name is a variable too, and its value is evaluated once more."""
        start = self.at
        self._surroundings.append("arithmetic")
        depth = 0
        while depth or self._next(len(closer)) != closer:
            if self.at >= len(self.text):
                raise self._unclosed(start, "arithmetic")
            if match := _NAME.match(self.text, self.at):
                self._mention(match.group(), quoted=True)
                self.at = match.end()
                continue
            depth += {"(": 1, ")": -1}.get(self._next(), 0)
            self._word_character(self._next(), quoted=False)
        self.at += len(closer)
        self._surroundings.pop()

    def _mention(self, name: str, *, quoted: bool, prefix: str = "", operator: str = "") -> None:
        self.found.mentions.append(
            Mention(
                name,
                self._line(),
                self.at,
                quoted,
                tuple(self._surroundings),
                tuple(self._commands),
                prefix,
                operator,
            )
        )

    # Here-documents

    def _read_here_documents(self) -> None:
        waiting, self._here_documents = self._here_documents, []
        for delimiter, is_expanded, tabs_go in waiting:
            start = self.at
            end, after = self._here_document_end(delimiter, tabs_go=tabs_go)
            if is_expanded:
                self._surroundings.append("here-document")
                while self.at < end:
                    char = self._next()
                    if char in "$`\\":
                        self._word_character(char, quoted=True)
                    else:
                        self.at += 1
                self._surroundings.pop()
            if self.at > end:
                raise self._unclosed(start, "something in the here-document")
            self.at = after

    def _here_document_end(self, delimiter: str, *, tabs_go: bool) -> tuple[int, int]:
        """Where the text ends and where the script goes on."""
        at = self.at
        while at < len(self.text):
            end = self.text.find("\n", at)
            end = len(self.text) if end < 0 else end
            line = self.text[at:end]
            if (line.lstrip("\t") if tabs_go else line) == delimiter:
                return at, min(end + 1, len(self.text))
            at = end + 1
        raise self._unclosed(self.at, f"the here-document {delimiter}")
