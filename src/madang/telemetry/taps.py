"""What the store hands on of each frame that it has taken."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madang.telemetry.frames import Frame


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """A frame as the store understood it: `at_ms` by the daemon's clock, `block` (V,) its values,
    one column after the other, NaN for what is not known or not believed.
    """

    frame: Frame
    at_ms: int
    block: NDArray[np.float32]


Tap = Callable[[Sequence[Taken]], None]
