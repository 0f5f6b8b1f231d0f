"""What every ledger promises, as tests: a back end subclasses `LedgerContract` and passes.

class TestMine(LedgerContract):
    @pytest.fixture
    def url(self): ...  # an empty database, a new one for each test
"""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from madang.core import events as ev
from madang.core.check import check
from madang.core.codec import decode_event
from madang.core.live import LiveNode
from madang.core.model import (
    Allocation,
    AllocationState,
    Exit,
    Job,
    Node,
    NodeState,
    Phase,
    Project,
    Seat,
    Shape,
    Standing,
)
from madang.ledger import (
    CommitRefused,
    JobWrite,
    Ledger,
    LedgerError,
    LostLead,
    NewJob,
    NodeWrite,
    Token,
    Turn,
    open_ledger,
)
from madang.testing.yard import Yard, state_of

MANY_JOBS = 1_000


def _seated(id: str, *seats: Seat, gpu_milli: int = 1000, ended: int = 0) -> Allocation:
    """An allocation as nobody's scheduler would make it, to see what the database thinks of it."""
    return Allocation(
        id=id,
        job=id.rpartition(".")[0],
        project="vision",
        attempt=1,
        shape=Shape(1, gpu_milli),
        seats=seats,
        state=AllocationState.BOUND,
        bound_ms=1,
        ended=ended,
    )


