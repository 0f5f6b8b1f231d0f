"""The policy file: `madang up --policy FILE`, `madang policy set FILE`, STATE/policy.toml.

    base = "madang"            # what is not written here is as there
    patience = "6h"
    fair_half_life = "3d"

    [[class]]                  # rows from the top; of each field the first that states it decides
    provisioning = ["spot"]
    purpose = ["test"]
    head_start = "0s"
    preemptible = "always"

Keys are the policy's (docs/policies/order.md), durations as in a job file. Unknown keys are errors.
"""

import re
import tomllib
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from madang.wire.jobs import DurationMs, duration_ms, duration_text

POLICY_BYTES_MAX = 1 << 20
CLASSES_MAX = 200
PRIORITY_MAX = 1_000
DAY_MS = 86_400_000
NAME = r"^[a-z0-9]([a-z0-9_-]{0,62}[a-z0-9])?$"

BaseName = Literal[
    "madang",
    "default",
    "fifo",
    "fifo-skip",
    "sjf",
    "ssf",
    "srtf",
    "tiresias",
    "easy",
    "conservative",
]
OrderKey = Literal["priority", "level", "estimate", "service", "remaining"]


def _listed(value: Any) -> Any:
    """One word is a list of one."""
    return [value] if isinstance(value, str) else value


Provisionings = Annotated[
    list[Literal["reserved", "on_demand", "spot"]], BeforeValidator(_listed), Field(max_length=3)
]
Categories = Annotated[
    list[Literal["serving", "training", "data", "interactive"]],
    BeforeValidator(_listed),
    Field(max_length=4),
]
Purposes = Annotated[
    list[Literal["service", "qa", "produce", "test"]], BeforeValidator(_listed), Field(max_length=4)
]


def _clock_ms(value: Any) -> Any:
    """`02:30`, `+09:00` or a duration, as ms since midnight or east of UTC."""
    text = str(value).strip()
    found = re.fullmatch(r"([+-]?)(\d{1,2}):(\d{2})", text)
    if found is None:
        sign = -1 if text.startswith("-") else 1
        return sign * duration_ms(text[1:] if sign < 0 else value)
    hours, minutes = int(found[2]), int(found[3])
    if hours > 24 or minutes > 59:
        raise ValueError(f"{value!r} is not a time of day; write 02:30")
    return (-1 if found[1] == "-" else 1) * (hours * 60 + minutes) * 60_000


def _clock_text(ms: int) -> str:
    if ms % 60_000:
        return f"{'-' * (ms < 0)}{abs(ms)}ms"
    hours, minutes = divmod(abs(ms) // 60_000, 60)
    return f"{'-' * (ms < 0)}{hours:02}:{minutes:02}"


# As JSON it is written as people write it; a bare number would be read back as seconds.
ClockMs = Annotated[
    int,
    BeforeValidator(_clock_ms),
    Field(ge=-DAY_MS, le=DAY_MS),
    PlainSerializer(_clock_text, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["02:30", "+09:00"]}),
]


# As core.learning.PLACEMENTS; a test holds the two together.
Placement = Literal[
    "best-fit", "dot-product", "fgd", "fullest", "madang", "most-allocated", "packing"
]


class IdleFile(BaseModel):
    """Which jobs count as idle, and what follows. The first row that is for a job decides."""

    model_config = ConfigDict(extra="forbid", title="Idle")

    category: Literal["*", "serving", "training", "data", "interactive"] = "*"
    provisioning: Literal["*", "reserved", "on_demand", "spot"] = "*"
    util_pct: int = Field(
        5, ge=1, le=100, description="The busiest of its GPUs is less busy than this."
    )
    idle: DurationMs = Field(7_200_000, ge=1, description="For so long on end; then it is warned.")
    grace: DurationMs = Field(3_600_000, description="From the warning until its GPUs are taken.")
    takes: bool = Field(False, description="Its GPUs are taken; else it is only told.")


