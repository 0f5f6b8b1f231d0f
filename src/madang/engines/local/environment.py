"""What a member finds in its environment: torchrun's variables, its devices, MADANG_*.

A member begins with an allow-listed part of the daemon's environment, so that no secret of the
daemon reaches it; then come the user's own variables; then what only the engine can know, which
wins, so that a job submitted from within a job does not inherit its rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from madang.core.model import Allocation
from madang.engines.base import Launch

ALLOWED = frozenset(
    """
    PATH HOME USER LOGNAME SHELL TERM TZ LANG LANGUAGE TMPDIR HOSTNAME
    LD_LIBRARY_PATH LIBRARY_PATH CPATH MANPATH PYTHONPATH PYTHONHOME
    VIRTUAL_ENV CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_EXE
    CUDA_HOME CUDA_PATH CUDA_MODULE_LOADING XDG_CACHE_HOME XDG_RUNTIME_DIR
    SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
    http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY
    """.split()  # noqa: SIM905 - forty names read better so
)
ALLOWED_PREFIXES = ("LC_", "NCCL_", "UCX_")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the engine knows and the launch does not. Paths are absolute."""

    base: Mapping[str, str]  # already cleaned
    sdk: str
    url: str
    directory: str  # of the allocation
    checkpoints: str
    master_port: int
    visible: tuple[str, ...]  # CUDA_VISIBLE_DEVICES of each rank


def cleaned(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of the daemon's environment that members may see."""
    return {
        name: value
        for name, value in environ.items()
        if name in ALLOWED or name.startswith(ALLOWED_PREFIXES)
    }


def shared_env(launch: Launch, around: Surroundings) -> dict[str, str]:
    """The variables that all ranks have in common."""
    allocation = launch.allocation
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", **around.base, **dict(launch.env)}
    env.setdefault("OMP_NUM_THREADS", str(max(1, allocation.shape.cpu_milli // 1000)))
    env.setdefault("PYTHONUNBUFFERED", "1")  # a log that follows is worth more than a faster print
    behind = env.get("PYTHONPATH", "")
    env["PYTHONPATH"] = f"{around.sdk}:{behind}" if behind else around.sdk
    env.update(
        WORLD_SIZE=str(len(allocation.seats)),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(around.master_port),
        CUDA_DEVICE_ORDER="PCI_BUS_ID",  # NVML's order, so that an index means the same to CUDA
        MADANG_JOB=allocation.job,
        MADANG_NAME=launch.name,
        MADANG_ALLOCATION=allocation.id,
        MADANG_ATTEMPT=str(allocation.attempt),
        MADANG_PROJECT=allocation.project,
        MADANG_CHECKPOINT_DIR=around.checkpoints,
        MADANG_STOP_FILE=f"{around.directory}/stop",
        MADANG_WARNING_FILE=f"{around.directory}/warning",
        MADANG_URL=around.url,
    )
    return env


def rank_env(allocation: Allocation, rank: int, around: Surroundings) -> dict[str, str]:
    """The variables that only this rank has."""
    seat = allocation.seats[rank]
    nodes = list(dict.fromkeys(other.node for other in allocation.seats))
    beside = [r for r, other in enumerate(allocation.seats) if other.node == seat.node]
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(beside.index(rank)),
        "LOCAL_WORLD_SIZE": str(len(beside)),
        "NODE_RANK": str(nodes.index(seat.node)),
        "GROUP_RANK": str(nodes.index(seat.node)),
        "CUDA_VISIBLE_DEVICES": around.visible[rank],
        "MADANG_RANK": str(rank),
        "MADANG_GPUS": ",".join(map(str, seat.gpus)),
        "MADANG_REPORT_FILE": f"{around.directory}/{rank}/reports.ndjson",
    }
