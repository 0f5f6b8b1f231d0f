"""What a user writes to get a job: the body of `POST /v1/jobs` and the file of `madang run -f`.

Unknown keys are errors. Durations are `90s`, `30m`, `2h`, `1d12h` or seconds as a number.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from madang.wire.terms import need_of, toleration_of

MEMBERS_MAX = 65_536
GPUS_PER_MEMBER_MAX = 64
ENV_MAX = 512
ENV_BYTES_MAX = 131_072
COMMAND_ARGS_MAX = 4_096
COMMAND_BYTES_MAX = 262_144

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$"
ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION_MS_MAX = 10 * 365 * 86_400_000


def duration_ms(value: Any) -> int:
    """Milliseconds of `2h`, `1d12h`, `90` (seconds) or 1.5 (seconds).

    Raises:
        ValueError: says what is allowed.
    """
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a duration; write 90s, 30m, 2h or 1d12h")
    if isinstance(value, int | float):
        ms = int(value * 1000)
    else:
        text = str(value).strip().lower()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            ms = int(float(text) * 1000)
        elif text and not _DURATION.sub("", text):
            ms = sum(int(float(n) * _UNIT_MS[unit]) for n, unit in _DURATION.findall(text))
        else:
            raise ValueError(f"{value!r} is not a duration; write 90s, 30m, 2h or 1d12h")
    if not 0 <= ms <= DURATION_MS_MAX:
        raise ValueError(f"{value!r} is out of range; a duration is between 0 and 10 years")
    return ms


def duration_text(ms: int) -> str:
    """The shortest text that `duration_ms` reads as this: `2h`, `90s`, `1500ms`."""
    for unit in ("d", "h", "m", "s"):
        if ms and ms % _UNIT_MS[unit] == 0:
            return f"{ms // _UNIT_MS[unit]}{unit}"
    return f"{ms}ms"


# As JSON it is written with its unit: a bare number would be read back as seconds.
DurationMs = Annotated[
    int,
    BeforeValidator(duration_ms),
    PlainSerializer(duration_text, return_type=str, when_used="json"),
    WithJsonSchema({"type": ["string", "number"], "examples": ["2h", "90s", 90]}),
]


class SegmentRequest(BaseModel):
    """Members that must sit close: each run of `members` ranks inside one domain of `level`."""

    model_config = ConfigDict(extra="forbid", title="Segment")

    level: str = Field(
        min_length=1,
        max_length=64,
        description="`node`, or a level of the network tree.",
        examples=["node", "leaf"],
    )
    members: int = Field(ge=2, le=MEMBERS_MAX)


class JobRequest(BaseModel):
    """One job. Only `command` is required."""

    model_config = ConfigDict(extra="forbid", title="Madang job")

    command: list[str] = Field(
        min_length=1,
        max_length=COMMAND_ARGS_MAX,
        description="What each member executes: program and arguments, without a shell.",
        examples=[["python", "train.py"]],
    )
    name: str = Field(
        "", description="Lower-case letters, digits and dashes; default: the program."
    )
    project: str = Field("default", description="The project that is charged.")
    members: int = Field(1, ge=1, le=MEMBERS_MAX, description="Equal workers; all start or none.")
    gpus: float = Field(
        1, ge=0, le=GPUS_PER_MEMBER_MAX, description="GPUs per member; 0.25 is a quarter of one."
    )
    members_min: int = Field(
        0,
        ge=0,
        le=MEMBERS_MAX,
        description="Elastic: it may start with so few members; 0: only with all.",
    )
    profile: str = Field(
        "",
        max_length=1024,
        description="Machine profile (GPU model) to run on, or several in order of preference, "
        "separated by commas; default: any.",
        examples=["H100", "H100,A100"],
    )
    exclusive: bool = Field(False, description="Its nodes run nothing else meanwhile.")
    zone: str = Field(
        "", max_length=64, description="Zone to run in; default: the public one and the project's."
    )
    needs: list[str] = Field(
        default_factory=list,
        max_length=32,
        description="Labels its nodes must have, written as Kubernetes' label selectors are; all "
        "of them must hold.",
        examples=[["rack=r1", "generation>3"]],
    )
    tolerates: list[str] = Field(
        default_factory=list,
        max_length=32,
        description="Taints of nodes that do not keep it off: `key`, `key=value:NoSchedule`, `*`.",
    )
    within: str = Field(
        "",
        max_length=64,
        description="Level of the network tree one domain of which must hold all members, e.g. "
        "`block`; `any`: anywhere; default: the policy's.",
    )
    within_soft: bool = Field(False, description="`within` is a wish, not a condition.")
    switches: int = Field(0, ge=0, le=MEMBERS_MAX, description="At most so many leaf switches.")
    switches_wait: DurationMs = Field(
        0, description="How long to insist on so few switches; then any will do. 0: for ever."
    )
    segments: list[SegmentRequest] = Field(
        default_factory=list, max_length=8, description="Members that must sit close, outer first."
    )
    spread_nodes: int = Field(
        0, ge=0, le=MEMBERS_MAX, description="Spread the members over so many nodes at least."
    )
    data: dict[str, int] = Field(
        default_factory=dict,
        max_length=64,
        description="Data sets it reads and their size in MiB: nodes that have them are preferred.",
    )
    checkpoints: bool = Field(
        False, description="It saves checkpoints and goes on from them, so it may be moved aside."
    )
    estimate: DurationMs = Field(0, description="How long it will run, if you know.")
    nice: int = Field(0, ge=-20, le=20, description="Among your own jobs: higher goes later.")
    reservation: str = Field("", max_length=64, description="Calendar reservation to run inside.")
    budget: str = Field("", max_length=64, description="Disruption budget it counts under.")
    idle_ok: bool = Field(False, description="Never reclaim its GPUs because they are idle.")
    cpus: float | None = Field(
        None, gt=0, le=4096, description="CPUs per member; default: the profile's share per GPU."
    )
    memory_mib: int | None = Field(
        None, gt=0, le=1 << 30, description="Memory per member; default: the profile's share."
    )
    provisioning: Literal["reserved", "on_demand", "spot"] = "on_demand"
    category: Literal["serving", "training", "data", "interactive"] = "training"
    purpose: Literal["service", "qa", "produce", "test"] = "produce"
    env: dict[str, str] = Field(default_factory=dict, max_length=ENV_MAX)
    time: DurationMs = Field(0, description="Time limit, e.g. 2h; 0 or absent: none.")
    grace: DurationMs = Field(30_000, description="Between SIGTERM and SIGKILL when it is stopped.")
    retries: int = Field(0, ge=0, le=100, description="New attempts after a failure of the job.")
    image: str = Field("", max_length=512, description="Container image, where a runtime is there.")
    code: str = Field(
        "",
        pattern=r"^([0-9a-f]{64})?$",
        description="Digest of the uploaded code snapshot; the CLI fills it in.",
    )
    memo: str = Field("", max_length=4096, description="A note for people.")
    forked_from: str = Field("", max_length=128, description="The job this one was forked from.")
    from_checkpoint: bool = Field(
        False, description="Start from a copy of the checkpoints of `forked_from`."
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if value and not re.match(NAME_PATTERN, value):
            raise ValueError(
                f"{value!r} is not a name; use 1 to 48 lower-case letters, digits and dashes"
            )
        return value

    @field_validator(
        "project",
        "profile",
        "image",
        "memo",
        "forked_from",
        "zone",
        "within",
        "reservation",
        "budget",
    )
    @classmethod
    def _text(cls, value: str) -> str:
        if "\0" in value:
            raise ValueError("it holds a NUL byte")
        return value

    @field_validator("needs")
    @classmethod
    def _needs(cls, value: list[str]) -> list[str]:
        for one in value:
            need_of(one)
        return value

    @field_validator("tolerates")
    @classmethod
    def _tolerates(cls, value: list[str]) -> list[str]:
        for one in value:
            toleration_of(one)
        return value

    @model_validator(mode="after")
    def _sizes(self) -> "JobRequest":
        if self.members_min > self.members:
            raise ValueError(
                f"members_min is {self.members_min}, but members is only {self.members}"
            )
        for segment in self.segments:
            if self.members % segment.members:
                raise ValueError(
                    f"{self.members} members cannot be cut into segments of {segment.members}"
                )
        if any(
            not name or "\0" in name or not 0 <= mib < 1 << 40 for name, mib in self.data.items()
        ):
            raise ValueError("data maps a name to its size in MiB, from 0 to 2^40")
        return self

    @field_validator("gpus")
    @classmethod
    def _gpus(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"{value} GPUs: a share is below 1; above that, whole GPUs only")
        if 0 < value < 1 and round(value * 1000) < 1:
            raise ValueError(f"{value} GPUs: the smallest share is 0.001")
        return value

    @field_validator("command")
    @classmethod
    def _command(cls, value: list[str]) -> list[str]:
        if not value[0].strip():
            raise ValueError("the program to run is empty")
        if sum(len(part.encode()) for part in value) > COMMAND_BYTES_MAX:
            raise ValueError(f"longer than {COMMAND_BYTES_MAX} bytes; put it into a file")
        if any("\0" in part for part in value):
            raise ValueError("an argument holds a NUL byte")
        return value

    @field_validator("env")
    @classmethod
    def _env(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            if not ENV_NAME.match(name):
                raise ValueError(f"{name!r} is not a variable name")
            if "\0" in text:
                raise ValueError(f"the value of {name} holds a NUL byte")
        if sum(len(k) + len(v.encode()) for k, v in value.items()) > ENV_BYTES_MAX:
            raise ValueError(f"longer than {ENV_BYTES_MAX} bytes; put it into a file")
        return value
