"""Nodes as Kubernetes has them become the core's: what is there, less what others use of it.

`core_node` works out one node from its facts and the pods bound to it. CPU and memory of DaemonSets
and of pods that Madang did not place are subtracted; the GPUs of the latter are `taken`. Under the
device plugin nobody says which devices a pod has, so numbers are nominal: what is ill or taken is
chosen among devices that Madang does not hold, and stays the same while it can.

Other resources of a node (hosts' network cards, huge pages, ephemeral storage) are not counted by
the core. A label `per-gpu:NAME` says how much of each, in thousandths, is left for each free GPU;
`extended_needs` turns what a pod asks into a need on it. Whoever takes no more of a resource than
the share of its GPUs can never take too much; who asks for such a resource without GPUs is refused.

Promises: pure, integers only; the same facts give the same node; nothing is ever offered twice.

Source: NVIDIA k8s-device-plugin v0.17 "GPU Feature Discovery" (labels), "Shared access to GPUs"
(`-SHARED`, `nvidia.com/gpu.replicas`); Kubernetes 1.36 "Taints and Tolerations" (condition taints).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from madang.core.model import Need, Node, Taint
from madang.engines.kubernetes.podspec import NODE_NAME
from madang.engines.kubernetes.topology import NO_TREE, Layout
from madang.engines.kubernetes.values import Asks, Needs, NodeFacts, Pairs, PodFacts

GPUS_MAX = 1_024  # of one node: time-slicing makes many of few
PER_GPU = "per-gpu:"
MILLI = 1_000
FULL = Taint("madang.io/pods-full", "", "NoSchedule")
SUSPICION_OF_A_TROUBLE = 4  # as much as a few lesser signs of the agent's
SUSPICION_OF_A_SOFT_TAINT = 1

# Told by the state of the node instead: lost or cordoned.
_STATE_TAINTS = frozenset(
    {
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
        "node.kubernetes.io/unschedulable",
    }
)
_PLAIN_PREFIX = "NVIDIA-"


@dataclass(frozen=True, slots=True)
class Around:
    """What a node's place among others adds. `held` is the bit set of devices that live
    allocations hold there; `taken` and `healthy` what the node had when it was last worked out;
    `asked` the extended resources that some pod asks for. Where devices have names (DRA) `ill` and
    `claimed` are the bit sets of those that are tainted and that others were given."""

    layout: Layout = NO_TREE
    held: int = 0
    taken: int = 0
    healthy: int = -1
    asked: frozenset[str] = frozenset()
    ill: int = 0
    claimed: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A node as the core should have it. `is_there`: it can be reached and takes part; `text` says
    what is odd about it."""

    node: Node
    is_there: bool
    cordoned: bool = False
    suspicion: int = 0
    text: str = ""


def core_node(
    facts: NodeFacts, others: Sequence[PodFacts], ours: Sequence[PodFacts], around: Around
) -> Seen:
    """The node, less what `others` use. Both are pods bound to it; ended ones use nothing."""
    others = [pod for pod in others if not pod.ended]
    ours = [pod for pod in ours if not pod.ended]
    gpus = min(facts.gpu_count, GPUS_MAX)
    everyone = (1 << gpus) - 1
    held = around.held & everyone
    ill_count = max(gpus - facts.allocatable.gpus, 0)
    ill = around.ill & everyone | _bits(ill_count, everyone, held, everyone & ~around.healthy)
    taken_count = min(sum(pod.asks.gpus for pod in others), gpus)
    claimed = around.claimed & everyone
    rest = everyone & ~ill & ~claimed
    taken = claimed | _bits(taken_count, rest, held, around.taken)
    free = facts.allocatable
    pods = [*others, *ours]
    labels = (*facts.labels, (NODE_NAME, facts.name), *_shares(free, gpus, pods, around.asked))
    taints = tuple(taint for taint in facts.taints if taint.key not in _STATE_TAINTS)
    full = bool(facts.pods_max) and len(pods) >= facts.pods_max
    node = Node(
        id=facts.name,
        gpus=gpus,
        cpu_milli=max(free.cpu_milli - sum(pod.asks.cpu_milli for pod in others), 0),
        memory_mib=max(free.memory_mib - sum(pod.asks.memory_mib for pod in others), 0),
        model=model_of(facts) if gpus else "",
        domains=_domains(facts.labels, around.layout),
        healthy=everyone & ~ill if ill else -1,
        gpu_memory_mib=facts.gpu_memory_mib,
        mig=_mig(facts),
        labels=tuple(sorted(labels)),
        taints=(*taints, FULL) if full else taints,
        taken=taken,
    )
    return Seen(
        node,
        is_there=facts.ready and not facts.refused,
        cordoned=facts.unschedulable,
        suspicion=_suspicion(facts),
        text=_text(facts, ill.bit_count(), taken.bit_count()),
    )


