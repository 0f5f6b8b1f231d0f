"""Which budgets cover which jobs, and what of them is told: a table without any I/O."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest

from madang.core.events import JobShielded, ReleaseHeld, SettingDropped, ShieldSet
from madang.core.model import Allocation, AllocationState, Need, Seat, Shape
from madang.core.settings import Shield
from madang.engines.base import Launch, Stop
from madang.engines.kubernetes import trim
from madang.engines.kubernetes.cache import PodNews
from madang.engines.kubernetes.shields import REFUSED_S, SOON_S, Shields
from madang.engines.kubernetes.stays import Stays
from madang.engines.kubernetes.values import BudgetFacts, PodFacts, Selector


def allocation(job: str, members: int) -> Allocation:
    seats = tuple(Seat(f"n{rank}", (0,)) for rank in range(members))
    return Allocation(f"{job}.1", job, "lab", 1, Shape(1), seats, AllocationState.BOUND, 0)


def pod(job: str, rank: int, app: str, **more: Any) -> PodFacts:
    notes = (("madang.io/allocation", f"{job}.1"), ("madang.io/rank", str(rank)))
    fields = {"uid": f"{job}-{rank}", "node": f"n{rank}", "phase": "Running", "annotations": notes}
    labels = (("app", app),)
    return PodFacts(f"ns/{job}-{rank}", "ns", f"{job}-{rank}", labels=labels, **(fields | more))


def budget(name: str, app: str, allowed: int) -> BudgetFacts:
    selector = Selector((Need("app", "in", (app,)),))
    return BudgetFacts(f"ns/{name}", "ns", name, selector, allowed)


@dataclass
class Table:
    facts: list[Any] = field(default_factory=list)
    now_s: float = 100.0
    budgets: dict[str, BudgetFacts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stays = Stays(lambda fact: None, lambda: self.now_s, lambda: 7)
        cache: Any = SimpleNamespace(budgets=SimpleNamespace(objects=self.budgets))
        self.shields = Shields(cache, self.stays, self.facts.append, lambda: self.now_s)
        self.stays.over = self.shields.forget

    def place(self, job: str, *apps: str) -> "Table":
        launch = Launch(allocation(job, len(apps)), job, "ada", (), arrival=f"uid-{job}")
        assert self.stays.start(launch) is not None
        for rank, app in enumerate(apps):
            self.see(pod(job, rank, app))
        return self

    def see(self, one: PodFacts, *, gone: bool = False) -> "Table":
        stay = self.stays.live[one.annotation("madang.io/allocation")]
        (self.stays.gone if gone else self.stays.seen)(stay, one)
        self.shields.look([], [PodNews(one, gone=gone)])
        return self

    def set(self, *budgets: BudgetFacts) -> "Table":
        for one in budgets:
            self.budgets[one.key] = one
        self.shields.look([one.key for one in budgets], [])
        return self

    def drop(self, name: str) -> "Table":
        del self.budgets[f"ns/{name}"]
        self.shields.look([f"ns/{name}"], [])
        return self

    def wait(self, wait_s: float = SOON_S) -> "Table":
        self.now_s += wait_s
        self.shields.tick()
        return self

    def told(self) -> list[Any]:
        said, self.facts[:] = [*self.facts], []
        return said


def test_a_budget_is_told_before_the_job_that_it_covers_and_only_if_there_is_one():
    table = Table().set(budget("keep", "a", 1), budget("other", "z", 1))
    assert table.told() == []

    table.place("a-1", "a", "a", "b")
    assert table.told() == [
        ShieldSet(Shield("ns/keep", 1)),
        JobShielded("a-1", (("ns/keep", 2),)),
    ]


def test_a_budget_that_comes_later_covers_who_runs_already():
    table = Table().place("a-1", "a")
    assert table.told() == []

    table.set(budget("keep", "a", 0))
    assert table.told() == [ShieldSet(Shield("ns/keep", 0)), JobShielded("a-1", (("ns/keep", 1),))]
    table.drop("keep")
    assert table.told() == [JobShielded("a-1", ())]
    table.wait()
    assert table.told() == [SettingDropped("shields", "ns/keep", "kubernetes")]


def test_one_pod_under_two_budgets_is_never_evicted_so_its_job_is_held_for_good():
    table = Table().set(budget("keep", "a", 1), budget("two", "a", 5)).place("a-1", "a")

    why = "budgets ns/keep and ns/two cover one pod, and the API server evicts none that two cover"
    both = "ns/keep+ns/two"
    assert table.told() == [ShieldSet(Shield(both, 0, why)), JobShielded("a-1", ((both, 1),))]


def test_no_more_is_told_than_could_be_asked_of_it():
    table = Table().set(budget("keep", "a", 900)).place("a-1", "a", "a").wait()
    table.told()

    table.set(budget("keep", "a", 800)).wait()
    assert table.told() == []


def test_what_falls_is_told_at_once_what_rises_soon_and_flicker_not_at_all():
    table = Table().set(budget("keep", "a", 2)).place("a-1", "a", "a", "a").wait()
    table.told()

    table.set(budget("keep", "a", 1))
    assert table.told() == [ShieldSet(Shield("ns/keep", 1))]
    table.set(budget("keep", "a", 3))
    assert table.told() == []
    table.wait()
    assert table.told() == [ShieldSet(Shield("ns/keep", 3))]
    table.set(budget("keep", "a", 3)).wait()
    assert table.told() == []


def test_pods_that_we_have_taken_away_count_as_allowed_until_they_are_gone():
    """The core counts them itself; their budget counts them, too, from the eviction on."""
    table = Table().set(budget("keep", "a", 1)).place("a-1", "a").place("b-2", "a").wait()
    table.told()
    table.stays.stop(Stop("a-1.1", 30_000, "preempted"))

    table.see(pod("a-1", 0, "a", deleting=True)).set(budget("keep", "a", 0)).wait()
    assert table.told() == []
    table.see(pod("a-1", 0, "a", deleting=True), gone=True)
    assert table.told() == [ShieldSet(Shield("ns/keep", 0))]


def test_who_runs_again_is_told_of_only_if_it_is_news():
    table = Table().set(budget("keep", "a", 1)).place("a-1", "a").wait()
    table.see(replace(pod("a-1", 0, "a"), phase="Succeeded"))
    table.told()

    table.wait()
    assert table.told() == [SettingDropped("shields", "ns/keep", "kubernetes")]
    again = replace(allocation("a-1", 1), id="a-1.2", attempt=2)
    table.stays.start(Launch(again, "a", "ada", (), arrival="uid-a-1"))
    notes = (("madang.io/allocation", "a-1.2"), ("madang.io/rank", "0"))
    table.see(pod("a-1", 0, "a", uid="another", annotations=notes))
    assert table.told() == [ShieldSet(Shield("ns/keep", 1))]


def test_after_a_restart_what_the_ledger_has_is_put_right():
    table = Table()
    table.budgets["ns/keep"] = budget("keep", "a", 1)
    stay_of = {"a-1": "a", "b-2": "b"}
    for job, app in stay_of.items():
        table.stays.adopt(allocation(job, 1), f"uid-{job}", [pod(job, 0, app)])
    kept = {"ns/keep": Shield("ns/keep", 0), "ns/gone": Shield("ns/gone", 0)}
    by = {"a-1": (("ns/keep", 1),), "b-2": (("ns/gone", 1),)}
    table.shields.recall(kept, by)
    table.shields.look_at_all()
    table.wait()

    assert table.told() == [
        JobShielded("b-2", ()),
        ShieldSet(Shield("ns/keep", 1)),
        SettingDropped("shields", "ns/gone", "kubernetes"),
    ]


def test_who_was_held_by_the_api_server_is_held_for_a_while():
    table = Table().set(budget("keep", "a", 1)).place("a-1", "a").wait()
    table.told()
    stay = table.stays.live["a-1.1"]
    table.shields.held(stay, "no more than one")

    words = "budget ns/keep holds it: no more than one"
    assert table.told() == [
        ShieldSet(Shield("held:a-1", 0, words)),
        JobShielded("a-1", (("held:a-1", 1), ("ns/keep", 1))),
        ReleaseHeld("a-1.1", words),
    ]
    table.wait(REFUSED_S)
    assert table.told() == [
        JobShielded("a-1", (("ns/keep", 1),)),
        SettingDropped("shields", "held:a-1", "kubernetes"),
    ]


@pytest.mark.parametrize(("observed", "allowed"), [(3, 1), (2, 0), (None, 0)])
def test_a_budget_whose_newest_spec_was_not_looked_at_allows_nothing(observed, allowed):
    """The API server refuses, too, until its controller has."""
    status: dict[str, Any] = {"disruptionsAllowed": 1}
    if observed is not None:
        status["observedGeneration"] = observed
    facts = trim.budget(
        {
            "apiVersion": "policy/v1",
            "metadata": {"namespace": "ns", "name": "keep", "generation": 3},
            "spec": {"selector": {"matchLabels": {"app": "a"}}},
            "status": status,
        }
    )

    assert facts is not None
    assert facts.allowed == allowed
