"""What an application's folder may say, and the one line that an author reads when it says something else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from portal.applications.definition import Application, load_application
from portal.applications.rendering import check_results_template, render_program
from portal.errors import DefinitionError
from portal.shipped import shipped_dir

TOML = """\
title = "Test"
[[parameters]]
name = "x"
type = "integer"
[[parameters]]
name = "y"
type = "integer"
"""
PROGRAM = 'slow_div "$input_x" "$input_y"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sound application, named by a relative path as in `portal.toml`."""
    monkeypatch.chdir(tmp_path)
    directory = Path("job_templates/app")
    directory.mkdir(parents=True)
    write(directory, TOML)
    (directory / "program.sh.j2").write_text(PROGRAM)
    return directory


def write(directory: Path, toml: str) -> None:
    (directory / "application.toml").write_text(toml)


def mistake(directory: Path) -> str:
    with pytest.raises(DefinitionError) as caught:
        load_application(directory)
    message = caught.value.visitor_message
    assert message.isprintable()
    return message


def test_slow_div() -> None:
    application = load_application(shipped_dir("job_templates") / "slow_div")
    assert application.name == "slow_div"
    assert application.title == "Slow division"
    assert application.submit_label == "Divide"
    assert [(p.name, p.label, p.type, p.required) for p in application.parameters] == [
        ("x", "Numerator", "integer", True),
        ("y", "Denominator", "integer", True),
    ]
    assert application.resources.as_texts() == {"time_limit_minutes": "5", "memory_mib": "256", "cpus": "1"}
    assert application.answer is not None
    match = application.answer.pattern.search("The answer is: -4\n")
    assert match is not None
    assert match.group(1) == "-4"
    assert application.environment.pass_ == ("SLOW_DIV_SECONDS",)
    assert [example.inputs for example in application.examples.values()] == [{"x": 8, "y": 2}]
    assert render_program(application, {}) == 'slow_div "$input_x" "$input_y"\n'


def test_defaults_are_the_first_alternatives(folder: Path) -> None:
    write(folder, 'title = "Test"')
    application = load_application(folder)
    assert (application.shell, application.submit_label, application.description) == ("/bin/sh", "Run", "")
    assert application.success.rule == "exit_code"
    assert application.policy.model_dump() == {
        "on_node_failure": "resubmit",
        "max_attempts": 3,
        "out_of_memory": "warn",
        "retention_days": 90,
    }
    assert (application.answer, application.outputs, application.parameters) == (None, (), ())
    assert application.results_template is None


def test_everything_that_an_author_may_say(folder: Path) -> None:
    write(
        folder,
        """
title = "All"
description = '''Two
lines'''
shell = "/bin/bash"
submit_label = "Go"
[[parameters]]
name = "a"
type = "number"
label = "A"
help = "h"
required = false
default = 1
minimum = 0
maximum = 10.5
unit = "mm"
group = "Advanced"
[[parameters]]
name = "b"
type = "text"
pattern = '[a-z]*'
max_length = 10
default = "abc"
allow_leading_dash = true
[[parameters]]
name = "c"
type = "longtext"
max_length = 5_000_000
[[parameters]]
name = "d"
type = "choice"
choices = ["x", {value = "y", label = "Why"}]
default = "y"
[[parameters]]
name = "e"
type = "boolean"
default = true
[[parameters]]
name = "f"
type = "file"
maximum_mib = 10
[resources]
time_limit_minutes = 60
time_limit_minutes_max = 600
memory_mib = 1024
memory_mib_max = 4096
cpus = 2
cpus_max = 2
gres = "gpu:a100:2"
partition = "long,short"
[success]
rule = "exit_code_and_no_stderr"
[answer]
file = "results/summary.txt"
pattern = '(?m)^(?:hits): (.*)$'
[[outputs]]
path = "hits.tsv"
title = "Hit table"
kind = "table"
[[outputs]]
path = "a b/plot.png"
[environment]
set = {OMP_NUM_THREADS = "2", A = ""}
pass = ["BLASTDB"]
[policy]
on_node_failure = "hold"
max_attempts = 10
out_of_memory = "fail"
retention_days = 1
""",
    )
    (folder / "results.html.j2").write_text("<p>{{ job.answer }}</p>")
    application = load_application(folder)
    check_results_template(application)
    assert application.outputs[1].title == "a b/plot.png"
    assert application.outputs[1].kind == "text"
    assert application.environment.set_ == {"OMP_NUM_THREADS": "2", "A": ""}
    assert application.resources.as_texts()["gres"] == "gpu:a100:2"
    assert application.parameters[3].name == "d"


