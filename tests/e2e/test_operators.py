"""What operators set, from the command line to `madang why`: budgets, quotas with cells, zones,
reservations. One real daemon on a virtual fleet; each test has a project of its own.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.e2e.yard import LiveYard

pytestmark = pytest.mark.e2e

# Four nodes of eight; one says that it is in the zone `lab`, which is anybody's until it is set.
FLEET = """
seed: 5
nodes:
  - {count: 3, name: n, model: H100, gpus: 8, cpus: 96, memory_mib: 1048576, nodes_per_leaf: 2}
  - {count: 1, name: lab, model: H100, gpus: 8, cpus: 96, memory_mib: 1048576, zone: lab}
times: {start: 20ms, stop: 20ms}
"""
POLICY = 'run_min = "0s"\n'
USAGE, NOT_FOUND, REJECTED = 2, 3, 4


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveYard]:
    place = tmp_path_factory.mktemp("operators")
    (place / "fleet.yaml").write_text(FLEET)
    (place / "policy.toml").write_text(POLICY)
    files = ("--fleet", str(place / "fleet.yaml"), "--policy", str(place / "policy.toml"))
    with LiveYard(place / "state", arguments=files) as found:
        for project in ("p", "others"):
            found.cli("project", "set", project, "--quota", "none", "--json")
        yield found


@pytest.fixture
def yard(live: LiveYard) -> Iterator[LiveYard]:
    """The daemon; what was set and what runs is taken away after each test."""
    yield live
    for kind in ("budgets", "zones", "reservations"):
        for one in live.ask("GET", f"/v1/{kind}")[kind]:
            if one.get("is_set", True):
                live.ask("DELETE", f"/v1/{kind}/{one['id']}")
    for quota in live.ask("GET", "/v1/quotas")["quotas"]:
        words = {key: quota[key] for key in ("owner", "group", "provisioning")}
        live.ask("DELETE", f"/v1/quotas?{urlencode(words)}")
    for job in live.ask("GET", "/v1/jobs?phase=live")["jobs"]:
        live.ask("POST", f"/v1/jobs/{job['id']}/stop", {"grace": "0s"})
    live.wait_until(lambda: not live.ask("GET", "/v1/jobs?phase=live")["jobs"])


def run(yard: LiveYard, name: str, *words: str, runs: bool = True) -> str:
    """The id of a job of `p` that runs for long; once it runs, or as it waits."""
    seconds = ("-e", "MADANG_VIRTUAL_SECONDS=600")
    words = ("run", "--no-code", "--name", name, "-p", "p", *seconds, *words)
    job = str(yard.cli(*words, "--json", "--", "train")["id"])
    if runs:
        yard.wait_running(job)
    return job


def said(yard: LiveYard, *words: str) -> str:
    """What a person reads."""
    done = told(yard, *words)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def told(yard: LiveYard, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "madang", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**yard.environment(), "MADANG_STATE": str(yard.state)},
        timeout=120,
        check=False,
    )


def refused(yard: LiveYard, code: int, *words: str) -> str:
    """The guide of a command that is refused with this exit code."""
    done = told(yard, *words)
    assert done.returncode == code, (words, done.stdout, done.stderr)
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    return done.stderr


def row(table: str, first: str) -> list[str]:
    """The cells of the line that begins so."""
    (line,) = [one for one in table.splitlines() if one.startswith(first + " ")]
    return line.split()


# -- disruption budgets ---------------------------------------------------------------------------


def test_a_budget_keeps_who_serves_and_who_waits_is_told(yard):
    made = said(yard, "budget", "set", "chat", "--project", "p", "--down-max", "1")
    chat = run(
        yard,
        "chat",
        "--spot",
        "--gpus",
        "8",
        "--members",
        "4",
        "--within",
        "any",
        "--budget",
        "chat",
    )
    listed = said(yard, "budget", "ls")
    urgent = run(yard, "urgent", "--reserved", "--gpus", "8", "-p", "others", runs=False)
    why = yard.cli("why", urgent, "--json")
    still = yard.ask("GET", f"/v1/jobs/{chat}")["phase"]
    gone = said(yard, "budget", "rm", "chat")
    yard.wait_running(urgent)

    assert row(made, "chat") == ["chat", "p", "0", "0", "1"]
    assert row(listed, "chat") == ["chat", "p", "4", "0", "1"]
    assert (
        f"{chat} stays: budget chat lets 1 of its members be down at once, none is" in why["text"]
    )
    assert still == "running"
    assert gone == "budget chat is gone\n"
    assert "no budgets yet" in said(yard, "budget", "ls")


def test_a_broken_budget_is_refused_with_what_would_work(yard):
    nobody = refused(yard, NOT_FOUND, "budget", "set", "x", "--project", "no", "--down-max", "1")
    endless = refused(yard, USAGE, "budget", "set", "x", "--down-max", "-1")
    unsaid = refused(yard, USAGE, "budget", "set", "x", "--project", "p")
    unknown = refused(yard, NOT_FOUND, "budget", "rm", "x")

    assert "project no does not exist" in nobody
    assert "allowed  default, others, p" in nobody
    assert "0 or more" in endless
    assert "--down-max MEMBERS" in unsaid
    assert "madang budget ls" in unknown


# -- quotas and the cells they promise -----------------------------------------------------------


def test_a_limit_binds_and_names_who_holds_it(yard):
    said(yard, "quota", "set", "project:p", "--limit", "8", "--provisioning", "on_demand")
    first = run(yard, "first", "--gpus", "6")
    second = run(yard, "second", "--gpus", "4", runs=False)
    why = yard.cli("why", second, "--json")
    listed = said(yard, "quota", "ls")
    said(yard, "quota", "set", "project:p", "--limit", "none", "--provisioning", "on_demand")
    yard.wait_running(second)
    said(yard, "quota", "rm", "project:p", "--provisioning", "on_demand")

    assert row(listed, "project:p") == ["project:p", "*", "on_demand", "6", "0", "8", "1"]
    assert why["code"] == "quota"
    assert f"held by {first}" in why["text"]
    assert "no quotas yet" in said(yard, "quota", "ls")


def test_promised_cells_are_kept_from_who_cannot_be_displaced(yard):
    made = said(yard, "quota", "set", "project:p", "--cells", "node=1")
    for n in range(3):
        run(yard, f"firm{n}", "--reserved", "--gpus", "8", "-p", "others")
    last = run(yard, "last", "--reserved", "--gpus", "8", "-p", "others", runs=False)
    why = yard.cli("why", last, "--json")
    before = said(yard, "quota", "show", "project:p")
    mine = run(yard, "mine", "--reserved", "--gpus", "8")
    after = said(yard, "quota", "show", "project:p")
    yard.ask("POST", f"/v1/jobs/{mine}/stop", {"grace": "0s"})
    said(yard, "quota", "rm", "project:p")
    yard.wait_running(last)

    assert row(made, "project:p")[-1] == "node=1"
    assert why["code"] == "cells"
    assert "would break cells promised to others: project:p 1 node" in why["text"]
    assert "node (H100): 1 promised, 0 opened, 1 ready" in before
    assert "node (H100): 1 promised, 1 opened, 0 ready" in after


def test_quotas_that_cannot_be_kept_are_refused_with_what_could(yard):
    cells = refused(yard, REJECTED, "quota", "set", "project:p", "--cells", "node=5")
    level = refused(yard, REJECTED, "quota", "set", "project:p", "--cells", "galaxy=1")
    firm = refused(yard, REJECTED, "quota", "set", "project:p", "--guaranteed", "99")
    nobody = refused(yard, NOT_FOUND, "quota", "set", "project:no", "--limit", "3")
    owner = refused(yard, USAGE, "quota", "set", "p", "--limit", "3")
    group = refused(yard, NOT_FOUND, "quota", "set", "project:p", "--group", "x", "--limit", "3")
    lots = refused(yard, USAGE, "quota", "set", "project:p", "--limit", "lots")

    assert "5 node cells of H100 would be promised, but there are 4" in cells
    assert "galaxy is no level of cells there" in level
    assert "99 GPUs would be guaranteed, but there are 32" in firm
    assert "madang project set no" in nobody
    assert "owner" in owner
    assert "madang nodes" in group
    assert "GPUS, or none" in lots
    assert "no quotas yet" in said(yard, "quota", "ls")


# -- zones ----------------------------------------------------------------------------------------


def test_a_private_zone_takes_its_own_and_tells_the_others(yard):
    made = said(yard, "zone", "set", "lab", "--owners", "project:p", "--sizes", "1-4")
    inside = run(yard, "inside", "--gpus", "4", "--zone", "lab")
    seats = yard.ask("GET", f"/v1/jobs/{inside}")["seats"]
    full = run(yard, "full", "--gpus", "4", "--zone", "lab")
    waits = run(yard, "waits", "--gpus", "4", "--zone", "lab", runs=False)
    why = yard.cli("why", waits, "--json")
    theirs = refused(yard, REJECTED, "run", "--no-code", "-p", "others", "--zone", "lab", "--", "x")
    large = refused(
        yard, REJECTED, "run", "--no-code", "-p", "p", "--gpus", "8", "--zone", "lab", "--", "x"
    )
    listed = said(yard, "zone", "ls")
    yard.ask("POST", f"/v1/jobs/{full}/stop", {"grace": "0s"})
    yard.wait_running(waits)
    gone = said(yard, "zone", "rm", "lab")

    assert row(made, "lab") == ["lab", "project:p", "1-4", "1", "8", "8"]
    assert [seat["node"] for seat in seats] == ["lab-0"]
    assert row(listed, "lab")[-1] == "0"
    assert "may use zone lab" in why["text"]
    assert "zone lab is private: it takes jobs of project:p" in theirs
    assert "8 GPUs asked in all, but zone lab takes other sizes: lab 1-4 GPUs" in large
    assert gone == "nodes of lab take everyone\n"


def test_a_zone_without_nodes_says_so_to_who_sets_it_and_to_who_waits(yard):
    done = told(yard, "zone", "set", "moon")
    waits = run(yard, "waits", "--gpus", "1", "--zone", "moon", runs=False)
    why = yard.cli("why", waits, "--json")
    said(yard, "zone", "rm", "moon")

    assert "no node is in zone moon" in done.stderr
    assert "no node is in zone moon" in why["text"]


def test_a_broken_zone_is_refused_with_what_would_work(yard):
    nobody = refused(yard, NOT_FOUND, "zone", "set", "x", "--owners", "workspace:no")
    form = refused(yard, USAGE, "zone", "set", "x", "--owners", "p")
    none = refused(yard, USAGE, "zone", "set", "x", "--sizes", "8-4")
    words = refused(yard, USAGE, "zone", "set", "x", "--sizes", "big")
    unknown = refused(yard, NOT_FOUND, "zone", "rm", "x")

    assert "madang workspace set no" in nobody
    assert "project:NAME, workspace:NAME" in form
    assert none.count("no job has 8 GPUs or more and 4 or less") == 1
    assert "1-8, 16- or any" in words
    assert "madang zone ls" in unknown


# -- reservations ----------------------------------------------------------------------------------


def test_a_reservation_is_kept_for_its_project_and_opens_in_time(yard):
    late = ("--begin", "+2h", "--for", "1h")
    made = said(yard, "reserve", "add", "night", "--project", "p", "--gpus", "8", *late)
    inside = run(yard, "inside", "--gpus", "8", "--reservation", "night", runs=False)
    why = yard.cli("why", inside, "--json")
    now = ("--begin", "now", "--for", "1h")
    said(yard, "reserve", "add", "night", "--project", "p", "--gpus", "8", *now)
    yard.wait_running(inside)
    listed = said(yard, "reserve", "ls")
    gone = said(yard, "reserve", "rm", "night")
    still = yard.ask("GET", f"/v1/jobs/{inside}")["phase"]

    assert row(made, "night")[-2:] == ["waiting", "0"]
    assert why["code"] == "reservation"
    assert "reservation night, which begins later" in why["text"]
    assert why["earliest_ms"] > 0
    assert row(listed, "night")[-2:] == ["open", "8"]
    assert (gone, still) == ("reservation night is taken away\n", "running")


def test_a_reservation_that_cannot_be_kept_is_refused_with_what_could(yard):
    add = ("reserve", "add", "x", "--begin", "+1h")
    large = refused(yard, REJECTED, *add, "--gpus", "8", "--members", "9", "--for", "1h")
    nobody = refused(yard, REJECTED, *add, "--project", "no", "--for", "1h")
    unsaid = refused(yard, USAGE, *add)
    soon = refused(yard, USAGE, *add, "--for", "soon")
    back = refused(yard, USAGE, "reserve", "add", "x", "--begin", "+2h", "--end", "+1h")
    never = refused(yard, USAGE, "reserve", "add", "x", "--begin", "someday", "--for", "1h")
    alien = refused(
        yard, REJECTED, "run", "--no-code", "-p", "p", "--reservation", "x", "--", "train"
    )

    assert "of 9 members 4 fit in that window" in large
    assert "--members 4" in large
    assert "project no does not exist" in nobody
    assert "--for 6h, or --end WHEN" in unsaid
    assert "90m, 6h, 1d12h" in soon
    assert "it ends at" in back
    assert "now, +2h, or a date" in never
    assert "there is no reservation x" in alien
    assert "no reservations yet" in said(yard, "reserve", "ls")


# -- who may --------------------------------------------------------------------------------------


def test_a_member_sets_nothing_and_stops_only_its_own(yard):
    token = str(yard.cli("token", "add", "mina", "--role", "member", "--json")["token"])
    theirs = run(yard, "theirs", "--gpus", "1")
    mine = {**yard.environment(), "MADANG_URL": yard.url, "MADANG_TOKEN": token}

    def as_mina(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "madang", *words],
            capture_output=True,
            text=True,
            env=mine,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    code, made = as_mina("run", "--no-code", "--gpus", "1", "--json", "--", "train")
    own = json.loads(made)["id"]
    stopped = as_mina("stop", own)
    refusals: dict[str, Any] = {
        "stop": as_mina("stop", theirs),
        "zone": as_mina("zone", "set", "x"),
        "token": as_mina("token", "add", "more", "--role", "owner"),
    }
    seen = as_mina("why", theirs)
    yard.cli("token", "rm", "mina", "--json")
    gone = as_mina("ls")

    assert (code, stopped[0], seen[0]) == (0, 0, 0)
    assert {name: code for name, (code, _) in refusals.items()} == dict.fromkeys(refusals, 6)
    assert f"{theirs} is " in refusals["stop"][1]
    assert "mina, a member of this yard, cannot stop it" in refusals["stop"][1]
    assert "this takes an owner" in refusals["zone"][1]
    assert gone[0] == 6
