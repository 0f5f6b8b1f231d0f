"""run against a small daemon in this process: what it sends, says, and exits with."""

import json
import os

import pytest

from madang.cli.main import run
from tests.cli.acting import last_request, play

# -- run ----------------------------------------------------------------------------------------


def test_run_submits_with_its_code_and_prints_the_id_alone(double, here, capsys):
    code = run(["run", "--gpus", "2", "--", "python", "train.py", "--lr", "1"])

    assert code == 0
    assert capsys.readouterr().out == "train-1\n"
    sent = last_request(double)
    assert sent["command"] == ["python", "train.py", "--lr", "1"]
    assert sent["gpus"] == 2
    assert sent["name"] == "train"
    assert sent["code"] in double.codes


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["--", "true"], ["true"]),
        (["true"], ["true"]),
        (["--gpus", "1", "python", "x.py", "--gpus", "9"], ["python", "x.py", "--gpus", "9"]),
        (["--gpus=1", "python", "--", "-x"], ["python", "--", "-x"]),
        (["--spot", "echo", "--json"], ["echo", "--json"]),
        (["--", "--strange"], ["--strange"]),
        (["-e", "A=1", "-g", "0.5", "sh", "-c", "echo"], ["sh", "-c", "echo"]),
    ],
)
def test_where_the_command_begins(double, here, words, command):
    assert run(["run", "--no-code", *words]) == 0
    assert last_request(double)["command"] == command


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["--members", "4"], {"members": 4}),
        (["--profile", "H100"], {"profile": "H100"}),
        (["--project", "vision"], {"project": "vision"}),
        (["--spot"], {"provisioning": "spot"}),
        (["--reserved"], {"provisioning": "reserved"}),
        (["--on-demand"], {"provisioning": "on_demand"}),
        (["--category", "serving"], {"category": "serving"}),
        (["--purpose", "qa"], {"purpose": "qa"}),
        (["--time", "2h"], {"time": "2h"}),
        (["--grace", "5m"], {"grace": "5m"}),
        (["--retries", "3"], {"retries": 3}),
        (["--cpus", "1.5"], {"cpus": 1.5}),
        (["--memory", "16G"], {"memory_mib": 16_384}),
        (["--memory", "512"], {"memory_mib": 512}),
        (["--memory", "1.5GiB"], {"memory_mib": 1536}),
        (["--image", "python:3.12"], {"image": "python:3.12"}),
        (["--memo", "메모"], {"memo": "메모"}),
        (["--name", "other"], {"name": "other"}),
    ],
)
def test_an_option_becomes_its_field(double, here, words, fields):
    assert run(["run", "--no-code", *words, "--", "true"]) == 0
    assert last_request(double).items() >= fields.items()


def test_only_what_finds_the_interpreter_is_sent_of_the_environment(double, here, monkeypatch):
    monkeypatch.setenv("VIRTUAL_ENV", "/venv")
    monkeypatch.setenv("CONDA_PREFIX", "/conda")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("LR", "0.5")
    monkeypatch.delenv("PYTHONPATH", raising=False)

    run(["run", "--no-code", "--env", "A=1=2", "--env", "LR", "--", "true"])

    env = last_request(double)["env"]
    assert {k: v for k, v in env.items() if not k.startswith("CONDA_")} == {
        "PATH": os.environ["PATH"],
        "VIRTUAL_ENV": "/venv",
        "A": "1=2",
        "LR": "0.5",
    }
    assert env["CONDA_PREFIX"] == "/conda"


def test_a_job_file_is_read_and_overridden(double, here):
    (here / "job.yaml").write_text(
        "command: [python, train.py]\nmembers: 4\ngpus: 2\nenv: {LR: '1', B: '2'}\n"
    )

    assert run(["run", "-f", "job.yaml", "--gpus", "1", "-e", "LR=3"]) == 0

    sent = last_request(double)
    assert (sent["members"], sent["gpus"], sent["name"]) == (4, 1, "train")
    assert (sent["env"]["LR"], sent["env"]["B"]) == ("3", "2")


