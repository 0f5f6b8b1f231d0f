"""Classes of jobs: provisioning × category × purpose → priority, head start, who may be moved.

A class is decided by a table of rows that operators edit (docs/policies/tenancy.md). A row names
the values it is for on each axis (none: any) and states some of the fields; of each field the first
row from the top that fits and states it decides. Below the operator's stand `DEFAULT_ROWS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

from madang.core.model import Category, Provisioning, Purpose

_HOUR_MS = 3_600_000


class Preemptible(StrEnum):
    """Whether jobs of a class may be stopped for the sake of others."""

    NEVER = "never"
    CHECKPOINTED = "checkpointed"  # those that go on from checkpoints
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One row: which jobs it is for (an empty axis is any), and what it states (None: nothing)."""

    provisioning: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    purpose: tuple[str, ...] = ()
    priority: int | None = None
    preemptible: str | None = None
    head_start_ms: int | None = None
    run_ms_min: int | None = None
    grace_ms: int | None = None
    retries_max: int | None = None
    time_limit_ms: int | None = None

    def fits(self, provisioning: str, category: str, purpose: str) -> bool:
        """True iff the row is for such jobs."""
        return (
            (not self.provisioning or provisioning in self.provisioning)
            and (not self.category or category in self.category)
            and (not self.purpose or purpose in self.purpose)
        )


@dataclass(frozen=True, slots=True)
class JobClass:
    """What the table says of one class.

    A higher `priority` goes first and may displace a lower one. `head_start_ms` counts as time
    already waited. `run_ms_min` is how long nobody moves a job aside once it runs. The others are
    what a job gets that does not say: grace, retries, time limit (0: none).
    """

    priority: int
    preemptible: Preemptible
    head_start_ms: int
    run_ms_min: int
    grace_ms: int
    retries_max: int
    time_limit_ms: int


_STATED = tuple(field.name for field in fields(JobClass))

# After NAVER's NSML and MLXP: what is reserved comes before what is on demand, that before spot,
# and a service before those who work. Between classes of one priority a head start decides, so that
# nobody is shut out: a shell gets three hours on a training, no more.
DEFAULT_ROWS: tuple[ClassRow, ...] = (
    ClassRow(("reserved",), ("serving",), priority=50, preemptible="never", retries_max=3),
    ClassRow(("reserved",), priority=40, preemptible="never"),
    ClassRow(("on_demand",), ("serving",), priority=30, preemptible="never", retries_max=3),
    ClassRow(("on_demand",), priority=20, preemptible="checkpointed"),
    ClassRow(("spot",), priority=10, preemptible="always"),
    ClassRow(("reserved",), head_start_ms=8 * _HOUR_MS),
    ClassRow(category=("serving",), head_start_ms=6 * _HOUR_MS, grace_ms=60_000),
    ClassRow(category=("interactive",), head_start_ms=3 * _HOUR_MS, run_ms_min=1_800_000),
    ClassRow(purpose=("service", "qa"), head_start_ms=1 * _HOUR_MS),
    ClassRow(
        priority=0,
        preemptible="checkpointed",
        head_start_ms=0,
        run_ms_min=0,
        grace_ms=30_000,
        retries_max=0,
        time_limit_ms=0,
    ),
)


def class_of(
    rows: Sequence[ClassRow], provisioning: Provisioning, category: Category, purpose: Purpose
) -> JobClass:
    """What the table says of one class; `rows` are the operator's, above the default ones."""
    stated: dict[str, int | str] = {}
    for row in (*rows, *DEFAULT_ROWS):
        if row.fits(provisioning, category, purpose):
            for name in _STATED:
                value = getattr(row, name)
                if value is not None:
                    stated.setdefault(name, value)
    assert len(stated) == len(_STATED), f"the last row states every field: {stated}"
    return JobClass(
        priority=int(stated["priority"]),
        preemptible=Preemptible(str(stated["preemptible"])),
        head_start_ms=int(stated["head_start_ms"]),
        run_ms_min=int(stated["run_ms_min"]),
        grace_ms=int(stated["grace_ms"]),
        retries_max=int(stated["retries_max"]),
        time_limit_ms=int(stated["time_limit_ms"]),
    )


def head_start_ms_max(rows: Sequence[ClassRow]) -> int:
    """The longest head start that any class can have."""
    return max(row.head_start_ms or 0 for row in (*rows, *DEFAULT_ROWS))
