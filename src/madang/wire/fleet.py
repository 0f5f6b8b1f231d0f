"""The file of a virtual fleet: `madang up --fleet fleet.yaml`.

    seed: 7
    speed: 60                  # a minute passes in a second
    nodes:
      - count: 128
        model: H100
        gpus: 8
        gpu_memory_mib: 81559
        cpus: 96
        memory_mib: 2063000
        blocks: 4              # network blocks, each with its leaf switches
        nodes_per_leaf: 8
    faults: {node_mtbf: 30d, node_mttr: 20m}

Unknown keys are errors. Durations are as in a job file (`90s`, `2h`), in the fleet's own time.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from madang.wire.jobs import DurationMs, duration_ms
from madang.wire.terms import taint_of

NODES_MAX = 100_000
GPUS_PER_NODE_MAX = 64


def _span_ms(value: Any) -> Any:
    """`2s` is from 2 s to 2 s; `[1s, 3s]` is from 1 s to 3 s."""
    ends = value if isinstance(value, list | tuple) else [value, value]
    if len(ends) != 2:
        raise ValueError(f"{value!r} is not a span; write 2s or [1s, 3s]")
    low, high = map(duration_ms, ends)
    if low > high:
        raise ValueError(f"{value!r} ends before it begins; write the shorter time first")
    return (low, high)


Span = Annotated[tuple[int, int], BeforeValidator(_span_ms)]
Share = Annotated[float, Field(ge=0, le=1)]


class NodesOfFleet(BaseModel):
    """Equal nodes."""

    model_config = ConfigDict(extra="forbid")

    count: int = Field(1, ge=1, le=NODES_MAX)
    name: str = Field(
        "",
        pattern=r"^([a-z0-9]([a-z0-9.-]{0,46}[a-z0-9])?)?$",
        description="What node names begin with; default: the model in lower case.",
    )
    gpus: int = Field(8, ge=0, le=GPUS_PER_NODE_MAX)
    model: str = Field("", max_length=64, description="GPU model, e.g. H100.")
    gpu_memory_mib: int = Field(0, ge=0)
    cpus: int = Field(32, ge=1, le=4096)
    memory_mib: int = Field(262_144, ge=1)
    group: str = Field("default", max_length=64, description="Machine group.")
    zone: str = Field(
        "",
        pattern=r"^([a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?)?$",
        description="Zone that these nodes are in; default: the public one.",
    )
    mig: str = Field(
        "",
        pattern=r"^([1-9]g\.[0-9]{1,3}gb)?$",
        description="MIG profile of its devices, e.g. 1g.5gb; `gpus` counts these then.",
    )
    cached: list[str] = Field(
        default_factory=list,
        max_length=1_000,
        description="Images and data sets that these nodes have.",
    )
    blocks: int = Field(1, ge=1, description="Network blocks that these nodes are spread over.")
    nodes_per_leaf: int = Field(8, ge=1, description="Nodes under one leaf switch.")
    labels: dict[str, str] = Field(
        default_factory=dict, max_length=64, description="Labels of each node."
    )
    taints: list[Annotated[tuple[str, str, str], BeforeValidator(taint_of)]] = Field(
        default_factory=list,
        max_length=16,
        description="What keeps jobs off that do not tolerate it: `key=value:NoSchedule`.",
    )


class TimesOfFleet(BaseModel):
    """How long things take."""

    model_config = ConfigDict(extra="forbid")

    start: Span = Field((500, 3_000), description="From the decision until a member runs.")
    stop: Span = Field((200, 2_000), description="From the signal until a member has ended.")
    slow_share: Share = Field(0.0, description="Share of starts and stops that are 10 × slower.")
    run: DurationMs = Field(600_000, description="Median run of jobs that do not say how long.")
    run_sigma: float = Field(1.0, ge=0, le=4, description="Spread of their log-normal.")


class FaultsOfFleet(BaseModel):
    """How often things break; 0 is never."""

    model_config = ConfigDict(extra="forbid")

    node_mtbf: DurationMs = Field(0, description="Mean time between the faults of one node.")
    node_mttr: DurationMs = Field(600_000, description="Mean time until it is back.")
    partition_share: Share = Field(0.2, description="Faults that cut a node off; others reboot it.")
    detect: DurationMs = Field(30_000, description="Silence until a node counts as lost.")
    gpu_mtbf: DurationMs = Field(0, description="Mean time between the faults of one GPU.")
    gpu_mttr: DurationMs = Field(3_600_000, description="Mean time until it is healthy again.")
    crash_share: Share = Field(0.0, description="Attempts that fail by themselves.")


class FleetFile(BaseModel):
    """A fleet that exists only in time. `model_dump()` is what `open_fleet` takes."""

    model_config = ConfigDict(extra="forbid", title="Madang virtual fleet")

    seed: int = Field(0, ge=0, description="Same seed, same fleet, same faults.")
    speed: float = Field(1.0, ge=0.001, le=10_000, description="Virtual seconds per second.")
    nodes: list[NodesOfFleet] = Field(min_length=1, max_length=1_000)
    times: TimesOfFleet = Field(default_factory=TimesOfFleet)
    faults: FaultsOfFleet = Field(default_factory=FaultsOfFleet)

    @model_validator(mode="after")
    def _names_are_apart(self) -> "FleetFile":
        total = sum(entry.count for entry in self.nodes)
        if total > NODES_MAX:
            raise ValueError(f"{total} nodes; a fleet has at most {NODES_MAX}")
        names = [entry.name or (entry.model or "node").lower() for entry in self.nodes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} names two entries of nodes; give each a `name`")
        return self
