"""What leaves the daemon: /metrics for who scrapes, remote write for who is sent to.

Without a telemetry-out.toml nothing is sent, and counting totals begins with the first scrape.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from madang.daemon.figures import daemon_figures
from madang.daemon.loop import TurnLoop
from madang.daemon.state_dir import StateDir, StateDirError
from madang.telemetry.out.blocks import Fact
from madang.telemetry.out.exposition import Sensors, Text
from madang.telemetry.out.figures import Figure, facts_of, gauge
from madang.telemetry.out.names import PREFIX
from madang.telemetry.out.settings import (
    Access,
    Destination,
    History,
    OutSettings,
    Scrape,
    Selection,
)
from madang.telemetry.out.totals import Totals
from madang.telemetry.store import Store
from madang.telemetry.taps import Taken

if TYPE_CHECKING:
    from madang.telemetry.out.promql import RemoteHistory
    from madang.telemetry.out.writer import Writer
    from madang.wire import telemetry_out as wire

OUT_FILE = "telemetry-out.toml"  # in the state directory
GROUPS_LIVE_S = 30.0


class Out:
    """`open` it before frames come in, `close` it after the last."""

    def __init__(self, loop: TurnLoop, store: Store, folder: Path, settings: OutSettings) -> None:
        """Raises:
        OSError: the queue's folder cannot be used.
        """
        self.settings = settings
        self._loop = loop
        self._store = store
        self._totals = Totals()
        self._groups: tuple[float, dict[str, str]] = (0.0, {})
        self._counts = False
        self._scraping = threading.Lock()
        self._history = _history(settings.history) if settings.history is not None else None
        if self._history is not None:
            store.remote = self._history.points
        self._sensors = Sensors(store.ring, self._totals, settings.scrape.gpus_max, self._group_of)
        self.writer = self._writer(folder) if settings.destinations else None

    def _writer(self, folder: Path) -> "Writer":
        from madang.telemetry.out.writer import Writer  # who sends nothing does not pay for it

        return Writer(folder, self.settings, self._totals, self._group_of, self._facts)

    def open(self) -> None:
        """Begin to send, if there is whom to."""
        if self.writer is not None:
            self._counts = True
            self.writer.open()
            self._store.taps.append(self.writer.take)

    def close(self) -> None:
        """Stop; what is not delivered stays on disk."""
        if self._history is not None:
            self._history.close()
        if self.writer is not None:
            self.writer.close()

    def scrape(self, *, open_metrics: bool) -> bytes:
        """The text of /metrics. Takes a second at 20,000 GPUs; one at a time."""
        with self._scraping:
            if not self._counts:
                self._counts = True
                self._store.taps.append(self._count)
            began_s = time.perf_counter()
            text = Text(open_metrics=open_metrics)
            text.figures(self._figures())
            self._sensors.write(text)
            took_s = time.perf_counter() - began_s
            words = "how long it took to write all above"
            text.figures([gauge("scrape_seconds", words, [((), took_s)], "seconds")])
            return text.done()

    def _figures(self) -> Iterable[Figure]:
        gpus_max = self.settings.scrape.gpus_max
        return daemon_figures(self._loop, self._store, self.writer, gpus_max)

    def _facts(self) -> list[Fact]:
        return facts_of(self._figures(), self._loop.clock())

    def _count(self, taken: Sequence[Taken]) -> None:
        self._totals.take(taken)

    def _group_of(self, node: str) -> str:
        """The machine group of a node; looked up anew now and then."""
        looked_s, groups = self._groups
        now_s = time.monotonic()
        if now_s - looked_s > GROUPS_LIVE_S or (node not in groups and now_s - looked_s > 1.0):
            nodes = self._loop.snapshot().nodes
            groups = {id: live.node.group for id, live in nodes.items()}
            self._groups = (now_s, groups)
        return groups.get(node, "")


def _history(settings: History) -> "RemoteHistory":
    from madang.telemetry.out.promql import RemoteHistory

    return RemoteHistory(settings)


def read_settings(given: str, state_dir: StateDir) -> OutSettings:
    """What --telemetry-out says, which is kept for the next start; else what was kept.

    Raises:
        StateDirError: the file cannot be read or used.
    """
    kept = state_dir.path / OUT_FILE
    path = Path(given) if given else kept
    if not given and not kept.exists():
        return OutSettings()
    from madang.wire.telemetry_out import TelemetryOutError, read_telemetry_out

    try:
        text = path.read_text()
        settings = settings_of(read_telemetry_out(text))
    except (OSError, UnicodeDecodeError) as failure:
        raise StateDirError(f"{path} cannot be read: {failure}") from failure
    except TelemetryOutError as failure:
        raise StateDirError(f"{path} does not say where telemetry goes:\n{failure}") from None
    if given:
        state_dir.write_text(OUT_FILE, text)
    return settings


def settings_of(stated: "wire.TelemetryOutFile") -> OutSettings:
    """The file's meaning as values."""
    labels = tuple(sorted(stated.labels.items()))
    scrape, history = stated.scrape, stated.history
    return OutSettings(
        labels=labels,
        queue_bytes_max=stated.queue.size_max,
        destinations=tuple(map(_destination, stated.destination)),
        scrape=Scrape(scrape.loopback_open, _path(scrape.token_file), scrape.gpus_max),
        history=History(history.url, _access(history), history.timeout, labels)
        if history is not None
        else None,
    )


def _destination(stated: "wire.DestinationFile") -> Destination:
    metrics = tuple(one.removeprefix(PREFIX) for one in stated.metrics)
    selection = Selection(metrics, tuple(stated.subjects), tuple(stated.groups))
    return Destination(
        name=stated.name,
        url=stated.url,
        selection=selection,
        minutes=stated.resolution == "1m",
        access=_access(stated),
        senders=stated.senders,
        samples_per_send=stated.samples_per_send,
        timeout_s=stated.timeout,
    )


def _access(stated: "wire.AccessFile") -> Access:
    return Access(
        _path(stated.token_file),
        stated.user,
        _path(stated.password_file),
        tuple(sorted(stated.headers.items())),
        _path(stated.ca_file),
    )


def _path(stated: str | None) -> Path | None:
    return Path(stated) if stated else None
