"""Making room: what is asked, and what is answered.

A hole is room for equal members that is kept for a job to come. Times are milliseconds since 1970.
"""

from pydantic import BaseModel, ConfigDict, Field

from madang.wire.jobs import GPUS_PER_MEMBER_MAX, MEMBERS_MAX, NAME_PATTERN, DurationMs

KEPT_MS = 4 * 3_600_000


class HoleRequest(BaseModel):
    """Room for so many members of so many GPUs, in one domain of the network tree if asked."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("", pattern=rf"^$|{NAME_PATTERN}", description="Default: room-1, room-2, …")
    members: int = Field(ge=1, le=MEMBERS_MAX, description="Equal pieces, e.g. 8 nodes.")
    gpus: int = Field(ge=1, le=GPUS_PER_MEMBER_MAX, description="GPUs of each piece, on one node.")
    profile: str = Field("", max_length=128, description="Machine profile (GPU model).")
    within: str = Field("", max_length=64, description="Level that holds all of it, e.g. `block`.")
    project: str = Field("", max_length=64, description="Whose job it is for; default: anybody's.")
    kept: DurationMs = Field(KEPT_MS, gt=0, description="How long it is kept, e.g. `4h`.")
    dry_run: bool = Field(False, description="Only say who would move where, and what it costs.")


class MoveView(BaseModel):
    """A job that goes elsewhere."""

    job: str
    gpus: float = Field(description="Of all its members.")
    leaves: list[str] = Field(description="Nodes.")
    goes_to: list[str] = Field(description="Nodes.")
    cost_gpu_s: int = Field(description="Work since its last checkpoint, and its restart.")


class PieceView(BaseModel):
    """One piece of a hole."""

    node: str
    gpus: list[int]


class HoleView(BaseModel):
    """A hole, made or only reckoned."""

    id: str
    members: int
    gpus: int
    within: str
    project: str
    by: str
    until_ms: int = Field(description="When it is given up; 0 in a dry run.")
    is_free: bool = Field(description="Everybody has left.")
    pieces: list[PieceView]
    moves: list[MoveView] = Field(description="Who moves, or is still on the way.")
    cost_gpu_s: int
    text: str = Field(examples=["2 jobs move, which throws away 0.4 GPU-hours of work"])


class HoleListView(BaseModel):
    """Every hole that is kept."""

    holes: list[HoleView]
