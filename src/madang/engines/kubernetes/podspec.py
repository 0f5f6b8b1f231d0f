"""What a PodSpec asks of its node: amounts, labels, taints, distance; and what we cannot give.

A pod and the template of one are read alike. Promises: everything that kube-scheduler's filters
would hold against a node is either in `Wants` or refused in one line; nothing is dropped. What only
orders nodes there (preferred affinity, `ScheduleAnyway`) is not looked at.

Source: Kubernetes 1.36, "Assigning Pods to Nodes", "Taints and Tolerations", "Pod Topology Spread
Constraints", and the filters of pkg/scheduler/framework/plugins.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from madang.core.model import Need, Toleration
from madang.engines.kubernetes.arithmetic import QuantityError, pod_requests
from madang.engines.kubernetes.reading import (
    Malformed,
    items,
    mapping,
    named,
    text,
    texts,
    value,
)
from madang.engines.kubernetes.values import GPU, NO_ASKS, Asks, ClaimUse, Needs, Selector

NODE_NAME = "metadata.name"  # a node's name, as if it were a label of it
HOSTNAME = "kubernetes.io/hostname"
MIB = 1 << 20
TERMS_MAX = 64  # alternatives a pod may state; kube-scheduler has no bound, ours keeps turns short

# Labels that only the pods of one gang share, so that "apart from those who have it" means it.
OF_ONE_GANG = frozenset(
    """
    job-name batch.kubernetes.io/job-name controller-uid batch.kubernetes.io/controller-uid
    jobset.sigs.k8s.io/jobset-name jobset.sigs.k8s.io/jobset-uid jobset.sigs.k8s.io/job-key
    leaderworkerset.sigs.k8s.io/group-key
    training.kubeflow.org/job-name ray.io/cluster scheduling.x-k8s.io/pod-group
    kueue.x-k8s.io/pod-group-name madang.io/gang madang.io/allocation
    """.split()  # noqa: SIM905 - they read better so
)

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_HOWS = {"In": "in", "NotIn": "not_in", "Exists": "exists", "DoesNotExist": "absent"}
_NUMERIC = {"Gt": "gt", "Lt": "lt"}
# Volumes that any node can have, or that are looked at elsewhere (claims).
VOLUMES = frozenset(
    """
    configMap secret emptyDir hostPath projected downwardAPI nfs csi image persistentVolumeClaim
    ephemeral cephfs glusterfs fc flexVolume gitRepo azureFile
    """.split()  # noqa: SIM905 - they read better so
)
_KAI_SHARES = ("gpu-fraction", "gpu-memory", "gpu-fraction-num-devices")


@dataclass(frozen=True, slots=True)
class Wants:
    """See the module's docstring. `refused` is "" or the first reason not to place it."""

    asks: Asks = NO_ASKS
    needs: Needs = ()
    tolerates: tuple[Toleration, ...] = ()
    spread: bool = False
    within: str = ""
    volumes: tuple[str, ...] = ()
    claims: tuple[ClaimUse, ...] = ()
    refused: str = ""


class _Refused(Exception):
    """A line for people."""


def wants_of(
    spec: Mapping[str, Any],
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    pod_name: str = "",
) -> Wants:
    """What a pod of this spec needs. `pod_name` is "" for a template. Never raises."""
    try:
        return _wants_of(spec, labels, annotations, pod_name)
    except _Refused as failure:
        return Wants(refused=str(failure))
    except (Malformed, QuantityError) as failure:
        return Wants(refused=f"cannot be read: {failure}")


def _wants_of(
    spec: Mapping[str, Any],
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
    pod_name: str,
) -> Wants:
    shared = next((key for key in _KAI_SHARES if key in annotations), "")
    if shared:
        raise _Refused(f"the annotation {shared} asks for a share of a GPU; ask for whole ones")
    claims = tuple(_claims_of(spec))
    asks = asks_of(spec, tuple(claim.name for claim in claims))
    _no_host_ports(spec)
    _no_spread_constraints(spec)
    if value(spec, "workloadRef") is not None:
        raise _Refused("spec.workloadRef of Kubernetes 1.35 is not read; 1.36 has schedulingGroup")
    return Wants(
        asks=asks,
        needs=_needs_of(spec),
        tolerates=tuple(_tolerations_of(spec)),
        spread=_apart(spec, labels),
        within=_together(spec, labels),
        volumes=tuple(_volumes_of(spec, pod_name)),
        claims=claims,
    )


