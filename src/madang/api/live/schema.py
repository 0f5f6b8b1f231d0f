"""Which columns a page can watch, and what a byte of each stands for.

A client learns all of it from `hello`: it knows no metric by heart, and a field that is added here
appears in every page. A reading is `low + step * byte`; 255 says that nobody knows. Wider columns
(`job`) are planes: all lowest bytes first, then all next ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

MISSING = 255
TOP = 254  # the greatest byte that is a reading

# In the order of the page's legend. `repairing` is told by those who repair.
STATES = (
    "running",
    "idle",
    "starting",
    "free",
    "reserved",
    "draining",
    "repairing",
    "faulty",
    "lost",
)
STATE_CODE = {name: code for code, name in enumerate(STATES)}


@dataclass(frozen=True, slots=True)
class Field:
    """A column: one reading, or `width` bytes, of every device.

    `metric` is the canonical name in madang.telemetry.metrics ("": not a sensor's). `shown` is what
    stands for the two ends of a colour ramp. `words` names the codes of a column of codes.
    """

    id: int
    name: str
    text: str
    unit: str = ""
    metric: str = ""
    low: float = 0.0
    step: float = 1.0
    width: int = 1
    shown: tuple[float, float] = (0.0, 100.0)
    words: tuple[str, ...] = ()

    def view(self) -> dict[str, Any]:
        """As `hello` has it."""
        return {
            "id": self.id,
            "name": self.name,
            "text": self.text,
            "unit": self.unit,
            "metric": self.metric,
            "low": self.low,
            "step": self.step,
            "width": self.width,
            "missing": MISSING,
            "shown": list(self.shown),
            "words": list(self.words),
        }


FIELDS = (
    Field(0, "state", "state", words=STATES),
    Field(1, "job", "row of the table of jobs, counted from 1; 0 is none", width=3),
    Field(2, "idle", "held without use for", "min"),
    Field(3, "util", "utilization", "%", "gpu_util_percent"),
    Field(4, "memory", "memory in use", "%", "gpu_memory_used_percent"),
    Field(5, "temperature", "temperature", "°C", "gpu_temperature_c", shown=(30.0, 90.0)),
    Field(6, "power", "power, of its limit", "%", "gpu_power_percent"),
    Field(7, "sm", "SM active", "%", "gpu_sm_active_percent"),
    Field(8, "tensor", "tensor cores active", "%", "gpu_tensor_active_percent"),
    Field(9, "dram", "memory bandwidth in use", "%", "gpu_dram_active_percent"),
    Field(
        10,
        "memory_temperature",
        "memory temperature",
        "°C",
        "gpu_memory_temperature_c",
        shown=(30.0, 105.0),
    ),
)
BY_NAME = {field.name: field for field in FIELDS}
BY_ID = {field.id: field for field in FIELDS}
SENSORS = tuple(field for field in FIELDS if field.metric)
STATE, JOB, IDLE, UTIL = (BY_NAME[name] for name in ("state", "job", "idle", "util"))

# Tables are not columns of devices; their frames carry numbers of their own.
# NEWS names the jobs that the journal spoke of since the tick before; it is nothing as a whole.
NODES_TABLE, JOBS_TABLE, NEWS_TABLE = 250, 251, 252


def fields_of(names: Sequence[str]) -> tuple[int, ...]:
    """The ids of named fields, in the schema's order, each once.

    Raises:
        KeyError: there is no such field.
    """
    return tuple(sorted({BY_NAME[name].id for name in names}))


def quantised(field: Field, values: NDArray[np.float32]) -> Bytes:
    """(U,) readings as (U,) bytes; NaN is MISSING, what is out of range the nearest end."""
    scaled = np.rint((values - field.low) / field.step)
    known = ~np.isnan(scaled)
    out = np.full(len(values), MISSING, np.uint8)
    out[known] = np.clip(scaled[known], 0, TOP).astype(np.uint8)
    return out


def planes(numbers: NDArray[np.int32], width: int) -> Bytes:
    """(U,) numbers as (width * U,) bytes: the lowest bytes, then the next ones."""
    return np.concatenate(
        [(numbers >> (8 * plane) & 255).astype(np.uint8) for plane in range(width)]
    )
