"""What everything that is carried out works with, and how much of it goes on at once."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from madang.engines.base import Launch
from madang.engines.kubernetes.binder import Binder
from madang.engines.kubernetes.claiming import Claimer
from madang.engines.kubernetes.client import Client, Object
from madang.engines.kubernetes.evicting import Evictor
from madang.engines.kubernetes.notes import Notes

AT_ONCE = 48  # requests on their way, bindings aside: they have a line of their own
AGAIN_S = 2.0  # what could not be done is tried again so much later

Made = Callable[[Launch], Sequence[Object]]  # what a job of our own needs, in the order of making


def _line() -> asyncio.Semaphore:
    return asyncio.Semaphore(AT_ONCE)


@dataclass(slots=True)
class Hands:
    """`held` is asked right before each write, `line` is stood in for each request."""

    client: Client
    binder: Binder
    evictor: Evictor
    notes: Notes
    held: Callable[[], bool]
    made: Made
    claimer: Claimer
    line: asyncio.Semaphore = field(default_factory=_line)
