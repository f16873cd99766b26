"""Programs that hand a visitor's value over safely, and programs that let the shell do more with it."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.applications import lint
from portal.applications.definition import load_application
from portal.applications.lint import Finding, lint_program
from portal.applications.lint_rules import direct_alias, misuse
from portal.applications.rendering import render_program
from portal.applications.shell_scan import ScanError, scan

TOML = """\
title = "Test"
shell = "{shell}"
[[parameters]]
name = "x"
type = "text"
[[parameters]]
name = "n"
type = "integer"
[[parameters]]
name = "id"
type = "text"
pattern = "[a-z]+"
[[parameters]]
name = "fasta"
type = "file"
"""
USES_ALL = '\n: "$input_x" "$input_n" "$input_id" "$input_fasta"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "app"
    directory.mkdir()
    return directory


def findings(folder: Path, program: str, shell: str = "/bin/bash") -> list[Finding]:
    (folder / "application.toml").write_text(TOML.format(shell=shell))
    (folder / "program.sh.j2").write_bytes(program.encode())
    application = load_application(folder)
    return lint_program(application, render_program(application, {}))


def errors(folder: Path, program: str) -> list[str]:
    found = findings(folder, program + USES_ALL)
    return [str(finding).removeprefix(f"{folder}/") for finding in found if finding.severity == "error"]


@pytest.fixture(params=["with shellcheck", "without"])
def with_or_without(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own checks must do, and shellcheck must not refuse what is right."""
    if request.param == "without":
        monkeypatch.setattr(lint, "shellcheck", lambda script, shell: [])
    elif not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")


SAFE = [
    'slow_div "$input_x" "${input_n}"',
    'blastn -query "$input_fasta" -out hits.tsv',
    'blastn ${input_n:+-evalue "$input_n"} -query "$input_fasta"',
    'blastn ${input_n+-evalue "$input_n"}',
    'echo {% raw %}"${#input_x}" ${#input_x}{% endraw %}',
    'echo "length: $(( {% raw %}${#input_x}{% endraw %} + 1 ))"',
    'if [ "$input_x" = "a" ]; then echo yes; fi',
    'if [ -n "$input_x" ] && [ "$input_n" -gt 5 ]; then echo yes; fi',
    'if [[ -n "$a" && "$input_x" == "b" ]]; then echo yes; fi',
    'if [[ ( "$input_x" == "a" || -z "$input_x" ) ]]; then echo "$(date)"; fi',
    'case "$input_x" in a | b) echo "$input_x" ;; (*) echo no ;; esac',
    'y=$(case "$input_x" in a) echo 1 ;; *) echo 2 ;; esac)\necho "$y"',
    'y="$input_x"\necho "$y"',
    'lines=$(wc -l <"$input_fasta")\necho "$((lines + 1))"',
    'echo "$(printf \'%s\' "$input_x" | tr a-z A-Z)"',
    "printf '%s\\n' \"$input_x\" | tool -",
    'printf "%s\\n" "$input_x"',
    'printf -- "%s %s\\n" "a" "$input_x"',
    "cat <<'END'\n$input_x $(( input_x )) `input_x`\nEND",
    "cat <<END\nfixed $HOME\nEND",
    "cat <<-END\n\tfixed\n\tEND\necho done",
    '# a comment with $input_x and ` and " and \'\necho "$input_x"',
    'echo "a # $input_x"',
    'echo a#b "$input_x" # \'',
    "echo \\$input_x \"\\$input_x\" 'it is' $'a\\'b'",
    'sh -c \'echo "$1"\' sh "$input_x"',
    'bash -o pipefail -c \'cat "$1" | wc\' bash "$input_fasta"',
    'awk -v n="$input_n" \'{ print n }\' "$input_fasta"',
    'awk -F "," \'{ print $1 }\' "$input_fasta"',
    "awk '{ print $1 }' \"$input_fasta\" >out.tsv 2>&1",
    'sed -n "5p" "$input_fasta"',
    'sed -f script.sed "$input_fasta"',
    'python3 tool.py -e "$input_x" -c "$input_n"',
    'python3 -m tool -e "$input_x"',
    './run.sh -c "$input_x"',
    'srun tool "$input_x"',
    'OMP_NUM_THREADS=4 tool --name="$input_x" 2>err &>all',
    'args=(-q "$input_fasta" --name "$input_x")\ntool "${args[@]}"',
    'tool "$input_x" >"out.txt" <"$input_fasta"',
    'tool "$input_fasta" >"$input_id.tsv"',
    'tool <<<"$input_x"',
    'for i in 1 2 3; do\n  tool "$i" "$input_x" || exit 1\ndone',
    'while read -r line; do echo "$line"; done <"$input_fasta"',
    'f() {\n  tool "$1"\n}\nf "$input_x"',
    'export NAME="$input_x"',
    'if ! tool "$input_x"; then exit 3; fi',
    'tool "${input_x:-none}" "${input_x%.*}" "${HOME:0:2}"',
    'echo "cost: 5$" "$?" "$@" "$input_x"',
    'tool \\\n  --a "$input_x" \\\n  --b "$input_n"',
    "trap 'rm -f tmp' EXIT\ntool \"$input_x\"",
    '(cd sub && tool "$input_x")',
    'diff <(sort "$input_fasta") <(sort other)',
    'eval "$(conda shell.posix activate blast)"\nblastn -query "$input_fasta"',
]


