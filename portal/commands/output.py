"""How the command line shows things: aligned columns, one JSON document, and nothing that drives a terminal."""

import json
from collections.abc import Sequence
from typing import Any

import click

from portal.logging_setup import one_line

_MARGIN = "  "


def say(text: str, *, err: bool = False) -> None:
    """One line on stdout, or on stderr."""
    click.echo(one_line(text), err=err)


def complain(text: str) -> None:
    """One line on stderr, after the command's name."""
    click.echo(f"portal: {one_line(text)}", err=True)


def say_json(data: Any) -> None:
    """One document. ASCII only: every other character is an escape, so that none reaches a terminal."""
    click.echo(json.dumps(data, indent=2))


def say_table(rows: Sequence[Sequence[str]], *, err: bool = False) -> None:
    """Rows in columns as wide as they need to be; the last column is not padded."""
    shown = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))] if shown else []
    for row in shown:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo(_MARGIN.join(padded).rstrip(), err=err)
