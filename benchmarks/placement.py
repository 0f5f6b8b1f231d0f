"""How fast the core places single members: `python -m benchmarks.placement`.

5,000 nodes of 8 GPUs. `seats`: one decision after the other on one pool, each taken at once, as a
turn makes them: `seat`, then `take`. `turns`: whole turns of the start pass, 4,096 jobs waiting,
queue, quotas and decisions included. Seconds of CPU time on one core. `--without-numba` measures
the NumPy twins; both place the same, which `digest` shows.
"""

import argparse
import json
import statistics
import sys
import time
from hashlib import sha256

import numpy as np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from madang.core.state import State

NODES = 5_000
GOAL_PER_S = 20_000
WARM = 2_000  # decisions before the clock starts: kernels loaded, a first mix learned
DECISIONS = 20_000
MIX = 128  # shapes of the mixed load
TURN_JOBS = 4_096
SEED = 7


def main() -> int:
    options = parsed()
    if options.without_numba:
        sys.modules["numba"] = None  # type: ignore[assignment]
    for name, shapes in loads().items():
        per_s, digest = [], ""
        for _ in range(options.repeats):
            rate, digest = seats_per_s(shapes)
            per_s.append(rate)
        report(f"seats, {name}", per_s, digest)
    rates = [turns_per_s(loads()["one shape"]) for _ in range(options.repeats)]
    report("turns, one shape", rates, "")
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--without-numba", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def report(name: str, per_s: list[float], digest: str) -> None:
    row = {"what": name, "per_s": round(statistics.median(per_s)), "goal_per_s": GOAL_PER_S}
    print(json.dumps({**row, "digest": digest[:12]} if digest else row), flush=True)


def loads() -> dict[str, list[tuple[int, int, int]]]:
    """(gpus, gpu_milli, cpus) by the name of the load."""
    draw = np.random.Generator(np.random.PCG64(SEED))
    shares = draw.choice((1000, 1000, 810, 650, 470, 320, 230, 160), MIX)
    cpus = draw.integers(2, 20, MIX)
    mixed = [(1, int(milli), int(cpu)) for milli, cpu in zip(shares, cpus, strict=True)]
    return {"one shape": [(1, 1000, 11)], f"{MIX} shapes": mixed}


def seats_per_s(shapes: list[tuple[int, int, int]]) -> tuple[float, str]:
    """Decisions a second, and a digest of all of them."""
    from madang.core.model import Job, Shape
    from madang.core.placement import Unplaced
    from madang.core.seating import seat

    state = yard()
    jobs = [
        Job(f"j{at}", at, "default", Shape(gpus, milli, cpus * 1000, cpus * 3500))
        for at, (gpus, milli, cpus) in enumerate(shapes)
    ]
    draw = np.random.Generator(np.random.PCG64(SEED))
    digest, began_s, spent_s = sha256(), 0.0, 0.0
    for at, index in enumerate(draw.integers(0, len(jobs), WARM + DECISIONS).tolist()):
        job = jobs[index]
        state.learn(Job(job.id, at, job.project, job.shape))
        snapshot = state.snapshot(0)
        began_s = time.process_time()
        seated = seat(snapshot, state.pool, job)
        if not isinstance(seated, Unplaced):
            state.pool.take(seated.places, seated.shape)
        if at >= WARM:
            spent_s += time.process_time() - began_s
        digest.update(repr(seated).encode())
    return DECISIONS / spent_s, digest.hexdigest()


def turns_per_s(shapes: list[tuple[int, int, int]]) -> float:
    """Placements a second of a turn that starts 4,096 jobs."""
    from madang.core.events import JobSubmitted
    from madang.core.model import Job, Shape
    from madang.core.plan import plan

    state = yard()
    gpus, milli, cpus = shapes[0]
    for seq in range(TURN_JOBS):
        shape = Shape(gpus, milli, cpus * 1000, cpus * 3500)
        state.apply(JobSubmitted(Job(f"j-{seq}", seq, "default", shape)), 0)
    plan(state.snapshot(1))  # kernels loaded
    began_s = time.process_time()
    decisions = plan(state.snapshot(1))
    return len(decisions) / (time.process_time() - began_s)


def yard() -> "State":
    from madang.core.events import NodeSeen, ProjectSet
    from madang.core.model import Node, Project
    from madang.core.state import State

    state = State()
    state.apply(ProjectSet(Project("default")), 0)
    for at in range(NODES):
        node = Node(f"n{at:04}", 8, 96_000, 384 * 1024, "H100", domains=("b0", f"l{at // 64}"))
        state.apply(NodeSeen(node), 0)
    return state


if __name__ == "__main__":
    sys.exit(main())
