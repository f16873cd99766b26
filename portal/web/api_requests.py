"""From a request to the REST interface to what the service takes."""

import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from flask import request

from portal.applications.parameters import Upload
from portal.errors import InvalidInputError
from portal.jobs.acceptance import Submission
from portal.jobs.address import parse_address
from portal.web.context import web
from portal.web.refusals import NotUnderstoodError, UnsupportedMediaError
from portal.web.submissions import check_total_size, uploads_from_form

MIN_KEY_CHARACTERS = 16
KEY_HEADER = "Idempotency-Key"
_BODY_FIELDS = frozenset({"application", "inputs", "email"})
_MOST_DIGITS_AS_NUMBER = 4000
"""Python does not read longer ones; as text they reach the check that says what is allowed."""


@dataclass(frozen=True)
class _Body:
    application: str
    inputs: Mapping[str, object]
    email: str


def submission_from_request() -> Submission:
    """The submission in a JSON or multipart body.

    Raises NotUnderstoodError or UnsupportedMediaError where it is neither, and InvalidInputError, which names the
    field, where a part of it has the wrong shape. The inputs themselves are for the service to check.
    """
    body = _from_json() if request.is_json else _from_form()
    if body.application not in web().jobs.catalog.applications and body.application not in web().jobs.catalog.broken:
        names = ", ".join(web().jobs.catalog.applications)
        raise InvalidInputError({"application": f"application: there is none of this name; there is {names}."})
    key = request.headers.get(KEY_HEADER)
    if key is not None and len(key) < MIN_KEY_CHARACTERS:
        raise InvalidInputError({KEY_HEADER: f"{KEY_HEADER}: should have at least {MIN_KEY_CHARACTERS} characters."})
    return Submission(
        application=body.application,
        inputs=body.inputs,
        email=body.email,
        token=secrets.token_hex(16) if key is None else _token(body.email, key),
        token_is_strict=key is not None,
    )


def _token(email: str, key: str) -> str:
    """The token of an idempotency key, which belongs to the address: others may use the same key."""
    try:
        scope = parse_address(email).owner
    except ValueError:
        scope = email  # the service refuses it
    text = f"api\0{scope}\0{key}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _from_json() -> _Body:
    try:
        body = json.loads(request.get_data(cache=False), parse_int=_integer, parse_constant=_not_json)
    except (ValueError, RecursionError):
        raise NotUnderstoodError("The body is not JSON.") from None
    if not isinstance(body, dict):
        raise NotUnderstoodError("The body should be a JSON object.")
    problems = {name: f"{name}: there is no such field here." for name in body if name not in _BODY_FIELDS}
    problems |= {
        name: f"{name}: should be {noun}."
        for name, kind, noun in (
            ("application", str, "a text"),
            ("inputs", dict, "an object"),
            ("email", str, "a text"),
        )
        if not isinstance(body.get(name), kind)
    }
    if problems:
        raise InvalidInputError(problems)
    return _Body(body["application"], _inputs_from_json(body["inputs"]), body["email"])


def _inputs_from_json(raw: Mapping[str, Any]) -> dict[str, object]:
    inputs: dict[str, object] = {}
    problems: dict[str, str] = {}
    for name, value in raw.items():
        if not isinstance(value, dict):
            inputs[name] = value
        elif (upload := _upload(value)) is not None:
            inputs[name] = upload
        else:
            problems[name] = f'{name}: a file should be {{"filename": …, "content_base64": …}}.'
    if problems:
        raise InvalidInputError(problems)
    check_total_size({name: value for name, value in inputs.items() if isinstance(value, Upload)})
    return inputs


def _upload(value: Mapping[str, Any]) -> Upload | None:
    filename, content = value.get("filename"), value.get("content_base64")
    if len(value) != 2 or not isinstance(filename, str) or not isinstance(content, str):
        return None
    try:
        return Upload(filename, base64.b64decode(content, validate=True))
    except (binascii.Error, ValueError):
        return None


def _from_form() -> _Body:
    """A multipart body: `application`, `email`, and the inputs under their own names, as in the page's form."""
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaError("The body should be application/json or multipart/form-data.")
    uploads = uploads_from_form()
    check_total_size(uploads)
    texts = {name: text for name, text in request.form.items() if name not in ("application", "email")}
    return _Body(request.form.get("application", ""), {**texts, **uploads}, request.form.get("email", ""))


def _integer(text: str) -> int | str:
    return int(text) if len(text) <= _MOST_DIGITS_AS_NUMBER else text


def _not_json(text: str) -> NoReturn:
    raise ValueError(f"not JSON: {text}")
