"""Members by /proc and cgroups: whose process is whose, what all of them use, what is not seen."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from madang.agent.members import Members
from tests.agent.doubles import values, write_tree

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Table:
    """A /proc of our own."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.proc.mkdir()
        self.members = Members(self.proc, self.cgroups)

    def put(
        self,
        pid: int,
        parent: int = 1,
        member: str = "",
        *,
        cpu_s: float = 0.0,
        read: int = 0,
        started: int = 100,
        cgroup: str = "/",
    ) -> None:
        stat = [
            str(pid),
            "(py) thon (x)",
            "S",
            str(parent),
            *["0"] * 9,
            str(round(cpu_s * TICKS_PER_S)),
        ]
        stat += ["0", "0", "0", *["0"] * 4, str(started), "0", "256", *["0"] * 20]
        allocation, _, rank = member.rpartition("/")
        words = f"MADANG_ALLOCATION={allocation}\0MADANG_RANK={rank}\0" if member else ""
        write_tree(
            self.proc / str(pid),
            {
                "stat": " ".join(stat),
                "environ": f"HOME=/\0{words}",
                "io": f"rchar: 1\nread_bytes: {read}\nwrite_bytes: {2 * read}\n",
                "cgroup": f"0::{cgroup}\n",
            },
        )

    def drop(self, pid: int) -> None:
        for path in (self.proc / str(pid)).iterdir():
            path.unlink()
        (self.proc / str(pid)).rmdir()

    def read(self) -> dict[str, dict[str, float]]:
        return values(self.members.read(0))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path)


def test_processes_belong_to_the_member_that_they_say_and_children_to_their_parents(table):
    table.put(10, member="a.1/0")
    table.put(11, parent=10, started=200)  # says nothing of its own
    table.put(12, parent=11, started=300)
    table.put(20, member="a.1/1")
    table.put(30)  # nobody's

    assert table.read()["member_processes"] == {"a.1/0": 3, "a.1/1": 1}


def test_what_members_do_is_the_increase_over_all_their_processes(table):
    table.put(10, member="a.1/0", cpu_s=100, read=1_000)
    assert set(table.read()) == {"member_memory_mib", "member_processes"}
    table.put(10, member="a.1/0", cpu_s=101, read=1_500)
    table.put(11, parent=10, cpu_s=2, read=100, started=900)

    found = table.read()
    assert found["member_read_bytes"] == {"a.1/0": 600}
    assert found["member_write_bytes"] == {"a.1/0": 1_200}
    assert found["member_memory_mib"] == {"a.1/0": 2 * 256 * os.sysconf("SC_PAGE_SIZE") >> 20}
    assert found["member_cpu_percent"]["a.1/0"] > 0


def test_a_child_that_ended_is_counted_once(table):
    table.put(10, member="a.1/0", read=100)
    table.put(11, parent=10, read=500, started=200)
    table.read()
    table.drop(11)
    table.put(10, member="a.1/0", read=650)  # the kernel has added what its child did

    assert table.read()["member_read_bytes"] == {"a.1/0": 50}


def test_one_that_was_reaped_by_a_stranger_does_not_count_backwards(table):
    table.put(10, member="a.1/0", read=100, cpu_s=5)
    table.put(11, parent=10, read=500, cpu_s=9, started=200)
    table.read()
    table.drop(11)

    found = table.read()
    assert found["member_read_bytes"] == {"a.1/0": 0}
    assert found["member_cpu_percent"] == {"a.1/0": 0}


def test_a_member_with_a_cgroup_of_its_own_is_read_there(table):
    folder = "jobs/a.1"
    table.put(10, member="a.1/0", cgroup=f"/{folder}")
    for usage_us, read in ((1_000_000, 50), (3_000_000, 80)):
        write_tree(
            table.cgroups / folder,
            {
                "cgroup.procs": "10\n",
                "cpu.stat": f"usage_usec {usage_us}\nuser_usec 1\n",
                "memory.current": str(300 << 20),
                "io.stat": f"259:0 rbytes={read} wbytes=7 rios=1\n259:1 rbytes=1 wbytes=1\n",
            },
        )
        found = table.read()

    assert found["member_memory_mib"] == {"a.1/0": 300}
    assert found["member_read_bytes"] == {"a.1/0": 30}
    assert found["member_write_bytes"] == {"a.1/0": 0}
    assert found["member_cpu_percent"]["a.1/0"] > 0


def test_a_cgroup_that_is_shared_with_others_is_not_a_members(table):
    for pid, member in ((10, "a.1/0"), (20, "b.1/0")):
        table.put(pid, member=member, cgroup="/all")
    write_tree(table.cgroups / "all", {"cgroup.procs": "10\n20\n", "memory.current": "999999999"})

    assert table.read()["member_memory_mib"] == {"a.1/0": 1, "b.1/0": 1}


@pytest.mark.parametrize("word", ["a.1/", "a.1/x", "a.1/-1", "/0", "a" * 300 + "/0", "a\x1b.1/0"])
def test_who_lies_about_its_name_is_nobodys(table, word):
    table.put(10, member=word)

    assert table.read() == {}


def test_a_process_that_ends_while_it_is_read_is_left_out(table):
    table.put(10, member="a.1/0")
    (table.proc / "11").mkdir()
    (table.proc / "12").mkdir()
    (table.proc / "12/stat").write_text("12 (half")

    assert table.read()["member_processes"] == {"a.1/0": 1}


def test_a_young_process_that_becomes_a_member_is_seen_as_one(table):
    just_now = int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS_PER_S)
    table.put(10, started=just_now)
    assert table.read() == {}
    table.put(10, member="a.1/0", started=just_now)  # exec: the same process

    assert table.read()["member_processes"] == {"a.1/0": 1}


def test_a_process_id_that_was_given_away_again_is_another_process(table):
    table.put(10, member="a.1/0", started=100)
    table.read()
    table.put(10, member="b.1/0", started=999)

    assert table.read()["member_processes"] == {"b.1/0": 1}


def test_a_real_member_is_seen():
    env = {**os.environ, "MADANG_ALLOCATION": "real-member.7", "MADANG_RANK": "3"}
    child = subprocess.Popen(
        [sys.executable, "-c", "print('up', flush=True); input()"],
        env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    members = Members()
    members.read(0)
    found = values(members.read(0))
    child.communicate(b"\n")

    assert found["member_processes"]["real-member.7/3"] == 1
    assert found["member_memory_mib"]["real-member.7/3"] > 1
    assert found["member_cpu_percent"]["real-member.7/3"] >= 0
