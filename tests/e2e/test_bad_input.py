"""What people and strangers send wrongly: a clear problem each, and the daemon as before."""

import contextlib
import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import urllib.error
from typing import Any

import psutil
import pytest

from tests.e2e.yard import REPOSITORY, LiveYard

pytestmark = pytest.mark.e2e

RSS_MIB_MORE_MAX = 48.0
FILES_MORE_MAX = 8
JOB = {"command": ["true"]}


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    with LiveYard(tmp_path_factory.mktemp("yard") / "state") as running:
        running.ask("PUT", "/v1/projects/empty", {"quota_gpus": 0})
        yield running


@pytest.fixture(autouse=True)
def as_before(yard):
    """After each case: healthy, no fatter, no file left open, and a job runs."""
    assert yard.daemon is not None
    daemon = psutil.Process(yard.daemon.pid)
    runs(yard)  # what is made lazily is there before it is measured
    rss_mib, files = daemon.memory_info().rss / 2**20, daemon.num_fds()
    yield
    assert yard.ask("GET", "/v1/health")["status"] == "ok"
    runs(yard)
    assert daemon.memory_info().rss / 2**20 - rss_mib < RSS_MIB_MORE_MAX
    assert daemon.num_fds() - files < FILES_MORE_MAX


def runs(yard) -> None:
    job = yard.ask("POST", "/v1/jobs", JOB)["id"]
    assert yard.wait_ended([job])[job]["phase"] == "succeeded"


