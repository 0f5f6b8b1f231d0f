"""The table of foreign gangs, fed as the watch feeds it: what is looked at again, what is not."""

from typing import cast

import pytest

from madang.core.events import Fact, JobStopAsked
from madang.engines.kubernetes import arrivals, foreign
from madang.engines.kubernetes.arrivals import ANSWER_S, GONE_S, Gangs
from madang.engines.kubernetes.cache import Cache
from madang.engines.kubernetes.client import Client
from madang.engines.kubernetes.devices import Devices
from madang.engines.kubernetes.discovery import Support
from madang.engines.kubernetes.topology import NO_TREE


class Table:
    """Gangs over a cache that no server feeds; `now_s` is the test's."""

    def __init__(self, monkeypatch):
        support = Support((1, 30), "v1.30", frozenset({"policy/v1"}), {})
        self.cache = Cache(cast(Client, None), support, {}, lambda: None)
        self.cache.listen()
        self.now_s, self.version = 1000.0, 0
        self.arranged: list[str] = []
        self.told: list[Fact] = []
        self.notes: list[str] = []
        self.gangs = Gangs(
            self.cache, "madang", lambda pod: False, lambda: self.now_s, self.told.append,
            lambda pods, text: self.notes.append(text), lambda: NO_TREE, lambda names: None,
            Devices(self.cache),
        )  # fmt: skip
        real = foreign.gangs_of

        def counted(unit, pods, world):
            self.arranged.append(unit.key)
            return real(unit, pods, world)

        monkeypatch.setattr(foreign, "gangs_of", counted)

    def put(self, *names, group=None, total=0, annotations=None, uid="u", **spec):
        for name in names:
            self.version += 1
            notes = dict(annotations(name) if annotations else {})
            if total:
                notes["kueue.x-k8s.io/pod-group-total-count"] = str(total)
            limits = {"nvidia.com/gpu": "1"}
            self.cache.pods._put(
                {
                    "metadata": {
                        "name": name,
                        "namespace": "a",
                        "uid": f"{uid}-{name}",
                        "resourceVersion": str(self.version),
                        "labels": {"kueue.x-k8s.io/pod-group-name": group} if group else {},
                        "annotations": notes,
                    },
                    "spec": {
                        "schedulerName": "madang",
                        "containers": [{"name": "m", "resources": {"limits": limits}}],
                        **spec,
                    },
                    "status": {"phase": "Pending"},
                }
            )
        self.look()

    def drop(self, name):
        self.cache.pods._drop(f"a/{name}")
        self.look()

    def look(self):
        self.arranged.clear()
        self.gangs.look(self.cache.take_pods(), ())

    def placed_gang(self):
        """Four pods, offered once and made a job of: its key."""
        self.put("w-0", "w-1", "w-2", "w-3", group="g", total=4)
        (offer,) = self.gangs.offers()
        self.gangs.answer(offer.key, "g-1")
        return offer.key


@pytest.fixture
def table(monkeypatch):
    return Table(monkeypatch)


def bound(key, **more):
    """The annotations that a binding writes."""

    def notes(name):
        rank = name.rpartition("-")[2]
        return {
            "madang.io/allocation": "g-1.1",
            "madang.io/job": "g-1",
            "madang.io/rank": rank,
            "madang.io/gang": key,
            **more,
        }

    return notes


def test_what_comes_back_of_a_binding_is_not_arranged_anew(table):
    key = table.placed_gang()
    before = table.gangs.seats(key)

    table.put("w-1", "w-2", group="g", total=4, annotations=bound(key), nodeName="n1")

    assert table.arranged == []
    after = table.gangs.seats(key)
    assert {rank: pod.key for rank, pod in after.items()} == {
        rank: pod.key for rank, pod in before.items()
    }
    assert [after[rank].node for rank in range(4)] == ["", "n1", "n1", ""]


RANK_3 = {"madang.io/rank": "3"}
CHANGES = {
    "bound by another": {"nodeName": "n1"},
    "bound to another seat": {"nodeName": "n1", "annotations": lambda key: bound(key, **RANK_3)},
    "bound for another gang": {"nodeName": "n1", "annotations": lambda key: bound("other")},
    "bound, and asks for other topology": {
        "nodeName": "n1",
        "annotations": lambda key: bound(key, **{"madang.io/within": "rack"}),
    },
    "bound, and of another priority": {
        "nodeName": "n1",
        "priority": 7,
        "annotations": bound,
    },
    "not bound, but of another priority": {"priority": 7},
    "another pod of its name": {
        "nodeName": "n1",
        "uid": "v",
        "annotations": bound,
    },
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_other_change_of_a_pod_is_arranged(table, change):
    key = table.placed_gang()
    annotations = change.get("annotations", lambda key: None)(key)

    table.put("w-1", group="g", total=4, **{**change, "annotations": annotations})

    assert table.arranged == ["a/g"]


def test_a_pod_that_was_bound_before_is_arranged_when_it_changes(table):
    key = table.placed_gang()
    table.put("w-1", group="g", total=4, annotations=bound(key), nodeName="n1")
    table.put("w-1", group="g", total=4, annotations=bound(key), nodeName="n1", priority=3)

    assert table.arranged == ["a/g"]


def test_an_offer_is_made_once_and_again_when_it_is_not_answered(table):
    table.put("p", "q")
    assert [one.name for one in table.gangs.offers()] == ["p", "q"]
    table.now_s += ANSWER_S / 2
    assert table.gangs.offers() == []
    table.put("r")
    assert [one.name for one in table.gangs.offers()] == ["r"]
    table.gangs.answer("u-p", "p-1")
    table.now_s += ANSWER_S
    assert [one.name for one in table.gangs.offers()] == ["q", "r"]


def test_what_is_refused_is_not_offered_again_for_a_minute(table):
    table.put("p")
    table.gangs.offers()
    table.gangs.refuse("u-p", "no")
    table.now_s += arrivals.REFUSED_S - 1
    assert table.gangs.offers() == []
    table.now_s += 2
    assert [one.name for one in table.gangs.offers()] == ["p"]


@pytest.mark.parametrize("seen_living", [0, 1, 3])
def test_a_job_departs_after_its_pod_has_gone_however_often_it_was_seen_living(table, seen_living):
    table.put("p")
    table.gangs.offers()
    table.gangs.answer("u-p", "p-1")
    for _ in range(seen_living):
        table.now_s += 1
        table.gangs.tick({})
    table.drop("p")
    table.gangs.tick({})
    assert table.told == []
    table.now_s += GONE_S + 0.1
    table.gangs.tick({})
    table.gangs.tick({})
    assert table.told == [JobStopAsked("p-1", by="kubernetes")]


def test_a_gang_that_lacks_pods_says_so_after_a_while_and_departs_from_memory_when_gone(table):
    table.put("w-0", "w-1", group="g", total=4)
    table.gangs.tick({})
    table.gangs.tick({})
    table.now_s += arrivals.MISSING_S
    table.gangs.tick({})
    assert any("2 of its 4 pods are not there yet" in note for note in table.notes)
    table.drop("w-0")
    table.drop("w-1")
    for _ in range(3):
        table.gangs.tick({})
        table.now_s += arrivals.ABSENT_S
    assert table.gangs.known == {}


def test_a_job_of_which_nothing_was_seen_since_the_start_departs_in_the_end(table):
    table.gangs.answer("u-x", "x-1")
    table.gangs.tick({})
    table.now_s += arrivals.ABSENT_S + 1
    table.gangs.tick({})
    assert table.told == [JobStopAsked("x-1", by="kubernetes")]