def with_parameter(keys: str) -> str:
    return f'title = "Test"\n[[parameters]]\nname = "p"\n{keys}\n'


TOP = 'title = "Test"\n'
HERE = "job_templates/app/application.toml: "


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("", "title: is missing"),
        ("title = 5", "title: should be text"),
        ('title = ""', "title: should be text without white space around it"),
        ('title = "a\\nb"', "title: should be one line, without a line break"),
        (TOP + 'titel = "x"', "titel: there is no such key here; perhaps “title” is meant"),
        (TOP + 'name = "x"', "name: there is no such key here"),
        (TOP + 'directory = "x"', "directory: there is no such key here"),
        (TOP + 'description = "a\\u0000"', "description: should be plain text, without the character U+0000"),
        (TOP + 'shell = "sh"', "shell: should be the absolute path of one of ash, bash, dash, ksh, sh"),
        (TOP + 'shell = "/bin/sh -x"', "shell: should be the absolute path of one of ash, bash, dash, ksh, sh"),
        (TOP + 'shell = "/bin/csh"', "shell: should be the absolute path of one of ash, bash, dash, ksh, sh"),
        (TOP + "parameters = 5", "parameters: should be a list"),
        (TOP + "parameters = [5]", "parameters[0]: should be a table"),
        (with_parameter('label = "P"'), "parameters[0].type: is missing"),
        (
            with_parameter('type = "int"'),
            "parameters[0].type: should be one of 'integer', 'number', 'text', 'longtext', 'choice', 'boolean', 'file'",
        ),
        (
            TOML + 'minimum = "abc"',
            "parameters[1].minimum: should be a whole number",
        ),
        (TOML + "minimum = 1.5", "parameters[1].minimum: should be a whole number"),
        (TOML + "minimum = true", "parameters[1].minimum: should be a whole number"),
        (
            TOML + "minimun = 1",
            "parameters[1].minimun: there is no such key here; perhaps “minimum” is meant",
        ),
        (TOML + "minimum = 5\nmaximum = 4", "parameters[1].maximum: should be at least minimum, which is 5"),
        (TOML + "maximum = 4\ndefault = 5", "parameters[1].default: must be at most 4"),
        (TOML + 'required = "no"', "parameters[1].required: should be true or false"),
        (
            TOML + '[[parameters]]\nname = "x"\ntype = "text"',
            "parameters[2].name: should be another: “x” is there already",
        ),
        (
            TOP + '[[parameters]]\nname = "email"\ntype = "text"',
            "parameters[0].name: should be another name: 'email' is a field that every form has",
        ),
        (
            TOP + '[[parameters]]\nname = "E-mail"\ntype = "text"',
            "parameters[0].name: should be lower-case letters, digits and “_”, a letter first, at most 64",
        ),
        (with_parameter('type = "number"\nmaximum = nan'), "parameters[0].maximum: should be a number"),
        (with_parameter('type = "number"\nmaximum = "1"'), "parameters[0].maximum: should be a number"),
        (
            with_parameter('type = "text"\npattern = "("'),
            "parameters[0].pattern: should be a regular expression: missing ), unterminated subpattern at position 0",
        ),
        (with_parameter('type = "text"\ndefault = "-a"'), "parameters[0].default: must not begin with “-”"),
        (
            with_parameter('type = "text"\nmax_length = 0'),
            "parameters[0].max_length: should be greater than or equal to 1",
        ),
        (with_parameter('type = "choice"'), "parameters[0].choices: is missing"),
        (with_parameter('type = "choice"\nchoices = []'), "parameters[0].choices: should list at least one value"),
        (with_parameter('type = "choice"\nchoices = ["a", "a"]'), "parameters[0].choices: should list “a” once"),
        (with_parameter('type = "choice"\nchoices = [1]'), "parameters[0].choices[0]: should be a table"),
        (
            with_parameter('type = "choice"\nchoices = ["a"]\ndefault = "b"'),
            "parameters[0].default: one of a is needed",
        ),
        (
            with_parameter('type = "file"\ndefault = "b"'),
            "parameters[0].default: there is no such key here",
        ),
        (TOP + "resources = 5", "resources: should be a table"),
        (TOP + '[resources]\ncpus = "4"', "resources.cpus: should be a whole number"),
        (TOP + "[resources]\ncpus = 0", "resources.cpus: should be greater than or equal to 1"),
        (TOP + "[resources]\ncpus = 4\ncpus_max = 2", "resources.cpus_max: should be at least cpus, which is 4"),
        (
            TOP + '[resources]\npartition = "main --uid=0"',
            "resources.partition: should be letters, digits and any of _ . : + = , - only",
        ),
        (
            TOP + '[resources]\ngres = "gpu:1\\n#SBATCH --uid=0"',
            "resources.gres: should be letters, digits and any of _ . : + = , - only",
        ),
        (
            TOP + '[success]\nrule = "always"',
            "success.rule: should be 'exit_code', 'no_stderr' or 'exit_code_and_no_stderr'",
        ),
        (TOP + "[answer]", "answer.pattern: is missing"),
        (
            TOP + '[answer]\npattern = "x"',
            "answer.pattern: should have exactly one group, (…), around the answer; it has 0",
        ),
        (
            TOP + '[answer]\npattern = "(a)(b)"',
            "answer.pattern: should have exactly one group, (…), around the answer; it has 2",
        ),
        (TOP + f'[answer]\npattern = "({"a" * 500})"', "answer.pattern: should have at most 500 characters"),
        (
            TOP + '[answer]\npattern = "(a)"\nfile = "/etc/passwd"',
            "answer.file: should be a path below the job's working directory, such as results/hits.tsv",
        ),
        (TOP + "[[outputs]]", "outputs[0].path: is missing (and 1 more)"),
        (
            TOP + '[[outputs]]\npath = "../config.ini"',
            "outputs[0].path: should be a path below the job's working directory, such as results/hits.tsv",
        ),
        (
            TOP + '[[outputs]]\npath = "a//b"',
            "outputs[0].path: should be a path below the job's working directory, such as results/hits.tsv",
        ),
        (
            TOP + '[[outputs]]\npath = "-rf"',
            "outputs[0].path: should be a short path without control characters that does not begin with “-”",
        ),
        (
            TOP + '[[outputs]]\npath = "a\\nb"\ntitle = "A"',
            "outputs[0].path: should be a short path without control characters that does not begin with “-”",
        ),
        (
            TOP + '[[outputs]]\npath = "status.json"',
            "outputs[0].path: should be another name: 'status.json' is a file of the portal's own",
        ),
        (
            TOP + '[[outputs]]\npath = "a"\nkind = "pdf"',
            "outputs[0].kind: should be 'text', 'table', 'fasta', 'image' or 'file'",
        ),
        (
            TOP + '[[outputs]]\npath = "a"\n[[outputs]]\npath = "a"',
            "outputs[1].path: should be another: “a” is there already",
        ),
        (
            TOP + '[environment]\npass = ["PATH"]',
            "environment.pass[0]: should not name PATH, which decides what runs or is the portal's own",
        ),
        (
            TOP + '[environment]\nset = {LD_PRELOAD = "x"}',
            "environment.set.LD_PRELOAD: should not name LD_PRELOAD, which decides what runs or is the portal's own",
        ),
        (
            TOP + '[environment]\nset = {input_x = "x"}',
            "environment.set.input_x: should not name input_x, which decides what runs or is the portal's own",
        ),
        (
            TOP + '[environment]\nset = {"A B" = "x"}',
            "environment.set.A B: should name variables of letters, digits and “_”, which 'A B' is not",
        ),
        (TOP + "[environment]\nset = {A = 4}", "environment.set.A: should be text"),
        (
            TOP + '[environment]\nset = {A = "x\\ny"}',
            "environment.set.A: should be one line without control characters",
        ),
        (
            TOP + '[environment]\nset = {A = "x"}\npass = ["A"]',
            "environment.pass: should not name “A”, which is set",
        ),
        (TOP + '[policy]\non_node_failure = "retry"', "policy.on_node_failure: should be 'resubmit' or 'hold'"),
        (TOP + "[policy]\nmax_attempts = 11", "policy.max_attempts: should be less than or equal to 10"),
        (TOP + "[policy]\nmax_attempts = 0", "policy.max_attempts: should be greater than or equal to 1"),
        (TOP + "[policy]\nretention_days = 2.5", "policy.retention_days: should be a whole number"),
        (TOP + "x = \n", "is not TOML: Invalid value (at line 2, column 5)"),
        (TOP + TOP, "is not TOML: Cannot overwrite a value (at line 2, column 15)"),
        (TOP + 'x = "a\nb"', "is not TOML: Illegal character '\\n' (at line 2, column 7)"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, toml: str, message: str) -> None:
    write(folder, toml)
    assert mistake(folder) == HERE + message


