"""Verbs against a small daemon in this process: what they send, print, and exit with."""

import json
import os

import pytest

from madang.cli.main import run
from tests.cli.acting import REQUEST, last_request, play


@pytest.fixture
def job(double):
    return double.submit(REQUEST)


# -- looking ------------------------------------------------------------------------------------


def test_ls_shows_live_jobs_and_the_latest_that_ended(double, capsys):
    for _ in range(14):
        double.submit(REQUEST)
    for n in range(1, 13):
        double.start(f"digits-{n}")
        double.end(f"digits-{n}", code=n % 2)

    run(["ls"])

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ID", "PHASE", "GPUS", "AGE/RUN", "PROJECT", "WHY"]
    ids = [line.split()[0] for line in lines[1:]]
    assert ids == [f"digits-{n}" for n in range(14, 2, -1)]
    assert "needs 2 GPUs; 1 of 4 GPUs are free" in lines[1]
    assert "✗ failed" in lines[4]


def test_ls_is_one_json_document(double, job, capsys):
    run(["ls", "--json"])

    assert [each["id"] for each in json.loads(capsys.readouterr().out)["jobs"]] == ["digits-1"]


def test_ls_filters(double, capsys):
    double.submit(REQUEST)
    double.submit({**REQUEST, "name": "words", "project": "nlp"})

    for words, expected in [
        (["--name", "words"], ["words-2"]),
        (["--project", "nlp"], ["words-2"]),
        (["--phase", "running"], []),
        (["--all"], ["words-2", "digits-1"]),
        (["--limit", "1"], ["words-2"]),
    ]:
        run(["ls", "--json", *words])
        found = json.loads(capsys.readouterr().out)["jobs"]
        assert [each["id"] for each in found] == expected, words


@pytest.mark.parametrize("named", ["digits-1", "1", "digits"])
def test_a_job_is_found_by_id_number_and_name(double, job, capsys, named):
    assert run(["show", named]) == 0
    assert "digits-1" in capsys.readouterr().out


def test_show_tells_a_job_in_full(double, job, capsys):
    double.start("digits-1")

    run(["show", "1"])

    said = capsys.readouterr().out
    assert "● running" in said
    assert "default (owner ada)" in said
    assert "node-1" in said


@pytest.mark.parametrize(
    "words",
    [
        ["show", "1"],
        ["why", "1"],
        ["nodes"],
        ["top"],
        ["status"],
        ["project", "ls"],
        ["token", "ls"],
        ["events", "1"],
        ["memo", "1"],
        ["stop", "1"],
        ["cordon", "node-1"],
        ["try", "--", "true"],
        ["schema", "job"],
        ["version"],
        ["web"],
        ["completion", "bash"],
        ["fork", "1"],
        ["token", "add", "ci"],
        ["project", "set", "p", "--quota", "2"],
    ],
)
def test_every_answer_can_be_one_json_document(double, job, capsys, words):
    assert run(["--json", *words]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)

    job.update(phase="waiting")
    if words[:2] != ["token", "add"]:
        assert run(words) == 0
        said = capsys.readouterr().out
        assert "\x1b" not in said
        assert said.strip() or words[0] == "memo"


def test_why_says_the_reason_with_numbers(double, job, capsys):
    run(["why", "digits-1"])

    said = capsys.readouterr().out
    assert said.splitlines() == [
        "digits-1: needs 2 GPUs; 1 of 4 GPUs are free",
        "  free   1",
        "  total  4",
    ]


def test_nodes_shows_what_is_free(double, capsys):
    run(["nodes"])

    line = capsys.readouterr().out.splitlines()[1]
    assert line.split() == [
        "node-1",
        "●",
        "ready",
        "1",
        "0.5",
        "16",
        "128.0",
        "GiB",
        "H100",
        "digits-1",
    ]


def test_events_of_a_job_are_sentences(double, job, capsys):
    double.start("digits-1")

    run(["events", "1"])

    said = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in said] == [
        "digits-1: JobSubmitted",
        "digits-1: AllocationStarted",
    ]


def test_events_follow_a_job_to_its_end(double, job, capsys):
    double.start("digits-1")
    double.end("digits-1")

    assert run(["events", "1", "-f", "--json"]) == 0
    kinds = [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()]
    assert kinds == ["JobSubmitted", "AllocationStarted", "AllocationReleased"]


# -- logs ---------------------------------------------------------------------------------------


def test_logs_are_bytes_as_they_were_written(double, job, capsysbinary):
    double.start("digits-1")
    double.write("digits-1", b"\xff\x00 raw \x1b[31m\n")

    run(["logs", "1"])

    assert capsysbinary.readouterr().out == b"\xff\x00 raw \x1b[31m\n"


def test_logs_of_all_members_carry_their_rank(double, capsysbinary):
    double.submit({**REQUEST, "members": 2})
    double.start("digits-1")
    double.write("digits-1", b"a\nb", rank=0)
    double.write("digits-1", b"c\n", rank=1)

    run(["logs", "1", "--member", "all"])

    assert capsysbinary.readouterr().out == b"[0] a\n[0] b\n[1] c\n"


def test_logs_tail_and_member(double, capsysbinary):
    double.submit({**REQUEST, "members": 2})
    double.start("digits-1")
    double.write("digits-1", b"a\nb\n", rank=1)

    run(["logs", "1", "-m", "1", "-n", "1"])

    assert capsysbinary.readouterr().out == b"b\n"


