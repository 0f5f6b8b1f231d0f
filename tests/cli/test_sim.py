"""madang sim: files in, figures out, and no daemon anywhere."""

import gzip
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from madang.cli.main import run
from madang.cli.table import BY_NAME
from madang.core import policies, scoring

SOURCE = str(Path(importlib.import_module("madang").__file__ or "").parent.parent)
NODES = "cpu_milli,memory_mib,gpu,model\n8000,16384,2,T4\n16000,16384,4,V100\n"
PODS = (
    "cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"
    "1000,1024,1,1000,\n1000,1024,1,500,T4\n2000,1024,2,1000,V100\n"
)
PACKED = """policy seed allocated_pct fragmented_pct failed_pods failed_cpu_only_pct wall_s
decisions_per_s"""
REPLAYED = """policy jobs avg_jct_s p99_jct_s avg_wait_s p99_wait_s avg_wait_large_s makespan_s
preemptions wasted_gpu_s utilisation wall_s"""
TRACE = "job,vc,submit,duration,gpus\na,x,0,60,2\nb,x,0,30,4\nc,x,10,5.5,1\n"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The three files, and an environment in which no daemon can be found."""
    for name in ("MADANG_URL", "MADANG_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MADANG_STATE", str(tmp_path / "nothing"))
    for name, text in (("nodes", NODES), ("pods", PODS), ("trace", TRACE)):
        (tmp_path / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


PACK = ["sim", "pack", "--nodes", "nodes.csv.gz", "--pods", "pods.csv.gz"]
REPLAY = ["sim", "replay", "--trace", "trace.csv.gz", "--nodes", "1x4"]


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (
            [*PACK, "--seed", "7", "--policy", "fgd"],
            PACKED,
        ),
        (
            [*REPLAY, "--policy", "easy"],
            REPLAYED,
        ),
    ],
)
def test_json_is_one_document_with_the_named_keys(files, capsys, words, keys):
    assert run([*words, "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    assert list(said) == keys.split()
    assert said["policy"] == words[-1]


def test_people_get_lines(files, capsys):
    assert run(PACK) == 0
    assert "allocated %" in capsys.readouterr().out
    assert run(REPLAY) == 0
    assert "avg_wait_s  " in capsys.readouterr().out


@pytest.mark.parametrize("words", [PACK, REPLAY])
def test_a_plot_is_one_file_that_fetches_and_runs_nothing(files, words):
    assert run([*words, "--plot", "out.html"]) == 0

    page = Path("out.html").read_text()
    assert page.count('<path class="curve" d="M') > page.count("<section>") > 0
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "NaN" not in page
    assert "inf" not in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*PACK[:2], "--nodes", "nodes.csv.gz"], "needs --pods"),
        ([*REPLAY[:2], "--nodes", "1x4"], "needs --trace"),
        ([*PACK[:4], "--pods", "gone.csv.gz"], "gone.csv.gz cannot be read"),
        ([*PACK[:4], "--pods", "trace.csv.gz"], "lacks the columns"),
        ([*REPLAY[:2], "--trace", "nodes.csv.gz", "--nodes", "1x4"], "lacks the columns"),
        ([*REPLAY[:5], "four"], "must be NODESxGPUS"),
        ([*REPLAY[:5], "1x1"], "can never hold"),
        ([*PACK, "--policy", "worst-fit"], "invalid choice"),
        ([*PACK, "--seed", "-1"], "--seed must be 0 or more"),
        ([*PACK, "--plot", "no/such/place.html"], "cannot write there"),
    ],
)
def test_what_cannot_be_replayed_is_a_usage_error_that_says_why(files, capsys, words, said):
    assert run(words) == 2
    assert said in capsys.readouterr().err

    assert run([*words, "--json"]) == 2
    assert said in json.loads(capsys.readouterr().out)["problem"]["title"]


def test_the_policies_are_those_of_the_core():
    known = {"sim pack": scoring.POLICIES, "sim replay": tuple(policies.POLICIES)}

    for verb, names in known.items():
        [option] = [o for o in BY_NAME[verb].options if o.long == "--policy"]
        assert option.choices == names


@pytest.mark.parametrize("words", [PACK, REPLAY])
def test_the_modules_alone_say_the_same_as_the_verbs(files, capsys, words):
    done = subprocess.run(
        [sys.executable, "-m", f"madang.sim.{words[1]}", *words[2:], "--json"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": SOURCE},
        timeout=120,
    )
    assert run([*words, "--json"]) == 0

    timed = {"wall_s", "decisions_per_s"}
    alone, verb = json.loads(done.stdout), json.loads(capsys.readouterr().out)
    assert {k: v for k, v in alone.items() if k not in timed} == {
        k: v for k, v in verb.items() if k not in timed
    }