def asks_of(spec: Mapping[str, Any], claims: tuple[str, ...] = ()) -> Asks:
    """The amounts. Raises: Malformed, QuantityError."""
    _check_containers(spec)
    found = pod_requests(spec)
    for name, amount in found.items():
        if amount < 0:
            raise Malformed(f"the request for {name} is negative")
    return Asks(
        cpu_milli=found.pop("cpu", 0),
        memory_mib=-(-found.pop("memory", 0) // MIB),
        gpus=found.pop(GPU, 0),
        extended=tuple(sorted(found.items())),
        claims=claims,
    )


def _check_containers(spec: Mapping[str, Any]) -> None:
    """The arithmetic reads only what has the form it must have."""
    for kind in ("containers", "initContainers"):
        for one in items(spec, kind):
            mapping(one, "resources", "requests")
            mapping(one, "resources", "limits")
            text(one, "restartPolicy")
    mapping(spec, "resources", "requests")
    mapping(spec, "resources", "limits")
    mapping(spec, "overhead")


def _needs_of(spec: Mapping[str, Any]) -> Needs:
    """nodeSelector and the required node affinity, as an OR of ANDs."""
    selector = mapping(spec, "nodeSelector")
    always = tuple(Need(key, "in", (text(selector, key),)) for key in sorted(selector))
    required = value(spec, "affinity", "nodeAffinity", _REQUIRED)
    if required is None:
        return (always,) if always else ()
    return node_terms(mapping(required), always)


def node_terms(selector: Mapping[str, Any], always: tuple[Need, ...] = ()) -> Needs:
    """A core/v1 NodeSelector: one of its terms, and `always` besides.

    A term that states nothing matches no node. Raises: Malformed.
    """
    found: list[tuple[Need, ...]] = []
    for term in items(selector, "nodeSelectorTerms"):
        needs = (*_expressions(term, "matchExpressions"), *_expressions(term, "matchFields"))
        if needs:
            found.append((*always, *needs))
    if not found:
        raise Malformed("the required node affinity matches no node: it has no terms")
    if len(found) > TERMS_MAX:
        raise Malformed(f"the node affinity has {len(found)} terms; {TERMS_MAX} at most are read")
    return tuple(found)


def _expressions(term: Mapping[str, Any], field: str) -> Iterator[Need]:
    for one in items(term, field):
        key, operator, values = named(one, "key"), named(one, "operator"), texts(one, "values")
        if field == "matchFields" and key != NODE_NAME:
            raise Malformed(f"the node field {key!r} cannot be matched; {NODE_NAME} can")
        if operator in _NUMERIC and len(values) == 1:
            yield Need(key, _NUMERIC[operator], values)
        elif operator in _HOWS and bool(values) == (operator in ("In", "NotIn")):
            yield Need(key, _HOWS[operator], values)
        else:
            raise Malformed(f"the node affinity {key} {operator} {list(values)} is not understood")


def _tolerations_of(spec: Mapping[str, Any]) -> Iterator[Toleration]:
    for one in items(spec, "tolerations"):
        operator = text(one, "operator") or "Equal"
        if operator not in ("Equal", "Exists"):
            raise _Refused(f"the toleration operator {operator} is not understood; Equal, Exists")
        yield Toleration(
            key=text(one, "key"),
            how=operator.lower(),
            value=text(one, "value"),
            effect=text(one, "effect"),
        )


def _together(spec: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """The node label whose one value must hold its gang ("": none), by required podAffinity."""
    within = ""
    for term in items(spec, "affinity", "podAffinity", _REQUIRED):
        key = named(term, "topologyKey")
        if not _means_own_gang(term, labels):
            raise _Refused(
                f"required podAffinity by {key} is done among the pods of one gang only: its "
                "selector must name a label of the gang, such as job-name"
            )
        if within not in ("", key):
            raise _Refused(f"required podAffinity by {within} and by {key}: one of them is done")
        within = key
    return within


def _apart(spec: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """True iff no two of its gang may share a node; other required anti-affinity is refused."""
    spread = False
    for term in items(spec, "affinity", "podAntiAffinity", _REQUIRED):
        key = text(term, "topologyKey")
        if key != HOSTNAME:
            raise _Refused(f"required podAntiAffinity by {key} is not done; by {HOSTNAME} it is")
        if not _means_own_gang(term, labels):
            raise _Refused(
                "required podAntiAffinity is done among the pods of one gang only: its selector "
                "must name a label of the gang, such as job-name"
            )
        spread = True
    return spread


def _means_own_gang(term: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if value(term, "namespaces") or value(term, "namespaceSelector") is not None:
        return False
    if texts(term, "mismatchLabelKeys"):
        return False
    selector = selector_of(value(term, "labelSelector"))
    same = tuple(Need(key, "in", (labels.get(key, ""),)) for key in texts(term, "matchLabelKeys"))
    terms = (*selector.terms, *same)
    return (
        not selector.nothing
        and selects(Selector(terms), labels)
        and any(
            one.how == "in" and len(one.values) == 1 and one.key in OF_ONE_GANG for one in terms
        )
    )


def selector_of(selector: Any) -> Selector:
    """A meta/v1 LabelSelector: none selects nothing, an empty one everything. Raises: Malformed."""
    if selector is None:
        return Selector(nothing=True)
    equal = mapping(selector, "matchLabels")
    terms = [Need(key, "in", (text(equal, key),)) for key in sorted(equal)]
    for one in items(selector, "matchExpressions"):
        key, operator, values = named(one, "key"), named(one, "operator"), texts(one, "values")
        if operator not in _HOWS or bool(values) != (operator in ("In", "NotIn")):
            raise Malformed(f"the selector {key} {operator} {list(values)} is not understood")
        terms.append(Need(key, _HOWS[operator], values))
    return Selector(tuple(terms))


def selects(selector: Selector, labels: Mapping[str, str]) -> bool:
    """True iff it selects what has these labels."""
    return not selector.nothing and all(_held(one, labels.get(one.key)) for one in selector.terms)


def _held(need: Need, label: str | None) -> bool:
    match need.how:
        case "in":
            return label is not None and label in need.values
        case "not_in":
            return label is None or label not in need.values
        case "exists":
            return label is not None
        case _:
            return label is None


def _no_host_ports(spec: Mapping[str, Any]) -> None:
    for kind in ("containers", "initContainers"):
        for one in items(spec, kind):
            for port in items(one, "ports"):
                if value(port, "hostPort"):
                    raise _Refused(
                        f"hostPort {value(port, 'hostPort')} of {text(one, 'name') or kind}: "
                        "ports of nodes are not counted; with hostNetwork leave `ports` out"
                    )


def _no_spread_constraints(spec: Mapping[str, Any]) -> None:
    for one in items(spec, "topologySpreadConstraints"):
        if (text(one, "whenUnsatisfiable") or "DoNotSchedule") == "DoNotSchedule":
            raise _Refused(
                f"topologySpreadConstraints by {text(one, 'topologyKey')} with DoNotSchedule is "
                "not done; ScheduleAnyway is let pass"
            )


def _volumes_of(spec: Mapping[str, Any], pod_name: str) -> Iterator[str]:
    for one in items(spec, "volumes"):
        kind = next((key for key in one if key != "name" and one[key] is not None), "emptyDir")
        if kind not in VOLUMES:
            raise _Refused(f"the volume {text(one, 'name')} is of kind {kind}, not understood")
        if kind == "persistentVolumeClaim":
            yield named(one, kind, "claimName")
        elif kind == "ephemeral" and pod_name:
            yield f"{pod_name}-{named(one, 'name')}"


def _claims_of(spec: Mapping[str, Any]) -> Iterator[ClaimUse]:
    for one in items(spec, "resourceClaims"):
        yield ClaimUse(
            named(one, "name"),
            text(one, "resourceClaimName"),
            text(one, "resourceClaimTemplateName"),
        )
