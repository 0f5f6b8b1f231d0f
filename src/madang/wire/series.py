"""What the API answers about series, quantiles and who reports."""

from pydantic import BaseModel, Field


class MetricView(BaseModel):
    """A metric. `form` is gauge (a value at a moment), count (what was added) or bits (flags)."""

    name: str
    unit: str
    form: str
    subject: str
    text: str
    exact_quantiles: bool = Field(description="An integer percent: its quantiles are exact.")
    dcgm: list[str]


class MetricsView(BaseModel):
    """The table of metrics, and what running jobs report besides."""

    metrics: list[MetricView]
    reports: list[str]


class QuantilesOfDevice(BaseModel):
    """One device of an allocation."""

    node: str
    gpu: int
    count: int
    p5: float | None
    p25: float | None
    p50: float | None
    p75: float | None
    p95: float | None
    p99: float | None


class QuantilesView(BaseModel):
    """Quantiles since the allocation's start; null where nothing was read."""

    metric: str
    unit: str
    allocation: str
    exact: bool = Field(description="False: ranks are within 1 % of the count.")
    count: int
    p5: float | None
    p25: float | None
    p50: float | None
    p75: float | None
    p95: float | None
    p99: float | None
    per_gpu: list[QuantilesOfDevice] | None = None


class OneSeries(BaseModel):
    """The values of one subject, a value for each of the `times`; null: nothing is known."""

    key: str = Field(description="`node/gpu` of a GPU, else as its frames name it.")
    node: str
    gpu: int | None = None
    rank: int | None = None
    values: list[float | None]


class SeriesView(BaseModel):
    """`times` are the begins of the steps, in ms since 1970."""

    metric: str
    unit: str
    form: str
    how: str
    step_ms: int
    times: list[int]
    series: list[OneSeries]
    notice: str | None = Field(None, description="Why something that is known may be missing.")
    quantiles: QuantilesView | None = None


class RefusedFrame(BaseModel):
    """A frame that was not taken, and why."""

    node: str
    seq: int | None
    reason: str


class FramesTaken(BaseModel):
    """`taken` and `known` (they had come before) need not be sent again, nor `refused`.

    `refused_count` counts all, `refused` shows the first. The sender rests for `pause_ms`.
    """

    taken: int
    known: int
    refused_count: int
    refused: list[RefusedFrame]
    marks: list[str] = Field(description="What is wrong with frames that were taken.")
    pause_ms: int


class MarkView(BaseModel):
    """Something wrong with a node's frames: how often, when last, and in which words then."""

    kind: str
    count: int
    at_ms: int
    text: str


class ReporterView(BaseModel):
    """How a node reports. `dropped` are frames that its agent lost, as it says itself."""

    node: str
    seen_ms: int
    at_ms: int
    taken: int
    refused: int
    dropped: int
    clock_offset_ms: int
    marks: list[MarkView]


class TelemetryHealthView(BaseModel):
    """`samples` were taken since the daemon's start; `tick` is the newest complete one."""

    tick: int
    tick_ms: int
    taken: int
    refused: int
    samples: int
    marks: int
    trouble: str = Field(description="Why nothing can be kept; empty while all is well.")
    history_bytes: int
    nodes: list[ReporterView]


class SignalView(BaseModel):
    """Something that happened once, and whose job held the device then."""

    node: str
    at_ms: int
    kind: str
    code: int
    subject: str
    key: str
    text: str
    job: str
    allocation: str


class SignalsView(BaseModel):
    """Oldest first; the newest of them if there were more than `limit`."""

    signals: list[SignalView]