def test_a_job_file_brings_its_own_directory(double, tmp_path, monkeypatch, here):
    other = tmp_path / "other"
    other.mkdir()
    (other / "job.json").write_text('{"command": ["true"]}')

    run(["run", "-f", str(other / "job.json")])
    run(["run", "--dir", str(other), "true"])

    codes = [json.loads(body)["code"] for _, path, _, body in double.requests if path == "/v1/jobs"]
    assert codes[0] == codes[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "does not hold one job"),
        ("a: [", "is not YAML"),
        ("", "does not hold one job"),
        ("x" * (2 << 20), "longer than a job file may be"),
    ],
)
def test_a_job_file_that_is_none_says_so(double, here, capsys, content, message):
    (here / "job.yaml").write_text(content)

    assert run(["run", "-f", "job.yaml"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run"], 2, "nothing to run"),
        (["run", "--spot", "--reserved", "true"], 2, "contradicts"),
        (["run", "--gpus", "many", "true"], 2, "allowed  a number"),
        (["run", "--members", "1.5", "true"], 2, "allowed  a whole number"),
        (["run", "--category", "fun", "true"], 2, "serving, training, data, interactive"),
        (["run", "--gpsu", "1", "true"], 2, "try      --gpus"),
        (["run", "--env", "NOT_SET_HERE", "true"], 2, "no such variable here"),
        (["run", "--memory", "lots", "true"], 2, "4096 (MiB), 512M, 16G"),
        (["run", "-f", "nope.yaml"], 2, "cannot be read: No such file"),
        (["run", "--dir", "/", "true"], 2, "is not a project"),
        (["run", "--no-code", "--gpus", "64", "true"], 4, "try      --gpus 8"),
        (["runn"], 2, "try      madang run"),
        (["project"], 2, "madang project ls, madang project set"),
        (["project", "lss"], 2, "there is no command 'project lss'"),
        (["--gpus"], 2, "there is no option --gpus"),
        (["ls", "extra"], 2, "one word too many"),
        (["show"], 2, "required: JOB"),
        (["show", "nothing-7"], 3, "there is no job nothing-7"),
        (["show", "nothing"], 3, "madang ls --all"),
        (["stop", "7"], 3, "there is no job 7"),
        (["events"], 2, "madang events -f"),
        (["project", "set", "default"], 2, "nothing to set"),
        (["project", "set", "p", "--quota", "lots"], 2, "GPUS, or none"),
        (["cordon", "node-9"], 3, "there is no node node-9"),
        (["token", "rm", "nobody"], 3, "there is no token nobody"),
        (["up", "--port", "70000"], 2, "0 to 65535"),
        (["up", "--fleet", "/nope.yaml"], 2, "there is no file /nope.yaml"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(double, here, capsys, words, code, message):
    assert run(words) == code

    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("error: ")
    assert said.out == ""


def test_a_wrong_field_is_named(double, here, capsys):
    (here / "job.yaml").write_text("command: ['true']\ncolour: red\n")

    assert run(["run", "-f", "job.yaml", "--no-code"]) == 2
    assert capsys.readouterr().err.count("colour: no such field") == 1


def test_a_refused_token_exits_with_6(double, monkeypatch, capsys):
    monkeypatch.setenv("MADANG_TOKEN", "other")

    assert run(["ls"]) == 6


def test_without_a_daemon_it_says_how_to_start_one(capsys):
    assert run(["ls", "--url", "http://127.0.0.1:1"]) == 5
    assert "madang up --detach" in capsys.readouterr().err


def test_an_error_is_one_json_document_too(double, capsys):
    assert run(["show", "7", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["problem"]["code"] == "no_such_job"


# -- run --wait ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "members", "code"), [(0, 1, 0), (3, 1, 3), (3, 2, 1), (137, 1, 137)]
)
def test_run_wait_ends_as_the_job_does(double, here, capsysbinary, end, members, code):
    def moves():
        double.start("true-1")
        double.write("true-1", b"hello\n")
        double.end("true-1", end)

    thread = play(double, moves)

    found = run(["run", "--wait", "--no-code", "--members", str(members), "--", "true"])

    thread.join()
    assert found == code
    said = capsysbinary.readouterr()
    assert (b"hello\n" if members == 1 else b"[0] hello\n") in said.out


def test_run_wait_says_why_it_waits(double, here, capsys):
    def moves():
        double.listened.wait()
        double.end("true-1")

    thread = play(double, moves)

    run(["run", "--wait", "--no-code", "--json", "--", "true"])

    thread.join()
    said = capsys.readouterr()
    assert json.loads(said.out)["phase"] == "succeeded"
    assert "needs 2 GPUs; 1 of 4 GPUs are free" in said.err


def test_run_wait_goes_on_through_a_retry(double, here, capsysbinary):
    def moves():
        double.start("true-1")
        double.write("true-1", b"first\n")
        job = double.jobs["true-1"]
        job["phase"] = "waiting"
        double.tell("true-1", "Requeued")
        double.start("true-1")
        double.end("true-1")

    thread = play(double, moves)

    assert run(["run", "--wait", "--no-code", "--", "true"]) == 0
    thread.join()