def _bits(count: int, among: int, held: int, before: int) -> int:
    """`count` bits of `among`: those of before first, then from the top; held ones come last."""
    chosen = 0
    for pool in (among & before & ~held, among & ~held, among):
        for bit in reversed(range(pool.bit_length())):
            if chosen.bit_count() >= count:
                return chosen
            chosen |= pool & 1 << bit
    return chosen


def _shares(
    free: Asks, gpus: int, pods: Iterable[PodFacts], asked: frozenset[str]
) -> Iterable[tuple[str, str]]:
    """For each resource that is asked for: thousandths of it for each GPU that nobody has."""
    if not asked:
        return
    pods = list(pods)
    left = min(gpus, free.gpus) - sum(pod.asks.gpus for pod in pods)
    if left <= 0:
        return
    has = dict(free.extended)
    for name in sorted(asked):
        used = sum(amount for pod in pods for key, amount in pod.asks.extended if key == name)
        share = (has.get(name, 0) - used) * MILLI // left
        if share > 0:
            yield f"{PER_GPU}{name}", str(share)


@dataclass(frozen=True, slots=True)
class Demands:
    """What a gang asks of nodes besides its shape; `refused` if nodes cannot be asked for it."""

    needs: Needs = ()
    refused: str = ""


def extended_needs(asks: Asks, needs: Needs) -> Demands:
    """Its needs, with one for each other resource it asks for."""
    if not asks.extended:
        return Demands(needs)
    if not asks.gpus:
        names = ", ".join(name for name, _ in asks.extended)
        return Demands(
            refused=f"asks for {names} without a GPU: such resources are shared out by GPU"
        )
    shares = tuple(
        Need(f"{PER_GPU}{name}", "gt", (str(-(-amount * MILLI // asks.gpus) - 1),))
        for name, amount in asks.extended
    )
    return Demands(tuple((*all_of, *shares) for all_of in needs or ((),)))


def model_of(facts: NodeFacts) -> str:
    """As its label says, without the maker: `H100-80GB-HBM3`; "gpu" where nothing is said."""
    name = facts.model.removeprefix(_PLAIN_PREFIX)
    return name or "gpu"


def _mig(facts: NodeFacts) -> str:
    """The profile of its MIG devices where all are alike (strategy single); "" for whole GPUs."""
    return facts.model.partition("-MIG-")[2].removesuffix("-SHARED")


def _domains(labels: Pairs, layout: Layout) -> tuple[str, ...]:
    """Its domains by labels, from the root down; () where the tree is made otherwise."""
    if not layout.labels:
        return ()
    has = dict(labels)
    return tuple(has.get(label, "") for label in layout.labels)


def _suspicion(facts: NodeFacts) -> int:
    soft = sum(taint.effect == "PreferNoSchedule" for taint in facts.taints)
    return SUSPICION_OF_A_TROUBLE * len(facts.troubles) + SUSPICION_OF_A_SOFT_TAINT * soft


def _text(facts: NodeFacts, ill: int, taken: int) -> str:
    said = [facts.refused] if facts.refused else []
    said += [f"{kind} ({reason})" if reason else kind for kind, reason in facts.troubles]
    if ill:
        said.append(f"{ill} of {facts.gpu_count} GPUs are unhealthy")
    if taken:
        said.append(f"{taken} GPUs are taken by other schedulers")
    if facts.gpu_count > GPUS_MAX:
        said.append(f"{facts.gpu_count} GPUs; {GPUS_MAX} of them are used")
    return "; ".join(said)


def daemon_node(pod: PodFacts) -> str:
    """The node that a DaemonSet's pod is for, also before it is bound; "" of any other pod."""
    if pod.owner is None or pod.owner.kind != "DaemonSet":
        return ""
    if pod.node:
        return pod.node
    for all_of in pod.needs:
        for need in all_of:
            if need.key == NODE_NAME and need.how == "in" and len(need.values) == 1:
                return need.values[0]
    return ""
