"""What one tick of a virtual fleet's sensors costs: python -m benchmarks.virtual_readings.

Every device is held, by gangs of eight nodes, of one node and of a quarter of one. `quiet` is a
tick in which nothing began or ended, `changed` one after something did (the arrays of who holds
what are made again), `columns` also goes through every column, as who makes frames must.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from madang.core.model import Allocation, AllocationState, Node, Seat, Shape
from madang.engines.base import Launch
from madang.engines.virtual import Fleet, FleetModel, Sensors, Times, readings_of, sample_of

TICKS = 20
Tick = Callable[[int], int]
LAST = tuple(range(8))


def full_fleet(nodes: int) -> FleetModel:
    """`nodes` nodes of eight H100, all held."""
    made = tuple(
        Node(f"h100-{at:05}", 8, 96_000, 2_000_000, "H100", gpu_memory_mib=81_559)
        for at in range(nodes)
    )
    model = FleetModel(Fleet(made, seed=5, times=Times(start_ms=(1, 1))), 0)
    names = [node.id for node in made]
    at = 0
    while at < nodes:
        turn = at // 8 % 4
        if turn < 2 and at + 8 <= nodes:
            _start(model, f"gang-{at}", [Seat(name, LAST) for name in names[at : at + 8]])
            at += 8
        elif turn == 2:
            _start(model, f"one-{at}", [Seat(names[at], LAST)])
            at += 1
        else:
            for part in range(4):
                _start(model, f"part-{at}-{part}", [Seat(names[at], (2 * part, 2 * part + 1))])
            at += 1
    model.advance(100)
    return model


def _start(model: FleetModel, job: str, seats: list[Seat]) -> None:
    shape = Shape(len(seats[0].gpus), cpu_milli=8_000, memory_mib=64_000)
    allocation = Allocation(
        f"{job}.1", job, "default", 1, shape, tuple(seats), AllocationState.BOUND, 0
    )
    env = (("MADANG_VIRTUAL_SECONDS", "864000"), ("MADANG_VIRTUAL_SAVES", "0"))
    model.start(Launch(allocation, job, "ada", ("train",), env))


def tick(sensors: Sensors, clock: Iterator[int], _: int) -> int:
    """Readings of the next tick."""
    return len(readings_of(sensors.look_on(next(clock))))


def tick_through_columns(sensors: Sensors, clock: Iterator[int], _: int) -> int:
    """The same, and how many values there are."""
    found = readings_of(sensors.look_on(next(clock)))
    return sum(len(column.keys) for one in found for column in one.columns)


def top(sensors: Sensors, _: int) -> int:
    """What `madang top` is given."""
    return len(sample_of(sensors.look(10**9)).nodes)


def took_ms(tick: Tick) -> tuple[float, float]:
    """(median, most) CPU ms of a tick; the machine may be busy with other work."""
    found = []
    for at in range(TICKS):
        began = time.process_time()
        tick(at)
        found.append((time.process_time() - began) * 1000)
    return statistics.median(found), max(found)


def main() -> int:
    """Print a table: median and most CPU ms of a tick."""
    print(f"{'devices':>9} {'quiet':>14} {'changed':>14} {'columns':>14} {'sample()':>14}  values")
    for nodes in (640, 12_800):
        model = full_fleet(nodes)
        sensors = Sensors(model)
        readings_of(sensors.look_on(1_000))
        gc.collect()
        gc.freeze()
        clock = iter(range(11_000, 10**9, 10_000))
        quiet = partial(tick, sensors, clock)
        columns = partial(tick_through_columns, sensors, clock)

        def changed(at: int, model: FleetModel = model, quiet: Tick = quiet) -> int:
            model.set_health(f"h100-{at:05}", 0, healthy=False)
            return quiet(at)

        values = columns(0)
        ticks: list[Tick] = [quiet, changed, columns, partial(top, sensors)]
        cells = [f"{median:6.1f} / {most:5.1f}" for median, most in map(took_ms, ticks)]
        print(f"{8 * nodes:>9,} {' '.join(f'{cell:>14}' for cell in cells)}  {values:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
