"""What Madang keeps of Kubernetes' objects: frozen values, a fraction of what was sent.

`trim.py` makes them of the objects themselves, `foreign/` finds the gangs, `nodes.py` makes the
core's nodes of them. Amounts are integers with their unit in the name. `refused`, where there is
one, is a line for people: why Madang cannot do with this object what it asks for; "" if it can.
"""

from dataclasses import dataclass

from madang.core.model import WHOLE_GPU_MILLI, Need, Taint, Toleration

SCHEDULER = "madang"  # pods that name this scheduler are ours to place
GPU = "nvidia.com/gpu"

Pairs = tuple[tuple[str, str], ...]
Needs = tuple[tuple[Need, ...], ...]


@dataclass(frozen=True, slots=True)
class Owner:
    """An owner reference that controls."""

    api_version: str
    kind: str
    name: str
    uid: str

    @property
    def group(self) -> str:
        """`batch` of `batch/v1`; "" for the core group."""
        return self.api_version.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Asks:
    """What a pod needs of a node, or a node has. `extended` are all other resources, by name,
    in whole units; `claims` the names of its resource claims in its own spec."""

    cpu_milli: int = 0
    memory_mib: int = 0
    gpus: int = 0
    gpu_milli: int = WHOLE_GPU_MILLI
    extended: tuple[tuple[str, int], ...] = ()
    claims: tuple[str, ...] = ()


NO_ASKS = Asks()


@dataclass(frozen=True, slots=True)
class GroupRef:
    """The group a pod says it belongs to. `kind` is the discovery's name of the group's object
    ("KueuePodGroup" has none: the pod itself says `members`)."""

    kind: str
    name: str
    members: int = 0


@dataclass(frozen=True, slots=True)
class ClaimUse:
    """One entry of a pod's `resourceClaims`: `claim` is the ResourceClaim's name ("" until one is
    made from `template`)."""

    name: str
    claim: str
    template: str = ""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod. `key` is `namespace/name`; `node` "" until it is bound; `exit_code` None until its
    containers ended and said how; `spread`: no two of its gang on one node; `preempts`: it may
    displace others; `within` as in Gang, by its affinity; `volumes` are the names of its
    PersistentVolumeClaims."""

    key: str
    namespace: str
    name: str
    uid: str
    scheduler: str = ""
    node: str = ""
    phase: str = "Pending"
    gated: bool = False
    deleting: bool = False
    ready: bool = False
    exit_code: int | None = None
    reason: str = ""
    nominated: str = ""
    priority: int = 0
    priority_class: str = ""
    preempts: bool = True
    owner: Owner | None = None
    labels: Pairs = ()
    annotations: Pairs = ()
    asks: Asks = NO_ASKS
    needs: Needs = ()
    tolerates: tuple[Toleration, ...] = ()
    spread: bool = False
    within: str = ""
    group: GroupRef | None = None
    volumes: tuple[str, ...] = ()
    claims: tuple[ClaimUse, ...] = ()
    refused: str = ""
    grace_s: int = 30
    created_ms: int = 0

    def label(self, key: str) -> str:
        """The label's value; "" without one."""
        return next((value for name, value in self.labels if name == key), "")

    def annotation(self, key: str) -> str:
        """The annotation's value, if it is one that is read; "" without one."""
        return next((value for name, value in self.annotations if name == key), "")

    @property
    def ended(self) -> bool:
        """Its containers run no more, and never will again: it holds nothing."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node as it says it is. `gpu_count` counts all devices, `allocatable.gpus` the healthy
    ones; `troubles` are conditions that speak against it: (type, reason)."""

    name: str
    uid: str
    ready: bool = False
    unschedulable: bool = False
    labels: Pairs = ()
    taints: tuple[Taint, ...] = ()
    allocatable: Asks = NO_ASKS
    pods_max: int = 0
    model: str = ""
    gpu_count: int = 0
    gpu_memory_mib: int = 0
    version: str = ""
    troubles: Pairs = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Selector:
    """A label selector; with `terms` empty it matches everything, with `nothing` no pod at all."""

    terms: tuple[Need, ...] = ()
    nothing: bool = False


@dataclass(frozen=True, slots=True)
class BudgetFacts:
    """A PodDisruptionBudget: `allowed` is how many may be disturbed now, as the controller says."""

    key: str
    namespace: str
    name: str
    selector: Selector
    allowed: int = 0
    refused: str = ""


@dataclass(frozen=True, slots=True)
class PriorityFacts:
    """A PriorityClass."""

    name: str
    value: int = 0
    is_default: bool = False
    preempts: bool = True


@dataclass(frozen=True, slots=True)
class VolumeClaimFacts:
    """A PersistentVolumeClaim: `volume` is "" until it is bound; `once`: for one pod alone."""

    key: str
    volume: str = ""
    storage_class: str = ""
    once: bool = False
    refused: str = ""


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """A PersistentVolume and which nodes can reach it."""

    name: str
    needs: Needs = ()
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Role:
    """Part of a gang: `members` consecutive ranks from `first` on."""

    name: str
    first: int
    members: int


@dataclass(frozen=True, slots=True)
class Gang:
    """Pods that are decided together, its size taken from the object that made them.

    `key` is the uid of that object (or pod), with `/part` behind it where the object makes several
    gangs; it never changes while the object lives. `asks` is what each seat is counted as: the most
    of any member. `within` is a node label (or `tier N` of Volcano's HyperNodes) whose one value
    must hold the gang, a wish if `within_soft`. `note` is a line for people about what was
    rounded up.
    """

    key: str
    namespace: str
    name: str
    kind: str
    owner_name: str
    project: str
    members: int
    members_min: int = 0
    asks: Asks = NO_ASKS
    priority: int = 0
    priority_class: str = ""
    preempts: bool = True
    preemptible: bool = True
    within: str = ""
    within_soft: bool = False
    needs: Needs = ()
    tolerates: tuple[Toleration, ...] = ()
    spread: bool = False
    roles: tuple[Role, ...] = ()
    queue: str = ""
    note: str = ""
    refused: str = ""