@pytest.mark.usefixtures("with_or_without")
@pytest.mark.parametrize("program", SAFE)
def test_what_is_safe_is_accepted(folder: Path, program: str) -> None:
    assert errors(folder, program) == []


UNSAFE = [
    ("echo $input_x", "must be in double quotes"),
    ("echo ${input_x}", "must be in double quotes"),
    ("echo a${input_x}b", "must be in double quotes"),
    ('echo "a"$input_x"b"', "must be in double quotes"),
    ("echo ${input_x:-none}", "must be in double quotes"),
    ("echo ${input_x%.*}", "must be in double quotes"),
    ("echo ${y:-$input_x}", "must be in double quotes"),
    ("blastn ${input_n:+-evalue $input_n}", "must be in double quotes"),
    ("for f in $input_x; do :; done", "must be in double quotes"),
    ("y=$input_x", "must be in double quotes"),
    ("case $input_x in a) ;; esac", "must be in double quotes"),
    ('echo "$(echo $input_x)"', "must be in double quotes"),
    ("if [ $input_n -gt 5 ]; then :; fi", "must be in double quotes"),
    ("tool >$input_fasta", "must be in double quotes"),
    ('echo "$((input_n + 1))"', "must not be used in arithmetic"),
    ('echo "$(( $input_x ))"', "must not be used in arithmetic"),
    ('echo "$(( (1 + (input_x)) * 2 ))"', "must not be used in arithmetic"),
    ('echo "$[ input_x ]"', "must not be used in arithmetic"),
    ("(( input_x > 5 )) && echo", "must not be used in arithmetic"),
    ("for (( i = 0; i < input_x; i++ )); do :; done", "must not be used in arithmetic"),
    ('if [[ "$input_x" -eq 5 ]]; then :; fi', "must not be used in arithmetic"),
    ('if [[ -n "$a" && 5 -lt "$input_x" ]]; then :; fi', "must not be used in arithmetic"),
    ('[[ a == "$input_x" || "$input_x" -ge 5 ]]', "must not be used in arithmetic"),
    ('echo "${HOME:$input_x}"', "must not be used in arithmetic"),
    ('echo "${HOME:input_x:2}"', "must not be used in arithmetic"),
    ('echo "${list[$input_x]}"', "must not be used in arithmetic"),
    ('list["$input_x"]=1', "must not be used in arithmetic"),
    ('declare -i y="$input_x"', "must not be used in arithmetic"),
    ('let "y = $input_x"', "must not be used in “let”"),
    ('eval "$input_x"', "must not be used in “eval”"),
    ('eval "tool $input_x"', "must not be used in “eval”"),
    ('eval "$(printf \'%s\' "$input_x")"', "must not be used in “eval”"),
    ('if true; then command eval "x=$input_x"; fi', "must not be used in “eval”"),
    ('A=1 eval tool "$input_x"', "must not be used in “eval”"),
    ('. "$input_fasta"', "must not be used in “.”"),
    ('source "$input_fasta"', "must not be used in “source”"),
    ('trap "rm $input_x" EXIT', "must not be used in “trap”"),
    ('ssh host "tool $input_x"', "must not be used in “ssh”"),
    ('sh -c "echo $input_x"', "must not be part of a program text for sh"),
    ('/bin/sh -ec "echo \\"$input_x\\""', "must not be part of a program text for sh"),
    ("bash -o pipefail -c \"echo '$input_x'\"", "must not be part of a program text for bash"),
    ("sh -c 'echo '\"$input_x\"", "must not be part of a program text for sh"),
    ('sh -c "$(printf \'%s\' "$input_x")"', "must not be part of a program text for sh"),
    ('sh -c "echo ${input_x}"', "must not be part of a program text for sh"),
    ('su ann -c "tool $input_x"', "must not be part of a program text for su"),
    ("python3 -c \"print('$input_x')\"", "must not be part of a program text for python3"),
    ('perl -ne "print if /$input_x/" file', "must not be part of a program text for perl"),
    ('awk "{ print \\"$input_x\\" }" file', "must not be part of a program text for awk"),
    ('sed "s/a/$input_x/" file', "must not be part of a program text for sed"),
    ("sed -e 's/a/b/' -e \"s/a/$input_x/\" file", "must not be part of a program text for sed"),
    ('echo "`echo "$input_x"`"', "must not be used in backticks"),
    ("y=`tool $input_x`", "must not be used in backticks"),
    ("cat <<END\n$input_x\nEND", "must not be used in a here-document"),
    ("cat <<-END\n\t${input_x}\n\tEND", "must not be used in a here-document"),
    ("python3 - <<END\nprint('$input_x')\nEND", "must not be used in a here-document"),
    ('cat <<A <<END\na\nA\n"$input_x"\nEND', "must not be used in a here-document"),
    ('cat <<END\n$(echo "$input_x")\nEND', "must not be used in a here-document"),
    ('"$input_x" --version', "must not be the command"),
    ('if "$input_x"; then :; fi', "must not be the command"),
    ('A="b c" exec "$input_x"', "must not be the command"),
    ('true | "$input_x"', "must not be the command"),
    ('printf "$input_x"', "must not be printf's format"),
    ('printf "a $input_x\\n"', "must not be printf's format"),
    ('echo "${!input_x}"', "must not be used to name another variable"),
    ('unset "$input_x"', "must not be used to name another variable"),
    ('read -r "$input_x"', "must not be used to name another variable"),
    ('export "$input_x"', "must not be used to name another variable"),
    ('printf -v "$input_x" a', "must not be used to name another variable"),
    ('[ -v "$input_x" ]', "must not be used to name another variable"),
    ('tool >"$input_x"', "must not name a file to write to"),
    ('tool 2>>"out/$input_x.txt"', "must not name a file to write to"),
]