class ClassFile(BaseModel):
    """A row of the table of classes: which jobs it is for, and what it states about them."""

    model_config = ConfigDict(extra="forbid", title="Class")

    provisioning: Provisionings = Field(default_factory=list, description="Empty: any.")
    category: Categories = Field(default_factory=list, description="Empty: any.")
    purpose: Purposes = Field(default_factory=list, description="Empty: any.")
    priority: int | None = Field(
        None,
        ge=0,
        le=PRIORITY_MAX,
        description="Higher goes first, and may displace lower ones that can be preempted.",
    )
    preemptible: Literal["never", "checkpointed", "always"] | None = Field(
        None, description="Whether its jobs may be stopped for the sake of others."
    )
    head_start: DurationMs | None = Field(
        None, description="Counts as time already waited: how classes of one priority differ."
    )
    run_min: DurationMs | None = Field(
        None, description="Nobody moves its jobs aside before they have run so long."
    )
    grace: DurationMs | None = Field(None, description="Default between SIGTERM and SIGKILL.")
    retries: int | None = Field(None, ge=0, le=100, description="Default for jobs.")
    time: DurationMs | None = Field(None, description="Default time limit; 0: none.")

    @model_validator(mode="after")
    def _states_something(self) -> "ClassFile":
        stated = self.model_fields_set - {"provisioning", "category", "purpose"}
        if not stated:
            raise ValueError("the row states nothing; give it a priority, a head_start or another")
        return self


class PolicyFile(BaseModel):
    """A policy as operators write it. What is left out is as in `base`."""

    model_config = ConfigDict(extra="forbid", title="Madang policy", populate_by_name=True)

    base: BaseName = Field("madang", description="The policy that this one changes.")
    name: str | None = Field(None, pattern=NAME, description="What it is called in reports.")
    order: list[OrderKey] | None = Field(
        None, max_length=5, description="Keys of the order, most significant first."
    )
    misfit: Literal["stop", "hold", "skip", "reserve"] | None = Field(
        None, description="What it means for those behind that a job does not fit now."
    )
    reservations: int | None = Field(None, ge=0, le=10_000)
    preempts: bool | None = Field(
        None, description="Waiting jobs may take the GPUs of running ones that come after them."
    )
    level: DurationMs | None = Field(None, description="Service at which the first level ends.")
    level_factor: int | None = Field(None, ge=2, le=1_000, description="Each level to the next.")
    levels_max: int | None = Field(None, ge=0, le=64)
    service_gpus_quarters: int | None = Field(
        None, ge=-4, le=4, description="Service is run time · gpus^(this/4)."
    )
    patience: DurationMs | None = Field(
        None, description="Who has waited so long goes first and is passed by nobody; 0: never."
    )
    run_min: DurationMs | None = Field(None, description="Least run time before a preemption.")
    levels: list[str] | None = Field(
        None, max_length=8, description="Names of the network tree's levels from the root down."
    )
    within: str | None = Field(
        None, max_length=64, description="Level one domain of which holds a gang of several nodes."
    )
    fair_half_life: DurationMs | None = Field(
        None, description="Past usage counts half after so long; 0: usage has no say."
    )
    fair_lag: DurationMs | None = Field(
        None, description="How far usage can put a project's jobs back, at most."
    )
    fair_month_pct: int | None = Field(
        None, ge=0, le=1_000, description="How much of the month's GPU time adds to usage."
    )
    fair_util_pct: int | None = Field(
        None, ge=0, le=1_000, description="How much idle GPUs of past jobs add to usage."
    )
    placement: Placement | None = Field(
        None,
        description="How one member chooses among nodes.",
    )
    fetch_step_mib: int | None = Field(
        None, ge=1, le=1 << 40, description="Data that a node lacks counts in steps of so much."
    )
    victims: Literal["cheapest", "cheapest-of-last", "last"] | None = Field(
        None, description="Who is moved aside: the set that costs the least, or the last in order."
    )
    serving_weight: int | None = Field(
        None, ge=1, le=1_000_000, description="How much dearer it is to stop who serves users."
    )
    reserve_gpus_min: int | None = Field(
        None, ge=0, le=1_000_000, description="Gangs of so many GPUs get a start time; 0: none do."
    )
    end_permille: int | None = Field(
        None, ge=0, le=999, description="Share of past runs by whose end running jobs are expected."
    )
    stay_permille: int | None = Field(
        None, ge=0, le=999, description="The same for who wants to pass somebody; 0: no history."
    )
    unseen_max: DurationMs | None = Field(
        None, description="Work believed lost of who checkpoints, but was never seen to, at most."
    )
    utc_offset: ClockMs | None = Field(None, description="The yard's own time, east of UTC.")
    night_begin: ClockMs | None = Field(
        None, description="From then on jobs may be moved to tidy up, e.g. `02:00`."
    )
    night_end: ClockMs | None = Field(None, description="Until then; the same: never.")
    night_every: Annotated[DurationMs, Field(ge=1_000)] | None = Field(
        None, description="How often it is looked for moves that pay."
    )
    night_gpu: DurationMs | None = Field(
        None, description="GPU time of work that all moves of one night may throw away."
    )
    moves_at_once: int | None = Field(None, ge=1, le=1_000, description="Moves under way.")
    move_rest: DurationMs | None = Field(None, description="A job is moved once in so long.")
    move_gain_pct: int | None = Field(
        None, ge=100, le=100_000, description="What a move must gain, in percent of its cost."
    )
    move_horizon: DurationMs | None = Field(
        None, description="How long a gain counts, if the job would have stayed so long."
    )
    idle_young: DurationMs | None = Field(
        None, description="The first so long of a job do not count as idle."
    )
    measure: DurationMs | None = Field(
        None, description="Windows in which GPUs are measured; 0: they are not."
    )
    idle_rules: list[IdleFile] | None = Field(
        None,
        alias="idle",
        max_length=CLASSES_MAX,
        description="Who is warned about idle GPUs, and who loses them; in place of the base's.",
    )
    classes: list[ClassFile] = Field(
        default_factory=list,
        alias="class",
        max_length=CLASSES_MAX,
        description="Rows above the default table of classes.",
    )

    @model_validator(mode="after")
    def _no_key_twice(self) -> "PolicyFile":
        keys = self.order or []
        if len(set(keys)) != len(keys):
            raise ValueError(f"order names a key twice: {', '.join(keys)}")
        return self

    def stated(self) -> dict[str, Any]:
        """What the file says, as plain values: durations in ms, under the file's own keys."""
        return self.model_dump(by_alias=True, exclude_none=True, exclude_defaults=True)


