"""up, down, web: the daemon on this machine.

The daemon's state directory holds a lock that it keeps as long as it lives; `down` sends a signal
only to the process that daemon.json names while that lock is held.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

from madang.cli.desk import Desk
from madang.cli.parse import Given, UsageError
from madang.client.errors import MadangError, Unreachable
from madang.client.places import state_dir

PORT = 7070
HOST = "127.0.0.1"
HOST_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:]+\])(:\d{1,5})?")
DATABASE = "MADANG_DATABASE"  # an address holds a password: arguments are seen by everyone
READY_S = 30.0  # a daemon with a large ledger on a slow disk
STOP_S = 30.0
LOOK_S = 0.05
LOG_LINES_SHOWN = 15
LOG_BYTES_MAX = 10 << 20  # beyond: the next daemon begins a new one, and one old one is kept


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `madang up` was asked for. `devices` is 0 and texts are empty where nothing was said."""

    state: str
    host: str = HOST
    port: int = PORT
    names: tuple[str, ...] = ()
    behind_tls: bool = False
    devices: int = 0
    fleet: str = ""
    database: str = ""
    policy: str = ""
    topology: str = ""
    telemetry: str = ""
    telemetry_out: str = ""
    engine: str = "local"
    kubeconfig: str = ""
    in_cluster: bool = False
    namespace: str = ""
    scheduler_name: str = ""


def up_verb(given: Given, desk: Desk) -> int:
    """Start the daemon, here or in the background."""
    options = _options(given)
    if not given.flag("detach"):
        import gc
        import importlib

        # What a start makes, modules above all, lives to its end: looking for garbage in it takes
        # a tenth of the start. The daemon enables it again when it is ready.
        gc.disable()
        return int(importlib.import_module("madang.daemon.main").run_daemon(options) or 0)
    running = running_daemon(options.state)
    if running is not None:
        return _ready(running, desk, "is running already at")
    return _ready(_started(options), desk, "is ready at")


def _options(given: Given) -> UpOptions:
    port = given.count("port")
    devices = given.count("devices")
    if port is not None and not 0 <= port <= 65_535:
        raise UsageError(
            "--port is out of range", code="usage", given=str(port), allowed="0 to 65535"
        )
    if devices is not None and not 1 <= devices <= 64:
        raise UsageError(
            "--devices is out of range", code="usage", given=str(devices), allowed="1 to 64"
        )
    fleet = given.text("fleet")
    if fleet and not os.path.isfile(fleet):
        raise UsageError(f"--fleet: there is no file {fleet}", code="usage", given=fleet)
    policy = given.text("policy")
    if policy and not os.path.isfile(policy):
        raise UsageError(f"--policy: there is no file {policy}", code="usage", given=policy)
    topology = given.text("topology")
    if topology and not os.path.isfile(topology):
        raise UsageError(f"--topology: there is no file {topology}", code="usage", given=topology)
    kept = given.text("telemetry")
    if kept and not os.path.isfile(kept):
        raise UsageError(f"--telemetry: there is no file {kept}", code="usage", given=kept)
    out = given.text("telemetry_out")
    if out and not os.path.isfile(out):
        raise UsageError(f"--telemetry-out: there is no file {out}", code="usage", given=out)
    kubeconfig = given.text("kubeconfig")
    if kubeconfig and not os.path.isfile(kubeconfig):
        raise UsageError(
            f"--kubeconfig: there is no file {kubeconfig}", code="usage", given=kubeconfig
        )
    _check_engine(given)
    return UpOptions(
        state=state_dir(os.environ),
        host=given.text("host") or HOST,
        port=PORT if port is None else port,
        names=_names(given.texts("name")),
        behind_tls=given.flag("behind_tls"),
        devices=devices or 0,
        fleet=os.path.abspath(fleet) if fleet else "",
        database=given.text("database") or os.environ.get(DATABASE, ""),
        policy=os.path.abspath(policy) if policy else "",
        topology=os.path.abspath(topology) if topology else "",
        telemetry=os.path.abspath(kept) if kept else "",
        telemetry_out=os.path.abspath(out) if out else "",
        engine=given.text("engine") or "local",
        kubeconfig=os.path.abspath(kubeconfig) if kubeconfig else "",
        in_cluster=given.flag("in_cluster"),
        namespace=given.text("namespace"),
        scheduler_name=given.text("scheduler_name"),
    )


