"""`madang up --engine kubernetes`: the engine, made of what was said and what is here."""

import os
import secrets
import socket
import sys
from functools import partial
from typing import Protocol

from madang.daemon.state_dir import StateDir
from madang.engines.base import Engine, EngineError, Launch
from madang.engines.kubernetes.config import ConfigError, find
from madang.engines.kubernetes.dra import GPU_DRIVER
from madang.engines.kubernetes.engine import KubernetesEngine, Settings
from madang.engines.kubernetes.leading import Candidate
from madang.engines.kubernetes.manifests import Object, Placing, objects_of, passes
from madang.engines.kubernetes.manifests import Settings as PodSettings
from madang.engines.kubernetes.values import SCHEDULER

# The engine's thread gives the interpreter away with each small read and write; by Python's default
# it waits up to 5 ms, per request, for a turn that computes.
SWITCH_S = 0.0005
LEASE_S_DEFAULT = 15.0
LEASE_S_LEAST = 1.0


class Options(Protocol):
    """What of `madang up` concerns it."""

    @property
    def kubeconfig(self) -> str: ...
    @property
    def in_cluster(self) -> bool: ...
    @property
    def namespace(self) -> str: ...
    @property
    def scheduler_name(self) -> str: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def topology(self) -> str: ...


def kubernetes_engine(options: Options, state_dir: StateDir, url: str) -> Engine:
    """Not open yet, and not leading.

    Raises:
        EngineError: the configuration cannot be used.
    """
    try:
        access = find(options.kubeconfig, options.in_cluster)
    except ConfigError as failure:
        raise EngineError(str(failure)) from failure
    sys.setswitchinterval(SWITCH_S)
    words: tuple[str, ...] = ()
    if options.in_cluster:
        words = ("--in-cluster",)
    elif options.kubeconfig:
        words = ("--kubeconfig", options.kubeconfig)
    pod = os.environ.get("POD_NAME", "")
    namespace = options.namespace or access.namespace
    jobs = os.environ.get("MADANG_JOBS_NAMESPACE", "") or namespace
    scheduler = options.scheduler_name or SCHEDULER
    pods = PodSettings(
        image=os.environ.get("MADANG_IMAGE", ""),
        url=f"http://{options.names[0]}" if options.names else url,
        code_token=passes(),
        namespace_of=lambda project: jobs,
        scheduler=scheduler,
        checkpoints=os.environ.get("MADANG_CHECKPOINTS_CLAIM", ""),
        device_class=os.environ.get("MADANG_DEVICE_CLASS", ""),
    )
    settings = Settings(
        access=access,
        folder=state_dir.path / "kubernetes",
        made=partial(_made, pods),
        namespace=namespace,
        jobs=jobs,
        scheduler=scheduler,
        words=words,
        candidate=Candidate(
            f"{pod or socket.gethostname()}-{secrets.token_hex(4)}",
            pod,
            lease_s=lease_s(os.environ.get("MADANG_LEASE_S", "")),
        ),
        has_tree=bool(options.topology),
        driver=os.environ.get("MADANG_DEVICE_DRIVER", "") or GPU_DRIVER,
    )
    return KubernetesEngine(settings)


def _made(settings: PodSettings, launch: Launch) -> tuple[Object, ...]:
    placing = Placing(launch.needs, launch.tolerates, -(-launch.grace_ms // 1000))
    return objects_of(launch, settings, placing)


def lease_s(said: str) -> float:
    """How long a leader that was not heard of is waited for.

    Raises:
        EngineError: it is no number of seconds.
    """
    try:
        value = float(said) if said else LEASE_S_DEFAULT
    except ValueError:
        value = 0.0
    if not LEASE_S_LEAST <= value <= 3600:
        raise EngineError(f"MADANG_LEASE_S is {said!r}; it is from {LEASE_S_LEAST:g} to 3600 s")
    return value
