"""batch/v1 Job: Indexed with completions == parallelism > 1 is a gang; else each pod is by itself.

`madang.io/gang: "true"` on the Job makes a gang of `parallelism` pods of any Job (before 1.21 there
is no completionMode), "false" of none. Source: Kubernetes 1.36, "Jobs" (completion mode, labels
`batch.kubernetes.io/job-completion-index`, since 1.21 as annotation, since 1.28 as label).
"""

from dataclasses import replace

from madang.engines.kubernetes.foreign.tops import (
    Kind,
    Object,
    Place,
    Top,
    conditions_of,
    finished_by,
    role_of,
    trimmed,
)
from madang.engines.kubernetes.reading import digits, mapping, pairs, text, truth, whole
from madang.engines.kubernetes.values import PodFacts

INDEX = "batch.kubernetes.io/job-completion-index"
GANG = "madang.io/gang"


def trim(of: Object) -> Top | None:
    """What the Job says of its pods."""
    return trimmed("Job", of, _read)


def _read(top: Top, of: Object) -> Top:
    spec = mapping(of, "spec")
    parallelism = whole(spec, "parallelism", default=1)
    indexed = text(spec, "completionMode") == "Indexed"
    asked = pairs(of, "metadata", "annotations").get(GANG, "")
    whole_at_once = indexed and whole(spec, "completions") == parallelism
    together = parallelism > 1 and (asked == "true" or (whole_at_once and asked != "false"))
    return replace(
        top,
        roles=(role_of("job", parallelism, mapping(spec, "template"), alone=not together),),
        suspended=truth(spec, "suspend"),
        finished=finished_by(conditions_of(of), "Complete", "Failed"),
    )


def place(pod: PodFacts, top: Top) -> Place:
    """By completion index."""
    return Place("job", completion_index(pod))


def completion_index(pod: PodFacts) -> int | None:
    """The pod's index in its Job, None if it has none."""
    return digits(pod.label(INDEX) or pod.annotation(INDEX))


KIND = Kind("Job", "batch", "Job", trim, place)