def _check_engine(given: Given) -> None:
    """Raises: UsageError: options of two engines are mixed."""
    is_kubernetes = given.text("engine") == "kubernetes"
    others = ("fleet", "devices") if is_kubernetes else ("kubeconfig", "in_cluster", "namespace")
    for name in (*others, *(() if is_kubernetes else ("scheduler_name",))):
        if name == "in_cluster":
            said = given.flag(name)
        else:
            said = bool(given.count(name) if name == "devices" else given.text(name))
        if said:
            engine = "local" if is_kubernetes else "kubernetes"
            option = name.replace("_", "-")
            raise UsageError(f"--{option} is for --engine {engine}", code="usage", given=option)
    if given.text("kubeconfig") and given.flag("in_cluster"):
        raise UsageError("--kubeconfig or --in-cluster, not both", code="usage")


def _names(given: list[str]) -> tuple[str, ...]:
    """The host names of --name, each as a browser would send it.

    Raises:
        UsageError: one cannot be in a Host header.
    """
    for name in given:
        if not HOST_NAME.fullmatch(name):
            raise UsageError(
                "--name is not a host name", code="usage", given=name,
                allowed="madang.example.org, madang.example.org:8443",
            )  # fmt: skip
    return tuple(given)


def _ready(daemon: dict[str, Any], desk: Desk, word: str) -> int:
    from madang.client.api import Client

    os.environ.pop("MADANG_URL", None)  # this machine's own daemon is meant
    with Client() as client:
        link = client.login_link()["url"]
    document = {"url": daemon["url"], "pid": daemon["pid"], "login": link}
    desk.answer(document, f"Madang {word} {daemon['url']}\nopen it once with  {link}")
    return 0


# -- starting in the background ---------------------------------------------------------------


def _started(options: UpOptions) -> dict[str, Any]:
    """Start `madang up` in a session of its own; its daemon.json, as soon as it answers.

    Raises:
        MadangError: it ended, or did not answer in time; the end of its log is in the guide.
    """
    import subprocess

    os.makedirs(options.state, mode=0o700, exist_ok=True)
    log = os.path.join(options.state, "daemon.log")
    began_bytes = os.path.getsize(log) if os.path.exists(log) else 0
    if began_bytes > LOG_BYTES_MAX:
        os.replace(log, f"{log}.1")
        began_bytes = 0
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", "madang", *_words(options)],
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            start_new_session=True,
            cwd="/",
            env={**os.environ, "MADANG_STATE": options.state, "PYTHONPATH": _import_path()},
        )
    finally:
        os.close(descriptor)
    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s:
        if child.poll() is not None:
            raise _did_not_start(f"the daemon ended with {child.returncode}", log, began_bytes)
        daemon = _daemon_json(options.state)
        if daemon.get("pid") == child.pid and _answers(daemon["url"]):
            child.returncode = 0  # it goes on: no warning when this object is dropped
            return daemon
        time.sleep(LOOK_S)
    child.terminate()
    child.wait()
    raise _did_not_start(f"the daemon did not answer within {READY_S:g} s", log, began_bytes)


def _words(options: UpOptions) -> list[str]:
    words = ["up", "--state", options.state, "--host", options.host, "--port", str(options.port)]
    if options.devices:
        words += ["--devices", str(options.devices)]
    if options.fleet:
        words += ["--fleet", options.fleet]
    for name in options.names:
        words += ["--name", name]
    if options.behind_tls:
        words += ["--behind-tls"]
    if options.database and options.database != os.environ.get(DATABASE):
        words += ["--database", options.database]
    if options.policy:
        words += ["--policy", options.policy]
    if options.telemetry:
        words += ["--telemetry", options.telemetry]
    if options.telemetry_out:
        words += ["--telemetry-out", options.telemetry_out]
    if options.topology:
        words += ["--topology", options.topology]
    return words + _engine_words(options)


