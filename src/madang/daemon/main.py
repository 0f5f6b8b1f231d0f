"""`madang up`: put the rooms together, open the door, and turn until told to stop.

Order matters: the state directory is locked first, the socket is bound before anything is promised,
and the loop has adopted what runs before the first request is answered.
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
from pathlib import Path
from typing import Any, Protocol

from madang import __version__
from madang.core.events import Fact, ProjectSet
from madang.core.model import Project
from madang.daemon.clock import WallClock
from madang.daemon.loop import TurnLoop
from madang.daemon.state_dir import StateDir, StateDirError, open_state_dir
from madang.daemon.yard import DaemonYard
from madang.engines.base import Engine, EngineError
from madang.engines.code_store import CodeStore
from madang.ledger import Ledger, LedgerError, open_ledger

log = logging.getLogger("madang.daemon")

DEFAULT_PROJECT = Project("default")
TOKEN_BYTES = 32


class Options(Protocol):
    """What `madang up` was told. Empty words and 0 devices mean that nothing was said."""

    @property
    def state(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def devices(self) -> int: ...
    @property
    def fleet(self) -> str: ...
    @property
    def database(self) -> str: ...


def run_daemon(options: Options) -> int:
    """Run until SIGTERM or SIGINT. Returns an exit code; failures are worded on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        state_dir = open_state_dir(Path(options.state))
    except StateDirError as failure:
        return _fail(failure)
    try:
        with _bound_socket(options.host, options.port) as door:
            ledger = open_ledger(options.database or state_dir.database_url)
            code = CodeStore(state_dir.path / "code")
            url = _url_of(door)
            yard = DaemonYard(
                TurnLoop(
                    ledger,
                    _engine(options, state_dir, code, url),
                    WallClock(),
                    holder=f"{socket.gethostname()}:{os.getpid()}",
                    on_failure=lambda: os.kill(os.getpid(), signal.SIGTERM),
                ),
                code,
                url,
            )
            return _serve(yard, state_dir, door)
    except (LedgerError, EngineError, StateDirError) as failure:
        return _fail(failure)
    finally:
        state_dir.close()


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
    from madang.engines.local.engine import LocalEngine

    engine = LocalEngine(state_dir.path, code, devices=options.devices or None)
    engine.url = url
    return engine


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


def _url_of(door: socket.socket) -> str:
    host, port = door.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _serve(yard: DaemonYard, state_dir: StateDir, door: socket.socket) -> int:
    from madang.api import ApiSettings, create_app, make_server

    host, port = door.getsockname()[:2]
    settings = ApiSettings(host=host, port=port)
    server = make_server(create_app(yard, settings), settings)
    yard.loop.open(_first_facts(yard.ledger))
    try:
        _let_the_owner_in(state_dir, yard.ledger, yard.url)
        state_dir.write_private(
            "daemon.json", {"pid": os.getpid(), "url": yard.url, "version": __version__}
        )
        gc.collect()
        gc.freeze()  # what lives since the start lives to the end: never look at it again
        server.run(sockets=[door])
    finally:
        yard.loop.close()
        yard.ledger.close()
    return 70 if yard.loop.failure else 0


def _first_facts(ledger: Ledger) -> list[Fact]:
    """A yard that nobody has set up yet has one project, without a limit."""
    return [] if ledger.load().projects else [ProjectSet(DEFAULT_PROJECT)]


def _let_the_owner_in(state_dir: StateDir, ledger: Ledger, url: str) -> None:
    """The first start makes a token; client.json holds it for the CLI of this user, mode 0600."""
    known = state_dir.read("client.json").get("token", "")
    if not known or ledger.token_name(_digest(known)) is None:
        known = secrets.token_urlsafe(TOKEN_BYTES)
        name = getpass.getuser()
        ledger.drop_token(name)
        ledger.add_token(name, _digest(known), WallClock()())
    state_dir.write_private("client.json", {"url": url, "token": known})


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
