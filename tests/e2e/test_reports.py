"""Reports, advice and what-if through the command line, of a real daemon with a virtual fleet."""

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest

from madang.core.codec import decode_event
from madang.core.usage.books import Books
from madang.core.usage.report import report
from tests.e2e.yard import LiveYard
from tests.usage.test_books import check_window

pytestmark = pytest.mark.e2e

FLEET = """
seed: 5
speed: 200
nodes:
  - {count: 3, model: H100, gpus: 8, cpus: 64, memory_mib: 500000}
  - {count: 2, model: A100, gpus: 4, cpus: 32, memory_mib: 250000}
times: {start: [500ms, 3s], stop: [200ms, 2s]}
"""


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    """A yard in which thirty jobs of three projects have come and gone."""
    top = tmp_path_factory.mktemp("reports")
    (top / "fleet.yaml").write_text(FLEET)
    with LiveYard(top / "state", arguments=("--fleet", str(top / "fleet.yaml"))) as live:
        for project in ("vision", "speech"):
            live.ask("PUT", f"/v1/projects/{project}", {"quota_gpus": None})
        jobs = [
            {
                "command": ["train"],
                "name": "one",
                "project": ("default", "vision", "speech")[number % 3],
                "gpus": (1, 2, 4, 0.5, 8)[number % 5],
                "category": ("training", "interactive")[number % 2],
                "env": {
                    "MADANG_VIRTUAL_SECONDS": str(60 + 10 * number),
                    "MADANG_VIRTUAL_STEPS": "0",
                },
            }
            for number in range(30)
        ]
        made = live.ask("POST", "/v1/jobs:batch", {"jobs": jobs})["jobs"]
        live.wait_ended([job["id"] for job in made])
        yield live


def journal_of(yard: LiveYard):
    lines, after = [], 0
    while page := yard.ask("GET", f"/v1/journal?after={after}&limit=50")["lines"]:
        lines += page
        after = page[-1][0]
    return [(at_ms, decode_event(line)) for _, at_ms, line in lines]


def test_the_report_is_the_integral_of_what_the_daemon_held(yard):
    journal = journal_of(yard)
    books = Books()
    for at_ms, event in journal:
        books.apply(event, at_ms)
    first_ms, last_ms = journal[0][0], journal[-1][0]
    window = ("--since", str(first_ms), "--until", str(last_ms + 1))
    said = yard.cli("report", *window, "--by", "project,size", "--json")
    mine = report(books, first_ms, last_ms + 1, ("project", "size"))

    check_window(journal, books, first_ms, last_ms + 1)
    assert [tuple(line["group"].values()) for line in said["lines"]] == [
        line.group for line in mine.lines
    ]
    for line, exact in zip(said["lines"], mine.lines, strict=True):
        assert line["held_gpu_h"] == round(exact.amounts.held_gpu_us / 3.6e9, 6) > 0
    assert said["total"]["submitted"] == said["total"]["ended"] == 30
    assert 0 < said["total"]["held_pct"] <= 100


def test_the_same_question_later_gives_the_same_answer(yard):
    journal = journal_of(yard)
    window = (str(journal[0][0]), str(journal[-1][0]))
    words = ("report", "--since", window[0], "--until", window[1], "--json")

    assert yard.cli(*words) == yard.cli(*words)


def madang(yard: LiveYard, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "madang", *words],
        capture_output=True,
        text=True,
        env={**yard.environment(), "MADANG_STATE": str(yard.state)},
        timeout=120,
        check=False,
    )


def test_csv_and_table_and_page(yard, tmp_path):
    table = madang(yard, "report", "--since", "1h", "--by", "size")
    text = madang(yard, "report", "--since", "1h", "--by", "size", "--csv")
    page = madang(yard, "report", "--since", "1h", "--html", str(tmp_path / "out.html"))
    rows = list(csv.DictReader(io.StringIO(text.stdout)))
    html = Path(tmp_path / "out.html").read_text()

    assert table.stdout.splitlines()[0].split()[0] == "SIZE"
    assert [row["size"] for row in rows] == ["share", "1", "2-7", "8", "(total)"]
    assert rows[-1]["submitted"] == "30"
    assert page.stdout.strip().endswith("out.html")
    assert "GPUs over time" in html
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")
    assert "NaN" not in html


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report", "--by", "colour"], "each once, of: model, size"),
        (["report", "--since", "last week"], "write 30d"),
        (["report", "--since", "1h", "--until", "2h"], "end before it begins"),
        (["report", "--csv", "--html", "x.html"], "contradict"),
        (["report", "--html", "/nowhere/x.html"], "cannot write there"),
        (["advise", "pool", "--wait", "soon"], "soon"),
        (["advise", "pool", "--share", "0"], "1-100"),
        (["sim", "what-if"], "needs --policy"),
        (["sim", "what-if", "--policy", "nobody"], "neither a policy's name nor a file"),
        (["sim", "what-if", "--policy", "fifo", "--ledger", "sqlite:////no/such.db"], "no such"),
    ],
)
def test_what_cannot_be_reported_is_said_with_what_can(yard, words, said):
    done = madang(yard, *words)

    assert done.returncode in (2, 4), done
    assert said in done.stderr


def test_advice_without_zones_says_that_there_is_nothing_to_pool(yard):
    found = yard.cli("advise", "pool", "--since", "1h", "--json")

    assert (found["pools"], found["freed_gpus"]) == ([], 0)
    assert "95 % of the jobs wait at most 10 min" in found["method"]


def test_what_if_reads_the_daemons_journal_and_its_records_alike(yard, tmp_path):
    journal = journal_of(yard)
    window = ("--since", str(journal[0][0]), "--until", str(journal[-1][0] + 1))
    asked = ("sim", "what-if", "--policy", "fifo-skip", *window)
    policy = tmp_path / "mine.toml"
    policy.write_text('base = "fifo"\nname = "mine"\n')

    over_http = yard.cli(*asked, "--json")
    from_file = yard.cli(*asked, "--json", "--state", str(yard.state))
    mine = yard.cli("sim", "what-if", "--policy", str(policy), *window, "--json")
    page = madang(yard, *asked, "--plot", str(tmp_path / "w.html"))

    timed = {"wall_s", "read_s"}
    assert {k: v for k, v in over_http.items() if k not in timed} == {
        k: v for k, v in from_file.items() if k not in timed
    }
    assert over_http["jobs"] == 30
    assert over_http["guessed_lengths"] == 0
    assert over_http["actual"]["ended"] == 30
    assert over_http["recorded"]["ended"] >= 29  # the last may end a moment after the window
    assert over_http["method_error"]["start_p90_s"] < 60
    assert mine["policy"] == "mine"
    assert "The method's own error" in page.stdout
    assert "Who gains most" in (tmp_path / "w.html").read_text()
