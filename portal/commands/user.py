"""`portal user`: who may sign in, and the links with which they do."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from portal.app import Parts
from portal.clock import utc_text
from portal.commands.context import CommandContext, pass_context
from portal.commands.jobs import as_json_option
from portal.commands.output import say, say_json, say_table
from portal.jobs.address import parse_address
from portal.people.persons import Person
from portal.people.sign_in import LINK_LIFETIME, sign_in_url


class Email(click.ParamType[str]):
    """One address, in its canonical form."""

    name = "email"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_address(str(value)).owner
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group()
def user() -> None:
    """Say who may sign in, and make sign-in links."""


_email_argument: Callable[..., Any] = click.argument("email", type=Email())


@user.command()
@click.option("--admin", is_flag=True, help="As an administrator; somebody who is there already becomes one.")
@_email_argument
@pass_context
def add(context: CommandContext, admin: bool, email: str) -> None:
    """Add a person, and print a link with which they sign in."""
    parts = context.parts
    added = parts.people.add(email, is_administrator=admin)
    if added.was_promoted:
        say(f"{email} was there already, and is an administrator now.")
    elif not added.is_new:
        say(f"{email} was there already.")
    else:
        say(f"{email} is added{', as an administrator' if admin else ''}.")
    _say_link(parts, email)


@user.command()
@_email_argument
@pass_context
def link(context: CommandContext, email: str) -> None:
    """Print a link with which this person signs in, once."""
    _say_link(context.parts, email)


def _say_link(parts: Parts, email: str) -> None:
    url = sign_in_url(parts.settings.portal.base_url, parts.people.new_link_token(email))
    minutes = int(LINK_LIFETIME.total_seconds() // 60)
    say(f"Sign in with this link, once, within {minutes} minutes:")
    say(url)


@user.command(name="list")
@as_json_option
@pass_context
def list_people(context: CommandContext, as_json: bool) -> None:
    """List who may sign in, and who may no longer."""
    people = context.parts.people.list()
    if as_json:
        say_json([_as_json(person) for person in people])
    elif not people:
        say("Nobody yet: `portal user add --admin EMAIL` adds the first administrator.")
    else:
        head = ("EMAIL", "ROLE", "SINCE", "DISABLED")
        say_table([head, *(_row(person) for person in people)])


@user.command()
@_email_argument
@pass_context
def disable(context: CommandContext, email: str) -> None:
    """Let this person sign in no more, and sign them out everywhere."""
    context.parts.people.disable(email)
    say(f"{email} can sign in no more, and is signed out everywhere.")


@user.command()
@_email_argument
@pass_context
def enable(context: CommandContext, email: str) -> None:
    """Let a person who was disabled sign in again."""
    context.parts.people.enable(email)
    say(f"{email} can sign in again.")


def _row(person: Person) -> tuple[str, ...]:
    return (person.email, _role(person), utc_text(person.created_at), _time(person.disabled_at) or "")


def _as_json(person: Person) -> dict[str, Any]:
    return {
        "email": person.email,
        "role": _role(person),
        "created_at": utc_text(person.created_at),
        "disabled_at": _time(person.disabled_at),
    }


def _role(person: Person) -> str:
    return "administrator" if person.is_administrator else "visitor"


def _time(moment: datetime | None) -> str | None:
    return utc_text(moment) if moment else None
