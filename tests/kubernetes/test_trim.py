"""Objects are trimmed truthfully: what cannot be placed as asked is refused, never forgotten."""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from madang.core.model import Need, Taint, Toleration
from madang.engines.kubernetes import dra_objects, topology, trim
from madang.engines.kubernetes.foreign import (
    GROUPS,
    KINDS,
    Group,
    Top,
    Unit,
    World,
    gangs_of,
    unit_of,
)
from madang.engines.kubernetes.nodes import extended_needs
from madang.engines.kubernetes.podspec import selects
from madang.engines.kubernetes.values import Asks, GroupRef, Owner, PodFacts
from tests.kubernetes import examples, made_objects
from tests.kubernetes.made_objects import there

Reader = Callable[[Mapping[str, Any]], object]

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def pod_with(labels=None, annotations=None, status=None, **spec):
    one = examples.pod(
        "p", examples.template(1), labels=labels or {}, annotations=annotations or {}
    )
    one["spec"] |= spec
    one["status"] |= status or {}
    return one


def node_affinity(*terms):
    return {"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": list(terms)}}}}


def expression(key, operator, *values):
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


@pytest.mark.parametrize(
    ("spec", "needs"),
    [
        ({}, ()),
        (
            {"nodeSelector": {"b": "2", "a": "1"}},
            ((Need("a", "in", ("1",)), Need("b", "in", ("2",))),),
        ),
        (
            {
                "nodeSelector": {"a": "1"},
                **node_affinity(
                    {"matchExpressions": [expression("b", "In", "2", "3")]},
                    {"matchExpressions": [expression("c", "Exists"), expression("d", "Gt", "4")]},
                ),
            },
            (
                (Need("a", "in", ("1",)), Need("b", "in", ("2", "3"))),
                (Need("a", "in", ("1",)), Need("c", "exists"), Need("d", "gt", ("4",))),
            ),
        ),
        (
            node_affinity({"matchFields": [expression("metadata.name", "In", "n1")]}),
            ((Need("metadata.name", "in", ("n1",)),),),
        ),
        (
            node_affinity({}, {"matchExpressions": [expression("x", "DoesNotExist")]}),
            ((Need("x", "absent"),),),
        ),
    ],
)
def test_where_a_pod_may_go_is_an_or_of_ands(spec, needs):
    pod = there(trim.pod)(pod_with(**spec))

    assert (pod.refused, pod.needs) == ("", needs)


def affinity(kind, **term):
    return {"affinity": {kind: {REQUIRED: [term]}}}


def selector(**labels):
    return {"matchLabels": {key.replace("_", "-"): one for key, one in labels.items()}}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            affinity("podAffinity", topologyKey="rack", labelSelector=selector(app="db")),
            "podAffinity by rack is done among the pods of one gang only",
        ),
        (
            affinity(
                "podAntiAffinity",
                topologyKey="kubernetes.io/hostname",
                labelSelector=selector(app="x"),
            ),
            "podAntiAffinity is done among the pods of one gang only",
        ),
        (
            affinity("podAntiAffinity", topologyKey="rack", labelSelector=selector(job_name="j")),
            "podAntiAffinity by rack is not done",
        ),
        (
            affinity(
                "podAntiAffinity",
                topologyKey="kubernetes.io/hostname",
                labelSelector=selector(job_name="j"),
                namespaceSelector={},
            ),
            "among the pods of one gang only",
        ),
        (
            {
                "topologySpreadConstraints": [
                    {"topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}
                ]
            },
            "DoNotSchedule is not done",
        ),
        ({"topologySpreadConstraints": [{"topologyKey": "z"}]}, "DoNotSchedule is not done"),
        (
            {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]},
            "hostPort 80 of c",
        ),
        ({"tolerations": [{"key": "a", "operator": "Gt", "value": "1"}]}, "operator Gt"),
        (
            {"volumes": [{"name": "v", "gcePersistentDisk": {"pdName": "d"}}]},
            "the volume v is of kind gcePersistentDisk",
        ),
        ({"workloadRef": {"name": "w"}}, "workloadRef"),
        (node_affinity(), "matches no node"),
        (node_affinity({"matchExpressions": [expression("a", "Near", "b")]}), "a Near"),
        (node_affinity({"matchFields": [expression("metadata.uid", "In", "b")]}), "'metadata.uid'"),
        (
            {"containers": [{"name": "c", "resources": {"requests": {"cpu": "many"}}}]},
            "'many' is no quantity",
        ),
        ({"overhead": {"cpu": "-5"}}, "the request for cpu is negative"),
        ({"containers": {"name": "c"}}, "containers is {'name': 'c'}, not a list"),
        ({"priority": "high"}, "priority is 'high', not a whole number"),
    ],
)
def test_what_would_change_the_placement_and_is_not_done_is_refused(spec, says):
    assert says in there(trim.pod)(pod_with(labels={"job-name": "j"}, **spec)).refused


