import importlib
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from madang.cli.completion import SCRIPTS, offered
from madang.cli.main import run
from madang.cli.parse import UsageError, parsed
from madang.cli.table import BY_NAME, FAMILIES, REQUEST, VERBS
from madang.wire.jobs import JobRequest

SOURCE = str(Path(importlib.import_module("madang").__file__ or "").parent.parent)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_has_its_function_and_its_help(verb, capsys):
    function = getattr(importlib.import_module(verb.home), verb.function)
    assert callable(function)

    assert run([*verb.name.split(), "--help"]) == 0
    said = capsys.readouterr().out
    for option in verb.options:
        assert option.long in said
    for argument in verb.arguments:
        assert argument.name in said


def test_the_top_help_names_every_verb(capsys):
    for words in (["--help"], ["-h"], [], ["help"]):
        assert run(words) == 0
        said = capsys.readouterr().out
        assert all(f"  {verb.name} " in said for verb in VERBS)
        assert max(len(line) for line in said.splitlines()) <= 100


def test_no_option_is_defined_twice():
    for verb in VERBS:
        names = [name for option in verb.options for name in option.names]
        assert len(names) == len(set(names)), verb.name


def test_every_field_of_a_job_can_be_given():
    set_by_options = {option.field for option in REQUEST}
    otherwise = {"command", "env", "code", "forked_from", "from_checkpoint", "segments", "data"}

    assert (set_by_options - {""}) | otherwise == set(JobRequest.model_fields)


def test_choices_are_those_of_the_job_request():
    for option in REQUEST:
        if option.choices:
            assert option.choices == get_args(JobRequest.model_fields[option.field].annotation)


@pytest.mark.parametrize(
    "words", [["--json", "ls"], ["ls", "--json"], ["--url", "http://x:1", "ls"]]
)
def test_common_options_stand_anywhere(words):
    given = parsed(words)

    assert given.verb.name == "ls"
    assert given.flag("json") or given.text("url") == "http://x:1"


def test_an_option_is_not_guessed_from_its_beginning():
    with pytest.raises(UsageError, match="has no option --proj"):
        parsed(["ls", "--proj", "x"])


def test_a_verbs_help_is_found_by_help_too(capsys):
    assert run(["help", "run"]) == 0
    assert "madang run" in capsys.readouterr().out
    assert run(["help", "token"]) == 0
    assert "madang token add" in capsys.readouterr().out


# -- completion ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["wh"], ["why"]),
        ([""], sorted({name.partition(" ")[0] for name in BY_NAME})),
        (["project", ""], ["ls", "set"]),
        (["run", "--pr"], ["--profile", "--project"]),
        (["run", "--category", "s"], ["serving"]),
        (["run", "-f", ""], [":file"]),
        (["run", "--dir", ""], [":dir"]),
        (["run", ""], [":file"]),
        (["run", "--", "x"], [":file"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["show", ""], ["digits-2", "digits-1"]),
        (["show", "digits-1", ""], []),
        (["stop", "digits-1", "digits-2"], ["digits-2"]),
        (["cordon", ""], ["node-1"]),
        (["ls", "--project", ""], ["default"]),
        (["nonsense", ""], [":file"]),
    ],
)
def test_what_may_come_next(double, words, expected):
    for _ in range(2):
        double.submit({"command": ["true"], "name": "digits"})

    assert offered(words) == expected


def test_completion_is_silent_without_a_daemon(monkeypatch, capsys):
    monkeypatch.setenv("MADANG_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("MADANG_TOKEN", "x")

    assert run(["_complete", "show", ""]) == 0
    assert capsys.readouterr() == ("", "")


def test_completion_takes_words_that_look_like_options(capsys):
    assert run(["_complete", "run", "--pro"]) == 0
    assert capsys.readouterr().out.split() == ["--profile", "--project"]


def test_the_bash_function_is_bash():
    subprocess.run(["bash", "-n"], input=SCRIPTS["bash"].encode(), check=True)


# -- what is imported ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "forbidden"),
    [
        (["--help"], {"rich", "typer", "click", "pydantic", "http.client", "socket", "email"}),
        (
            ["run", "--no-code", "--", "true"],
            {"typing", "pydantic", "http.client", "yaml", "email"},
        ),
        (["ls"], {"rich", "pydantic", "http.client", "yaml"}),
    ],
)
def test_a_light_command_imports_nothing_heavy(double, words, forbidden):
    code = (
        "import sys\nfrom madang.cli.main import run\n"
        f"assert run({words!r}) == 0\n"
        f"print(*sorted({forbidden!r} & set(sys.modules)), file=sys.stderr)"
    )
    env = {"PYTHONPATH": SOURCE, "MADANG_URL": double.url, "MADANG_TOKEN": "secret-of-the-double"}

    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)

    assert done.stderr == b"\n"


def test_a_closed_pipe_ends_without_a_word():
    command = f"{sys.executable} -m madang --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env={"PYTHONPATH": SOURCE}, capture_output=True, check=True
    )

    assert done.stderr == b""
    assert done.stdout.strip() in (b"141", b"0")


def test_docs_have_a_heading_for_every_verb_and_none_more():
    page = Path(__file__).parent.parent.parent / "docs" / "cli.md"
    headings = [
        line.removeprefix("### madang ").strip()
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.startswith("### madang ")
    ]

    assert headings == [verb.name for verb in VERBS]
    assert {name.split()[0] for name in headings if " " in name} == FAMILIES
