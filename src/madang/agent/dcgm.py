"""GPUs by the page of a dcgm-exporter that runs already, in place of NVML.

What DCGM's names mean to us is in `telemetry/metrics.py`; here are only their units. Ratios of the
profiling fields (0 to 1) become percent, rates (bytes a second) become bytes since the last read,
and DCGM's own counters become increases. The label of the host is `Hostname` in newer exporters and
`hostname` in older ones. A MIG slice is named by `GPU_I_ID` and `GPU_I_PROFILE`.

Xids are told from here only if nobody reads the kernel's log, which knows the time of each. DCGM's
field holds the last Xid for ever: its change is an Xid, and one that comes again cannot be told by
it. DCGM_EXP_XID_ERRORS_COUNT (exporters since 2024, if their list of counters names it)
counts each Xid over a sliding window, by which those that come again are told, too.

Sources: NVIDIA/dcgm-exporter (etc/default-counters.csv, metric format, pull request 239), DCGM API
reference (field identifiers, blank values).
"""

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from madang.agent._base import Counters, Reading, Row, columns_of
from madang.agent.exposition import Sample, samples
from madang.agent.http import HttpError, Place, get
from madang.agent.kernel_log import short_address
from madang.telemetry.frames import Signal, Subject
from madang.telemetry.metrics import METRICS

_log = logging.getLogger(__name__)

PAGE_BYTES_MAX = 16 << 20
TIMEOUT_S = 5.0
BLANK_FROM = 2_147_483_632.0  # DCGM_INT32_BLANK and beyond, where no counter may be
BLANK64_FROM = 9.2e18  # DCGM_INT64_BLANK; DCGM_FP64_BLANK is far above
RATIOS = frozenset({"DCGM_FI_DEV_FB_USED_PERCENT"})  # besides DCGM_FI_PROF_*_ACTIVE
XID = "DCGM_FI_DEV_XID_ERRORS"
XID_COUNT = "DCGM_EXP_XID_ERRORS_COUNT"
XID_WINDOW_MS = 300_000  # where the label does not say it; the exporter's own default
FREE, USED = "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_USED"
FAILURE = "DCGM_FI_DEV_ROW_REMAP_FAILURE"
XIDS_COUNTED_MAX = 10_000
PROFILE = re.compile(r"[0-9a-z.+-]{1,24}", re.ASCII)
_BY_DCGM = {name: metric for metric in METRICS.values() for name in metric.dcgm}
_RATES = frozenset(name for name in _BY_DCGM if "_PROF_" in name and name.endswith("_BYTES"))


@dataclass(slots=True)
class _Gpu:
    """What the page says of one device, by DCGM's names."""

    fields: dict[str, float]
    pci: str = ""
    uuid: str = ""
    xids: dict[int, tuple[int, int]] = field(default_factory=dict)  # code → count, window in ms


class Dcgm:
    """`node`: the host whose lines count, if the page has those of several. `tells_xids`: asked at
    each read whether Xids are to be told from here."""

    name = "dcgm"

    def __init__(self, url: str, node: str, tells_xids: Callable[[], bool] = lambda: True) -> None:
        self._place = Place(url)
        self._node = node
        self._tells_xids = tells_xids
        self._counters = Counters()
        self._last_ms = 0
        self._xids: dict[str, int] = {}  # the last one
        self._seen_ms: dict[tuple[str, int], list[int]] = {}  # those within their window
        self._at: dict[str, str] = {}  # PCI address → key
        self._by_uuid: dict[str, int] = {}
        self._is_down = False

    def read(self, now_ms: int) -> Reading:
        try:
            page = get(self._place, TIMEOUT_S, PAGE_BYTES_MAX).decode("utf-8", "replace")
        except HttpError as error:
            if not self._is_down:
                _log.warning("no dcgm-exporter at %s: %s", self._place.url, error)
            self._is_down = True
            return Reading()
        if self._is_down:
            _log.info("the dcgm-exporter at %s is back", self._place.url)
            self._is_down = False
        return self.understood(page, now_ms)

    def understood(self, page: str, now_ms: int) -> Reading:
        """What the page says at `now_ms`."""
        self._counters.begin()
        passed_s = (now_ms - self._last_ms) / 1000 if self._last_ms else math.nan
        self._last_ms = now_ms
        gpus = _gpus(_of_node(list(samples(page, "DCGM_")), self._node))
        self._at = {gpu.pci: key for key, gpu in gpus.items() if gpu.pci and "/" not in key}
        self._by_uuid = {gpu.uuid: int(key) for key, gpu in gpus.items() if key.isdecimal()}
        rows = {key: self._row(key, gpu, passed_s) for key, gpu in gpus.items()}
        return Reading(columns_of(Subject.GPU, rows), tuple(self._signals(gpus, now_ms)))

    def _row(self, key: str, gpu: _Gpu, passed_s: float) -> Row:
        row: dict[str, float | None] = {}
        for metric in METRICS.values():
            told = [(name, gpu.fields[name]) for name in metric.dcgm if name in gpu.fields]
            if not told or metric.name == "gpu_remap_pending":
                continue
            if metric.form == "count" and told[0][0] not in _RATES:
                row[metric.name] = self._counters.grown((key, told[0][0]), told[0][1])
                for name, stands_at in told[1:]:  # kinds of errors, added up
                    grown = self._counters.grown((key, name), stands_at)
                    row[metric.name] = (row[metric.name] or 0.0) + grown
            elif metric.name == "gpu_remapped_rows":
                row[metric.name] = sum(value for _, value in told)
            else:
                name, value = told[0]
                row[metric.name] = _in_our_unit(name, value, passed_s)
        _add_memory(gpu, row)
        _add_remapping(gpu, row)
        return row

    def _signals(self, gpus: dict[str, _Gpu], now_ms: int) -> Iterable[Signal]:
        for key, gpu in gpus.items():
            code = int(gpu.fields.get(XID, 0))
            before = self._xids.get(key)
            self._xids[key] = code
            found = {code: 1} if code and before is not None and code != before else {}
            for counted, (count, window_ms) in gpu.xids.items():
                new = self._new((key, counted), count, now_ms, window_ms)
                found[counted] = new if before is not None else 0
            for told, times in found.items():
                if told not in gpu.xids:  # if it is counted from now on, this one is known
                    self._seen_ms[key, told] = [now_ms]
                if times and self._tells_xids():
                    where = f" (PCI:{gpu.pci})" if gpu.pci else ""
                    again = f", {times} times" if times > 1 else ""
                    text = f"Xid{where}: {told}{again}, by DCGM; when is not known to it"
                    yield Signal(now_ms, "xid", told, Subject.GPU, key, text)

    def _new(self, which: tuple[str, int], count: int, now_ms: int, window_ms: int) -> int:
        """How many of the window's Xids were not seen before; never too many. One that comes as
        another leaves the window is seen once that one has left it here, too.
        """
        seen = [at for at in self._seen_ms.get(which, []) if at > now_ms - window_ms]
        seen = seen[max(0, len(seen) - count) :]  # fewer than seen: the oldest have left already
        new = min(count - len(seen), XIDS_COUNTED_MAX)
        self._seen_ms[which] = [*seen, *[now_ms] * new]
        return new

    def gpu_at(self, pci: str) -> str | None:
        """The key of the device at this PCI address, as far as the page tells it."""
        return self._at.get(pci)

    def gpu_of(self, uuid: str) -> int | None:
        """The number of the device of this UUID, as far as the page tells it (no MIG devices)."""
        return self._by_uuid.get(uuid)

    def close(self) -> None:
        """Nothing is held."""