@pytest.mark.usefixtures("with_or_without")
@pytest.mark.parametrize(("program", "problem"), UNSAFE)
def test_what_is_unsafe_is_refused(folder: Path, program: str, problem: str) -> None:
    found = errors(folder, program)
    assert problem in found[0]
    assert found[0].startswith("program.sh.j2: line ")


@pytest.mark.parametrize(
    "program",
    [
        'y="$input_x"\necho $y',
        'export y="a $input_x"\necho $y',
        'y="$input_x"; z="$y"\necho "$(( z ))"',
        'for f in "$input_x"; do echo $f; done',
        'args=("$input_x")\ntool ${args[@]}',
        'y="$input_x"\neval "$y"',
    ],
)
def test_a_copy_of_a_value_is_a_value(folder: Path, program: str) -> None:
    assert errors(folder, program)


def test_a_finding_is_one_line_with_file_and_line(folder: Path) -> None:
    assert errors(folder, "#!/bin/bash\n\necho $input_x\n") == [
        'program.sh.j2: line 3: “$input_x” must be in double quotes: "$input_x"'
    ]


def test_lines_are_those_of_the_template_where_they_can_be(folder: Path) -> None:
    program = "{% for i in [1, 2, 3] %}\necho {{ i }}\n{% endfor %}\necho $input_x\n"
    assert errors(folder, program)[0].startswith("program.sh.j2: line 4: ")


