"""How promises stand: what is opened, what is to be had, and what hardware cannot honour now.

A virtual cell that is not opened is *missing* when there are too few whole cells for all promises
of its level. It is *doomed* when that would be so even if no firm work stood in the way: devices
are ill or nodes out of service (HiveD's doomed-bad cells); else it is *occupied*, and comes free
as the work that was there before the promise ends.
"""

from dataclasses import dataclass

from madang.core.cells.book import CellBook
from madang.core.model import Project
from madang.core.snapshot import Snapshot

NODES_SHOWN_MAX = 8
JOBS_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Standing:
    """Virtual cells of one owner on one level of one chain.

    `promised` = `opened` + `ready` + `doomed` + `occupied`. `nodes` are those that are not wholly
    in service, `jobs` those that occupy cells; both are the first few, `*_more` how many follow.
    """

    owner: str
    group: str
    model: str
    level: str
    gpus: int
    promised: int
    opened: int
    ready: int
    doomed: int
    occupied: int
    nodes: tuple[str, ...] = ()
    nodes_more: int = 0
    jobs: tuple[str, ...] = ()
    jobs_more: int = 0


def standings(yard: Snapshot) -> tuple[Standing, ...]:
    """How every promise stands, by owner. O(nodes) where something is missing."""
    book = yard.cells
    if book is None:
        return ()
    healthy: CellBook | None = None
    found = []
    for (owner, at, level), promised in sorted(book.promised.items()):
        left = book.left[owner, at, level]
        missing = min(left, max(0, -book.slack(at, level)))
        doomed = 0
        if missing:
            healthy = healthy or _without_firm(book)
            doomed = min(missing, max(0, -healthy.slack(at, level)))
        chain = book.forest.chains[at]
        nodes = _out_of_service(yard, book, at) if doomed else []
        jobs = _in_the_way(yard, book, at) if missing > doomed else []
        found.append(
            Standing(
                owner,
                chain.group,
                chain.model,
                chain.levels[level],
                chain.sizes[level],
                promised,
                promised - left,
                left - missing,
                doomed,
                missing - doomed,
                tuple(nodes[:NODES_SHOWN_MAX]),
                max(0, len(nodes) - NODES_SHOWN_MAX),
                tuple(jobs[:JOBS_SHOWN_MAX]),
                max(0, len(jobs) - JOBS_SHOWN_MAX),
            )
        )
    return tuple(found)


def standings_of(yard: Snapshot, project: Project) -> tuple[Standing, ...]:
    """Those that a project's reserved jobs may claim from."""
    book = yard.cells
    owners = book.owners(project) if book is not None else ()
    return tuple([one for one in standings(yard) if one.owner in owners]) if owners else ()


def _without_firm(book: CellBook) -> CellBook:
    """The book as it would be with nobody but those in opened cells there."""
    healthy = book.scratch()
    healthy.firm[:] = 0
    healthy.host_cpu[:] = 0
    healthy.host_memory[:] = 0
    for row, usable in enumerate(healthy.usable.tolist()):
        healthy.serve(row, usable)
    return healthy


def _out_of_service(yard: Snapshot, book: CellBook, at: int) -> list[str]:
    return [
        yard.node_ids[row]
        for row in sorted(book.forest.chains[at].rows.tolist())
        if book.usable.item(row) != (1 << book.forest.gpus[row]) - 1
    ]


def _in_the_way(yard: Snapshot, book: CellBook, at: int) -> list[str]:
    """Jobs whose firm members stand on the chain's nodes in nobody's cell."""
    found: dict[str, None] = {}
    for allocation in yard.allocations.values():
        if allocation.cells or allocation.job in found:
            continue
        for rank, seat in enumerate(allocation.seats):
            row = yard.nodes[seat.node].row
            held = any(book.firm.item(row, gpu) for gpu in seat.gpus)
            if allocation.holds(rank) and held and book.forest.chain_of[row] == at:
                found[allocation.job] = None
                break
    return list(found)