def _of_node(found: list[Sample], node: str) -> list[Sample]:
    """The lines of this host; all of them if the page has one host only, whatever its name."""
    hosts = {_host(one) for one in found} - {""}
    if len(hosts) <= 1:
        return found
    names = {node, node.partition(".")[0]}
    return [one for one in found if _host(one) in names or _host(one).partition(".")[0] in names]


def _host(one: Sample) -> str:
    return one.labels.get("Hostname") or one.labels.get("hostname") or ""


def _gpus(found: Iterable[Sample]) -> dict[str, _Gpu]:
    gpus: dict[str, _Gpu] = {}
    for one in found:
        gpu = one.labels.get("gpu", "")
        if not gpu.isdecimal() or not _is_told(one):
            continue
        key = _key(one.labels)
        row = gpus.setdefault(key, _Gpu({}))
        row.uuid = row.uuid or one.labels.get("UUID", "")
        row.pci = row.pci or _address(one.labels.get("pci_bus_id", ""))
        if one.name == XID_COUNT:
            _add_xids(row, one)
        else:
            row.fields[one.name] = one.value
    by_number = sorted(gpus.items(), key=lambda pair: [int(n) for n in pair[0].split("/")[:2]])
    return dict(by_number)


def _key(labels: Mapping[str, str]) -> str:
    gpu, instance = labels["gpu"], labels.get("GPU_I_ID", "")
    profile = labels.get("GPU_I_PROFILE", "")
    if not instance.isdecimal():
        return gpu
    return f"{gpu}/{instance}/{profile}" if PROFILE.fullmatch(profile) else f"{gpu}/{instance}"


def _add_xids(gpu: _Gpu, one: Sample) -> None:
    code, window = one.labels.get("xid", ""), one.labels.get("window_size_in_ms", "")
    if code.isdecimal() and int(code) and one.value >= 0:
        window_ms = int(window) if window.isdecimal() else XID_WINDOW_MS
        gpu.xids[int(code)] = int(one.value), window_ms


def _address(pci: str) -> str:
    try:
        return short_address(pci) if pci else ""
    except ValueError:
        return ""


def _is_told(one: Sample) -> bool:
    """Not one of the values by which DCGM says that it has none."""
    if not math.isfinite(one.value) or abs(one.value) >= BLANK64_FROM:
        return False
    metric = _BY_DCGM.get(one.name)
    is_gauge = metric is None or metric.form != "count"
    return not (is_gauge and one.value >= BLANK_FROM)


def _in_our_unit(name: str, value: float, passed_s: float) -> float:
    if name in _RATES:
        return value * passed_s  # NaN at the first read
    if name in RATIOS or ("_PROF_" in name and name.endswith("_ACTIVE")):
        percent = 100 * value
        return float(round(percent)) if name in RATIOS else percent
    return value


def _add_memory(gpu: _Gpu, row: dict[str, float | None]) -> None:
    used, free = gpu.fields.get(USED), gpu.fields.get(FREE)
    if "gpu_memory_used_percent" not in row and used is not None and free is not None:
        row["gpu_memory_used_percent"] = round(100 * used / (used + free)) if used + free else None


def _add_remapping(gpu: _Gpu, row: dict[str, float | None]) -> None:
    names = METRICS["gpu_remap_pending"].dcgm
    told = {name: gpu.fields[name] for name in names if name in gpu.fields}
    if told:
        row["gpu_remap_pending"] = 2 if told.get(FAILURE) else int(any(told.values()))