def _engine_words(options: UpOptions) -> list[str]:
    if options.engine == "local":
        return []
    words = ["--engine", options.engine]
    words += ["--in-cluster"] if options.in_cluster else []
    for name, value in (
        ("--kubeconfig", options.kubeconfig),
        ("--namespace", options.namespace),
        ("--scheduler-name", options.scheduler_name),
    ):
        words += [name, value] if value else []
    return words


def _import_path() -> str:
    """PYTHONPATH with absolute entries: the daemon starts in another directory."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(os.path.abspath(entry) for entry in entries if entry)


def _answers(url: str) -> bool:
    from madang.client.api import Client

    try:
        with Client(url, "-", retries=0, timeout_s=2.0) as client:
            return client.health().get("status") == "ok"
    except MadangError:
        return False


def _did_not_start(text: str, log: str, began_bytes: int) -> MadangError:
    with open(log, "rb") as file:
        file.seek(began_bytes)
        lines = file.read()[-65_536:].decode("utf-8", "replace").splitlines()
    for line in lines[-LOG_LINES_SHOWN:]:
        sys.stderr.write(f"  {line}\n")
    return MadangError(text, code="not_started", tries=[f"more in {log}"])


# -- what runs here ---------------------------------------------------------------------------


def _daemon_json(state: str) -> dict[str, Any]:
    try:
        with open(os.path.join(state, "daemon.json"), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(found, dict) and isinstance(found.get("pid"), int) and "url" in found
    return found if is_whole else {}


def _lock_is_held(state: str) -> bool:
    """True iff a daemon lives on this state directory: it holds `lock` as long as it does."""
    try:
        descriptor = os.open(os.path.join(state, "lock"), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def running_daemon(state: str) -> dict[str, Any] | None:
    """daemon.json of the daemon that lives on this state directory; None if none does."""
    if not _lock_is_held(state):
        return None
    return _daemon_json(state) or None


def down_verb(_given: Given, desk: Desk) -> int:
    """Stop the daemon; jobs go on."""
    state = state_dir(os.environ)
    daemon = running_daemon(state)
    if daemon is None:
        desk.answer({"stopped": False}, f"no daemon runs on {state}")
        return 0
    _terminate(daemon, state)
    until_s = time.monotonic() + STOP_S
    while _lock_is_held(state):
        if time.monotonic() > until_s:
            raise MadangError(
                f"the daemon (process {daemon['pid']}) has not ended within {STOP_S:g} s",
                code="timeout",
                tries=[f"its log: {os.path.join(state, 'daemon.log')}"],
            )
        time.sleep(LOOK_S)
    document = {"stopped": True, "pid": daemon["pid"]}
    desk.answer(document, "Madang is down; running jobs go on: madang up finds them again")
    return 0


def _terminate(daemon: dict[str, Any], state: str) -> None:
    """SIGTERM to exactly the process that holds the lock."""
    pid = daemon["pid"]
    try:
        if not hasattr(signal, "pidfd_send_signal"):
            os.kill(pid, signal.SIGTERM)
            return
        descriptor = os.pidfd_open(pid)
        try:
            # Held open, the number cannot become another process's: look once more, then signal.
            if _lock_is_held(state) and _daemon_json(state).get("pid") == pid:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        finally:
            os.close(descriptor)
    except ProcessLookupError:
        pass  # it ended by itself in between
    except PermissionError:
        raise MadangError(
            f"the daemon (process {pid}) belongs to another user", code="not_yours"
        ) from None


def web_verb(given: Given, desk: Desk) -> int:
    """A fresh link to the page."""
    try:
        link = desk.client.login_link(given.text("user"), given.text("role"))
    except Unreachable as error:
        error.tries = ("madang up --detach",)
        raise
    if not desk.is_json and (given.text("user") or given.text("role")):
        desk.note(f"logs {link['user']} in as {link['role']}, once, within a minute:")
    desk.answer(link, link["url"])
    return 0
