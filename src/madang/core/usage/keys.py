"""What a row of the books is about, and the size classes that reports speak of.

Words in parentheses cannot be names of anything: `(any)` model, `(public)` zone.
"""

from dataclasses import dataclass, replace

from madang.core.model import WHOLE_GPU_MILLI, Job, Node

ANY = "(any)"
NONE = "(none)"
PUBLIC = "(public)"

# (least GPU-milli, name), ascending; a job belongs to the last whose least it reaches.
SIZES: tuple[tuple[int, str], ...] = (
    (0, "CPU only"),
    (1, "share"),
    (1_000, "1"),
    (1_001, "2-7"),
    (8_000, "8"),
    (8_001, "9-63"),
    (64_000, "64+"),
)
SIZE_NAMES = tuple(name for _, name in SIZES)


@dataclass(frozen=True, slots=True)
class Key:
    """Whom and what a row is about. A report groups by any of these fields."""

    model: str
    size: str
    project: str
    workspace: str
    zone: str
    provisioning: str
    category: str
    purpose: str
    owner: str


DIMENSIONS = tuple(Key.__dataclass_fields__)


def size_of(milli: int) -> str:
    """The size class of a job that asks for so many GPU-milli in all."""
    found = SIZES[0][1]
    for least, name in SIZES:
        if milli >= least:
            found = name
    return found


def waiting_key(job: Job, workspace: str) -> Key:
    """A job's key while nobody knows where it will sit."""
    models = (job.shape, *job.fallbacks)
    asked = sorted({model for shape in models for model in shape.models})
    return Key(
        model="|".join(asked) or (ANY if job.shape.gpus else NONE),
        size=size_of(job.milli),
        project=job.project,
        workspace=workspace,
        zone=job.zone or ANY,
        provisioning=job.provisioning.value,
        category=job.category.value,
        purpose=job.purpose.value,
        owner=job.owner,
    )


def seated_key(key: Key, node: Node) -> Key:
    """The same key for a member on this node. A member without GPUs has no model."""
    model = NONE if key.size == SIZE_NAMES[0] else node.model or NONE
    return replace(key, model=model, zone=node.zone or PUBLIC)


assert WHOLE_GPU_MILLI == 1000, "size classes count thousandths"