@pytest.mark.parametrize("name", ["PATH", "LD_LIBRARY_PATH", "IFS", "ENV", "BASH_ENV", "input_x", "1A", "A=B", "", "Ä"])
def test_variables_that_no_application_may_name(folder: Path, name: str) -> None:
    write(folder, f'{TOP}[environment]\npass = ["{name}"]')
    assert mistake(folder).startswith(HERE + "environment.pass[0]: should")
    write(folder, f'{TOP}[environment]\nset = {{"{name}" = "x"}}')
    assert mistake(folder).startswith(HERE + "environment.set.")


def test_huge_and_deep_toml(folder: Path) -> None:
    write(folder, TOP + "x = " + "9" * 5000)
    assert mistake(folder).startswith(HERE + "is not TOML: ")
    write(folder, TOP + "x = " + "[" * 20_000)
    assert mistake(folder).startswith(HERE + "is not TOML: ")


def test_files_that_are_missing_or_unreadable(folder: Path) -> None:
    (folder / "program.sh.j2").unlink()
    assert mistake(folder) == "job_templates/app/program.sh.j2: is missing"
    (folder / "program.sh.j2").mkdir()
    assert mistake(folder) == "job_templates/app/program.sh.j2: cannot be read: Is a directory"
    (folder / "application.toml").write_bytes(b'title = "a"\n# \xff\n')
    assert mistake(folder) == HERE + "should be UTF-8, which line 2 is not"
    (folder / "application.toml").unlink()
    assert mistake(folder) == HERE + "is missing"
    assert mistake(Path("job_templates/other")) == "job_templates/other/application.toml: is missing"


