"""What a watch tells of a pod that was bound just now, read without decoding all of it.

Each binding comes back as an event with the whole pod, of which nothing is new but its node and
what was written with the binding. `spec.nodeName` is written by bindings alone, an event is one
write, and the events of an object come in order: the first one with a node, of a pod that was known
without one, says therefore that all the rest is as it was. What a binding may bring besides the
node (annotations; labels on newer servers) is read from the line itself.

Promises: `glance` gives exactly what `trim.pod` makes of the line, or None: an event of another
form, of another pod, or about anything else is decoded whole.
"""

import re
import sys
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import orjson

from madang.engines.kubernetes.trim import annotations_of, pairs_of
from madang.engines.kubernetes.values import Pairs, PodFacts

# An object's fields in the order in which servers have ever written them: as they are declared.
# None of a deletion is among them, and no text of a head has an escape.
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TEXTS = rb"\{(?:" + _TEXT + rb":" + _TEXT + rb",?)*+\}"
_HEAD = re.compile(
    rb'\{"type":"MODIFIED","object":\{"kind":"Pod","apiVersion":"v1","metadata":\{'
    rb'"name":"([^"\\]+)",(?:"generateName":"[^"\\]*",)?"namespace":"([^"\\]+)",'
    rb'(?:"selfLink":"[^"\\]*",)?"uid":"([^"\\]+)","resourceVersion":"([0-9]+)",'
    rb'(?:"generation":[0-9]+,)?"creationTimestamp":"[^"\\]*",'
    rb'(?:"labels":(' + _TEXTS + rb'),)?(?:"annotations":(' + _TEXTS + rb"),)?"
    rb'"(?:ownerReferences|finalizers|managedFields)":'
)
_NODE = re.compile(rb'"nodeName":"([^"\\]+)"')
_PENDING = b'"phase":"Pending"'
# Written with a binding, and nothing else is made of them.
_WRITTEN = frozenset({"madang.io/allocation", "madang.io/gang", "madang.io/job", "madang.io/rank"})
_FIELDS = tuple(PodFacts.__dataclass_fields__)
_ALL = attrgetter(*_FIELDS)
_NODE_AT, _ANNOTATIONS_AT = _FIELDS.index("node"), _FIELDS.index("annotations")
_REST = attrgetter(*(name for name in _FIELDS if name not in ("node", "annotations")))


def glance(line: bytes, known: Mapping[str, PodFacts]) -> tuple[str, str, PodFacts] | None:
    """(key, version, the pod as it is now), if the line says of a known pod that it was bound."""
    head = _HEAD.match(line)
    if head is None:
        return None
    name, namespace, uid, version, labels, annotations = head.groups()
    key = f"{namespace.decode()}/{name.decode()}"
    before = known.get(key)
    if before is None or before.uid != uid.decode() or not _waits(before):
        return None
    node = _NODE.search(line, head.end())
    if node is None or _PENDING not in line or _NODE.search(line, node.end()) is not None:
        return None
    if _labels(labels) != before.labels:
        return None
    written = annotations_of(_decoded(annotations))
    if _others(written) != _others(before.annotations):
        return None
    return key, version.decode(), seated(before, sys.intern(node[1].decode()), written)


def seated(pod: PodFacts, node: str, annotations: Pairs) -> PodFacts:
    """The pod on a node, with these annotations; quicker than `replace`."""
    fields = list(_ALL(pod))
    fields[_NODE_AT], fields[_ANNOTATIONS_AT] = node, annotations
    return PodFacts(*fields)


def only_seated(before: PodFacts, now: PodFacts) -> bool:
    """Nothing but its node and what is written with a binding differs."""
    if _others(before.annotations) != _others(now.annotations):
        return False
    return bool(_REST(before) == _REST(now))


def _waits(pod: PodFacts) -> bool:
    return (
        not pod.node
        and pod.phase == "Pending"
        and not (pod.gated or pod.deleting or pod.refused or pod.reason)
    )


def _others(annotations: Pairs) -> list[tuple[str, str]]:
    return [one for one in annotations if one[0] not in _WRITTEN]


def _labels(text: bytes | None) -> Pairs:
    return pairs_of(_decoded(text)) if text else ()


def _decoded(text: bytes | None) -> dict[str, Any]:
    if not text:
        return {}
    found: dict[str, Any] = orjson.loads(text)
    return found


__all__ = ["glance", "only_seated", "seated"]