@pytest.mark.parametrize(
    ("spec", "spread", "within"),
    [
        (
            affinity(
                "podAntiAffinity",
                topologyKey="kubernetes.io/hostname",
                labelSelector=selector(job_name="j"),
            ),
            True,
            "",
        ),
        (
            affinity(
                "podAntiAffinity",
                topologyKey="kubernetes.io/hostname",
                labelSelector={},
                matchLabelKeys=["job-name"],
            ),
            True,
            "",
        ),
        (
            affinity("podAffinity", topologyKey="rack", labelSelector=selector(job_name="j")),
            False,
            "rack",
        ),
        ({"topologySpreadConstraints": [{"whenUnsatisfiable": "ScheduleAnyway"}]}, False, ""),
    ],
)
def test_distance_among_the_pods_of_one_gang_is_done(spec, spread, within):
    pod = there(trim.pod)(pod_with(labels={"job-name": "j"}, **spec))

    assert (pod.refused, pod.spread, pod.within) == ("", spread, within)


def test_shares_of_gpus_by_kais_annotation_are_refused():
    assert (
        "share of a GPU" in there(trim.pod)(pod_with(annotations={"gpu-fraction": "0.5"})).refused
    )


@pytest.mark.parametrize(
    ("labels", "annotations", "spec", "group"),
    [
        ({}, {}, {}, None),
        ({}, {}, {"schedulingGroup": {"podGroupName": "g"}}, GroupRef("NativePodGroup", "g")),
        (
            {"pod-group.scheduling.sigs.k8s.io": "old"},
            {},
            {},
            GroupRef("SchedulerPluginsPodGroup", "old"),
        ),
        ({}, {"scheduling.volcano.sh/group-name": "v"}, {}, GroupRef("VolcanoPodGroup", "v")),
        ({}, {"pod-group-name": "k"}, {}, GroupRef("KaiPodGroup", "k")),
        (
            {"kueue.x-k8s.io/pod-group-name": "q"},
            {"kueue.x-k8s.io/pod-group-total-count": "7"},
            {},
            GroupRef("KueuePodGroup", "q", 7),
        ),
    ],
)
def test_a_pod_names_its_group_in_one_of_many_ways(labels, annotations, spec, group):
    assert there(trim.pod)(pod_with(labels, annotations, **spec)).group == group


def ended(*codes, phase="Failed"):
    statuses = [{"state": {"terminated": {"exitCode": code, "reason": "Error"}}} for code in codes]
    return {"phase": phase, "containerStatuses": statuses}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}, None),
        (ended(0, phase="Succeeded"), 0),
        (ended(0, 137), 137),
        (ended(3, 137), 3),
        ({"phase": "Failed", "reason": "Evicted"}, None),
    ],
)
def test_a_pods_exit_code_is_its_first_failing_containers(status, code):
    assert there(trim.pod)(pod_with(status=status)).exit_code == code


def test_a_pod_is_trimmed_to_what_is_needed():
    one = examples.pytorch_job().pods[0]
    one["spec"] |= {
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "priority": 7,
        "priorityClassName": "research",
        "preemptionPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        "schedulingGates": [{"name": "x"}],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "set"}},
            {"name": "tmp", "ephemeral": {"volumeClaimTemplate": {}}},
        ],
        "resourceClaims": [{"name": "g", "resourceClaimTemplateName": "t"}],
    }
    one["status"]["resourceClaimStatuses"] = [{"name": "g", "resourceClaimName": "made"}]
    one["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": "x" * 9999
    }
    pod = there(trim.pod)(one)

    assert (pod.key, pod.gated, pod.grace_s, pod.priority, pod.preempts) == (
        "lab/bert-master-0",
        True,
        5,
        7,
        False,
    )
    assert pod.owner == Owner("kubeflow.org/v1", "PyTorchJob", "bert", "uid-of-pytorchjob-bert")
    assert pod.asks == Asks(4000, 8192, 8, claims=("g",))
    assert pod.tolerates == (Toleration("gpu", "exists", "", "NoSchedule"),)
    assert pod.volumes == ("set", "bert-master-0-tmp")
    assert [(use.claim, use.template) for use in pod.claims] == [("made", "t")]
    assert pod.annotations == ()
    assert pod.created_ms == 1795255200000


