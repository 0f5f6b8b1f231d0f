"""Calendar reservations as they travel."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from madang.wire.jobs import MEMBERS_MAX, NAME_PATTERN

GPUS_PER_MEMBER_MAX = 1024
TIME_MS_MAX = 1 << 53


class ReservationRequest(BaseModel):
    """GPUs × window, kept for a project."""

    model_config = ConfigDict(extra="forbid", title="Reservation")

    id: str = Field(pattern=NAME_PATTERN, description="Its name.", examples=["llm-70b"])
    project: str = Field(pattern=NAME_PATTERN, description="Who it is kept for.")
    gpus: int = Field(1, ge=1, le=GPUS_PER_MEMBER_MAX, description="Whole GPUs of each member.")
    members: int = Field(1, ge=1, le=MEMBERS_MAX, description="How many such members.")
    profile: str = Field("", max_length=64, description="GPU model; default: any.")
    begin_ms: int = Field(ge=0, le=TIME_MS_MAX, description="When it begins, ms since 1970 (UTC).")
    end_ms: int = Field(ge=0, le=TIME_MS_MAX, description="When it ends.")

    @model_validator(mode="after")
    def _is_a_window(self) -> "ReservationRequest":
        if self.end_ms <= self.begin_ms:
            raise ValueError(f"it ends at {self.end_ms}, but begins at {self.begin_ms} only")
        return self


class ReservationView(BaseModel):
    """A reservation, and how it stands: `waiting`, `open` or `over`."""

    model_config = ConfigDict(extra="forbid")

    id: str
    project: str
    gpus: int
    members: int
    profile: str
    begin_ms: int
    end_ms: int
    by: str
    state: str
    held_gpus: float = Field(description="What jobs inside it hold now.")


class ReservationListView(BaseModel):
    """All reservations, by when they begin."""

    model_config = ConfigDict(extra="forbid")

    reservations: list[ReservationView]
