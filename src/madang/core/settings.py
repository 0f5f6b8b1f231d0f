"""What operators set: workspaces, quotas, zones, calendar reservations, disruption budgets.

Frozen values, each with a `key` that names it among its kind; set whole and dropped by key. The
state keeps them in one `Settings`, the ledger in one table; with them what is measured and learned
(`factors`, `runs`) and must outlive a restart.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from madang.core.history import Runs
from madang.core.hypernodes import Topology
from madang.core.model import UNLIMITED, Seat, Shape
from madang.core.rules import Rule, Violations

ANY = "*"


@dataclass(frozen=True, slots=True)
class Workspace:
    """Who pays: projects belong to one."""

    id: str

    @property
    def key(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True)
class Quota:
    """What an owner may hold of a machine group under a provisioning, in GPU-milli.

    `owner` is `workspace:NAME` or `project:NAME`; `group` and `provisioning` may be `*`.
    `guaranteed_milli` can always be had back; `limit_milli` is never exceeded (-1: none); what
    others leave idle is lent by `weight`. `cells` are (level, count) promised whole (HiveD).
    """

    owner: str
    group: str = ANY
    provisioning: str = ANY
    guaranteed_milli: int = 0
    limit_milli: int = UNLIMITED
    weight: int = 1
    cells: tuple[tuple[str, int], ...] = ()

    @property
    def key(self) -> str:
        return f"{self.owner}/{self.group}/{self.provisioning}"


@dataclass(frozen=True, slots=True)
class Zone:
    """A pool of nodes for some owners (empty: everyone) and job sizes, in whole GPUs (0: any)."""

    id: str
    owners: tuple[str, ...] = ()
    gpus_min: int = 0
    gpus_max: int = 0

    @property
    def key(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True)
class Reservation:
    """GPUs × window: `members` of `shape` kept for a project from `begin_ms` until `end_ms`."""

    id: str
    project: str
    shape: Shape
    members: int
    begin_ms: int
    end_ms: int
    by: str = ""

    @property
    def key(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True)
class DisruptionBudget:
    """Of the members that count under it, at most `down_max` may be down by our doing."""

    id: str
    project: str
    down_max: int

    @property
    def key(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True)
class Shield:
    """Somebody else's disruption budget: of the members that it covers (`Standing.shields`), only
    so many may be taken down now as it says, those counted that are leaving. Its keeper alone knows
    who counts as down; a Kubernetes cluster's are its PodDisruptionBudgets.

    `why` says in words why none may, where that is not a matter of numbers.
    """

    id: str
    allowed: int
    why: str = ""

    @property
    def key(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True)
class Factors:
    """What a project consumed this month, and the GPU utilisation of its past jobs (-1: unknown).

    Measured, not set by operators; kept with the settings because it weighs like one.
    """

    project: str
    month_gpu_ms: int
    util_pct: int = -1

    @property
    def key(self) -> str:
        return self.project


@dataclass(frozen=True, slots=True)
class Hole:
    """Room for `members` of `shape` in one domain of `within`, kept until `until_ms`.

    It is for a job of `project` ("": of any) that asks for all of it. `seats` are empty until the
    hole has been made. Asked for by people, kept with the settings because it holds as they do.
    """

    id: str
    shape: Shape
    members: int
    until_ms: int
    within: str = ""
    project: str = ""
    by: str = ""
    seats: tuple[Seat, ...] = ()

    @property
    def key(self) -> str:
        return self.id

    @property
    def milli(self) -> int:
        """GPU-milli of all members."""
        return self.members * self.shape.milli


@dataclass(frozen=True, slots=True)
class Night:
    """What tidying up has cost in the window that began at `begin_ms`. Counted, not set."""

    cause: str
    begin_ms: int
    moves: int = 0
    bill_gpu_ms: int = 0

    @property
    def key(self) -> str:
        return self.cause


@dataclass(frozen=True, slots=True)
class Used:
    """What a project has been charged up to a time, in GPU-milli·ms that decay (fair.py).

    Kept by the fold, not set by operators; it weighs like a setting.
    """

    project: str
    milli_ms: int
    as_of_ms: int

    @property
    def key(self) -> str:
        return self.project


@dataclass(frozen=True, slots=True)
class Learned:
    """What placement has learned of the requests up to job number `seq` (learning.py), as text.

    Kept by the fold, not set by operators; the one of its kind.
    """

    id: str
    seq: int
    mix: str
    tables: str

    @property
    def key(self) -> str:
        return self.id


Setting = (
    Workspace
    | Quota
    | Zone
    | Reservation
    | DisruptionBudget
    | Factors
    | Runs
    | Used
    | Topology
    | Hole
    | Night
    | Learned
    | Rule
    | Violations
    | Shield
)


@dataclass(slots=True)
class Settings:
    """All settings by key, one mapping a kind. The fold alone writes to it."""

    workspaces: dict[str, Workspace] = field(default_factory=dict)
    quotas: dict[str, Quota] = field(default_factory=dict)
    zones: dict[str, Zone] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    budgets: dict[str, DisruptionBudget] = field(default_factory=dict)
    factors: dict[str, Factors] = field(default_factory=dict)
    runs: dict[str, Runs] = field(default_factory=dict)
    used: dict[str, Used] = field(default_factory=dict)
    topologies: dict[str, Topology] = field(default_factory=dict)
    holes: dict[str, Hole] = field(default_factory=dict)
    nights: dict[str, Night] = field(default_factory=dict)
    learned: dict[str, Learned] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=dict)
    violations: dict[str, Violations] = field(default_factory=dict)
    shields: dict[str, Shield] = field(default_factory=dict)

    def put(self, setting: Setting) -> bool:
        """True iff it was news."""
        of_kind = self.of(KIND_OF[type(setting)])
        if of_kind.get(setting.key) == setting:
            return False
        of_kind[setting.key] = setting
        return True

    def drop(self, kind: str, key: str) -> bool:
        """True iff it was there."""
        return kind in KINDS and self.of(kind).pop(key, None) is not None

    def get(self, kind: str, key: str) -> Setting | None:
        """The setting, None if there is none."""
        return self.of(kind).get(key)

    def of(self, kind: str) -> dict[str, Setting]:
        """All of a kind (one of `KINDS`), by key."""
        found: dict[str, Setting] = getattr(self, kind)
        return found

    def copy(self) -> "Settings":
        """One that shares no mapping."""
        return Settings(*(dict(self.of(kind)) for kind in KINDS))  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Setting]:
        for kind in KINDS:
            yield from self.of(kind).values()


KINDS: dict[str, type] = {
    "workspaces": Workspace,
    "quotas": Quota,
    "zones": Zone,
    "reservations": Reservation,
    "budgets": DisruptionBudget,
    "factors": Factors,
    "runs": Runs,
    "used": Used,
    "topologies": Topology,
    "holes": Hole,
    "nights": Night,
    "learned": Learned,
    "rules": Rule,
    "violations": Violations,
    "shields": Shield,
}
KIND_OF: dict[type, str] = {type_: kind for kind, type_ in KINDS.items()}
assert tuple(KINDS) == tuple(one.name for one in fields(Settings)), "a mapping for each kind"
