"""`madang up`: put the rooms together, open the door, and turn until told to stop.

Order matters: the state directory is locked first, the socket is bound before anything is promised,
and the loop has adopted what runs before the first request is answered. SIGTERM and SIGINT end it
in order, whenever they come. A terminal is told in a few lines where to go and how to stop; after
that, and in a file, there are log lines only: warnings, or more with MADANG_LOG=info.
"""

import gc
import getpass
import hashlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from madang import __version__
from madang.core.events import Fact, PolicySet, ProjectSet, TopologySet
from madang.core.model import Project
from madang.core.policies import MADANG, policy_of
from madang.core.policy import Policy
from madang.daemon.clock import WallClock
from madang.daemon.compiling import Compiling
from madang.daemon.loop import TurnLoop
from madang.daemon.measuring import Measurer
from madang.daemon.rules import Wardens
from madang.daemon.standing_by import stand_by
from madang.daemon.state_dir import StateDir, StateDirError, open_state_dir
from madang.daemon.telemetry import Watch, store_settings
from madang.daemon.telemetry_out import Out, read_settings
from madang.daemon.telling import Teller
from madang.daemon.yard import DaemonYard
from madang.engines.base import Engine, EngineError
from madang.engines.code_store import CodeStore
from madang.ledger import Ledger, LedgerError, open_ledger
from madang.telemetry.store import Store
from madang.wire.access import Role

if TYPE_CHECKING:
    from madang.agent.gather import Gather

log = logging.getLogger("madang.daemon")

DEFAULT_PROJECT = Project("default")
TOKEN_BYTES = 32
POLICY_FILE = "policy.toml"  # in the state directory
# A backlog makes hundreds of thousands of values that stay: to look at the young ones after every
# 700 of them, and at all after few such looks, finds nothing and costs each turn.
GC_THRESHOLDS = (20_000, 20, 20)
LOG_LEVELS = ("debug", "info", "warning", "error")