class PolicyError(ValueError):
    """A policy file that cannot be used. The text has a line for each finding."""


def read_policy(text: str) -> PolicyFile:
    """The policy of a TOML text.

    Raises:
        PolicyError: where it is wrong, what was given, what is allowed.
    """
    if len(text.encode()) > POLICY_BYTES_MAX:
        raise PolicyError(f"a policy file has at most {POLICY_BYTES_MAX} bytes")
    try:
        return PolicyFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as wrong:
        raise PolicyError(f"it is not TOML: {wrong}") from None
    except ValidationError as wrong:
        raise PolicyError("\n".join(_finding(error) for error in wrong.errors())) from None


def _finding(error: Any) -> str:
    """`class 2, head_start: '3 weeks' is not a duration; write 90s, 30m, 2h or 1d12h`."""
    where, message = _where(error["loc"]), error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        tables: dict[str, type[BaseModel]] = {"class": ClassFile, "idle": IdleFile}
        names = tables.get(where.partition(" ")[0], PolicyFile).model_fields
        known = ", ".join(sorted(field.alias or name for name, field in names.items()))
        return f"{where}: there is no such key; there are: {known}"
    given = error.get("input")
    shown = (
        "" if isinstance(given, dict | list) or repr(given) in message else f" (given: {given!r})"
    )
    return f"{where}: {message}{shown}" if where else message


def _where(path: tuple[int | str, ...]) -> str:
    words: list[str] = []
    for step in path:
        if isinstance(step, int) and words:
            words[-1] = f"{words[-1]} {step + 1}"  # people count from one
        else:
            words.append(str(step))
    return ", ".join(words)