def test_a_node_says_what_it_has_and_what_speaks_against_it():
    facts = there(trim.node)(
        made_objects.node("n1", allocatable_gpus=7, conditions={"GpuXid": "True"})
    )

    assert (facts.ready, facts.gpu_count, facts.allocatable.gpus, facts.pods_max) == (
        True,
        8,
        7,
        110,
    )
    assert (facts.model, facts.gpu_memory_mib) == ("NVIDIA-H100-80GB-HBM3", 81559)
    assert facts.allocatable.extended == (("ephemeral-storage", 1 << 40), ("rdma/hca", 8))
    assert facts.troubles == (("GpuXid", "Seen"),)
    assert facts.taints == (Taint("gpu", "yes", "NoSchedule"),)


@pytest.mark.parametrize(
    ("api", "said", "hit"),
    [
        ("policy/v1", {"matchLabels": {"app": "a"}}, True),
        ("policy/v1", {}, True),
        ("policy/v1beta1", {}, False),
        ("policy/v1", None, False),
        ("policy/v1", {"matchExpressions": [expression("app", "NotIn", "a")]}, False),
        ("policy/v1", {"matchExpressions": [expression("z", "DoesNotExist")]}, True),
    ],
)
def test_a_budget_selects_as_its_version_does(api, said, hit):
    spec = {} if said is None else {"selector": said}
    of = examples.thing(
        api, "PodDisruptionBudget", "b", spec=spec, status={"disruptionsAllowed": 2}
    )
    budget = there(trim.budget)(of)

    assert (budget.refused, budget.allowed) == ("", 2)
    assert selects(budget.selector, {"app": "a"}) is hit


@pytest.mark.parametrize(
    ("asks", "said"),
    [
        (Asks(gpus=8), ((Need("a", "exists"),),)),
        (
            Asks(gpus=8, extended=(("rdma/hca", 8),)),
            ((Need("a", "exists"), Need("per-gpu:rdma/hca", "gt", ("999",))),),
        ),
        (
            Asks(gpus=3, extended=(("rdma/hca", 1),)),
            ((Need("a", "exists"), Need("per-gpu:rdma/hca", "gt", ("333",))),),
        ),
    ],
)
def test_other_resources_are_needed_by_their_share_of_a_gpu(asks, said):
    assert extended_needs(asks, ((Need("a", "exists"),),)).needs == said


def test_other_resources_without_a_gpu_are_refused():
    assert "without a GPU" in extended_needs(Asks(extended=(("rdma/hca", 1),)), ()).refused


# -- malformed objects ------------------------------------------------------------------


def paths_of(of, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(of, dict):
        for key in sorted(of):
            yield from paths_of(of[key], (*path, key))
    elif isinstance(of, list):
        for at, one in enumerate(of):
            yield from paths_of(one, (*path, at))


JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", "x", "-1", "NaN", 0, -7, 10**30, 1.5, True, [], {}, [None], [[]], {"a": None}, [{}]]
)


def damaged(data, of):
    """The object with a few places replaced or dropped."""
    of = copy.deepcopy(of)
    for _ in range(data.draw(st.integers(1, 3))):
        places = [path for path in paths_of(of) if path]
        if not places:
            break
        *way, last = places[data.draw(st.integers(0, len(places) - 1))]
        inner = of
        for step in way:
            inner = inner[step]
        if data.draw(st.booleans()):
            inner[last] = copy.deepcopy(data.draw(JUNK))
        else:
            del inner[last]
    return json.loads(json.dumps(of))


def readers_of(of):
    api = of.get("apiVersion")
    if of.get("kind") == "Pod":
        return [trim.pod]
    group = api.rpartition("/")[0] if isinstance(api, str) else ""
    kinds: list[Reader] = [
        one.trim for one in KINDS.values() if (one.group, one.kind) == (group, of.get("kind"))
    ]
    if of.get("kind") == "PodGroup":
        kinds += [one.trim for one in GROUPS.values()]
    others: dict[str, list[Reader]] = {
        "Node": [trim.node],
        "PodDisruptionBudget": [trim.budget],
        "PriorityClass": [trim.priority_class],
        "PersistentVolumeClaim": [trim.volume_claim],
        "PersistentVolume": [trim.volume],
        "HyperNode": [topology.hypernode],
        "ResourceClaim": [dra_objects.claim],
        "ResourceSlice": [dra_objects.resource_slice],
        "DeviceClass": [dra_objects.device_class],
        "DeviceTaintRule": [dra_objects.taint_rule],
    }
    kind = of.get("kind")
    return kinds + (others.get(kind, []) if isinstance(kind, str) else [])


