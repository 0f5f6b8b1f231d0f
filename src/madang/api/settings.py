"""What an operator may set about the API, and its limits: each says what happens beyond it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on all that a client can make the daemon hold."""

    json_bytes_max: int = 2 * MIB  # beyond: 413
    batch_bytes_max: int = 32 * MIB  # 1,000 jobs with long commands; beyond: 413
    code_bytes_max: int = 1024 * MIB  # beyond: 413
    frames_bytes_max: int = 8 * MIB  # packed; hours of one node's frames; beyond: 413
    frames_waiting_max: int = 64  # bodies of frames waiting to be taken in; beyond: 503
    head_bytes_max: int = 64 * 1024  # request line and headers; beyond: 431
    head_wait_s: float = 10.0  # a request's head takes longer: the connection is closed
    body_wait_s: float = 30.0  # a body stands still for longer: 408
    idle_wait_s: float = 60.0  # a kept-alive connection without a request is closed
    stall_wait_s: float = 30.0  # a client that reads nothing for longer is cut off
    connections_max: int = 2_048  # beyond: the longest idle one makes room, else 503
    discard_bytes_max: int = 256 * MIB  # of a refused body, read so that the client sees the answer
    streams_max: int = 256  # event streams, and followed logs, each; beyond: 503
    live_max: int = 256  # pages that watch live columns; beyond: 503
    exec_max: int = 32  # terminals beside members; beyond: 503
    reads_waiting_max: int = 512  # queries waiting for a reader thread; beyond: 503
    login_links_max: int = 64  # unused links; beyond: the oldest is void


def nobody(_code: str, _pass: str) -> bool:
    """No member fetches its code from here."""
    return False


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """`host` and `port` are what the socket is bound to; `names` are further host names by which
    people reach it (a proxy's name, `gpu1.example.com` or `gpu1.example.com:8443`).

    `behind_tls`: people come by https, which a proxy before us ends; only who asks for a loopback
    name has come by a tunnel instead. /metrics is open to programs of this machine with
    `metrics_on_loopback`, and to who sends the secret in `metrics_token_file`. `web` is the built
    page's folder (None: the package's). `keep` is where the API may keep what pages replay (None:
    nothing is kept). `may_fetch` says whether a member that runs now may have a code snapshot, by
    the snapshot's digest and the SHA-256 of the member's pass.
    """

    host: str = "127.0.0.1"
    port: int = 7070
    names: tuple[str, ...] = ()
    cluster: str = ""
    behind_tls: bool = False
    metrics_on_loopback: bool = False
    metrics_token_file: Path | None = None
    web: Path | None = None
    keep: Path | None = None
    may_fetch: Callable[[str, str], bool] = nobody
    limits: Limits = Limits()
