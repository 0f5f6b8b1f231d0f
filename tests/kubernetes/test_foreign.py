"""Gangs are what the objects say, for every kind that is placed."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.engines.kubernetes import trim
from madang.engines.kubernetes.foreign import (
    GROUPS,
    KINDS,
    Group,
    Top,
    Unit,
    Waits,
    World,
    gangs_of,
    unit_of,
)
from madang.engines.kubernetes.values import PodFacts, PriorityFacts
from tests.kubernetes import examples
from tests.kubernetes.examples import Example, all_examples, template
from tests.kubernetes.made_objects import there

_BY_API = {(kind.group, kind.kind): name for name, kind in KINDS.items()}
_GROUP_BY_API = {
    "scheduling.k8s.io": "NativePodGroup",
    "scheduling.x-k8s.io": "SchedulerPluginsPodGroup",
    "scheduling.volcano.sh": "VolcanoPodGroup",
    "scheduling.run.ai": "KaiPodGroup",
}


def world_of(*objects, priorities=()):
    """All kinds are watched; these objects are there."""
    tops: dict[str, dict[str, Top]] = {name: {} for name in KINDS}
    groups: dict[str, dict[str, Group]] = {name: {} for name in GROUPS}
    for one in objects:
        api = one["apiVersion"].rpartition("/")[0]
        if one["kind"] == "PodGroup":
            name = _GROUP_BY_API[api]
            group = there(GROUPS[name].trim)(one)
            groups[name][group.key] = group
        else:
            name = _BY_API[api, one["kind"]]
            top = there(KINDS[name].trim)(one)
            tops[name][top.key] = top
    return World(tops, groups, {one.name: one for one in priorities})


def arranged(example, world=None, pods=None):
    world = world or world_of(*example.objects)
    trimmed = [there(trim.pod)(one) for one in (example.pods if pods is None else pods)]
    units: dict[Unit, list[PodFacts]] = {}
    for pod in trimmed:
        unit = unit_of(pod, world)
        assert isinstance(unit, Unit), unit
        units.setdefault(unit, []).append(pod)
    return [one for unit, some in units.items() for one in gangs_of(unit, some, world)]


def seats_by_name(one):
    return [key.partition("/")[2] for _, key in one.seats]


@pytest.mark.parametrize("example", all_examples(), ids=lambda one: one.name)
def test_every_kind_becomes_the_gangs_that_its_object_says(example):
    found = arranged(example)

    assert [one.gang.refused for one in found] == [""] * len(found)
    assert tuple(one.gang.members for one in found) == example.gangs
    assert all(one.missing == 0 for one in found)
    assert all([rank for rank, _ in one.seats] == list(range(one.gang.members)) for one in found)
    assert len({one.gang.key for one in found}) == len(found)
    assert all(one.gang.project == examples.NAMESPACE for one in found)


@pytest.mark.parametrize(
    "example", [one for one in all_examples() if max(one.gangs) > 1], ids=lambda one: one.name
)
def test_a_gang_has_its_size_before_its_pods_are_there(example):
    whole = {one.gang.key: one.gang.members for one in arranged(example)}

    for one in arranged(example, pods=example.pods[-1:]):
        if one.gang.key in whole and one.gang.kind != "PodGroup":
            assert one.gang.members == whole[one.gang.key]
        assert one.missing == one.gang.members - len(one.seats)


@given(st.sampled_from(all_examples()), st.randoms(use_true_random=False))
def test_the_order_of_pods_makes_no_difference(example, random):
    shuffled = list(example.pods)
    random.shuffle(shuffled)

    first = sorted(arranged(example), key=lambda one: one.gang.key)

    assert sorted(arranged(example, pods=shuffled), key=lambda one: one.gang.key) == first


@pytest.mark.parametrize(
    ("example", "names"),
    [
        (examples.indexed_job(3), ["train-0-x0z", "train-1-x1z", "train-2-x2z"]),
        (
            examples.pytorch_job(),
            ["bert-master-0", "bert-worker-0", "bert-worker-1", "bert-worker-2"],
        ),
        (
            examples.train_job(),
            [f"tune-node-0-{index}-q{index}k" for index in range(4)],
        ),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_ranks_follow_the_indices_that_controllers_give(example, names):
    (one,) = arranged(example)

    assert seats_by_name(one) == names


def test_a_jobset_ranks_by_role_then_job_then_pod():
    driver, workers = arranged(examples.jobset())

    assert driver.gang.key.endswith("/cpu")
    assert seats_by_name(driver) == ["llm-driver-0-0-q0k"]
    assert seats_by_name(workers) == [
        "llm-workers-0-0-q0k",
        "llm-workers-0-1-q1k",
        "llm-workers-1-0-q0k",
        "llm-workers-1-1-q1k",
    ]


def test_each_group_of_a_leader_worker_set_is_a_gang_of_its_own():
    first, second = arranged(examples.leader_worker_set())

    assert seats_by_name(first) == ["serve-0", "serve-0-1", "serve-0-2"]
    assert seats_by_name(second) == ["serve-1", "serve-1-1", "serve-1-2"]
    assert [one.gang.key.rpartition("/")[2] for one in (first, second)] == ["0", "1"]


@pytest.mark.parametrize(
    ("example", "kind", "name"),
    [
        (examples.train_job(), "TrainJob", "tune"),
        (examples.ray_job(), "RayJob", "eval"),
        (examples.jobset(), "JobSet", "llm"),
        (examples.plain(), "Pod", "notebook"),
    ],
)
def test_people_read_the_name_of_what_they_submitted(example, kind, name):
    assert {(one.gang.kind, one.gang.owner_name) for one in arranged(example)} == {(kind, name)}


@pytest.mark.parametrize(
    ("what", "example", "gangs"),
    [
        (
            "an elastic PyTorchJob",
            examples.pytorch_job(elasticPolicy={"minReplicas": 1}),
            (2, 1, 1),
        ),
        (
            "minAvailable",
            examples.pytorch_job(runPolicy={"schedulingPolicy": {"minAvailable": 3}}),
            (3, 1),
        ),
        (
            "an autoscaled RayCluster",
            examples.ray_cluster(enableInTreeAutoscaling=True),
            (1, 1, 1, 1),
        ),
        ("InOrder", examples.jobset(startupPolicy={"startupPolicyOrder": "InOrder"}), (1, 4)),
        ("LeaderReady", examples.leader_worker_set(startupPolicy="LeaderReady"), (1, 2, 1, 2)),
        ("a smaller PodGroup", examples.volcano_group(minMember=2, minTaskMember={}), (2, 1)),
        ("a PodGroup of one", examples.volcano_group(minMember=1, minTaskMember={}), (1, 1, 1)),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_need_not_start_together_follows_one_by_one(what, example, gangs):
    assert tuple(one.gang.members for one in arranged(example)) == gangs


def changed(example, change):
    """The example with its first object changed."""
    objects = copy.deepcopy(example.objects)
    change(objects[0])
    return replace(example, objects=objects)


def exclusive(key):
    def change(of):
        of["metadata"]["annotations"] = {key: "rack"}

    return change


@pytest.mark.parametrize(
    ("example", "says"),
    [
        (
            changed(examples.jobset(), exclusive("alpha.jobset.sigs.k8s.io/exclusive-topology")),
            "use madang.io/within",
        ),
        (
            changed(
                examples.leader_worker_set(),
                exclusive("leaderworkerset.sigs.k8s.io/exclusive-topology"),
            ),
            "use madang.io/within",
        ),
        (examples.jobset(replicatedJobs=[{"name": "x", "replicas": "two"}]), "not a whole number"),
        (examples.jobset(replicatedJobs={"name": "x"}), "not a list"),
        (
            examples.jobset(
                replicatedJobs=[
                    {"name": "x", "replicas": 70000, "template": {"spec": {"parallelism": 1}}}
                ]
            ),
            "65536 are the most",
        ),
        (
            examples.pytorch_job(runPolicy={"schedulingPolicy": {"minAvailable": 9}}),
            "only 4 replicas",
        ),
        (examples.pytorch_job(pytorchReplicaSpecs={"Chief": {}}), "'Chief'"),
        (examples.volcano_group(subGroupPolicy=[{"name": "a"}]), "subgroups are not done"),
        (examples.volcano_group(networkTopology={"mode": "firm"}), "hard or soft"),
        (examples.kai_group(minSubGroup=1), "minSubGroup"),
        (
            examples.kai_group(
                subGroups=[{"name": "a", "topologyConstraint": {"requiredTopologyLevel": "rack"}}]
            ),
            "topology of the subgroup a",
        ),
        (
            changed(
                examples.native_group(),
                lambda of: of["spec"].update(parentCompositePodGroupName="tree"),
            ),
            "composite",
        ),
        (
            changed(examples.native_group(), lambda of: of["spec"].update(schedulingPolicy={})),
            "neither gang nor basic",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason_on_every_pod(example, says):
    found = arranged(example)

    assert len(found) == len(example.pods)
    assert all(says in one.gang.refused for one in found), [one.gang.refused for one in found]


def with_pods(example, change):
    pods = copy.deepcopy(example.pods)
    for index, one in enumerate(pods):
        change(index, one)
    return replace(example, pods=pods)


def test_members_that_must_go_to_different_nodes_are_refused():
    def host(index, pod):
        pod["spec"]["nodeSelector"] = {"kubernetes.io/hostname": f"n{index}"}

    (one,) = arranged(with_pods(examples.indexed_job(2), host))

    assert "members of a gang need the same" in one.gang.refused


def test_a_refused_member_refuses_its_gang_and_names_itself():
    def ports(index, pod):
        if index == 1:
            pod["spec"]["containers"][0]["ports"] = [{"containerPort": 1, "hostPort": 8080}]

    (one,) = arranged(with_pods(examples.indexed_job(3), ports))

    assert one.gang.refused.startswith("train-1-x1z: hostPort 8080")


def test_gpus_that_differ_are_counted_as_the_most_and_said():
    example = examples.pytorch_job()
    example.objects[0]["spec"]["pytorchReplicaSpecs"]["Master"]["template"] = template(1)
    (one,) = arranged(example)

    assert one.gang.asks.gpus == 8
    assert "master asks for 1" in one.gang.note


def test_ray_worker_groups_that_differ_are_decided_apart():
    example = examples.ray_cluster()
    spec = example.objects[0]["spec"]
    other = copy.deepcopy(spec["workerGroupSpecs"][0]) | {"groupName": "big", "replicas": 2}
    other["template"]["spec"]["nodeSelector"] = {"gpu": "h200"}
    spec["workerGroupSpecs"].append(other)
    found = arranged(example)

    assert [(one.gang.members, one.missing) for one in found] == [(1, 0), (3, 0), (2, 2)]
    assert [one.gang.key.rpartition("/")[2] for one in found] == ["head", "gpu", "big"]


def test_gated_deleted_and_failed_pods_have_no_seat():
    def state(index, pod):
        if index == 0:
            pod["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
        if index == 1:
            pod["metadata"]["deletionTimestamp"] = "2026-11-21T10:00:00Z"
        if index == 2:
            pod["status"]["phase"] = "Failed"

    (one,) = arranged(with_pods(examples.indexed_job(4), state))

    assert one.seats == ((3, "lab/train-3-x3z"),)
    assert one.missing == 3


def test_a_rank_that_was_given_stays_and_a_replacement_takes_the_free_one():
    def bound(index, pod):
        key = pod["metadata"]["labels"]["ray.io/cluster"]
        if pod["metadata"]["labels"]["ray.io/node-type"] == "head":
            return
        rank = {"2wq9d": 2, "8mn4c": 0}.get(pod["metadata"]["name"].rpartition("-")[2])
        if rank is not None:
            pod["spec"]["nodeName"] = f"n{rank}"
            pod["metadata"]["annotations"] = {
                "madang.io/gang": examples.uid("RayCluster", key) + "/gpu",
                "madang.io/rank": str(rank),
            }

    _, workers = arranged(with_pods(examples.ray_cluster(), bound))

    assert seats_by_name(workers) == [
        "tuner-gpu-worker-8mn4c",
        "tuner-gpu-worker-zz1ab",
        "tuner-gpu-worker-2wq9d",
    ]


def test_two_pods_of_one_index_are_a_member_and_a_spare():
    example = examples.indexed_job(2)
    twin = copy.deepcopy(example.pods[1])
    twin["metadata"] |= {"name": "train-1-zzz", "uid": "other"}
    (one,) = arranged(example, pods=(*example.pods, twin))

    assert seats_by_name(one) == ["train-0-x0z", "train-1-x1z"]


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_an_annotation_says_whether_a_job_is_a_gang(wanted):
    example = examples.loose_job() if wanted == "true" else examples.indexed_job(2)
    example.objects[0]["metadata"]["annotations"] = {"madang.io/gang": wanted}

    assert tuple(one.gang.members for one in arranged(example)) == (
        (2,) if wanted == "true" else (1, 1)
    )


@pytest.mark.parametrize(
    ("example", "within", "soft"),
    [
        (examples.native_group("v1beta1"), "topology.kubernetes.io/rack", False),
        (examples.native_group("v1alpha2"), "topology.kubernetes.io/rack", False),
        (
            examples.volcano_group(networkTopology={"mode": "hard", "highestTierAllowed": 2}),
            "tier 2",
            False,
        ),
        (
            examples.volcano_group(networkTopology={"mode": "soft", "highestTierName": "pod"}),
            "pod",
            True,
        ),
        (examples.kai_group(topologyConstraint={"requiredTopologyLevel": "rack"}), "rack", False),
        (examples.kai_group(topologyConstraint={"preferredTopologyLevel": "rack"}), "rack", True),
        (changed(examples.jobset(), exclusive("madang.io/within")), "rack", False),
        (
            changed(examples.pytorch_job(), exclusive("kueue.x-k8s.io/podset-preferred-topology")),
            "rack",
            True,
        ),
    ],
)
def test_topology_is_asked_for_in_many_ways(example, within, soft):
    gang = arranged(example)[-1].gang

    assert (gang.within, gang.within_soft) == (within, soft)


def test_required_affinity_within_a_gang_is_its_domain():
    term = {"labelSelector": {"matchLabels": {"job-name": "train"}}, "topologyKey": "rack"}

    def near(index, pod):
        required = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
        pod["spec"]["affinity"] = {"podAffinity": required}

    (one,) = arranged(with_pods(examples.indexed_job(2), near))

    assert (one.gang.refused, one.gang.within, one.gang.within_soft) == ("", "rack", False)


def test_an_extra_pod_cannot_be_held_to_the_domain_of_its_group():
    example = examples.native_group()
    extra = copy.deepcopy(example.pods[0])
    extra["metadata"] |= {"name": "native-v1beta1-9", "uid": "uid-of-9"}
    found = arranged(example, pods=(*example.pods, extra))

    assert [one.gang.members for one in found] == [3, 1]
    assert "cannot be held to their topology.kubernetes.io/rack" in found[1].gang.refused


def test_priority_is_the_groups_where_it_says_one():
    train = PriorityFacts("train", 70)
    world = world_of(*examples.kai_group().objects, priorities=[train])
    (kai,) = arranged(examples.kai_group(), world)
    (native,) = arranged(examples.native_group())
    calm = World(world.tops, world.groups, {"train": replace(train, value=100)})

    assert (kai.gang.priority, kai.gang.preemptible) == (70, True)
    assert arranged(examples.kai_group(), calm)[0].gang.preemptible is False
    assert (native.gang.priority, native.gang.priority_class) == (50, "research")


def test_one_pod_more_than_kueues_group_has_is_a_gang_of_its_own_key():
    example = examples.kueue_group()
    extra = copy.deepcopy(example.pods[0])
    extra["metadata"] |= {
        "name": "kq-9",
        "uid": "uid-of-9",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    group, one = arranged(example, pods=(*example.pods, extra))

    assert (group.gang.members, one.gang.members) == (3, 1)
    assert (group.gang.key, one.gang.key) == ("uid-of-9/group", "uid-of-9")


def test_a_kueue_group_keeps_its_key_while_its_pods_are_replaced():
    def bound(index, pod):
        if index:
            pod["spec"]["nodeName"] = f"n{index}"
            pod["metadata"]["annotations"] |= {
                "madang.io/gang": "first-pod/group",
                "madang.io/rank": str(index),
            }

    (one,) = arranged(with_pods(examples.kueue_group(), bound))

    assert one.gang.key == "first-pod/group"
    assert seats_by_name(one) == ["kq-0", "kq-1", "kq-2"]


def test_kueues_groups_must_agree_on_their_number():
    def total(index, pod):
        annotations = pod["metadata"]["annotations"]
        annotations["kueue.x-k8s.io/pod-group-total-count"] = str(2 + index)

    found = arranged(with_pods(examples.kueue_group(), total))

    assert all("must say the same number" in one.gang.refused for one in found)


@pytest.mark.parametrize(
    ("example", "says"),
    [
        (examples.pytorch_job(), "its PyTorchJob bert is not known yet"),
        (examples.jobset(), "its JobSet llm is not known yet"),
        (examples.volcano_group(), "its PodGroup vc is not there yet"),
    ],
)
def test_a_pod_whose_object_is_not_known_yet_waits(example, says):
    assert unit_of(there(trim.pod)(example.pods[0]), world_of()) == Waits(says)


def test_a_pod_of_an_earlier_object_of_the_name_waits():
    example = changed(examples.pytorch_job(), lambda of: of["metadata"].update(uid="newer"))
    pod = there(trim.pod)(example.pods[0])

    assert unit_of(pod, world_of(*example.objects)) == Waits(
        "it belongs to an earlier PyTorchJob bert"
    )


def test_kinds_that_the_server_does_not_have_leave_pods_to_themselves():
    assert unit_of(there(trim.pod)(examples.pytorch_job().pods[0]), World()) == Unit(
        "Pod", "lab/bert-master-0"
    )


def test_a_plain_pod_is_a_gang_of_one_by_its_uid():
    (one,) = arranged(Example("x", (), (examples.pod("a", template(2)),), (1,)))

    assert one.gang.key == examples.uid("Pod", "a")
    assert (one.gang.members, one.gang.asks.gpus, one.gang.kind) == (1, 2, "Pod")


def test_the_page_about_workloads_names_every_kind_and_group():
    page = (Path(__file__).parents[2] / "docs" / "kubernetes" / "workloads.md").read_text()

    for kind in KINDS.values():
        assert kind.kind in page
    for group in _GROUP_BY_API:
        assert group in page