# A slice of no one node, a rule without effect, and a class without a value are not needed.
MAY_LEAVE_OUT = (dra_objects.resource_slice, dra_objects.taint_rule, trim.priority_class)
EXAMPLES = examples.all_examples()
WHOLE_OBJECTS = [
    *(one for example in EXAMPLES for one in (*example.objects, *example.pods[:2])),
    *made_objects.all_objects(),
]


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.data(), st.integers(0, len(WHOLE_OBJECTS) - 1))
def test_a_malformed_object_is_refused_and_never_an_error(data, at):
    of = damaged(data, WHOLE_OBJECTS[at])
    for read in readers_of(of):
        found = read(of)
        if found is None and read not in MAY_LEAVE_OUT:
            assert not _is_named(of)


def _is_named(of):
    metadata = of.get("metadata")
    if not isinstance(metadata, dict):
        return False
    named = [metadata.get(key) for key in ("namespace", "name", "uid")]
    return all(isinstance(one, str) and one for one in named)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(0, len(EXAMPLES) - 1))
def test_gangs_are_found_or_refused_whatever_the_objects_say(data, at):
    objects = [damaged(data, one) for one in EXAMPLES[at].objects]
    pods = [trim.pod(damaged(data, one)) for one in EXAMPLES[at].pods]
    tops: dict[str, dict[str, Top]] = {name: {} for name in KINDS}
    groups: dict[str, dict[str, Group]] = {name: {} for name in GROUPS}
    for of in objects:
        for name, kind in KINDS.items():
            if (top := kind.trim(of)) is not None:
                tops[name][top.key] = top
        for name, group_kind in GROUPS.items():
            if (group := group_kind.trim(of)) is not None:
                groups[name][group.key] = group
    world = World(tops, groups)
    units: dict[Unit, list[PodFacts]] = {}
    for pod in pods:
        if pod is not None and isinstance(unit := unit_of(pod, world), Unit):
            units.setdefault(unit, []).append(pod)
    for unit, some in units.items():
        for one in gangs_of(unit, some, world):
            assert one.missing == one.gang.members - len(one.seats)
            assert one.gang.members >= 1
            assert len({rank for rank, _ in one.seats}) == len(one.seats)
            assert len({key for _, key in one.seats}) == len(one.seats)


def container(**more):
    return {"name": "main", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "1"}}, **more}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"env": [{"name": "RANK", "value": "0"}]}, {"env": [{"name": "RANK", "value": "1"}]}),
        ({"command": ["a"], "args": ["1"]}, {"command": ["b"], "args": ["2"]}),
        ({"volumeMounts": [{"name": "token-a"}]}, {"volumeMounts": [{"name": "token-b"}]}),
    ],
)
def test_what_pods_of_one_kind_wish_is_worked_out_once(monkeypatch, one, other):
    """Each has variables of its rank and a token volume of a name of its own."""
    known: dict[bytes, object] = {}
    monkeypatch.setattr(trim, "_KNOWN", known)
    trim.pod(pod_with(containers=[container(**one)], volumes=[{"name": "a", "projected": {}}]))
    trim.pod(pod_with(containers=[container(**other)], volumes=[{"name": "b", "projected": {}}]))

    assert len(known) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"containers": [container(resources={"limits": {"nvidia.com/gpu": "2"}})]},
        {"containers": [container(ports=[{"hostPort": 80}])]},
        {"initContainers": [container(restartPolicy="Always")]},
        {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "other"}}]},
        {"volumes": [{"name": "v", "ephemeral": {}}]},
        {"volumes": [{"name": "v", "rbd": {}}]},
        {"volumes": [{"name": "v", "rbd": {}, "emptyDir": None}]},
        {"nodeSelector": {"zone": "b"}},
    ],
)
def test_pods_that_wish_different_things_are_told_apart(monkeypatch, other):
    def wished(found):
        return (found.asks, found.needs, found.volumes, found.refused)

    plain = {
        "containers": [container()],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "one"}}],
    }
    alone = wished(trim.pod(pod_with(**(plain | other))))
    monkeypatch.setattr(trim, "_KNOWN", {})
    first = wished(trim.pod(pod_with(**plain)))

    assert wished(trim.pod(pod_with(**(plain | other)))) == alone != first