def refusal(yard, path: str, body, headers: dict[str, str] | None = None) -> Any:
    """The problem that a request is answered with."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        yard.ask("POST", path, body, headers)
    assert refused.value.headers["Content-Type"] == "application/problem+json"
    problem = json.loads(refused.value.read())
    assert problem["status"] == refused.value.code
    return problem


# What is sent; code; where; what was given; words that say what is allowed or what to do.
MISTAKES = {
    "unknown key": ({"gpu": 2}, "gpu", 2, "did you mean 'gpus'?"),
    "far key": ({"zzz": 1}, "zzz", 1, "there are: command, name, project"),
    "negative members": ({"members": -1}, "members", -1, "greater than or equal to 1"),
    "too many members": ({"members": 10**9}, "members", 10**9, "less than or equal to 65536"),
    "negative GPUs": ({"gpus": -2}, "gpus", -2, "greater than or equal to 0"),
    "a GPU and a half": ({"gpus": 1.5}, "gpus", 1.5, "whole GPUs only"),
    "GPUs as a word": ({"gpus": "two"}, "gpus", "two", "valid number"),
    "no memory": ({"memory_mib": 0}, "memory_mib", 0, "greater than 0"),
    "time backwards": ({"time": -5}, "time", -5, "between 0 and 10 years"),
    "time in words": ({"time": "soon"}, "time", "soon", "write 90s, 30m, 2h or 1d12h"),
    "no command": ({"command": []}, "command", "a list of 0", "at least 1 item"),
    "a shell line": ({"command": "python a.py"}, "command", "python a.py", "valid list"),
    "a bad name": ({"name": "Über job"}, "name", "Über job", "lower-case letters"),
    "a bad variable": ({"env": {"A B": "1"}}, "env", "an object of 1", "not a variable name"),
}


@pytest.mark.parametrize(("wrong", "where", "given", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_place_value_and_remedy(yard, wrong, where, given, words):
    problem = refusal(yard, "/v1/jobs", JOB | wrong)

    assert (problem["status"], problem["code"]) == (422, "invalid")
    mistake = problem["errors"][0]
    assert mistake["where"] == where
    assert mistake["given"] == given
    assert words in mistake["problem"]


# What can never run here: reason; words of the sentence; a word of what to do.
NEVER = {
    "a project without quota": ({"project": "empty"}, "over_quota", "empty", "project set empty"),
    "an unknown project": ({"project": "ghosts"}, "unknown_project", "there are:", "--project"),
    "a member too large": ({"gpus": 64}, "member_too_large", "64 CPU slots asked", "--gpus 4"),
    "too many members": ({"members": 999}, "too_large", "999 members", "--members"),
    "an unknown profile": ({"profile": "H900"}, "unknown_model", "there are: cpu", "--profile"),
}


@pytest.mark.parametrize(("wrong", "reason", "words", "remedy"), NEVER.values(), ids=NEVER)
def test_what_can_never_run_is_refused_with_what_would(yard, wrong, reason, words, remedy):
    problem = refusal(yard, "/v1/jobs", JOB | wrong)

    assert (problem["status"], problem["code"], problem["reason"]) == (422, "rejected", reason)
    assert words in problem["detail"]
    assert any(remedy in one for one in problem["try"])


@pytest.mark.parametrize("program", ["/no/such/program", "no-such-program"])
def test_a_command_that_does_not_exist_fails_with_127_and_says_so_in_its_log(yard, program):
    job = yard.ask("POST", "/v1/jobs", {"command": [program, "--fast"]})["id"]
    view = yard.wait_ended([job])[job]

    assert (view["phase"], view["exit_code"]) == ("failed", 127)
    assert yard.text(f"/v1/jobs/{job}/log") == (
        f"[madang] cannot run '{program}': No such file or directory\n"
    )


# -- the wire --------------------------------------------------------------------------------------


def sent(yard, verb: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
    """Status and problem of a request made by hand."""
    wire = http.client.HTTPConnection("127.0.0.1", yard.port, timeout=30)
    with contextlib.closing(wire):
        wire.request(verb, path, body, headers)
        answer = wire.getresponse()
        return answer.status, json.loads(answer.read())


STRANGERS = {
    "no token": ({"Authorization": ""}, 401, "unauthorized", "madang web"),
    "a wrong token": ({"Authorization": "Bearer wrong"}, 401, "unauthorized", "madang web"),
    "another host's name": ({"Host": "evil.example"}, 421, "wrong_host", "127.0.0.1"),
    "a page of another site": ({"Origin": "https://evil.example"}, 403, "cross_site", "evil"),
    "a form's media type": ({"Content-Type": "text/plain"}, 415, "wrong_media_type", "json"),
}


@pytest.mark.parametrize(("header", "status", "code", "words"), STRANGERS.values(), ids=STRANGERS)
def test_a_stranger_is_refused_and_told_why(yard, header, status, code, words):
    mine = {"Authorization": f"Bearer {yard.token()}", "Content-Type": "application/json"}
    before = yard.ask("GET", "/v1/jobs")["jobs"][0]["id"]

    found, problem = sent(yard, "POST", "/v1/jobs", json.dumps(JOB).encode(), mine | header)

    assert (found, problem["code"]) == (status, code)
    assert words in json.dumps(problem)
    assert yard.ask("GET", "/v1/jobs")["jobs"][0]["id"] == before


GARBAGE = {
    "nothing": b"",
    "half": b'{"command": ["true"',
    "words": b"run my job please",
    "bytes": bytes(range(256)),
    "a deep nest": b"[" * 100_000,
    "a huge number": b'{"command": ["true"], "members": ' + b"9" * 10_000 + b"}",
    "a list": b"[]",
    "twice": b"{}{}",
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_called_garbage(yard, body):
    mine = {"Authorization": f"Bearer {yard.token()}", "Content-Type": "application/json"}

    status, problem = sent(yard, "POST", "/v1/jobs", body, mine)

    assert (status, problem["code"]) in [(400, "bad_json"), (422, "invalid")]
    assert problem["detail"]


@pytest.mark.parametrize("is_announced", [True, False], ids=["announced", "in chunks"])
def test_a_body_of_100_mb_is_refused_with_the_limit(yard, is_announced):
    mine = {"Authorization": f"Bearer {yard.token()}", "Content-Type": "application/json"}
    block, blocks = b" " * 2**20, 100
    wire = http.client.HTTPConnection("127.0.0.1", yard.port, timeout=60)
    with contextlib.closing(wire):
        length = {"Content-Length": str(blocks * len(block))} if is_announced else {}
        body = (block for _ in range(blocks))
        wire.request("POST", "/v1/jobs", body, mine | length, encode_chunked=not is_announced)
        answer = wire.getresponse()
        problem = json.loads(answer.read())

    assert (answer.status, problem["code"]) == (413, "too_large")
    assert problem["allowed"] == 2 * 2**20
    assert problem["try"]


@pytest.mark.slow
@pytest.mark.parametrize("said", [b"", b"GET /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_ten_thousand_silent_connections_lock_nobody_out(yard, said):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 11_000:
        pytest.skip(f"this machine lets a process open {hard} files; 11,000 are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 11_000), hard))
    try:
        with contextlib.ExitStack() as open_wires:
            for _ in range(10_000):
                wire = socket.create_connection(("127.0.0.1", yard.port), timeout=30)
                open_wires.callback(wire.close)
                with contextlib.suppress(ConnectionError):
                    wire.sendall(said)
            assert yard.ask("GET", "/v1/health")["status"] == "ok"
            runs(yard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert yard.daemon is not None
    daemon = psutil.Process(yard.daemon.pid)
    yard.wait_until(lambda: len(daemon.net_connections("tcp")) < 64)


# -- through the command line ----------------------------------------------------------------------

FILES = {
    "unknown key": ("command: [true.py]\ngpu: 2\n", 2, ["gpu", "did you mean", "gpus"]),
    "no YAML": ("command: [true\ngpus: }\n", 2, ["bad.yaml", "line 2"]),
    "negative size": ("command: ['true']\nmembers: -3\n", 2, ["members", "-3"]),
    "no command": ("gpus: 1\n", 2, ["command"]),
    "unknown project": ("command: ['true']\nproject: ghosts\n", 4, ["ghosts", "try"]),
    "never fits": ("command: ['true']\ngpus: 64\n", 4, ["64 CPU slots", "--gpus 4"]),
}


@pytest.mark.parametrize(("text", "code", "words"), FILES.values(), ids=FILES)
def test_a_bad_job_file_is_explained_in_a_few_lines(yard, tmp_path, text, code, words):
    (tmp_path / "bad.yaml").write_text(text)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MADANG_")}
    done = subprocess.run(
        [sys.executable, "-m", "madang", "run", "--no-code", "-f", "bad.yaml"],
        env={
            **environment,
            "MADANG_STATE": str(yard.state),
            "PYTHONPATH": str(REPOSITORY / "src"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (code, "")
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 8
