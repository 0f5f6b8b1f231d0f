"""What the state holds of a live job and a live node."""

from dataclasses import dataclass, field

from madang.core.model import Job, Node, NodeState, Standing

QueueKey = tuple[int, ...]  # the policy's keys, then arrival and sequence: see keys.py
Lane = tuple[str, ...] | None  # the models that jobs wait for; () is any; None is no GPU


def lane_of(job: Job) -> Lane:
    """Jobs of one lane wait for the same devices; CPU-only jobs wait for none."""
    if not job.shape.gpus:
        return None
    if not job.fallbacks:
        return job.shape.models
    if not all(shape.models for shape in job.fallbacks) or not job.shape.models:
        return ()
    named = (*job.shape.models, *(model for shape in job.fallbacks for model in shape.models))
    return tuple(dict.fromkeys(named))


@dataclass(slots=True)
class Changed:
    """Ids of what changed since the ledger last took it, in the order of the first change."""

    jobs: dict[str, None] = field(default_factory=dict)
    allocations: dict[str, None] = field(default_factory=dict)
    nodes: dict[str, None] = field(default_factory=dict)
    projects: dict[str, None] = field(default_factory=dict)
    settings: dict[tuple[str, str], None] = field(default_factory=dict)


@dataclass(slots=True)
class LiveJob:
    """A job that has not ended, where it stands, and its newest allocation while that lives."""

    job: Job
    standing: Standing
    allocation: str | None = None


@dataclass(frozen=True, slots=True)
class LiveNode:
    """A node and its row in the pool. Rows are never reused.

    `cordoned` outlives the node's absence: a node that was lost comes back as cordoned as it went.
    `suspicion` grows with what speaks against it; 0 is a node in good health.
    """

    node: Node
    state: NodeState
    row: int
    cordoned: bool = False
    suspicion: int = 0