class LedgerContract:
    """See the module's docstring."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError("a back end gives the URL of an empty database")

    @pytest.fixture
    def ledger(self, url: str) -> Iterator[Ledger]:
        with closing(open_ledger(url)) as ledger:
            yield ledger

    @pytest.fixture
    def yard(self, ledger: Ledger) -> Yard:
        return Yard(ledger)

    # -- turns -----------------------------------------------------------------------------------

    def test_a_new_ledger_is_empty(self, ledger: Ledger) -> None:
        loaded = ledger.load()

        assert (loaded.nodes, loaded.projects, loaded.jobs, loaded.allocations) == ((), (), (), ())
        assert (loaded.next_n, loaded.last_seq, loaded.last_ms) == (1, 0, 0)
        assert ledger.journal_span() == (1, 0)
        assert ledger.jobs() == []
        assert ledger.job(1) is None

    def test_the_journal_has_every_event_once_in_order_without_gaps(self, yard: Yard) -> None:
        steps = [
            yard.turn(
                ev.ProjectSet(Project("vision")), ev.NodeSeen(Node("n0", 8, 64_000, 512_000))
            ),
            yard.turn(ev.JobSubmitted(yard.job())),
            yard.turn(),
            yard.turn(ev.MemberStarted("digits-1.1", 0, yard.now_ms)),
            yard.turn(ev.JobStopAsked("digits-1", by="ada"), ev.NodeCordoned("n0", True)),
        ]
        written = [event for step in steps for event in step.events]
        lines = yard.ledger.events(0, 100)

        assert [line.seq for line in lines] == list(range(1, len(written) + 1))
        assert [decode_event(line.line) for line in lines] == written
        assert [line.kind for line in lines] == [type(event).__name__ for event in written]
        assert yard.spans == [(1, 2), (3, 4), (5, 4), (5, 5), (6, 8)]

    def test_events_are_found_by_job_and_by_node(self, yard: Yard) -> None:
        yard.open(nodes=2)
        first, second = yard.run(yard.job(), yard.job())
        yard.turn(ev.NodeCordoned("n1", True))
        yard.end(first)
        kinds = [line.kind for line in yard.ledger.events(0, 100, job="digits-1")]

        assert kinds == [
            "JobSubmitted",
            "AllocationBound",
            "MemberStarted",
            "MemberEnded",
            "JobEnded",
        ]
        of_node = [line.kind for line in yard.ledger.events(0, 100, node="n1")]
        assert of_node == ["NodeSeen", "NodeCordoned"]
        assert {line.job for line in yard.ledger.events(0, 100, job="digits-2")} == {"digits-2"}
        assert second == "digits-2.1"

    def test_events_come_in_pages(self, yard: Yard) -> None:
        yard.open(nodes=7)
        last = yard.ledger.load().last_seq

        assert [line.seq for line in yard.ledger.events(3, 2)] == [4, 5]
        assert yard.ledger.events(last, 10) == []

    def test_a_turn_without_events_moves_no_sequence(self, yard: Yard) -> None:
        yard.open()
        first, last = yard.spans[-1]
        yard.turn()

        assert yard.spans[-1] == (last + 1, last)
        assert first == 1

    def test_a_thousand_jobs_are_one_turn(self, yard: Yard) -> None:
        yard.open(nodes=MANY_JOBS // 8)
        allocations = yard.run(*[yard.job() for _ in range(MANY_JOBS)])
        yard.end(*allocations)

        assert yard.ledger.phase_counts()[Phase.SUCCEEDED] == MANY_JOBS
        assert yard.ledger.load().jobs == ()

    # -- what a start reads ----------------------------------------------------------------------

    def test_what_was_written_is_what_is_loaded(self, yard: Yard, url: str) -> None:
        yard.open(nodes=3)
        big = yard.job("gang", members=12, time_limit_ms=60_000, retries_max=2)
        done, _, _ = yard.run(yard.job(), big, yard.job("half", shape=Shape(1, 500, 1_000, 64)))
        yard.turn(ev.JobSubmitted(yard.job("later", members=24, priority=3)))
        yard.turn(ev.NodeCordoned("n2", True), ev.MemberEnded("gang-2.1", 11, Exit(0), 0))
        yard.end(done)
        state = yard.controller.state
        yard.ledger.close()
        with closing(open_ledger(url)) as again:
            loaded = again.load()

        assert list(loaded.nodes) == list(state.nodes.values())
        assert {live.job.id: live for live in loaded.jobs} == state.jobs
        assert [allocation.id for allocation in loaded.allocations] == list(state.allocations)
        assert {allocation.id: allocation for allocation in loaded.allocations} == state.allocations
        assert {project.id: project for project in loaded.projects} == state.projects
        assert (loaded.next_n, loaded.last_ms) == (5, yard.now_ms)
        check(state_of(loaded))

    def test_numbers_of_rejected_jobs_are_not_given_again(self, yard: Yard) -> None:
        yard.open()
        step = yard.turn(ev.JobSubmitted(yard.job()), ev.JobSubmitted(yard.job(members=99)))

        assert isinstance(step.decisions[0], ev.JobRejected)
        assert yard.ledger.load().next_n == 3

    def test_what_a_lost_node_may_still_hold_is_loaded(self, yard: Yard) -> None:
        yard.open(nodes=2)
        (first,) = yard.run(yard.job())
        yard.turn(ev.NodeLost("n0"))  # asks for the release
        yard.turn()  # puts the job back in the queue
        yard.turn()  # binds it again
        loaded = yard.ledger.load()

        assert [a.id for a in loaded.allocations] == [first, "digits-1.2"]
        assert loaded.jobs[0].allocation == "digits-1.2"
        assert [live.state for live in loaded.nodes] == [NodeState.LOST, NodeState.READY]
        assert loaded.nodes[0] == LiveNode(
            Node("n0", 8, 64_000, 512_000, "H100"), NodeState.LOST, 0
        )

    def test_what_is_promised_is_loaded_until_it_is_kept(self, yard: Yard) -> None:
        yard.open()
        job, seats = yard.job(members=2), (Seat("n0", (1,)), Seat("n0", (5,)))
        promised = JobWrite(job, Standing(), nominated=seats)
        turn = Turn(yard.epoch, yard.now_ms, jobs=(promised,), new=(NewJob(job.id, "ada", "{}"),))
        yard.ledger.commit(turn)

        assert yard.ledger.load().nominations == ((job.id, seats),)
        assert state_of(yard.ledger.load()).nominations == {job.id: seats}
        yard.ledger.commit(replace(turn, jobs=(replace(promised, nominated=()),), new=()))
        assert yard.ledger.load().nominations == ()

    # -- jobs ------------------------------------------------------------------------------------

    def test_a_job_is_found_by_id_and_number_live_and_ended(self, yard: Yard) -> None:
        yard.open()
        first, _ = yard.run(yard.job(), yard.job("train"))
        yard.end(first, code=3)
        found = yard.ledger.job("digits-1")

        assert found is not None
        assert found == yard.ledger.job(1) == yard.ledger.job("1")
        assert (found.name, found.owner, found.memo) == ("digits", "ada", "")
        assert found.request == '{"command":["digits-1"]}'
        assert found.standing.phase is Phase.FAILED
        assert found.newest is not None
        assert found.newest.exits == ((0, Exit(3)),)
        live = yard.ledger.job("train-2")
        assert live is not None
        assert live.standing.phase is Phase.RUNNING
        for unknown in ("digits-2", 3, "3", "9" * 30, "", "nobody", "٣"):
            assert yard.ledger.job(unknown) is None, unknown

    def test_a_job_shows_its_newest_allocation(self, yard: Yard) -> None:
        yard.open()
        (first,) = yard.run(yard.job(retries_max=1))
        yard.end(first, code=1)
        yard.now_ms += 10_000
        yard.turn()
        found = yard.ledger.job(1)

        assert found is not None
        assert found.newest is not None
        assert found.newest.id == "digits-1.2"
        assert [a.id for a in yard.ledger.allocations("digits-1")] == [first, "digits-1.2"]
        assert yard.ledger.allocation(first) == yard.ledger.allocations("digits-1")[0]
        assert yard.ledger.allocation("digits-1.3") is None

    def test_pages_of_jobs_are_whole_and_newest_first(self, yard: Yard) -> None:
        yard.open()
        yard.run(*[yard.job() for _ in range(25)])
        pages: list[list[int]] = []
        before = None
        while page := yard.ledger.jobs(limit=10, before=before):
            pages.append([record.job.seq for record in page])
            before = pages[-1][-1]

        assert [len(page) for page in pages] == [10, 10, 5]
        assert [n for page in pages for n in page] == list(range(25, 0, -1))

    @pytest.mark.parametrize(
        ("asked", "numbers"),
        [
            ({"phases": (Phase.SUCCEEDED,)}, [1]),
            ({"phases": (Phase.FAILED, Phase.SUCCEEDED)}, [2, 1]),
            ({"phases": (Phase.RUNNING,)}, [4, 3]),
            ({"phases": (Phase.WAITING,)}, [5]),
            ({"phases": tuple(p for p in Phase if not p.is_final)}, [5, 4, 3]),
            ({"phases": (Phase.RUNNING, Phase.FAILED)}, [4, 3, 2]),
            ({"phases": tuple(Phase)}, [5, 4, 3, 2, 1]),
            ({"project": "speech"}, [4]),
            ({"project": "speech", "phases": (Phase.WAITING,)}, []),
            ({"name": "train"}, [3]),
            ({"owner": "ada", "limit": 2}, [5, 4]),
            ({"owner": "bob"}, []),
            ({"owner": "ada", "before": 3}, [2, 1]),
            ({"limit": 0}, []),
            ({"limit": -1}, []),
        ],
        ids=str,
    )
    def test_jobs_are_filtered(
        self, yard: Yard, asked: dict[str, object], numbers: list[int]
    ) -> None:
        yard.open()
        yard.turn(ev.ProjectSet(Project("speech")))
        good, bad, _, _ = yard.run(
            yard.job(), yard.job(), yard.job("train"), yard.job(project="speech")
        )
        yard.end(good)
        yard.end(bad, code=1)
        yard.turn(ev.JobSubmitted(yard.job(members=8)))
        found = yard.ledger.jobs(**asked)  # type: ignore[arg-type]

        assert [record.job.seq for record in found] == numbers

    def test_memos_are_kept_as_they_were_written(self, yard: Yard) -> None:
        yard.open()
        yard.run(yard.job())
        for memo in ("warm-up 2× longer\n", "", "a\0b", "\ud800", "'); DROP TABLE jobs; --"):
            yard.turn(memos=[("digits-1", "before"), ("digits-1", memo), ("digits-9", "dropped")])
            found = yard.ledger.job(1)

            assert found is not None
            assert found.memo == memo

    def test_a_key_makes_one_job(self, yard: Yard) -> None:
        yard.open()
        yard.turn(ev.JobSubmitted(yard.job()), key="k1")
        yard.turn(ev.JobSubmitted(yard.job()))
        yard.turn(ev.JobSubmitted(yard.job()))

        assert yard.ledger.job_of_key("ada", "k1") == "digits-1"
        assert yard.ledger.job_of_key("bob", "k1") is None
        assert yard.ledger.job_of_key("ada", "k2") is None
        assert yard.ledger.job_of_key("ada", "") is None
        assert yard.ledger.jobs_of_keys("ada", ["k2", "k1", ""]) == {"k1": "digits-1"}
        assert yard.ledger.jobs_of_keys("bob", ["k1"]) == {}
        assert yard.ledger.jobs_of_keys("ada", []) == {}
        many = [f"k{n}" for n in range(1300)]
        assert yard.ledger.jobs_of_keys("ada", many) == {"k1": "digits-1"}
        with pytest.raises(CommitRefused):
            yard.turn(ev.JobSubmitted(yard.job()), key="k1")
        assert len(yard.ledger.jobs()) == 3

    def test_keys_of_live_jobs_are_told_and_those_of_ended_ones_are_not(self, yard: Yard) -> None:
        yard.open()
        yard.turn(ev.JobSubmitted(yard.job()), key="k1")
        yard.turn(ev.JobSubmitted(yard.job()), key="k2")
        yard.turn(ev.JobSubmitted(yard.job()))
        yard.turn(ev.MemberEnded("digits-1.1", 0, Exit(0), yard.now_ms))

        assert yard.ledger.live_keys("ada") == {"k2": "digits-2"}
        assert yard.ledger.live_keys("bob") == {}
        assert yard.ledger.job_of_key("ada", "k1") == "digits-1"

    # -- devices ---------------------------------------------------------------------------------

    def test_a_device_is_free_once_its_member_ended(self, yard: Yard) -> None:
        yard.open()
        yard.run(yard.job("gang", members=8))
        yard.turn(ev.JobSubmitted(yard.job()))
        yard.turn(ev.MemberEnded("gang-1.1", 5, Exit(0), yard.now_ms))
        found = yard.ledger.allocation("digits-2.1")

        assert found is not None
        assert found.seats == (Seat("n0", (5,)),)

    @pytest.mark.parametrize(
        ("held", "asked"),
        [
            ((1000,), (1000,)),
            ((1000,), (1,)),
            ((1,), (1000,)),
            ((500,), (501,)),
            ((400, 400), (201,)),
            ((), (600, 600)),
            ((), (1000, 1000)),
        ],
        ids=str,
    )
    def test_the_database_refuses_a_device_twice(
        self, yard: Yard, held: tuple[int, ...], asked: tuple[int, ...]
    ) -> None:
        yard.open()
        total = len(held) + len(asked)
        self._write_jobs(yard, total)
        seat = Seat("n0", (3,))
        for n, milli in enumerate(held, start=1):
            self._write(yard, _seated(f"digits-{n}.1", seat, gpu_milli=milli))
        before = yard.ledger.load()
        too_much = [
            _seated(f"digits-{n}.1", seat, gpu_milli=milli)
            for n, milli in enumerate(asked, start=len(held) + 1)
        ]

        with pytest.raises(CommitRefused):
            self._write(yard, *too_much)
        assert yard.ledger.load() == before

    def test_shares_of_a_device_may_fill_it(self, yard: Yard) -> None:
        yard.open()
        self._write_jobs(yard, 4)
        seat = Seat("n0", (3,))
        shares = {1: 500, 2: 300, 3: 200}
        self._write(yard, *[_seated(f"digits-{n}.1", seat, gpu_milli=m) for n, m in shares.items()])
        gone = replace(
            _seated("digits-2.1", seat, gpu_milli=300, ended=1),
            state=AllocationState.RELEASED,
            exits=((0, Exit(0)),),
        )
        self._write(yard, gone, _seated("digits-4.1", seat, gpu_milli=300))

        assert [a.job for a in yard.ledger.load().allocations] == [
            "digits-1",
            "digits-3",
            "digits-4",
        ]

    def test_the_same_row_written_twice_takes_nothing_twice(self, yard: Yard) -> None:
        yard.open()
        self._write_jobs(yard, 2)
        one = _seated("digits-1.1", Seat("n0", (3,)))
        self._write(yard, one)
        self._write(yard, one)
        ended = replace(
            one, ended=1, state=AllocationState.RELEASED, exits=((0, Exit(0)),), released_ms=5
        )
        self._write(yard, ended)
        self._write(yard, _seated("digits-2.1", Seat("n0", (3,))))

        assert yard.ledger.allocation("digits-1.1") == ended
        with pytest.raises(CommitRefused):  # and its devices are not given back twice
            self._write(yard, _seated("digits-2.2", Seat("n0", (3,))))

    def _write_jobs(self, yard: Yard, count: int) -> None:
        jobs = [yard.job() for _ in range(count)]
        yard.ledger.commit(
            Turn(
                epoch=yard.epoch,
                at_ms=yard.now_ms,
                jobs=tuple(JobWrite(job, Standing()) for job in jobs),
                new=tuple(NewJob(job.id, "ada", "{}") for job in jobs),
            )
        )

    def _write(self, yard: Yard, *allocations: Allocation) -> None:
        yard.ledger.commit(Turn(yard.epoch, yard.now_ms, allocations=allocations))

    # -- all or nothing --------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "wrong",
        [
            Turn(0, 0, jobs=(JobWrite(Job("ghost-9", 9, "vision", Shape(1)), Standing()),)),
            Turn(0, 0, new=(NewJob("ghost-9", "ada", "{}"),)),
            Turn(0, 0, allocations=(_seated("ghost-9.1", Seat("n0", (0,))),)),
            Turn(0, 0, allocations=(_seated("digits-1.2", Seat("nowhere", (0,))),)),
            Turn(0, 0, nodes=(NodeWrite(Node("n1", 8, 1, 1), NodeState.READY, 0),)),
        ],
        ids=[
            "a job without its first row",
            "a first row without a job",
            "a stay without a job",
            "a seat on no node",
            "two nodes on one row",
        ],
    )
    def test_a_turn_that_is_refused_leaves_nothing(self, yard: Yard, wrong: Turn) -> None:
        yard.open()
        yard.run(yard.job())
        before, span = yard.ledger.load(), yard.ledger.journal_span()
        events = (ev.JobStopAsked("digits-1"), ev.NodeLost("n0"))
        projects = (Project("new"),)
        mixed = replace(
            wrong, epoch=yard.epoch, at_ms=yard.now_ms + 5, events=events, projects=projects
        )

        with pytest.raises(CommitRefused):
            yard.ledger.commit(mixed)

        assert yard.ledger.load() == before
        assert yard.ledger.journal_span() == span
        yard.turn(ev.JobStopAsked("digits-1"))  # and the next turn is as if it had not been
        assert yard.ledger.journal_span()[1] > span[1]

    def test_who_lost_the_lead_writes_nothing(self, yard: Yard, url: str) -> None:
        yard.open()
        with closing(open_ledger(url)) as other:
            newer = Yard(other, holder="other")

            assert newer.epoch == yard.epoch + 1
            before = other.load()
            with pytest.raises(LostLead, match=f"other leads in epoch {newer.epoch}"):
                yard.turn(ev.JobSubmitted(yard.job()))
            assert other.load() == before
            newer.turn(ev.JobSubmitted(newer.job("mine")))
        assert [record.job.id for record in yard.ledger.jobs()] == ["mine-1"]

    def test_nobody_commits_without_the_lead(self, ledger: Ledger) -> None:
        with pytest.raises(LostLead):
            ledger.commit(Turn(epoch=1, at_ms=1))

    def test_a_new_leader_goes_on_with_what_is_held(self, yard: Yard, url: str) -> None:
        yard.open()
        first, second = yard.run(yard.job(), yard.job("gang", members=7))
        with closing(open_ledger(url)) as other:
            newer = Yard(other, holder="other")
            newer.end(first)
            newer.turn(ev.MemberEnded(second, 0, Exit(0), 0))
            third, fourth = newer.run(newer.job(), newer.job())

            assert newer.controller.state.allocations[third].seats == (Seat("n0", (0,)),)
            assert newer.controller.state.allocations[fourth].seats == (Seat("n0", (1,)),)

    # -- readers ---------------------------------------------------------------------------------

    def test_readers_see_whole_turns_while_the_writer_writes(self, yard: Yard) -> None:
        yard.open(nodes=4)
        stop = threading.Event()
        seen: list[str] = []

        def read() -> None:
            highest = 0
            while not stop.is_set():
                lines = yard.ledger.events(0, 100_000)
                if [line.seq for line in lines] != list(range(1, len(lines) + 1)):
                    seen.append("a gap in the journal")
                if len(lines) < highest:
                    seen.append("a turn that went away")
                highest = len(lines)
                submitted = sum(line.kind == "JobSubmitted" for line in lines)
                if submitted % 5:
                    seen.append(f"half a turn: {submitted} jobs")
                if len(yard.ledger.jobs(limit=1_000)) % 5:
                    seen.append("half a page")

        readers = [threading.Thread(target=read) for _ in range(4)]
        for reader in readers:
            reader.start()
        try:
            for _ in range(40):
                yard.end(*yard.run(*[yard.job() for _ in range(5)]))
        finally:
            stop.set()
            for reader in readers:
                reader.join()

        assert seen == []
        assert len(yard.ledger.jobs(limit=1_000)) == 200

    # -- retention -------------------------------------------------------------------------------

    def test_pruning_forgets_old_lines_and_nothing_else(self, yard: Yard) -> None:
        yard.open(nodes=3)
        yard.end(*yard.run(yard.job()))
        before, (_, last) = yard.ledger.load(), yard.ledger.journal_span()
        kept = yard.ledger.events(4, 100)

        assert yard.ledger.prune(5) == 4
        assert yard.ledger.prune(5) == 0
        assert yard.ledger.events(0, 100) == kept
        assert yard.ledger.journal_span() == (5, last)
        assert yard.ledger.load() == before
        assert yard.ledger.prune(last + 100) == last - 4
        assert yard.ledger.journal_span() == (last + 1, last)
        yard.turn(ev.NodeLost("n1"))
        assert yard.ledger.journal_span() == (last + 1, last + 1)

    # -- tokens ----------------------------------------------------------------------------------

    def test_tokens_are_digests_with_names(self, ledger: Ledger) -> None:
        ledger.add_token("laptop", "d1", 5, "owner")
        ledger.add_token("ci", "d2", 6, "member")

        laptop, ci = Token("laptop", "d1", 5, "owner"), Token("ci", "d2", 6, "member")
        assert ledger.token("d1") == laptop
        assert ledger.token("d3") is None
        assert ledger.tokens() == [ci, laptop]
        with pytest.raises(LedgerError, match="'ci'"):
            ledger.add_token("ci", "d4", 7, "owner")
        assert ledger.drop_token("ci")
        assert not ledger.drop_token("ci")
        assert ledger.token("d2") is None

    # -- opening ---------------------------------------------------------------------------------

    def test_opening_again_changes_nothing(self, yard: Yard, url: str) -> None:
        yard.open()
        yard.run(yard.job())
        before, events = yard.ledger.load(), yard.ledger.events(0, 100)
        for _ in range(2):
            with closing(open_ledger(url)) as again:
                assert again.load() == before
                assert again.events(0, 100) == events
