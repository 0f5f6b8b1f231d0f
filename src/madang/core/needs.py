"""What a job needs its nodes to be, and what nodes will not have: labels, taints, tolerations.

The meaning is Kubernetes' node affinity and taints (KEP-382 and its reference): `needs` is an OR of
ANDs over node labels; a node with a taint takes only those who tolerate it. NO_SCHEDULE and
NO_EXECUTE keep new members out; what runs already is never moved for either of them.

Promises: what nobody uses costs nothing (`mask` is None); equal terms are worked out once until a
node changes; no set is iterated.
"""

from collections.abc import Iterable

import numpy as np

from madang.core.model import Job, Need, Node, Taint, Toleration
from madang.core.pool import Bools

IN, NOT_IN, EXISTS, ABSENT, GREATER, LESS = "in", "not_in", "exists", "absent", "gt", "lt"
HOWS = (IN, NOT_IN, EXISTS, ABSENT, GREATER, LESS)
NO_SCHEDULE, NO_EXECUTE = "NoSchedule", "NoExecute"
EFFECTS = (NO_SCHEDULE, NO_EXECUTE)
MASKS_MAX = 512  # beyond it all are worked out anew: as many different terms seldom wait at once

Demands = tuple[tuple[tuple[Need, ...], ...], tuple[Toleration, ...]]
NOTHING: Demands = ((), ())
TOLERATES_ALL = (Toleration(how=EXISTS),)


def demands_of(job: Job) -> Demands:
    """What the job says of nodes; equal for jobs that may use the same ones."""
    return job.needs, job.tolerates


class Ground:
    """What nodes say of themselves, by row of the pool, and who may use which. Kept by the fold."""

    def __init__(self) -> None:
        self._labels: list[tuple[tuple[str, str], ...]] = []
        self._taints: list[tuple[Taint, ...]] = []
        self._tainted = 0
        self._masks: dict[Demands, Bools] = {}

    def write(self, row: int, node: Node) -> None:
        """The node of a row is this one now."""
        while len(self._labels) <= row:
            self._labels.append(())
            self._taints.append(())
            self._masks.clear()
        if self._labels[row] == node.labels and self._taints[row] == node.taints:
            return
        self._tainted += bool(node.taints) - bool(self._taints[row])
        self._labels[row], self._taints[row] = node.labels, node.taints
        self._masks.clear()

    @property
    def is_plain(self) -> bool:
        """True iff no node has a taint: who needs nothing may use all."""
        return not self._tainted

    def mask(self, terms: Demands) -> Bools | None:
        """(N,) the rows that terms allow; None when all of them do. Read-only."""
        if not terms[0] and self.is_plain:
            return None
        found = self._masks.get(terms)
        if found is None:
            if len(self._masks) >= MASKS_MAX:
                self._masks.clear()
            found = self._masks[terms] = self._worked_out(terms)
        return found

    def _worked_out(self, terms: Demands) -> Bools:
        needs, tolerates = terms
        rows = zip(self._labels, self._taints, strict=True)
        mask = np.fromiter(
            (meets(labels, needs) and not unmet(taints, tolerates) for labels, taints in rows),
            np.bool_,
            len(self._labels),
        )
        mask.flags.writeable = False
        return mask

    def count(self, terms: Demands) -> int:
        """How many rows terms allow."""
        mask = self.mask(terms)
        return len(self._labels) if mask is None else int(mask.sum())

    def values_of(self, key: str) -> list[str]:
        """What nodes have for a label, ascending."""
        return sorted({value: None for row in self._labels for name, value in row if name == key})

    def taints_against(self, terms: Demands) -> list[tuple[str, int]]:
        """(taint, on how many nodes that the labels allow), the most frequent first."""
        labelled = self.mask((terms[0], TOLERATES_ALL))
        counts: dict[str, int] = {}
        for row, taints in enumerate(self._taints):
            if taints and (labelled is None or labelled.item(row)):
                for taint in unmet(taints, terms[1]):
                    counts[taint_text(taint)] = counts.get(taint_text(taint), 0) + 1
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    def parts(self, asked: Iterable[Demands]) -> dict[Demands, int]:
        """For each of these terms the bit set of the parts of the yard that it may use.

        Rows that are open to the same ones of them are one part. Where all are one, none is told
        from another: {}.
        """
        known = list(dict.fromkeys(asked))
        masks = {terms: self.mask(terms) for terms in known}
        if all(mask is None for mask in masks.values()):
            return {}
        signs = np.array(
            [np.ones(len(self._labels), np.bool_) if m is None else m for m in masks.values()]
        )
        kinds = np.unique(signs, axis=1)
        return {
            terms: sum(1 << part for part in np.flatnonzero(kinds[at]).tolist())
            for at, terms in enumerate(known)
        }

    def copy(self) -> "Ground":
        """One that shares nothing that changes."""
        other = Ground()
        other._labels, other._taints = list(self._labels), list(self._taints)
        other._tainted = self._tainted
        other._masks = dict(self._masks)
        return other


def need_text(need: Need) -> str:
    """As people write it in a job file."""
    values = ",".join(need.values)
    match need.how:
        case "in" | "not_in" if len(need.values) == 1:
            return f"{need.key}{'=' if need.how == IN else '!='}{values}"
        case "in" | "not_in":
            return f"{need.key} {need.how.replace('_', '')} ({values})"
        case "exists" | "absent":
            return f"{'!' * (need.how == ABSENT)}{need.key}"
        case _:
            return f"{need.key}{'>' if need.how == GREATER else '<'}{values}"


def needs_text(needs: tuple[tuple[Need, ...], ...]) -> str:
    """All alternatives, as people write them."""
    return " or ".join(", ".join(need_text(one) for one in all_of) for all_of in needs)


def taint_text(taint: Taint) -> str:
    """As people write it."""
    value = f"={taint.value}" if taint.value else ""
    return f"{taint.key}{value}:{taint.effect}"


def meets(labels: tuple[tuple[str, str], ...], needs: tuple[tuple[Need, ...], ...]) -> bool:
    """True iff one of the alternatives holds as a whole; without any, everything does."""
    if not needs:
        return True
    has = dict(labels)
    return any(all(_holds(has.get(need.key), need) for need in all_of) for all_of in needs)


def _holds(value: str | None, need: Need) -> bool:
    match need.how:
        case "in":
            return value is not None and value in need.values
        case "not_in":
            return value is None or value not in need.values
        case "exists":
            return value is not None
        case "absent":
            return value is None
        case "gt" | "lt":
            if value is None or not _is_whole(value) or not _is_whole(need.values[0]):
                return False
            ours, theirs = int(value), int(need.values[0])
            return ours > theirs if need.how == GREATER else ours < theirs
        case _:
            raise AssertionError(f"a need of no known kind: {need}")


def _is_whole(text: str) -> bool:
    digits = text[1:] if text[:1] == "-" else text
    return digits.isascii() and digits.isdigit() and len(digits) < 19


def unmet(taints: tuple[Taint, ...], tolerates: tuple[Toleration, ...]) -> tuple[Taint, ...]:
    """The taints that keep out who tolerates just these."""
    return tuple(
        taint
        for taint in taints
        if taint.effect in EFFECTS and not any(_tolerated(taint, one) for one in tolerates)
    )


def _tolerated(taint: Taint, by: Toleration) -> bool:
    if by.effect and by.effect != taint.effect:
        return False
    if by.key and by.key != taint.key:
        return False
    return by.how == EXISTS or (bool(by.key) and by.value == taint.value)
