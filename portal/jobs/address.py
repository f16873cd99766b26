"""Email addresses: one mailbox, as typed for mail and in canonical form for the person."""

from dataclasses import dataclass

from email_validator import EmailNotValidError, validate_email

MAX_CHARACTERS = 254


@dataclass(frozen=True)
class Address:
    """One mailbox."""

    email: str
    """As typed, with the domain normalised: where mail goes."""
    owner: str
    """In lower case: who it is. Two spellings of one address are one person."""


def parse_address(typed: str) -> Address:
    """The mailbox that was typed.

    Raises ValueError with one sentence for the visitor where it is not exactly one bare address: a display name,
    two addresses, a line break or any other control character is refused. Whether mail arrives is not asked.
    """
    text = typed.strip()
    if not text:
        raise ValueError("Email: please fill this in, for example ann@example.org.")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"Email: an address has at most {MAX_CHARACTERS} characters.")
    try:
        # Sites with mail hosts of their own (ann@mail.cluster.local) are welcome: nothing need be public.
        checked = validate_email(text, check_deliverability=False, globally_deliverable=False)
    except EmailNotValidError as error:
        raise ValueError("Email: one address is needed, for example ann@example.org.") from error
    return Address(email=checked.normalized, owner=checked.normalized.lower())
