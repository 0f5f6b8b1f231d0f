"""The HTTP shapes of zones and machine profiles."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

OWNER_PATTERN = r"^(workspace|project):[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$"


class ZoneRequest(BaseModel):
    """Whom a zone takes, and jobs of which size. What is left out does not bind."""

    model_config = ConfigDict(extra="forbid", title="Zone")

    owners: list[str] = Field(
        default_factory=list,
        max_length=256,
        description="`project:NAME` and `workspace:NAME` whose jobs it takes; none: it is public.",
        examples=[["project:vision"]],
    )
    gpus_min: int = Field(0, ge=0, le=1_000_000, description="GPUs of its smallest job.")
    gpus_max: int = Field(0, ge=0, le=1_000_000, description="GPUs of its largest job; 0: any.")

    @model_validator(mode="after")
    def _sizes(self) -> "ZoneRequest":
        if 0 < self.gpus_max < self.gpus_min:
            raise ValueError(f"no job has {self.gpus_min} GPUs or more and {self.gpus_max} or less")
        return self


class ZoneView(ZoneRequest):
    """A zone and what is free in it; `is_set`: somebody made it, nodes do not just name it."""

    model_config = ConfigDict(title="Zone with its use")

    id: str
    is_set: bool = True
    nodes: int = 0
    gpus: int = 0
    gpus_free: float = 0


class ZoneListView(BaseModel):
    """All zones, by name; `public` is always there."""

    zones: list[ZoneView]


class ProfileView(BaseModel):
    """A machine profile: what comes with one GPU of its models, and how many there are."""

    name: str
    models: list[str]
    mig: str = Field(description="The MIG profile that its devices are parts of; else empty.")
    cpus_per_gpu: float
    memory_mib_per_gpu: int
    gpu_memory_mib: int = Field(description="Of one device; 0: the nodes do not say.")
    nodes: int
    gpus: int
    gpus_free: int = Field(description="Devices that are wholly free on nodes that take work.")
    free_share: float = Field(description="The largest part free of a GPU that somebody shares.")
    most_free_on_one_node: int


class ProfileListView(BaseModel):
    """All profiles, by name; `any` last, for jobs that do not care."""

    profiles: list[ProfileView]