def toml_of(policy: PolicyFile) -> str:
    """The file as TOML, which `read_policy` reads back as the same."""
    rows = [row.model_dump(mode="json", exclude_none=True) for row in policy.classes]
    tables = {"classes", "idle_rules"}
    plain = policy.model_dump(mode="json", exclude=tables, exclude_none=True)
    lines = [f"{key} = {_toml(value)}" for key, value in plain.items()]
    if policy.idle_rules == []:
        lines.append("idle = []")
    for rule in policy.idle_rules or []:
        lines += ["", "[[idle]]"]
        lines += [f"{key} = {_toml(value)}" for key, value in rule.model_dump(mode="json").items()]
    for row in rows:
        lines += ["", "[[class]]"]
        lines += [f"{key} = {_toml(value)}" for key, value in row.items() if value != []]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(_toml(item) for item in value)}]"
    text = str(value)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class ClassView(BaseModel):
    """What the table says of one class."""

    provisioning: str
    category: str
    purpose: str
    priority: int
    preemptible: str
    head_start: DurationMs
    run_min: DurationMs
    grace: DurationMs
    retries: int
    time: DurationMs


class PolicyView(BaseModel):
    """The policy in force: whole, as TOML, and what its table says of each class."""

    name: str
    policy: PolicyFile
    toml: str
    classes: list[ClassView]


class QuotaRequest(BaseModel):
    """What an owner may hold, and what it can always have back."""

    model_config = ConfigDict(extra="forbid", title="Quota")

    owner: str = Field(
        pattern=r"^(workspace|project):[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$",
        description="`workspace:NAME` or `project:NAME`.",
        examples=["project:vision"],
    )
    group: str = Field("*", min_length=1, max_length=64, description="Machine group; `*`: all.")
    provisioning: Literal["*", "reserved", "on_demand", "spot"] = "*"
    guaranteed_gpus: float = Field(
        0, ge=0, le=1_000_000, description="GPUs it can have back at any time."
    )
    limit_gpus: float | None = Field(
        None, ge=0, le=1_000_000, description="GPUs it holds at most; null: no limit."
    )
    weight: int = Field(
        1, ge=0, le=1_000, description="Its part of what others leave idle; 0: it borrows nothing."
    )
    cells: dict[str, int] = Field(
        default_factory=dict,
        max_length=16,
        description=(
            "Whole cells promised to its reserved work: level (`gpu`, `2gpu`, `node`, a level of "
            "the network tree; with `@MODEL` of that model) → how many."
        ),
    )

    @model_validator(mode="after")
    def _fits(self) -> "QuotaRequest":
        if self.limit_gpus is not None and self.limit_gpus < self.guaranteed_gpus:
            raise ValueError(
                f"limit_gpus is {self.limit_gpus:g}, less than the guaranteed "
                f"{self.guaranteed_gpus:g}; raise the limit or lower the guarantee"
            )
        if any(not level or not 1 <= count <= 1_000_000 for level, count in self.cells.items()):
            raise ValueError("cells maps the name of a level to how many, at least 1")
        if self.provisioning == "spot" and self.guaranteed_gpus:
            raise ValueError("spot lives on what others leave: it cannot be guaranteed")
        return self


class CellsView(BaseModel):
    """How promised cells of one level stand: promised = opened + ready + doomed + occupied."""

    level: str = Field(description="Level of the promised cells, as `node` or `leaf`.")
    group: str
    model: str
    gpus: int = Field(description="GPUs of one such cell.")
    promised: int
    opened: int = Field(description="Cells that reserved work of the owner stands in.")
    ready: int = Field(description="Cells that can be had now, displacing only preemptible work.")
    doomed: int = Field(description="Cells that hardware cannot honour now.")
    occupied: int = Field(description="Cells held by work that was there before and must end.")
    text: str = Field(description="The same in words, with the nodes or jobs that are the cause.")


class QuotaView(QuotaRequest):
    """A quota and what is held of it."""

    model_config = ConfigDict(title="Quota")

    held_gpus: float = 0
    cells_now: list[CellsView] = Field(default_factory=list)


class QuotaListView(BaseModel):
    """All quotas, by owner."""

    quotas: list[QuotaView]


class WorkspaceView(BaseModel):
    """Who pays: its projects, and what they hold together."""

    id: str
    projects: list[str]
    held_gpus: float


class WorkspaceListView(BaseModel):
    """All workspaces that were set or that a project belongs to."""

    workspaces: list[WorkspaceView]


assert duration_text(0) == "0ms", "a duration of nothing is written with its unit"
