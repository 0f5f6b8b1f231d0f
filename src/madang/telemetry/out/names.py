"""What our metrics are called outside: one place for /metrics, remote write, PromQL and docs.

A canonical metric keeps its name behind `madang_`, so that it is found in a dashboard by the word
one knows from the rules. Two things differ, because Prometheus' conventions ask for it: what counts
is a total since the start of whoever counts (`_total`), and a bit set is called a mask.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from madang.telemetry.metrics import METRICS, REPORT, Metric

PREFIX = "madang_"
REPORTS = "madang_report"  # one family for whatever jobs report; the label says which number
UNITS = ("percent", "mib", "w", "c", "mhz", "bytes")  # the last word of a name, where it is a unit


GroupOf = Callable[[str], str]  # a node's machine group; "" if it is not known


def no_group(node: str) -> str:
    """Nodes are of no group."""
    return ""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: `name` without `_total`; `form` is OpenMetrics' word for its type."""

    name: str
    form: str
    text: str
    unit: str = ""

    @property
    def sample(self) -> str:
        """What its samples are called."""
        return f"{self.name}_total" if self.form == "counter" else self.name


@lru_cache(maxsize=4096)
def family(metric: str) -> Family:
    """The family of a canonical metric, or of a number that a job reports (`report_NAME`).

    Raises:
        KeyError: there is no such metric.
    """
    if metric.startswith(REPORT):
        return Family(REPORTS, "gauge", "the newest of what jobs reported by madang.report")
    return family_of(METRICS[metric])


def family_of(metric: Metric) -> Family:
    """The family of a row of the table."""
    name, last = PREFIX + metric.name, metric.name.rpartition("_")[2]
    if metric.form == "bits":
        return Family(name.removesuffix("_bits") + "_mask", "gauge", metric.text)
    form = "counter" if metric.form == "count" else "gauge"
    return Family(name, form, metric.text, last if last in UNITS else "")


def exposed(metric: str) -> str:
    """What the samples of a canonical metric are called outside."""
    return family(metric).sample


def labels_of(metric: str, subject: str, key: str) -> Mapping[str, str]:
    """The labels besides `node` that name one series of a metric on a node."""
    match subject:
        case "gpu":
            return {"gpu": key}
        case "member":
            allocation, _, rank = key.rpartition("/")
            job = allocation.rpartition(".")[0]
            labels = {"job": job, "allocation": allocation, "rank": rank}
            if metric.startswith(REPORT):
                labels["report"] = metric.removeprefix(REPORT)
            return labels
        case "port":
            return {"port": key}
    return {}
