"""What each type of parameter takes, what it makes of it, and what it says about the rest."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from portal.applications.parameters import (
    Parameter,
    Upload,
    Value,
    form_inputs,
    validate_inputs,
    validate_value,
)
from portal.errors import InvalidInputError

ADAPTER: TypeAdapter[Parameter] = TypeAdapter(Parameter)
NASTY = ["'", '"', "$(reboot)", "`reboot`", "a;b", "{{ 7*7 }}", "%(x)s", "[settings]", "<b>", "a\\", "../../x"]


def parameter(kind: str, **keys: Any) -> Parameter:
    more = {"choices": ["blastn", "blastp"]} if kind == "choice" else {}
    return ADAPTER.validate_python({"name": "x", "type": kind, "label": "Numerator"} | more | keys)


def problem(kind: str, raw: object, **keys: Any) -> str:
    with pytest.raises(InvalidInputError) as caught:
        validate_value(parameter(kind, **keys), raw)
    assert list(caught.value.field_errors) == ["x"]
    message = caught.value.field_errors["x"]
    assert message.isprintable()
    assert message.startswith("Numerator: ")
    assert message.endswith((".", "…”."))
    return message


def accepted(kind: str, raw: object, **keys: Any) -> Value:
    value = validate_value(parameter(kind, **keys), raw)
    assert value is not None
    return value


# Whole numbers


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("8", "8"),
        (" 8\t\r\n", "8"),
        ("+08", "8"),
        ("-0", "0"),
        ("-7", "-7"),
        (8, "8"),
        (-8, "-8"),
        ("9" * 1000, "9" * 1000),
    ],
)
def test_integer_is_canonical(raw: object, text: str) -> None:
    value = accepted("integer", raw)
    assert (value.text, value.json, value.content, value.filename) == (text, int(text), None, "")


@pytest.mark.parametrize(
    "raw",
    [
        *NASTY,
        "1.5",
        "abc",
        "1_000",
        "1,000",
        "1 000",
        "٣",
        "²",
        "８",
        "--help",
        "-x",
        "-",
        "+-1",
        "0x10",
        "1e3",
        "1\n2",
        "1\0",
        "\0",
        "NaN",
        "−1",
        True,
        False,
        1.0,
        math.nan,
        [1],
        {"a": 1},
        b"1",
        Upload("1.txt", b"1"),
    ],
)
def test_integer_refuses(raw: object) -> None:
    assert problem("integer", raw).startswith("Numerator: a whole number is needed, for example 2.")


def test_integer_message() -> None:
    assert problem("integer", "2.5") == "Numerator: a whole number is needed, for example 2. You typed “2.5”."
    assert problem("integer", 2.5) == "Numerator: a whole number is needed, for example 2. You typed “2.5”."
    assert problem("integer", True) == "Numerator: a whole number is needed, for example 2. You sent true."
    assert problem("integer", "a\0\u202e\ud800") == (
        "Numerator: a whole number is needed, for example 2. You typed “a\\x00\\u202e\\ud800”."
    )
    assert problem("integer", "x" * 41) == (
        f"Numerator: a whole number is needed, for example 2. You typed “{'x' * 40}…”."
    )
    assert problem("integer", "x", minimum=10).startswith("Numerator: a whole number is needed, for example 10.")
    assert problem("integer", "x", maximum=-1).startswith("Numerator: a whole number is needed, for example -1.")
    assert problem("integer", "x", default=5).startswith("Numerator: a whole number is needed, for example 5.")


@pytest.mark.parametrize("raw", ["", " ", "\n\t", None])
def test_nothing_typed(raw: object) -> None:
    expected = "Numerator: please fill this in; a whole number, for example 2."
    assert problem("integer", raw) == expected
    assert validate_value(parameter("integer", required=False), raw) is None


@pytest.mark.parametrize("raw", ["9" * 1001, "9" * 5000, "-" + "0" * 5000, 10**1000, -(10**5000)], ids=range(5))
def test_integer_of_too_many_digits(raw: object) -> None:
    assert problem("integer", raw).startswith("Numerator: a whole number can have at most 1,000 digits here.")


def test_integer_limits() -> None:
    limits = {"minimum": -5, "maximum": 100, "unit": "mm"}
    assert accepted("integer", "100", **limits).json == 100
    assert accepted("integer", -5, **limits).json == -5
    assert problem("integer", "101", **limits) == "Numerator: must be at most 100 mm. You typed “101”."
    assert problem("integer", -6, **limits) == "Numerator: must be at least -5 mm. You typed “-6”."
    assert problem("integer", 10**60, **limits) == "Numerator: must be at most 100 mm."


# Numbers


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("8", "8.0"),
        ("-0", "0.0"),
        (".5", "0.5"),
        ("5.", "5.0"),
        ("1e-5", "1e-05"),
        (" +2.50E2 ", "250.0"),
        (3, "3.0"),
        (2.5, "2.5"),
        (-0.0, "0.0"),
        ("0e999", "0.0"),
    ],
)
def test_number_is_canonical(raw: object, text: str) -> None:
    value = accepted("number", raw)
    assert (value.text, value.json) == (text, float(text))


@pytest.mark.parametrize(
    "raw",
    [
        *NASTY,
        "abc",
        "1_0",
        "1,5",
        "inf",
        "-inf",
        "nan",
        "1e",
        ".",
        "e5",
        "0x1p3",
        "٣.٥",
        "--help",
        "-x",
        "1\n2",
        "1\0",
        True,
        math.inf,
        math.nan,
        [1],
    ],
)
def test_number_refuses(raw: object) -> None:
    assert problem("number", raw).startswith("Numerator: a number is needed, for example 2.5.")


@pytest.mark.parametrize("raw", ["1e999", "-1e999", "1e-999", "9" * 5000, 10**400])
def test_number_that_no_float_can_hold(raw: object) -> None:
    assert "a number between about 1e-300 and 1e300 in size is needed" in problem("number", raw)


def test_number_limits() -> None:
    assert problem("number", "100.5", maximum=100, unit="kg") == (
        "Numerator: must be at most 100 kg. You typed “100.5”."
    )
    assert problem("number", "0", minimum=0.001) == "Numerator: must be at least 0.001. You typed “0”."
    assert accepted("number", "100", maximum=100).json == 100


# Text


@pytest.mark.parametrize("raw", [*NASTY, "--help"[2:], "é", "日本語", "a b", "👩‍🔬", "#x", "x = y"])
def test_text_is_kept(raw: str) -> None:
    value = accepted("text", f"  {raw}\r\n")
    assert (value.text, value.json, value.content) == (raw, raw, None)


def test_text_is_composed_and_stripped() -> None:
    assert accepted("text", "\u3000e\u0301 \n").text == "é"


@pytest.mark.parametrize(
    "char", ["\0", "\n", "\r", "\t", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\ud800", "\u202e", "\u2066"]
)
def test_text_refuses_what_is_not_one_plain_line(char: str) -> None:
    assert "must be one line of plain text, without" in problem("text", f"a{char}b")


def test_text_messages() -> None:
    assert problem("text", "a\nb") == (
        "Numerator: must be one line of plain text, without a line break. You typed “a\\nb”."
    )
    assert problem("text", "-x") == "Numerator: must not begin with “-”. You typed “-x”."
    assert problem("text", " --help") == "Numerator: must not begin with “-”. You typed “--help”."
    assert accepted("text", "-x", allow_leading_dash=True).text == "-x"
    assert problem("text", "a" * 1001) == (
        f"Numerator: must have at most 1,000 characters, and has 1,001. You typed “{'a' * 40}…”."
    )
    assert problem("text", "abcd", max_length=3).startswith("Numerator: must have at most 3 characters, and has 4.")
    assert problem("text", 5) == "Numerator: one line of text is needed. You typed “5”."
    assert problem("text", " ") == "Numerator: please fill this in; one line of text."


def test_text_must_match_the_whole_pattern() -> None:
    keys = {"pattern": "[A-Z]+", "help": "Capital letters, such as ABC."}
    assert accepted("text", "ABC", **keys).text == "ABC"
    for raw in ("ABCd", "dABC", "ABC D"):
        assert problem("text", raw, **keys) == (
            f"Numerator: does not have the form that is needed: Capital letters, such as ABC. You typed “{raw}”."
        )
    assert "form that is needed, for example A." in problem("text", "a", pattern="[A-Z]+", default="A")


@given(st.text())
def test_text_that_is_accepted_is_one_plain_line(raw: str) -> None:
    try:
        value = validate_value(parameter("text", required=False), raw)
    except InvalidInputError:
        return
    if value is not None:
        assert value.text == value.text.strip() != ""
        assert len(value.text.splitlines()) == 1
        assert "\0" not in value.text
        assert not value.text.startswith("-")
        value.text.encode("utf-8")
        assert accepted("text", value.text).text == value.text


def test_long_text_goes_to_a_file() -> None:
    value = accepted("longtext", ">a\r\nAC\tGT\rü\n")
    assert value.content == ">a\nAC\tGT\nü\n".encode()
    assert value.json == value.text == ">a\nAC\tGT\nü\n"


@pytest.mark.parametrize("raw", NASTY)
def test_long_text_keeps(raw: str) -> None:
    assert accepted("longtext", raw).content == raw.encode()


@pytest.mark.parametrize("char", ["\0", "\x1b", "\x0c", "\x7f", "\x85", "\ud800"])
def test_long_text_refuses_control_characters(char: str) -> None:
    assert "must be plain text, without" in problem("longtext", f"a\n{char}b")


def test_long_text_limits() -> None:
    assert "at most 1,000,000 characters" in problem("longtext", "a" * 1_000_001)
    assert "at most 2 characters" in problem("longtext", "abc", max_length=2)
    assert problem("longtext", " \r\n ") == "Numerator: please fill this in; some text."
    assert validate_value(parameter("longtext", required=False), " \n") is None
    assert "form that is needed" in problem("longtext", "a\nb", pattern="[a]+")
    assert problem("longtext", 5) == "Numerator: some text is needed. You typed “5”."


# Choice, yes or no, file


def test_choice() -> None:
    assert accepted("choice", "blastp") == Value("choice", "blastp", "blastp")
    tables = [{"value": "a", "label": "An A"}, "b", {"value": "c"}]
    assert accepted("choice", "a", choices=tables).text == "a"
    assert accepted("choice", "c", choices=tables).text == "c"
    assert problem("choice", "x") == "Numerator: one of blastn, blastp is needed. You typed “x”."
    assert problem("choice", "") == "Numerator: please fill this in; one of blastn, blastp."
    assert validate_value(parameter("choice", required=False), "") is None
    many = [str(number) for number in range(20)]
    assert "one of 0, 1, 2, 3, 4, 5, 6, 7 … is needed" in problem("choice", "x", choices=many)


@pytest.mark.parametrize("raw", [*NASTY, "BLASTN", "blastn ", "blast", "-x", 0, True, ["blastn"], "blastn\0"])
def test_choice_refuses(raw: object) -> None:
    assert "one of blastn, blastp is needed" in problem("choice", raw)


@pytest.mark.parametrize("raw", ["on", "true", "1", "yes", " Yes ", "TRUE", True])
def test_boolean_yes(raw: object) -> None:
    assert accepted("boolean", raw) == Value("boolean", "true", json=True)


@pytest.mark.parametrize("raw", ["off", "false", "0", "no", "", " ", None, False])
def test_boolean_no(raw: object) -> None:
    assert accepted("boolean", raw) == Value("boolean", "false", json=False)


@pytest.mark.parametrize("raw", [*NASTY, "maybe", "2", 1, 0, 1.0, [True], "-x"])
def test_boolean_refuses(raw: object) -> None:
    assert problem("boolean", raw).startswith("Numerator: true or false is needed.")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.fasta", "a.fasta"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\ann\\a.txt", "a.txt"),
        ("a\0\n\x1b\u202e.txt", "a.txt"),
        ("..", "file"),
        ("a/", "file"),
        ("", "file"),
        ("x" * 300, "x" * 200),
        ("e\u0301", "é"),
        ("'$(reboot)'", "'$(reboot)'"),
    ],
)
def test_file_keeps_a_name_for_display_only(name: str, shown: str) -> None:
    value = accepted("file", Upload(name, b"\0\xff"))
    assert (value.text, value.filename, value.json, value.content) == (shown, shown, shown, b"\0\xff")


def test_file_limits() -> None:
    assert problem("file", Upload("a.txt", b"")) == (
        "Numerator: the file must not be empty. You sent the file “a.txt”."
    )
    assert validate_value(parameter("file", required=False), Upload("a.txt", b"")) is None
    for nothing in (None, "", Upload("", b"")):
        assert problem("file", nothing) == "Numerator: please fill this in; a file."
        assert validate_value(parameter("file", required=False), nothing) is None
    mib = 1024 * 1024
    assert accepted("file", Upload("a", b"x" * mib), maximum_mib=1).content == b"x" * mib
    assert "must have at most 1 MiB" in problem("file", Upload("a", b"x" * (mib + 1)), maximum_mib=1)
    assert problem("file", "typed") == "Numerator: a file is needed. You typed “typed”."


# All together

X_AND_Y = [parameter("integer", label="Numerator"), parameter("integer", name="y", label="Denominator")]


def test_all_errors_come_at_once() -> None:
    with pytest.raises(InvalidInputError) as caught:
        validate_inputs(X_AND_Y, {"x": "abc", "z": "1", "<b>\n": "2"})
    assert caught.value.field_errors == {
        "x": "Numerator: a whole number is needed, for example 2. You typed “abc”.",
        "y": "Denominator: please fill this in; a whole number, for example 2.",
        "z": "“z”: this application has no such field; it has x, y.",
        "<b>\n": "“<b>\\n”: this application has no such field; it has x, y.",
    }


def test_values_come_in_the_order_of_the_form() -> None:
    values = validate_inputs(X_AND_Y, {"y": "2", "x": 8})
    assert [(name, value.json) for name, value in values.items()] == [("x", 8), ("y", 2)]


def test_many_unknown_fields_are_not_all_repeated() -> None:
    with pytest.raises(InvalidInputError) as caught:
        validate_inputs([], {f"f{number}": "" for number in range(1000)})
    assert len(caught.value.field_errors) == 20


def test_a_default_is_for_what_is_absent_and_not_for_what_is_empty() -> None:
    optional = [parameter("integer", default=5, required=False)]
    assert validate_inputs(optional, {})["x"].json == 5
    assert validate_inputs(optional, {"x": ""}) == {}
    assert validate_inputs(optional, {"x": None}) == {}
    with pytest.raises(InvalidInputError):
        validate_inputs([parameter("integer", default=5)], {"x": ""})
    assert validate_inputs([parameter("integer", default=5)], {})["x"].json == 5


def test_a_tick_box_that_is_not_ticked_is_not_sent() -> None:
    box = [parameter("boolean", default=True)]
    assert validate_inputs(box, {})["x"].json is True
    assert validate_inputs(box, form_inputs(box, {}))["x"].json is False
    assert validate_inputs(box, form_inputs(box, {"x": "on"}))["x"].json is True


KINDS = ["integer", "number", "text", "longtext", "choice", "boolean", "file"]
ANYTHING = st.one_of(
    st.text(st.characters()),
    st.text(st.characters(categories=["Cc", "Cs", "Zl", "Nd", "Cf"])),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.integers()),
    st.builds(Upload, st.text(), st.binary()),
)


@given(st.sampled_from(KINDS), ANYTHING, st.booleans())
def test_every_type_answers_anything_with_a_value_or_a_sentence(kind: str, raw: object, required: bool) -> None:
    checked = parameter(kind, required=required)
    try:
        value = validate_value(checked, raw)
    except InvalidInputError as error:
        sentence = error.field_errors["x"]
    else:
        sentence = "Accepted."
        assert value is None or (value.kind == kind and "\0" not in value.text)
    assert sentence.isprintable()
    assert sentence.endswith(".")


# What an author may write


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("integer", {"default": 5, "maximum": 4}),
        ("integer", {"default": "5"}),
        ("integer", {"default": True}),
        ("integer", {"minimum": 5, "maximum": 4}),
        ("integer", {"minimum": 1.5}),
        ("integer", {"max_length": 4}),
        ("integer", {"choices": ["1"]}),
        ("number", {"default": "1"}),
        ("number", {"maximum": math.inf}),
        ("number", {"default": math.nan}),
        ("text", {"default": "-x"}),
        ("text", {"default": "a\nb"}),
        ("text", {"default": "abc", "max_length": 2}),
        ("text", {"default": "abc", "pattern": "[A-Z]+"}),
        ("text", {"pattern": "("}),
        ("text", {"pattern": "a" * 501}),
        ("text", {"pattern": "[[a]"}),
        ("text", {"pattern": 5}),
        ("text", {"max_length": 0}),
        ("text", {"max_length": 10_001}),
        ("text", {"minimum": 1}),
        ("longtext", {"default": "\0"}),
        ("choice", {"default": "x"}),
        ("choice", {"choices": []}),
        ("choice", {"choices": ["a", "a"]}),
        ("choice", {"choices": [""]}),
        ("choice", {"choices": [5]}),
        ("choice", {"choices": [{"value": "a", "text": "b"}]}),
        ("boolean", {"default": "true"}),
        ("file", {"default": "x"}),
        ("file", {"maximum_mib": 0}),
        ("integer", {"name": "X"}),
        ("integer", {"name": "1x"}),
        ("integer", {"name": "x-y"}),
        ("integer", {"name": ""}),
        ("integer", {"name": "x\n"}),
        ("integer", {"name": "a" * 65}),
        ("integer", {"name": "email"}),
        ("integer", {"name": "csrf_token"}),
        ("integer", {"name": "token"}),
        ("integer", {"label": ""}),
        ("integer", {"label": "a\nb"}),
        ("integer", {"required": "yes"}),
        ("integer", {"helpp": "x"}),
        ("date", {}),
    ],
)
def test_definitions_that_are_refused(kind: str, keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parameter(kind, **keys)


def test_a_label_is_made_from_the_name() -> None:
    assert ADAPTER.validate_python({"name": "e_value", "type": "number"}).label == "E value"