def test_undeclared_inputs_are_refused(folder: Path) -> None:
    (found,) = errors(folder, 'echo "$input_foo"')
    assert found == (
        "program.sh.j2: line 1: “$input_foo” is no parameter of the application; "
        "it has input_x, input_n, input_id, input_fasta"
    )


@pytest.mark.parametrize(
    ("program", "line", "problem"),
    [
        ('echo "a', 1, "a double quote is not closed"),
        ("\necho 'a", 2, "a single quote is not closed"),
        ("echo $'a", 1, "a single quote is not closed"),
        ('echo "$(date', 1, "what ends with ) is not closed"),
        ("echo $(date", 1, "what ends with ) is not closed"),
        ("echo `date", 1, "what ends with ` is not closed"),
        ("echo ${HOME", 1, "“${” is not closed"),
        ("echo ${}", 1, "“${” is followed by no variable's name"),
        ("echo $((1 + 2)", 1, "arithmetic is not closed"),
        ("cat <<END\nx\n", 2, "the here-document END is not closed"),
        ("echo " + "$(" * 5000, 1, ""),
    ],
)
def test_what_cannot_be_followed_is_refused(folder: Path, program: str, line: int, problem: str) -> None:
    found = [finding for finding in findings(folder, program) if finding.severity == "error"]
    assert len(found) == 1
    assert (found[0].line, found[0].message.startswith("cannot be checked: ")) == (line, True)
    assert problem in found[0].message


def test_windows_line_ends_and_control_characters_are_refused(folder: Path) -> None:
    assert errors(folder, 'echo "a"\r\necho "b"\r\n')[:2] == [
        "program.sh.j2: line 1: should end with LF, not with CR LF (Windows)",
        "program.sh.j2: line 2: should end with LF, not with CR LF (Windows)",
    ]
    assert errors(folder, "echo a\0b") == ["program.sh.j2: line 1: should be plain text, without the character U+0000"]


def warnings(folder: Path, program: str) -> list[str]:
    return [finding.message for finding in findings(folder, program) if finding.severity == "warning"]


def test_warnings(folder: Path) -> None:
    program = 'tool "$input_x" "$input_n" "$input_id" # "$input_fasta"\n'
    assert warnings(folder, program) == ["“$input_fasta” is never used"]
    assert warnings(folder, "echo '$input_x'" + USES_ALL)[0] == "“$input_x” is not replaced within single quotes"


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_sees_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = errors(folder, 'y=$(basename "$input_x"); echo $y "$input_x"')
    assert found == ["program.sh.j2: line 1: Double quote to prevent globbing and word splitting. (shellcheck SC2086)"]
    assert "(shellcheck SC1" in errors(folder, "if true; echo; fi")[0]
    assert any("SC3010" in str(f) for f in findings(folder, '[[ "$input_x" == a ]]' + USES_ALL, "/bin/sh"))
    monkeypatch.setenv("SHELLCHECK_OPTS", "--exclude=SC2086")
    assert errors(folder, 'y=$(basename "$input_x"); echo $y "$input_x"') == found


def test_a_shellcheck_that_does_not_answer_is_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "shellcheck"
    fake.write_text("#!/bin/sh\necho no JSON\nexit 3\n")
    fake.chmod(0o755)
    for path in (str(tmp_path), str(tmp_path / "nothing")):
        monkeypatch.setenv("PATH", path)
        assert errors(folder, 'tool "$input_x"') == []
        assert len(errors(folder, "tool $input_x")) == 1


@given(st.text(st.sampled_from("$`\"'(){}[]<>#;|&\\\n \tax=-:+!E"), max_size=60))
def test_any_script_is_followed_or_refused(script: str) -> None:
    try:
        found = scan(script)
    except ScanError:
        return
    for mention in found.mentions:
        assert script[mention.offset :].startswith(("$", mention.name))
        misuse(mention, free_text=True)
        direct_alias(mention)


def test_scan_finds_each_mention_once() -> None:
    found = scan('a "$x" ${y:-"$z"} $(b "$w") <<E\n$v\nE\n')
    assert [(m.name, m.line, m.quoted) for m in found.mentions] == [
        ("x", 1, True),
        ("y", 1, False),
        ("z", 1, True),
        ("w", 1, True),
        ("v", 2, True),
    ]