class Options(Protocol):
    """What `madang up` was told. Empty words and 0 devices mean that nothing was said."""

    @property
    def state(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def devices(self) -> int: ...
    @property
    def fleet(self) -> str: ...
    @property
    def database(self) -> str: ...
    @property
    def policy(self) -> str: ...
    @property
    def topology(self) -> str: ...
    @property
    def telemetry(self) -> str: ...
    @property
    def telemetry_out(self) -> str: ...
    @property
    def engine(self) -> str: ...
    @property
    def kubeconfig(self) -> str: ...
    @property
    def in_cluster(self) -> bool: ...
    @property
    def namespace(self) -> str: ...
    @property
    def scheduler_name(self) -> str: ...


class _Leave(BaseException):
    """A signal has told the daemon to stop."""


def run_daemon(options: Options) -> int:
    """Run until SIGTERM or SIGINT. Returns an exit code; failures are worded on standard error."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        _begin_log(os.environ.get("MADANG_LOG", ""))
        Compiling().begin()
        return _run(options)
    except _Leave:
        return 0


def _leave(number: int, frame: FrameType | None) -> None:
    raise _Leave


def _begin_log(level: str) -> None:
    level = level.lower() if level.lower() in LOG_LEVELS else "warning"
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(level=level.upper(), format=form)
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)
    if level == "warning" and not sys.stdout.isatty():
        log.setLevel(logging.INFO)  # a file's reader wants to know when it started and stopped


def _run(options: Options) -> int:
    try:
        state_dir = open_state_dir(Path(options.state))
    except StateDirError as failure:
        return _fail(failure)
    try:
        with _bound_socket(options.host, options.port) as door:
            code = CodeStore(_code_folder(state_dir))
            url = _url_of(door)
            engine = _engine(options, state_dir, code, url)
            stand_by(engine, door)
            ledger = open_ledger(options.database or state_dir.database_url)
            loop = TurnLoop(
                ledger,
                engine,
                WallClock(),
                holder=f"{socket.gethostname()}:{os.getpid()}",
                on_failure=lambda: os.kill(os.getpid(), signal.SIGTERM),
            )
            telemetry = state_dir.path / "telemetry"
            store = Store(telemetry, store_settings(options.telemetry, state_dir, engine))
            out = _out(options, state_dir, loop, store)
            keep = partial(state_dir.write_text, POLICY_FILE)
            yard = DaemonYard(loop, code, url, store, keep, out)
            rules = [PolicySet(_policy(options, state_dir)), *_topology(options)]
            return _serve(yard, state_dir, door, rules, options.names)
    except (LedgerError, EngineError, StateDirError) as failure:
        return _fail(failure)
    finally:
        state_dir.close()


def _code_folder(state_dir: StateDir) -> Path:
    """Where code snapshots are; replicas of one yard name one folder that all of them write."""
    named = os.environ.get("MADANG_CODE", "")
    return Path(named) if named else state_dir.path / "code"


def _out(options: Options, state_dir: StateDir, loop: TurnLoop, store: Store) -> Out:
    """What goes out of the daemon, and where to.

    Raises:
        StateDirError: it cannot be as it is written, or its queue cannot be opened.
    """
    settings = read_settings(options.telemetry_out, state_dir)
    folder = store.path / "out"
    try:
        return Out(loop, store, folder, settings)
    except OSError as failure:
        raise StateDirError(f"the queue in {folder} cannot be opened: {failure}") from failure


def _fail(failure: Exception) -> int:
    print(f"error: {failure}", file=sys.stderr)
    return 1


def _bound_socket(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.socket(family, socket.SOCK_STREAM)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
    except OSError as failure:
        door.close()
        raise StateDirError(
            f"cannot listen on {host}:{port}: {failure.strerror}; choose another with --port"
        ) from failure
    return door


def _engine(options: Options, state_dir: StateDir, code: CodeStore, url: str) -> Engine:
    if options.fleet:
        from madang.engines.virtual import open_fleet

        return open_fleet(_read_fleet(Path(options.fleet)), state_dir.path)
    if options.engine == "kubernetes":
        from madang.daemon.kubernetes import kubernetes_engine

        return kubernetes_engine(options, state_dir, url)
    from madang.engines.local.engine import LocalEngine

    engine = LocalEngine(state_dir.path, code, devices=options.devices or None)
    engine.url = url
    return engine


def _sensors(engine: Engine, state_dir: StateDir) -> "Callable[[], Gather] | None":
    """Who reads this machine, if the engine runs members on it; called after the start."""
    uuids = getattr(engine, "gpu_uuids", None)
    if uuids is None:
        return None

    def opened() -> "Gather":
        from madang.agent.gather import Gather
        from madang.agent.loop import node_readers

        cursor = state_dir.path / "telemetry" / "kernel-log"
        return Gather(node_readers(cursor=cursor, gpu_uuids=uuids))

    return opened


def _read_fleet(path: Path) -> dict[str, Any]:
    import yaml
    from pydantic import ValidationError

    from madang.wire.fleet import FleetFile

    try:
        return FleetFile.model_validate(yaml.safe_load(path.read_text())).model_dump()
    except OSError as failure:
        raise StateDirError(f"--fleet: {path} cannot be read: {failure.strerror}") from failure
    except (yaml.YAMLError, ValidationError) as failure:
        raise StateDirError(f"--fleet: {path} is not a fleet file: {failure}") from failure


def _policy(options: Options, state_dir: StateDir) -> Policy:
    """The policy to begin with: that of --policy, else the one kept last, else ours.

    Raises:
        StateDirError: the file cannot be read or used.
    """
    kept = state_dir.path / POLICY_FILE
    path = Path(options.policy) if options.policy else kept
    if not options.policy and not kept.exists():
        return MADANG
    from madang.wire.policy import PolicyError, read_policy

    try:
        text = path.read_text()
        policy = policy_of(read_policy(text).stated())
    except (OSError, UnicodeDecodeError) as failure:
        raise StateDirError(f"the policy {path} cannot be read: {failure}") from failure
    except PolicyError as failure:
        raise StateDirError(f"{path} is not a policy:\n{failure}") from failure
    if options.policy:
        state_dir.write_text(POLICY_FILE, text)
    return policy


def _topology(options: Options) -> list[Fact]:
    """The network tree of --topology, which then outlives this start; nothing without it.

    Raises:
        StateDirError: the file cannot be read or used.
    """
    if not options.topology:
        return []
    import yaml

    from madang.api.routes.topology import topology_of
    from madang.core.hypernodes import flaws
    from madang.wire import topology as wire

    try:
        documents = list(yaml.safe_load_all(Path(options.topology).read_text()))
        declared = topology_of(wire.topology_of(documents))
    except (OSError, UnicodeDecodeError) as failure:
        raise StateDirError(f"--topology: {options.topology}: {failure}") from failure
    except (yaml.YAMLError, wire.TopologyError) as failure:
        raise StateDirError(f"{options.topology} is not a topology:\n{failure}") from failure
    if wrong := flaws(declared):
        raise StateDirError(f"{options.topology} is not a tree:\n" + "\n".join(wrong))
    return [TopologySet(declared)]


def _url_of(door: socket.socket) -> str:
    """By what programs of this machine reach it; nobody is reached at "every address"."""
    host, port = door.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _serve(
    yard: DaemonYard,
    state_dir: StateDir,
    door: socket.socket,
    rules: list[Fact],
    names: tuple[str, ...],
) -> int:
    from madang.api import ApiSettings, create_app, make_server
    from madang.api.settings import nobody

    host, port = door.getsockname()[:2]
    scrape = yard.out.settings.scrape
    settings = ApiSettings(
        host=host,
        port=port,
        names=names,
        keep=state_dir.path / "live",
        metrics_on_loopback=scrape.loopback_open,
        metrics_token_file=scrape.token_file,
        may_fetch=getattr(yard.loop.engine, "may_fetch", nobody),
    )
    app = create_app(yard, settings)
    server = make_server(app, settings, partial(_ready, yard, state_dir, app.state.login_link))
    yard.loop.open([*rules, *_first_facts(yard.ledger)])
    measurer = Measurer(yard.loop)
    measurer.open()
    yard.out.open()
    watch = Watch(yard.loop, yard.telemetry, _sensors(yard.loop.engine, state_dir))
    watch.open()
    wardens = Wardens(yard.loop, yard.telemetry)
    wardens.open()
    teller = Teller(yard.loop)
    teller.open()
    try:
        _let_the_owner_in(state_dir, yard.ledger, yard.url)
        state_dir.write_private(
            "daemon.json", {"pid": os.getpid(), "url": yard.url, "version": __version__}
        )
        server.run(sockets=[door])
    except _Leave:
        pass  # the server has ended by itself, and then raised the signal again
    finally:
        teller.close()
        wardens.close()
        watch.close()
        yard.out.close()
        measurer.close()
        yard.loop.close()
        yard.ledger.close()
    log.info("stopped; jobs that run go on")
    if sys.stdout.isatty():
        print("Madang is down; running jobs go on: madang up finds them again")
    return 70 if yard.loop.failure else 0


def _ready(yard: DaemonYard, state_dir: StateDir, login_link: Callable[[str], str]) -> None:
    """The first request may come: say so. The link logs in whoever has it: a terminal only."""
    gc.freeze()  # what lives since the start lives to the end: never look at it again
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()
    log.info("version %s is ready at %s, process %d", __version__, yard.url, os.getpid())
    if not sys.stdout.isatty():
        return
    print(
        f"Madang {__version__} is ready at {yard.url}, its records are in {state_dir.path}",
        f"open it once with  {login_link(getpass.getuser())}",
        "  (the link works for a minute; `madang web` prints another)",
        "stop it with Ctrl-C; running jobs go on",
        sep="\n",
        flush=True,
    )


def _first_facts(ledger: Ledger) -> list[Fact]:
    """A yard that nobody has set up yet has one project, without a limit."""
    return [] if ledger.load().projects else [ProjectSet(DEFAULT_PROJECT)]


def _let_the_owner_in(state_dir: StateDir, ledger: Ledger, url: str) -> None:
    """The first start makes a token; client.json holds it for the CLI of this user, mode 0600."""
    known = state_dir.read("client.json").get("token", "")
    if not known or ledger.token(_digest(known)) is None:
        known = secrets.token_urlsafe(TOKEN_BYTES)
        name = getpass.getuser()
        ledger.drop_token(name)
        ledger.add_token(name, _digest(known), WallClock()(), Role.OWNER)
    state_dir.write_private("client.json", {"url": url, "token": known})


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
