"""The check of a rendered program for uses of a visitor's values that a shell would do more with than hand them over.

A value arrives as a shell variable, and `"$input_x"` in double quotes is always safe as a program's argument. The
lint finds the slips that make it unsafe. It is a net and no proof: an author who means to can get around it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from portal.applications.definition import Application
from portal.applications.lint_rules import direct_alias, misuse
from portal.applications.parameters import TextParameter
from portal.applications.shell_scan import Mention, Scan, ScanError, scan
from portal.applications.shellcheck import shellcheck
from portal.applications.texts import character_name, first_unsafe_in_prose, one_line

_INPUT = re.compile(r"\binput_[A-Za-z0-9_]*")
_EXPANDED_INPUT = re.compile(r"\$\{?(input_[A-Za-z0-9_]+)")
# Splitting, globbing and format strings: of a value of ours these are refused, elsewhere they are the author's affair.
_REFUSED_CODES = frozenset({2027, 2046, 2048, 2053, 2059, 2068, 2086, 2089, 2090, 2145, 2206, 2207, 2231, 2254})


@dataclass(frozen=True)
class Finding:
    """One thing that the lint found; as text it is one line with file and line. An error bars the application."""

    severity: Literal["error", "warning"]
    file: Path
    line: int
    message: str

    def __str__(self) -> str:
        return one_line(f"{self.file}: line {self.line}: {self.message}")


def lint_program(application: Application, rendered: str) -> list[Finding]:
    """What is wrong with `rendered` (see `render_program`), by line, errors before warnings of the same line.

    Lines are those of the template where the rendered line is found there, else those of the rendered text.
    """
    program = _Program(application, rendered)
    findings = list(program.control_characters())
    try:
        found = scan(rendered)
    except ScanError as error:
        findings.append(program.finding("error", error.line, f"cannot be checked: {error}"))
        return findings
    findings += program.misuses(found)
    findings += program.unreplaced(found)
    findings += program.shellcheck_comments(found, {f.line for f in findings if f.severity == "error"})
    findings += program.unused()
    return sorted(set(findings), key=lambda f: (f.line, f.severity, f.message))


class _Program:
    """A rendered program and the application that it belongs to."""

    def __init__(self, application: Application, rendered: str) -> None:
        self.application = application
        self.rendered = rendered
        self.declared = {f"input_{parameter.name}": parameter for parameter in application.parameters}
        self._lines = rendered.split("\n")
        self._template_lines = application.program_template.split("\n")

    def finding(self, severity: Literal["error", "warning"], line: int, message: str) -> Finding:
        return Finding(severity, self.application.program_file, self._template_line(line), message)

    def _template_line(self, line: int) -> int:
        text = self._lines[line - 1] if line <= len(self._lines) else ""
        if self._template_lines[line - 1 : line] != [text] and self._template_lines.count(text) == 1:
            return self._template_lines.index(text) + 1
        return line

    def control_characters(self) -> Iterator[Finding]:
        # In the template: Jinja2 renders CR LF as LF, and would hide what the author's editor did.
        for number, text in enumerate(self._template_lines, start=1):
            unsafe = first_unsafe_in_prose(text)
            if unsafe == "\r":
                yield Finding(
                    "error", self.application.program_file, number, "should end with LF, not with CR LF (Windows)"
                )
            elif unsafe is not None:
                message = f"should be plain text, without {character_name(unsafe)}"
                yield Finding("error", self.application.program_file, number, message)

    def _tainted(self, found: Scan) -> dict[str, bool]:
        """The variables that hold what a visitor gave, and whether that is free text.

        Ours, and those that are assigned straight from one. What comes out of a command is the author's affair.
        """
        tainted = {name: self._is_free_text(name) for name in (m.name for m in found.mentions) if _INPUT.match(name)}
        grown = True
        while grown:
            aliases = {
                alias: tainted[mention.name]
                for mention in found.mentions
                if mention.name in tainted and (alias := direct_alias(mention)) and alias not in tainted
            }
            tainted |= aliases
            grown = bool(aliases)
        return tainted

    def _is_free_text(self, variable: str) -> bool:
        parameter = self.declared.get(variable)
        return isinstance(parameter, TextParameter) and parameter.pattern is None

    def misuses(self, found: Scan) -> Iterator[Finding]:
        tainted = self._tainted(found)
        for mention in found.mentions:
            if mention.name in tainted:
                problem = self._undeclared(mention) or misuse(mention, free_text=tainted[mention.name])
                if problem:
                    yield self.finding("error", mention.line, f"“${mention.name}” {problem}")

    def _undeclared(self, mention: Mention) -> str | None:
        if not mention.name.startswith("input_") or mention.name in self.declared:
            return None
        return f"is no parameter of the application; it has {', '.join(self.declared) or 'none'}"

    def unreplaced(self, found: Scan) -> Iterator[Finding]:
        for line, text in found.single_quoted:
            for name in _EXPANDED_INPUT.findall(text):
                if name in self.declared:
                    yield self.finding("warning", line, f"“${name}” is not replaced within single quotes")

    def unused(self) -> Iterator[Finding]:
        uncommented = re.sub(r"(?m)(^|\s)#.*$", "", self.rendered)
        used = set(_INPUT.findall(uncommented))
        for variable in self.declared:
            if variable not in used:
                yield self.finding("warning", 1, f"“${variable}” is never used")

    def shellcheck_comments(self, found: Scan, refused_lines: set[int]) -> Iterator[Finding]:
        """shellcheck's findings, but for the lines that are refused already."""
        tainted = self._tainted(found)
        ours = {mention.line for mention in found.mentions if mention.name in tainted}
        for comment in shellcheck(self.rendered, self.application.shell):
            message = f"{comment.message} (shellcheck SC{comment.code})"
            is_syntax = comment.code < 2000 and comment.level == "error"
            if is_syntax or (comment.code in _REFUSED_CODES and comment.line in ours):
                finding = self.finding("error", comment.line, message)
                if finding.line not in refused_lines:
                    yield finding
            elif comment.level in ("error", "warning"):
                yield self.finding("warning", comment.line, message)
