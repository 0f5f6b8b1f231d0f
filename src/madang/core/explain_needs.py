"""The words about labels that nodes lack, and taints that keep a job off them."""

from madang.core.admission import Numbers
from madang.core.model import Job
from madang.core.needs import TOLERATES_ALL, demands_of, needs_text
from madang.core.snapshot import Snapshot

NEED_CODES = ("unmet_needs", "tainted")
SHOWN_MAX = 5
_LABEL = "label "


def needs_guide(numbers: Numbers) -> tuple[str, tuple[str, ...]]:
    """Why no node takes the job, and what would work."""
    n = dict(numbers)
    if "taints" in n:
        text = f"each of the {n['nodes']} nodes that could take it has a taint that it does not "
        return text + f"tolerate: {n['taints']}", ("tolerate it: --tolerate KEY=VALUE:EFFECT",)
    text = f"none of {n['nodes']} nodes is {n['asked']} (nodes that are, one by one: {n['alone']})"
    known = [(name.removeprefix(_LABEL), n[name]) for name in n if name.startswith(_LABEL)]
    tries = [
        f"{key} is {values}: choose one of these" if values else f"no node has a label {key}"
        for key, values in known
    ]
    return text, (*tries, "leave --need out, or change it")


def needs_words(snapshot: Snapshot, job: Job) -> str:
    """How many nodes the job's terms leave it, to be said after the figures; "" if all."""
    ground, total = snapshot.ground, snapshot.pool.nodes
    left = ground.count(demands_of(job))
    if left == total:
        return ""
    said = []
    labelled = ground.count((job.needs, TOLERATES_ALL))
    if labelled < total:
        said.append(f"{labelled} of {total} nodes are {needs_text(job.needs)}")
    if left < labelled:
        taints = ", ".join(
            f"{text} on {count}"
            for text, count in ground.taints_against(demands_of(job))[:SHOWN_MAX]
        )
        said.append(f"taints leave it {left} ({taints})")
    return "; ".join(said)
