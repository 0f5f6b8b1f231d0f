"""Members in a container image: the command line of docker or podman.

The runtime's client is the member: its output, its exit code and its signals are the container's
(`--init` hands signals on and reaps). The container sees the allocation's directory, the
checkpoints and the SDK under the same paths as outside, so that the environment means the same. Its
client may be killed without it, so each launch carries a last command that removes the container.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RUNTIMES = ("docker", "podman")  # in order of preference

# Of the host's own: they would be wrong inside.
NOT_FOR_INSIDE = frozenset(
    """
    PATH HOME USER LOGNAME SHELL HOSTNAME TMPDIR LD_LIBRARY_PATH LIBRARY_PATH CPATH MANPATH
    PYTHONHOME VIRTUAL_ENV CONDA_PREFIX CONDA_DEFAULT_ENV CONDA_EXE XDG_CACHE_HOME
    XDG_RUNTIME_DIR CUDA_HOME CUDA_PATH SSL_CERT_FILE SSL_CERT_DIR
    """.split()  # noqa: SIM905 - as in environment.py
)


@dataclass(frozen=True, slots=True)
class Container:
    """One member's container. `mounts` are paths that it sees as they are; `gpus` NVML indices."""

    name: str
    image: str
    directory: str
    mounts: tuple[str, ...]
    gpus: tuple[str, ...]


def runtime() -> str:
    """The path of the runtime's client, or ""; a path, because users bring a PATH of their own."""
    return next(filter(None, map(shutil.which, RUNTIMES)), "")


def container_name(allocation: str, rank: int) -> str:
    return f"madang-{allocation}-{rank}"


def run_command(
    runtime: str, container: Container, env: Mapping[str, str], command: Sequence[str]
) -> list[str]:
    """Values of variables go by the client's own environment: they are not seen in a `ps`."""
    is_podman = os.path.basename(runtime) == "podman"
    argv = [runtime, "run", "--rm", "--init", "--name", container.name]
    # Ranks meet on the host's network, and torch's workers share memory.
    argv += ["--network", "host", "--ipc", "host", "--user", f"{os.getuid()}:{os.getgid()}"]
    argv += ["--workdir", container.directory]
    for path in container.mounts:
        argv += ["--mount", f"type=bind,source={path},target={path}"]
    if container.gpus and not is_podman:
        # The quotes are the option's own: it is parsed as CSV.
        argv += ["--gpus", f'"device={",".join(container.gpus)}"']
    for gpu in container.gpus if is_podman else ():
        argv += ["--device", f"nvidia.com/gpu={gpu}"]  # CDI
    for name in sorted(env):
        # The runtime renumbers the devices that it gives.
        if name not in NOT_FOR_INSIDE and name != "CUDA_VISIBLE_DEVICES":
            argv += ["--env", name]
    return [*argv, container.image, *command]


def remove_command(runtime: str, name: str) -> list[str]:
    return [runtime, "rm", "--force", name]


def exec_command(runtime: str, name: str, command: Sequence[str]) -> list[str]:
    """A command beside the member, at a terminal."""
    return [runtime, "exec", "--interactive", "--tty", name, *command]
