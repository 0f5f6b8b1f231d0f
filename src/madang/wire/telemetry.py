"""How much telemetry is kept, as operators write it: `madang up --telemetry FILE`, and
STATE/telemetry.toml.

    [keep]
    minutes = "14d"
    hours = "400d"
    ended = "90d"
    signals = "90d"
    size_max = "20GiB"

    [ring]
    size_max = "4GiB"

What is left out is as above. Unknown keys are errors.
"""

import tomllib
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from madang.wire.jobs import DurationMs
from madang.wire.telemetry_out import FILE_BYTES_MAX, Size, bytes_of, worded

DAY_MS = 86_400_000
Age = Annotated[DurationMs, Field(ge=DAY_MS, le=3_650 * DAY_MS)]
RingSize = Annotated[int, BeforeValidator(bytes_of), Field(ge=64 << 20, le=1 << 40)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class KeepFile(_Table):
    """For how long, from the newest that a file holds: an hour of minutes, a day of hours."""

    minutes: Age = Field(14 * DAY_MS, description="Mean, least, greatest of each minute.")
    hours: Age = Field(400 * DAY_MS, description="The same of each hour.")
    ended: Age = Field(90 * DAY_MS, description="Quantiles of jobs that have ended; by months.")
    signals: Age = Field(90 * DAY_MS, description="Xids and what else happened once.")
    size_max: Size = Field(
        20 << 30, description="Of minutes and hours: beyond it the oldest minutes go first."
    )

    @model_validator(mode="after")
    def _hours_last_longer(self) -> "KeepFile":
        if self.hours < self.minutes:
            raise ValueError("hours are made to outlast minutes: keep them at least as long")
        return self


class RingFile(_Table):
    """The last hour, in memory."""

    size_max: RingSize = Field(4 << 30, description="Beyond it new subjects are refused.")


class TelemetryFile(_Table):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", title="Madang telemetry")

    keep: KeepFile = KeepFile()
    ring: RingFile = RingFile()


class TelemetryError(ValueError):
    """The file cannot be used; a line for each thing wrong with it."""


def read_telemetry(text: str) -> TelemetryFile:
    """The file's meaning.

    Raises:
        TelemetryError: each line says where, what was given and what is allowed.
    """
    if len(text.encode()) > FILE_BYTES_MAX:
        raise TelemetryError(f"it has more than {FILE_BYTES_MAX} bytes")
    try:
        return TelemetryFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as failure:
        raise TelemetryError(f"not TOML: {failure}") from failure
    except ValidationError as failure:
        lines = [worded(error, TelemetryFile, _TABLES) for error in failure.errors()]
        raise TelemetryError("\n".join(lines)) from None


_TABLES: dict[str, type[BaseModel]] = {"keep": KeepFile, "ring": RingFile}