def test_logs_as_json_are_lines(double, job, capsysbinary):
    double.start("digits-1")
    double.write("digits-1", b"a\nb\n")

    run(["logs", "1", "--json"])

    lines = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert lines == [{"member": 0, "line": "a"}, {"member": 0, "line": "b"}]


def test_logs_of_a_waiting_job_say_so(double, job, capsys):
    assert run(["logs", "1"]) == 0
    assert "madang why digits-1" in capsys.readouterr().err


def test_logs_of_a_member_that_is_none(double, job, capsys):
    assert run(["logs", "1", "--member", "1"]) == 2
    assert "it has one member" in capsys.readouterr().err


def test_logs_follow_from_before_the_start_to_the_end(double, job, capsysbinary):
    def moves():
        double.start("digits-1")
        double.write("digits-1", b"one\n")
        double.write("digits-1", b"two\n")
        double.end("digits-1")

    thread = play(double, moves)

    assert run(["logs", "-f", "1"]) == 0
    thread.join()
    assert capsysbinary.readouterr().out == b"one\ntwo\n"


# -- changing -----------------------------------------------------------------------------------


def test_stop_ends_several_and_says_which_could_not(double, job, capsys):
    double.submit(REQUEST)

    assert run(["stop", "1", "99", "2"]) == 3

    said = capsys.readouterr()
    assert said.out.splitlines() == ["digits-1 stopped", "digits-2 stopped"]
    assert "there is no job 99" in said.err


def test_stop_sends_its_grace(double, job):
    run(["stop", "1", "--grace", "0s"])

    assert last_request(double, "/v1/jobs/1/stop") == {"grace": "0s"}


def test_requeue_of_a_waiting_job_is_refused(double, job, capsys):
    assert run(["requeue", "1"]) == 4
    assert "does not run" in capsys.readouterr().err


def test_memo_writes_reads_and_clears(double, job, capsys):
    run(["memo", "1", "larger", "batch"])
    run(["memo", "1"])
    assert capsys.readouterr().out == "larger batch\n"

    run(["memo", "1", "--clear"])
    assert double.jobs["digits-1"]["memo"] == ""


def test_fork_repeats_a_job_with_changes(double, capsys):
    first = {**REQUEST, "gpus": 4, "env": {"LR": "1", "B": "2"}, "code": "c" * 64}
    double.submit(first)

    words = ["fork", "digits-1", "--set", "env.LR=0.1", "--set", "retries=2", "--gpus", "2"]
    assert run([*words, "--from-checkpoint", "--", "python", "b.py"]) == 0

    assert capsys.readouterr().out == "digits-2\n"
    assert last_request(double) == {
        "command": ["python", "b.py"],
        "name": "digits",
        "gpus": 2,
        "env": {"LR": "0.1", "B": "2"},
        "code": "c" * 64,
        "retries": 2,
        "forked_from": "digits-1",
        "from_checkpoint": True,
    }


@pytest.mark.parametrize("word", ["gpus", "=1", "a.b=1"])
def test_fork_says_what_set_wants(double, job, capsys, word):
    assert run(["fork", "1", "--set", word]) == 2
    assert "FIELD=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(("gpus", "code"), [(2, 0), (64, 4)])
def test_try_says_what_would_happen(double, capsys, gpus, code):
    assert run(["try", "--gpus", str(gpus), "--", "true"]) == code

    said = capsys.readouterr().out
    assert "needs 2 GPUs" in said
    assert "--gpus 1 per member" in said
    assert not double.jobs


def test_pull_gives_the_code_back(double, here, capsys):
    (here / "pkg").mkdir()
    (here / "pkg" / "a.py").write_text("x")
    run(["run", "--", "true"])

    assert run(["pull", "1", "back"]) == 0

    assert (here / "back" / "train.py").read_text() == "print(1)\n"
    assert (here / "back" / "pkg" / "a.py").read_text() == "x"
    assert run(["pull", "1", "back"]) == 2


def test_pull_refuses_what_would_land_outside(tmp_path):
    import io
    import tarfile

    import zstandard

    from madang.cli.pull import unpack
    from madang.client import MadangError

    for name in ("../evil", "/tmp/evil-absolute"):
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(name))
        packed = zstandard.ZstdCompressor().compress(plain.getvalue())
        if name.startswith("/"):
            unpack(packed, str(tmp_path / "in"))  # absolute names are made relative
            assert not os.path.exists(name)
        else:
            with pytest.raises(MadangError, match="cannot be unpacked"):
                unpack(packed, str(tmp_path / "in"))
    assert not (tmp_path / "evil").exists()


def test_cordon_and_project_and_token(double, capsys):
    assert run(["cordon", "node-1"]) == 0
    assert run(["uncordon", "node-1"]) == 0
    assert run(["project", "set", "vision", "--quota", "8"]) == 0
    assert run(["project", "set", "open", "--quota", "none"]) == 0
    assert run(["token", "add", "ci"]) == 0
    assert run(["token", "rm", "ci"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "node-1 cordoned",
        "node-1 ready",
        "vision may hold 8 GPUs",
        "open has no quota",
        "mdg_new",
        "ci has no access any more",
    ]
    assert double.projects["vision"] == 8
    assert double.projects["open"] is None


def test_the_numbers_of_why_have_units(double, job, capsys):
    double.why_numbers = {
        "asked_milli": 2500,
        "first_in_ms": 7_260_000,
        "share_pct": 180,
        "place": 3,
    }
    run(["why", "digits-1"])

    assert capsys.readouterr().out.splitlines()[1:] == [
        "  asked     2.5",
        "  first in  2 h 1 m",
        "  share     180 %",
        "  place     3",
    ]