def test_a_file_without_permission(folder: Path) -> None:
    (folder / "application.toml").chmod(0)
    with as_somebody_else():
        assert mistake(folder) == HERE + "cannot be read: Permission denied"


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """Root may read everything, so that it works as nobody for a moment; everybody else stays who they are."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("name", ["App", "1app", "my-app", "app.old", "a" * 65, "ä", "a\nb"])
def test_a_folder_needs_a_plain_name(folder: Path, name: str) -> None:
    other = folder.rename(folder.with_name(name))
    assert mistake(other).endswith(": the folder's name should be lower-case letters, digits and “_”, a letter first")


def test_the_folder_may_be_named_in_any_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load_application(Path()).name == "app"
    assert load_application(Path.cwd()).name == "app"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('title = "A"\n[inputs]\nz = 1', "inputs.z: the application has no such parameter"),
        (
            'title = "A"\n[inputs]\nx = 1.5',
            "inputs.x: X: a whole number is needed, for example 2. You typed “1.5”.",
        ),
        ('title = "A"\n[inputs]\nx = [1]', "inputs.x: X: a whole number is needed, for example 2."),
        ("[inputs]", "title: is missing"),
        ('title = "A"\ninput = 1', "input: there is no such key here; perhaps “inputs” is meant"),
    ],
)
def test_examples_are_checked(folder: Path, toml: str, message: str) -> None:
    (folder / "examples").mkdir()
    (folder / "examples/one.toml").write_text(toml)
    assert mistake(folder) == f"job_templates/app/examples/one.toml: {message}"


def test_an_example_may_leave_fields_open(folder: Path) -> None:
    (folder / "examples").mkdir()
    (folder / "examples/one.toml").write_text('title = "A"\n[inputs]\nx = 1')
    (folder / "examples/data.fasta").write_bytes(b"\xff")
    assert load_application(folder).examples["one"].inputs == {"x": 1}


# Rendering


def rendered(folder: Path, template: str) -> str:
    (folder / "program.sh.j2").write_text(template)
    return render_program(load_application(folder), {"db": "/data/it's here", "cores": 4}, {"cpus": 8})


def test_a_program_sees_site_resources_and_application(folder: Path) -> None:
    template = (
        "a={{ site.db | single_quoted }} {{ site.cores }} {{ resources.cpus }} {{ resources.memory_mib }}"
        " [{{ resources.gres }}] {{ application.name }}\n{% if resources.gres %}gpu{% endif %}\n\n"
    )
    assert rendered(folder, template) == "a='/data/it'\\''s here' 4 8 256 [] app\n\n\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a\n{{ x }}", "line 2: 'x' is undefined; a template may use site, resources and application"),
        (
            "a\n\n{{ site.cpus }}",
            "line 3: 'dict object' has no attribute 'cpus'; a template may use site, resources and application",
        ),
        ("{% if %}", "line 1: Expected an expression, got 'end of statement block'"),
        ("\n{{ x", "line 2: unexpected end of template, expected 'end of print statement'."),
        (
            "a\necho ${#x}",
            """line 2: Missing end of comment tag; “{#” begins a comment of the template, \
and {% raw %}${#x}{% endraw %} is the shell's""",
        ),
        ("a\n{{ 1/0 }}", "line 2: ZeroDivisionError: division by zero"),
        ("{{ x | nothing }}", "line 1: No filter named 'nothing'."),
        ("{% include 'x' %}", "line 1: TypeError: no loader for this environment specified"),
        (
            "{{ ().__class__.__mro__ }}",
            "line 1: access to attribute '__class__' of 'tuple' object is unsafe.",
        ),
    ],
)
def test_a_template_with_a_mistake(folder: Path, template: str, message: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        rendered(folder, template)
    assert caught.value.visitor_message == f"job_templates/app/program.sh.j2: {message}"


def test_a_resource_cannot_bring_shell_into_the_program(folder: Path) -> None:
    with pytest.raises(ValueError, match="not a value for a directive"):
        render_program(load_application(folder), {}, {"cpus": "1; reboot"})


def test_a_results_template_with_a_mistake(folder: Path) -> None:
    (folder / "results.html.j2").write_text("\n{% endif %}")
    with pytest.raises(DefinitionError) as caught:
        check_results_template(load_application(folder))
    assert caught.value.visitor_message.startswith("job_templates/app/results.html.j2: line 2: ")


def test_an_application_does_not_change(folder: Path) -> None:
    application: Application = load_application(folder)
    with pytest.raises(ValueError, match="frozen"):
        application.title = "Other"  # type: ignore[misc]
