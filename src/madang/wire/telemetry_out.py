"""What goes out, as operators write it: `madang up --telemetry-out FILE`, STATE/telemetry-out.toml.

    [queue]
    size_max = "4GiB"

    [labels]
    cluster = "yard-1"

    [[destination]]
    name = "hot"
    url = "http://vm-hot.example:8428/api/v1/write"

    [[destination]]
    name = "archive"
    url = "https://vm-archive.example/api/v1/write"
    metrics = ["gpu_util_percent", "node_*"]
    resolution = "1m"
    token_file = "/etc/madang/archive.token"

    [history]
    url = "http://vm-hot.example:8428"

Names of metrics are the canonical ones (docs/telemetry.md), with `*` and `?`. Unknown keys are
errors. Secrets are in files of their own and named here; none can be written here.
"""

import re
import tomllib
from pathlib import PurePath
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

FILE_BYTES_MAX = 1 << 20
DESTINATIONS_MAX = 16
NAME = r"^[a-z0-9]([a-z0-9_-]{0,46}[a-z0-9])?$"
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}")
OWN_LABELS = frozenset(
    {"node", "gpu", "group", "job", "allocation", "rank", "port", "report", "__name__", "le"}
)
HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(MiB|GiB|TiB|MB|GB|TB)")
_UNIT = {"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0}


def _bytes(value: Any) -> Any:
    found = _SIZE.fullmatch(str(value).strip())
    if found is None:
        raise ValueError(f"{value!r} is not a size; write 512MiB, 4GiB or 10GB")
    return int(float(found[1]) * _UNIT[found[2]])


def _seconds(value: Any) -> Any:
    found = _SECONDS.fullmatch(str(value).strip())
    if found is None:
        raise ValueError(f"{value!r} is not a time; write 500ms, 10s or 1m")
    return float(found[1]) * _UNIT_S[found[2]]


def _address(value: str) -> str:
    parts = urlsplit(value)
    if "@" in parts.netloc:
        raise ValueError("no secrets in an address: it is written to logs; use password_file")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is not an address; write http://HOST:PORT/PATH")
    if parts.fragment or any(letter.isspace() for letter in value):
        raise ValueError(f"{value!r} holds what no address may")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError(f"{value!r} has no port that there is: 1 to 65535") from None
    return value


def _absolute(value: str) -> str:
    if not PurePath(value).is_absolute():
        raise ValueError(f"{value!r} is not an absolute path; the daemon runs in / ")
    return value


Size = Annotated[int, BeforeValidator(_bytes), Field(ge=16 << 20, le=64 << 40)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0.1, le=600)]
Address = Annotated[str, Field(max_length=2_000), AfterValidator(_address)]
File = Annotated[str, Field(max_length=4_000), AfterValidator(_absolute)]
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/*?-]{1,64}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AccessFile(_Table):
    """How to get in, for destinations and history alike."""

    token_file: File | None = Field(None, description="Its first line is sent as a Bearer.")
    user: str = Field("", max_length=200, description="For Basic, with password_file.")
    password_file: File | None = None
    ca_file: File | None = Field(None, description="Who vouches for its TLS, besides the system.")
    headers: dict[str, str] = Field(default_factory=dict, max_length=16)

    @model_validator(mode="after")
    def _one_way_in(self) -> "AccessFile":
        if self.token_file and (self.user or self.password_file):
            raise ValueError("token_file and user exclude each other")
        if bool(self.user) != bool(self.password_file):
            raise ValueError("user and password_file go together")
        for name, value in self.headers.items():
            if not HEADER.fullmatch(name) or not value.isprintable():
                raise ValueError(f"{name!r} cannot be a header")
            if name.lower() in SECRET_HEADERS:
                raise ValueError(f"{name}: a secret belongs in a file: token_file, password_file")
        return self


class DestinationFile(AccessFile):
    """One receiver of remote write."""

    name: str = Field(pattern=NAME, description="Names its place in the queue: keep it.")
    url: Address = Field(description="VictoriaMetrics and Prometheus: …/api/v1/write")
    metrics: list[Pattern] = Field(default_factory=list, max_length=200, description="Empty: all.")
    subjects: list[Literal["gpu", "node", "member", "port"]] = Field(
        default_factory=list, description="Empty: all, and the daemon's own figures."
    )
    groups: list[Pattern] = Field(
        default_factory=list, max_length=200, description="Machine groups. Empty: all."
    )
    resolution: Literal["raw", "1m"] = Field("raw", description="1m: one sample a minute.")
    senders: int = Field(2, ge=1, le=16, description="Requests under way at once.")
    samples_per_send: int = Field(10_000, ge=100, le=100_000)
    timeout: Seconds = 30.0


class QueueFile(_Table):
    """The queue on disk, shared by all destinations."""

    size_max: Size = Field(4 << 30, description="Beyond it the oldest goes, and is counted.")


class ScrapeFile(_Table):
    """Who may read /metrics, besides holders of a token of this daemon."""

    loopback_open: bool = Field(
        False, description="Programs of this machine need no token. Not behind a proxy."
    )
    token_file: File | None = Field(None, description="A secret that opens /metrics and no more.")
    gpus_max: int = Field(
        20_000, ge=0, le=1_000_000, description="Beyond: nodes instead of single GPUs."
    )


class HistoryFile(AccessFile):
    """A remote store to ask for history: Prometheus' HTTP API."""

    url: Address = Field(description="Without /api/v1: http://vm.example:8428")
    timeout: Seconds = 10.0


class TelemetryOutFile(_Table):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", title="Madang telemetry out")

    queue: QueueFile = QueueFile()
    labels: dict[str, str] = Field(
        default_factory=dict, max_length=16, description="On every sample that is sent."
    )
    scrape: ScrapeFile = ScrapeFile()
    history: HistoryFile | None = None
    destination: list[DestinationFile] = Field(default_factory=list, max_length=DESTINATIONS_MAX)

    @model_validator(mode="after")
    def _names_are_free(self) -> "TelemetryOutFile":
        names = [one.name for one in self.destination]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two destinations are called {name!r}; each needs its own name")
        for label, value in self.labels.items():
            if not LABEL.fullmatch(label) or label in OWN_LABELS or label.startswith("__"):
                taken = ", ".join(sorted(OWN_LABELS))
                raise ValueError(f"{label!r} cannot be a label; these are taken: {taken}")
            if not value or len(value) > 200 or not value.isprintable():
                raise ValueError(f"the label {label} has no value that can be printed")
        return self


class TelemetryOutError(ValueError):
    """The file cannot be used; a line for each thing wrong with it."""


def read_telemetry_out(text: str) -> TelemetryOutFile:
    """The file's meaning.

    Raises:
        TelemetryOutError: each line says where, what was given and what is allowed.
    """
    if len(text.encode()) > FILE_BYTES_MAX:
        raise TelemetryOutError(f"it has more than {FILE_BYTES_MAX} bytes")
    try:
        return TelemetryOutFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as failure:
        raise TelemetryOutError(f"not TOML: {failure}") from failure
    except ValidationError as failure:
        raise TelemetryOutError("\n".join(map(_line, failure.errors()))) from None


def _line(error: Any) -> str:
    """`destination 2, url: 'vm:8428' is not an address; write http://HOST:PORT/PATH`."""
    words: list[str] = []
    for step in error["loc"]:
        if isinstance(step, int) and words:
            words[-1] = f"{words[-1]} {step + 1}"  # people count from one
        else:
            words.append(str(step))
    where = ", ".join(words)
    text = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        table = _TABLES.get(words[0].partition(" ")[0] if len(words) > 1 else "", TelemetryOutFile)
        text = f"there is no such key; there are: {', '.join(sorted(table.model_fields))}"
    return f"{where}: {text}" if where else text


_TABLES: dict[str, type[BaseModel]] = {
    "queue": QueueFile,
    "scrape": ScrapeFile,
    "history": HistoryFile,
    "destination": DestinationFile,
}
