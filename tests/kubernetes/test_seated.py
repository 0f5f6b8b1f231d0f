"""An event of a binding that is read without decoding it says exactly what decoding it would."""

import asyncio
import copy
import json
import string

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madang.engines.kubernetes import trim
from madang.engines.kubernetes.client import Client
from madang.engines.kubernetes.seated import glance, only_seated, seated
from madang.engines.kubernetes.watching import Mirror
from tests.kubernetes import examples
from tests.kubernetes.conftest import access_to, play
from tests.kubernetes.test_watching import ended, until

ORDER = (
    *("name", "generateName", "namespace", "selfLink", "uid", "resourceVersion", "generation"),
    *("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "labels"),
    *("annotations", "ownerReferences", "finalizers", "managedFields"),
)
OURS = {
    "madang.io/allocation": "digits-42.1",
    "madang.io/gang": "0d7b9f0a",
    "madang.io/job": "digits-42",
    "madang.io/rank": "0",
}
NODE_TEXT = 'a "nodeName":"elsewhere" in a text'


def a_pod(labels=None, annotations=None, **metadata):
    one = examples.pod("p-0", examples.template(1))
    one["metadata"] |= {
        "uid": "u-0",
        "resourceVersion": "7",
        "creationTimestamp": "2026-11-21T20:00:00Z",
        "managedFields": [{"manager": "x", "fieldsV1": {"f:spec": {"f:nodeName": {}}}}],
        **metadata,
    }
    one["metadata"].pop("labels", None)
    one["metadata"].pop("annotations", None)
    if labels:
        one["metadata"]["labels"] = labels
    if annotations:
        one["metadata"]["annotations"] = annotations
    one["spec"].pop("nodeName", None)
    one["status"] = {"phase": "Pending", "qosClass": "Guaranteed"}
    return one


def bound(pod, node="n-1", **annotations):
    """What a server makes of it when a Binding comes."""
    one = copy.deepcopy(pod)
    one["metadata"]["resourceVersion"] = "8"
    if annotations:
        one["metadata"]["annotations"] = one["metadata"].get("annotations", {}) | annotations
    one["spec"]["nodeName"] = node
    one["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
    return one


def line_of(pod, kind="MODIFIED"):
    """As Go writes it: fields of metadata as declared, maps sorted, signs of HTML escaped."""
    metadata = {key: pod["metadata"][key] for key in ORDER if key in pod["metadata"]}
    for texts in ("labels", "annotations"):
        if texts in metadata:
            metadata[texts] = dict(sorted(metadata[texts].items()))
    item = {"kind": "Pod", "apiVersion": "v1", "metadata": metadata}
    item |= {key: pod[key] for key in ("spec", "status")}
    told = json.dumps({"type": kind, "object": item}, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&":
        told = told.replace(sign, f"\\u{ord(sign):04x}")
    return told.encode()


def known_of(pod):
    facts = trim.pod(pod)
    assert facts is not None
    return {facts.key: facts}


def whole(pod):
    facts = trim.pod(pod)
    assert facts is not None
    return facts.key, pod["metadata"]["resourceVersion"], facts


PODS = {
    "bare": a_pod(),
    "with labels": a_pod({"app": "x", "kueue.x-k8s.io/pod-group-name": "g"}),
    "with annotations": a_pod(annotations={"a": NODE_TEXT, "scheduling.k8s.io/group-name": "g"}),
    "with an owner": a_pod(
        {"a": ""},
        generateName="p-",
        generation=3,
        ownerReferences=[
            {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "o", "controller": True}
        ],
    ),
    "with finalizers": a_pod(finalizers=["example.com/kept"], selfLink="/api/v1/x"),
    "annotated before": a_pod(annotations=OURS | {"madang.io/rank": "3"}),
}


@pytest.mark.parametrize("name", PODS)
def test_a_binding_is_read_from_its_line_as_decoding_it_would(name):
    before, after = PODS[name], bound(PODS[name], **OURS)
    assert glance(line_of(after), known_of(before)) == whole(after)


def test_a_binding_of_another_scheduler_is_read_as_well():
    before = PODS["with labels"]
    assert glance(line_of(bound(before)), known_of(before)) == whole(bound(before))


def changed(pod, what):
    one = bound(pod, **OURS)
    what(one)
    return one


NOT_READ = {
    "a label is another one": lambda one: one["metadata"].update(labels={"app": "y"}),
    "a label is gone": lambda one: one["metadata"].pop("labels"),
    "it is being deleted": lambda one: one["metadata"].update(deletionTimestamp="2026-11-21"),
    "it runs": lambda one: one["status"].update(phase="Running"),
    "a namesake": lambda one: one["metadata"].update(uid="u-1"),
    "no node": lambda one: one["spec"].pop("nodeName"),
    "an annotation that is read": lambda one: one["metadata"]["annotations"].update(
        {"scheduling.k8s.io/group-name": "other"}
    ),
    "another name": lambda one: one["metadata"].update(name="p-1"),
    "a second node in it": lambda one: one["status"].update(nodeName="n-2"),
}


@pytest.mark.parametrize("name", NOT_READ)
def test_what_else_may_have_changed_is_decoded(name):
    before = PODS["with labels"]
    assert glance(line_of(changed(before, NOT_READ[name])), known_of(before)) is None


@pytest.mark.parametrize("kind", ["ADDED", "DELETED", "BOOKMARK", "ERROR"])
def test_only_changes_are_read_from_their_line(kind):
    before = PODS["bare"]
    assert glance(line_of(bound(before), kind), known_of(before)) is None


@pytest.mark.parametrize(
    "was",
    [
        {"spec": {"nodeName": "n-0"}},
        {"spec": {"schedulingGates": [{"name": "g"}]}},
        {"status": {"phase": "Running"}},
        {"spec": {"containers": "none"}},
        {"status": {"reason": "Odd"}},
    ],
    ids=str,
)
def test_what_was_known_otherwise_is_decoded(was):
    before = copy.deepcopy(PODS["bare"])
    for part, values in was.items():
        before[part] |= values
    assert glance(line_of(bound(PODS["bare"])), known_of(before)) is None


TEXTS = st.dictionaries(
    st.sampled_from([*OURS, "madang.io/within", "gpu-memory", "kueue.x-k8s.io/x", "a", 'b"\\{}']),
    st.text(st.characters(codec="utf-8"), max_size=20),
    max_size=6,
)
LABELS = st.dictionaries(
    st.sampled_from(["app", "a.b/c", "d"]),
    st.text(string.ascii_letters + string.digits + "-_.", max_size=8),
    max_size=3,
)


@given(LABELS, LABELS, TEXTS, TEXTS, st.sampled_from(["Pending", "Running", "Failed"]))
def test_whatever_is_read_from_a_line_is_what_decoding_finds(labels, others, notes, more, phase):
    before = a_pod(labels, notes)
    after = bound(a_pod(labels if len(others) < 2 else others, notes), **more)
    after["status"]["phase"] = phase
    line = line_of(after)
    assert orjson.loads(line)["object"]["spec"] == after["spec"]
    assert glance(line, known_of(before)) in (None, whole(after))


def test_a_seat_changes_the_node_and_the_annotations_alone():
    before = whole(PODS["with an owner"])[2]
    after = whole(bound(PODS["with an owner"], **OURS))[2]
    assert seated(before, after.node, after.annotations) == after
    assert only_seated(before, after)
    assert not only_seated(before, whole(bound(PODS["bare"], **OURS))[2])


@pytest.mark.kubernetes
def test_a_real_server_says_bindings_in_the_form_that_is_read(shared, namespace):
    """Else every binding would be decoded: true, and slow."""
    pods, read = f"/api/v1/namespaces/{namespace}/pods", []

    def seen(line, known):
        found = glance(line, known)
        if found is not None:
            read.append((found, trim.pod(orjson.loads(line)["object"])))
        return found

    def body(name, **metadata):
        container = {"name": "x", "image": "x", "env": [{"name": "A", "value": NODE_TEXT}]}
        return {"metadata": {"name": name, **metadata}, "spec": {"containers": [container]}}

    async def story():
        async with Client(access_to(shared)) as client:
            mirror = Mirror(client, pods, trim.pod, glance=seen)
            task = asyncio.create_task(mirror.run())
            await mirror.synced.wait()
            await client.post(pods, body("bare"))
            await client.post(
                pods, body("dressed", labels={"app": "x"}, annotations={"note": NODE_TEXT + "<&>"})
            )
            await until(lambda: len(mirror.objects) == 2)
            for facts in list(mirror.objects.values()):
                binding = {
                    "apiVersion": "v1",
                    "kind": "Binding",
                    "metadata": {"name": facts.name, "uid": facts.uid, "annotations": OURS},
                    "target": {"apiVersion": "v1", "kind": "Node", "name": "nowhere"},
                }
                await client.write(f"{pods}/{facts.name}/binding", binding)
            await until(lambda: all(one.node for one in mirror.objects.values()))
            await ended(task)
            return dict(mirror.objects)

    known = play(story())
    assert {found[2].name for found, _ in read} == {"bare", "dressed"}
    for found, decoded in read:
        assert found[2] == decoded == known[found[0]]
