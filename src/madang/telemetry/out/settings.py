"""What an operator may say about what goes out, as values. The file's shape: wire.telemetry_out."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Selection:
    """Which samples a destination gets. Patterns are of shells (`gpu_*`); empty means all."""

    metrics: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def takes(self, metric: str, subject: str) -> bool:
        """`metric` by its canonical name, without `madang_`."""
        if self.subjects and subject not in self.subjects:
            return False
        return not self.metrics or any(fnmatchcase(metric, one) for one in self.metrics)

    def takes_group(self, group: str) -> bool:
        """Whether nodes of a machine group are meant."""
        return not self.groups or any(fnmatchcase(group, one) for one in self.groups)


@dataclass(frozen=True, slots=True)
class Access:
    """How one gets into another system. Secrets stay in their files and are read when needed."""

    token_file: Path | None = None  # sent as a Bearer
    user: str = ""
    password_file: Path | None = None
    headers: tuple[tuple[str, str], ...] = ()
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Destination:
    """One receiver of remote write. With `minutes` it gets one sample a minute and series: the mean
    of a gauge, the last total of a counter, all the bits of a mask.
    """

    name: str
    url: str
    selection: Selection = Selection()
    minutes: bool = False
    access: Access = Access()
    senders: int = 2
    samples_per_send: int = 10_000
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Scrape:
    """Who may read /metrics besides holders of a token, and up to how many GPUs one by one."""

    loopback_open: bool = False
    token_file: Path | None = None
    gpus_max: int = 20_000


@dataclass(frozen=True, slots=True)
class History:
    """A remote store that is asked for what the ring no longer has: Prometheus' HTTP API."""

    url: str
    access: Access = Access()
    timeout_s: float = 10.0
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class OutSettings:
    """All of it. `labels` go on every sample that is sent; `queue_bytes_max` bounds the disk."""

    labels: tuple[tuple[str, str], ...] = ()
    queue_bytes_max: int = 4096 * MIB
    figures_every_s: float = 15.0
    destinations: tuple[Destination, ...] = ()
    scrape: Scrape = Scrape()
    history: History | None = None
