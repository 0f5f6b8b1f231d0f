"""The recent mix of requests, learned as they arrive: what madang knows instead of the future.

Counts are integers per kind of request (gpus, gpu_milli, allowed models). When they reach
`MIX_REQUESTS_MAX` all are halved, so an old habit fades with a half-life of some thousand arrivals.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from madang.core.scoring._base import Shape

MIX_REQUESTS_MAX = 8192  # enough to see a kind of 1 in 1,000 several times; days, not months
MIX_KINDS_MAX = 1024  # bounds memory if every request is its own kind; the rarest are forgotten

Kind = tuple[int, int, int]


@dataclass(slots=True)
class Mix:
    """`observe` is the one mutating verb. gpu_milli, cpu and memory are sums over GPU requests."""

    requests: int = 0
    kinds: dict[Kind, int] = field(default_factory=dict)
    gpu_milli: int = 0
    cpu_milli: int = 0
    memory_mib: int = 0

    def observe(self, shape: Shape) -> None:
        self.requests += 1
        if shape.gpus:
            kind = (shape.gpus, shape.gpu_milli, shape.model_mask)
            self.kinds[kind] = self.kinds.get(kind, 0) + 2  # even, so that one halving keeps a 1
            self.gpu_milli += shape.total_milli
            self.cpu_milli += shape.cpu_milli
            self.memory_mib += shape.memory_mib
        if self.requests >= MIX_REQUESTS_MAX or len(self.kinds) > MIX_KINDS_MAX:
            self._halve()

    def _halve(self) -> None:
        self.requests //= 2
        self.gpu_milli //= 2
        self.cpu_milli //= 2
        self.memory_mib //= 2
        self.kinds = {kind: count // 2 for kind, count in self.kinds.items() if count > 1}

    def most_gpu(self, kinds_max: int) -> Iterator[tuple[Kind, int]]:
        """The kinds that ask for the most GPU, most first; ties by kind."""
        by_volume = sorted(
            self.kinds.items(), key=lambda item: (-item[1] * item[0][0] * item[0][1], item[0])
        )
        yield from by_volume[:kinds_max]
