"""A fleet that exists only in time: nodes, members, faults and sensors, all from one seed.

Jobs really pass time, end as their environment says, write logs and report a loss; nodes are lost
and come back. The simulator drives the same `FleetModel` by a virtual clock.
"""

from madang.engines.virtual.engine import VirtualEngine, open_fleet
from madang.engines.virtual.fleet import Faults, Fleet, Times, fleet_of
from madang.engines.virtual.model import FleetModel
from madang.engines.virtual.sensors import Sensors, readings_of, sample, sample_of

__all__ = [
    "Faults",
    "Fleet",
    "FleetModel",
    "Sensors",
    "Times",
    "VirtualEngine",
    "fleet_of",
    "open_fleet",
    "readings_of",
    "sample",
    "sample_of",
]
