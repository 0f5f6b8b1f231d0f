"""What must be on disk before a member starts: directories, code, and the launch file.

`prepare` may be called twice for the same allocation (a daemon died in between): what is there is
kept, above all the launch file, whose port the members that run already have.
"""

import hashlib
import itertools
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import madang
from madang.engines.base import EngineError, Launch
from madang.engines.code_store import CodeError, CodeStore
from madang.engines.local import images
from madang.engines.local.environment import Surroundings, rank_env, shared_env
from madang.engines.local.places import Places
from madang.engines.local.unpack import unpack

# Below the range from which the kernel picks ports for outgoing connections (32768 and up), so that
# no connection takes a port between our test and the member's listen.
PORTS = range(20_000, 32_000)


def prepare(launch: Launch, places: Places, around: Surroundings, code: CodeStore) -> str:
    """Make it all; returns "" or a line for people that says why it cannot be."""
    allocation = launch.allocation
    try:
        work = places.work(allocation.id)
        if not work.is_dir():
            if launch.code:
                unpack(code.path(launch.code), work)
            else:
                work.mkdir(mode=0o700)
        os.makedirs(around.checkpoints, mode=0o700, exist_ok=True)
        path = places.launch(allocation.id)
        if not path.exists():
            text = launch_text(launch, work, around)
            fresh = path.with_suffix(".new")
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(fd, "w") as file:
                file.write(text)
            fresh.rename(path)
    except FileNotFoundError as error:
        if launch.code and not code.has(launch.code):
            return f"the code snapshot {launch.code} is not in the code store; submit the job again"
        return f"cannot prepare {allocation.id}: {error}"
    except CodeError as error:
        return f"cannot unpack the code snapshot {launch.code}: {error}"
    except (OSError, EngineError) as error:
        return f"cannot prepare {allocation.id}: {error}"
    return ""


LOG_BYTES_MAX = 256 << 20


def launch_text(launch: Launch, work: Path, around: Surroundings) -> str:
    """The launch file; see `shim.py` for its reader.

    Raises:
        EngineError: an image is asked for, and nothing here can run one.
    """
    env = shared_env(launch, around)
    ranks = {
        str(rank): _rank(launch, rank, work, around, env)
        for rank in range(len(launch.allocation.seats))
    }
    shape = {"directory": str(work), "log_bytes_max": LOG_BYTES_MAX, "env": env, "ranks": ranks}
    return json.dumps(shape)


def _rank(
    launch: Launch, rank: int, work: Path, around: Surroundings, env: dict[str, str]
) -> dict[str, object]:
    own = rank_env(launch.allocation, rank, around)
    if not launch.image:
        return {"env": own, "command": launch.command, "cleanup": [], "container": []}
    runtime = images.runtime()
    if not runtime:
        raise EngineError(
            f"the job asks for the image {launch.image!r}, and this machine has no container "
            f"runtime; install one of {', '.join(images.RUNTIMES)}, or submit without --image"
        )
    gpus = own["CUDA_VISIBLE_DEVICES"]
    container = images.Container(
        name=images.container_name(launch.allocation.id, rank),
        image=launch.image,
        directory=str(work),
        mounts=(around.directory, around.checkpoints, around.sdk),
        gpus=tuple(gpus.split(",")) if gpus else (),
    )
    return {
        "env": own,
        "command": images.run_command(runtime, container, {**env, **own}, launch.command),
        "cleanup": images.remove_command(runtime, container.name),
        "container": [runtime, container.name],
    }


class Ports:
    """Hands out free TCP ports, going round so that one is not given again soon."""

    def __init__(self) -> None:
        # Engines on one machine begin at different places.
        self._round: Iterator[int] = itertools.cycle(
            (*PORTS[os.getpid() % len(PORTS) :], *PORTS[: os.getpid() % len(PORTS)])
        )

    def free(self) -> int:
        """Raises EngineError when all are taken."""
        for port in itertools.islice(self._round, len(PORTS)):
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port
        raise EngineError(f"no free port between {PORTS.start} and {PORTS.stop - 1}")


_WIDEN = """

# Added by the local engine: this directory holds only the SDK, so the rest of an installed madang
# (its command line) is looked for where it is installed.
import os as _os  # noqa: E402
import sys as _sys  # noqa: E402

for _entry in _sys.path:
    _candidate = _os.path.join(_entry, "madang")
    if _candidate not in __path__ and _os.path.isdir(_candidate):
        __path__.append(_candidate)
"""


def sdk_directory(places: Places) -> Path:
    """A directory to put on PYTHONPATH: `import madang` gives the SDK, whatever else is installed.

    It is named by its content: members that started under an older version keep theirs.
    """
    files = sdk_files()
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
    target = places.sdk / digest
    if target.is_dir():
        return target
    fresh = places.sdk / f"{digest}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    for name, text in files.items():
        path = fresh / "madang" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    fresh.rename(target)
    return target


def sdk_files() -> dict[Path, str]:
    """The SDK, to be put below a directory called `madang`: path → text."""
    source = Path(madang.__file__).parent
    files = {Path("__init__.py"): (source / "__init__.py").read_text() + _WIDEN}
    for path in sorted((source / "client").rglob("*.py")):
        files[path.relative_to(source)] = path.read_text()
    return files
