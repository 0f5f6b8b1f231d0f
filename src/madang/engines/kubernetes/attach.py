"""A command beside a member, as a process of this machine.

The API server's exec, over a WebSocket (`v5.channel.k8s.io` or `v4`), joined to this process's own
standard input, output and error; on a terminal it is raw, and says when its size changes. The exit
code is the command's; 255 if it cannot be run, with the API server's words. kubectl is not needed.
"""

import argparse
import asyncio
import fcntl
import os
import signal
import struct
import sys
import termios
import tty
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import aiohttp
import orjson

from madang.engines.kubernetes.config import Access, ConfigError, find

PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
FAILED = 255
BLOCK_BYTES = 32 * 1024


def argv_for(
    words: Sequence[str], where: tuple[str, str, str], command: Sequence[str]
) -> list[str]:
    """What to spawn; `words` say how the API server is found, `where` is (namespace, pod,
    container)."""
    return [sys.executable, "-m", __name__, *words, *where, "--", *command]


def environment() -> dict[str, str]:
    """What it needs of this process's environment: how to import, and how to log in."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME", "LANG", "TERM") or name.startswith(("KUBE", "AWS_", "SSL_"))
    }
    here = str(Path(__file__).parents[3])
    behind = os.environ.get("PYTHONPATH", "")
    entries = [here, *(os.path.abspath(one) for one in behind.split(os.pathsep) if one)]
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(entries))}


def main() -> int:
    """Run it. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="madang.engines.kubernetes.attach")
    parser.add_argument("--kubeconfig", default="")
    parser.add_argument("--in-cluster", action="store_true")
    parser.add_argument("namespace")
    parser.add_argument("pod")
    parser.add_argument("container")
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    try:
        access = find(given.kubeconfig, given.in_cluster)
    except ConfigError as failure:
        print(failure, file=sys.stderr)
        return FAILED
    where = (given.namespace, given.pod, given.container)
    is_terminal = os.isatty(0) and os.isatty(1)
    before = termios.tcgetattr(0) if is_terminal else None
    try:
        if is_terminal:
            tty.setraw(0)
        return asyncio.run(_attached(access, where, given.command, is_terminal))
    finally:
        if before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, before)


async def _attached(
    access: Access, where: tuple[str, str, str], command: Sequence[str], is_terminal: bool
) -> int:
    namespace, pod, container = where
    query = [("container", container), ("stdin", "true"), ("stdout", "true")]
    query.append(("tty", "true") if is_terminal else ("stderr", "true"))
    query += [("command", word) for word in command]
    token = access.token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{access.server}/api/v1/namespaces/{namespace}/pods/{pod}/exec"
    tls = access.tls if access.tls is not None else False
    async with aiohttp.ClientSession() as session:
        try:
            async with session.ws_connect(
                url, params=query, protocols=PROTOCOLS, headers=headers, ssl=tls, max_msg_size=0
            ) as socket:
                return await _joined(socket, is_terminal)
        except aiohttp.WSServerHandshakeError as failure:
            print(f"{pod}: the API server refuses: {failure.message}", file=sys.stderr)
        except (aiohttp.ClientError, OSError) as failure:
            print(f"{pod}: {failure}", file=sys.stderr)
    return FAILED


async def _joined(socket: aiohttp.ClientWebSocketResponse, is_terminal: bool) -> int:
    """Both directions until the command has ended."""
    loop = asyncio.get_running_loop()
    typed: asyncio.Queue[bytes] = asyncio.Queue(maxsize=64)
    tasks = {asyncio.create_task(_send(socket, typed))}

    def readable() -> None:
        if typed.full():
            return  # the command does not read: neither do we
        try:
            block = os.read(0, BLOCK_BYTES)
        except OSError:
            block = b""
        typed.put_nowait(bytes([STDIN]) + block if block else b"")
        if not block:
            loop.remove_reader(0)

    with suppress(PermissionError):  # a plain file is always readable, and cannot be waited for
        loop.add_reader(0, readable)

    def resized() -> None:
        rows, cols, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))
        size = orjson.dumps({"Width": cols, "Height": rows})
        task = asyncio.create_task(socket.send_bytes(bytes([RESIZE]) + size))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    if is_terminal:
        loop.add_signal_handler(signal.SIGWINCH, resized)
        resized()
    try:
        return await _show(socket)
    finally:
        loop.remove_reader(0)
        for task in tasks:
            task.cancel()


async def _send(socket: aiohttp.ClientWebSocketResponse, typed: asyncio.Queue[bytes]) -> None:
    while block := await typed.get():
        await socket.send_bytes(block)
    if socket.protocol == PROTOCOLS[0]:  # v4 has no way to say that the input has ended
        await socket.send_bytes(bytes([CLOSE, STDIN]))


async def _show(socket: aiohttp.ClientWebSocketResponse) -> int:
    async for frame in socket:
        if frame.type is not aiohttp.WSMsgType.BINARY or not frame.data:
            continue
        channel, block = frame.data[0], frame.data[1:]
        if channel in (STDOUT, STDERR) and block:
            _write(channel, block)
        elif channel == ERROR and block:
            return exit_code(block)
    return FAILED


def _write(fd: int, block: bytes) -> None:
    while block:
        try:
            block = block[os.write(fd, block) :]
        except BlockingIOError:
            # Standard input may share its description with us: then it made us non-blocking.
            os.set_blocking(fd, True)


def exit_code(status: bytes) -> int:
    """Of the `Status` that the error channel ends with."""
    try:
        said = orjson.loads(status)
        if said.get("status") == "Success":
            return 0
        for cause in (said.get("details") or {}).get("causes") or []:
            if cause.get("reason") == "ExitCode":
                return int(cause["message"])
        print(said.get("message") or said, file=sys.stderr)
    except (ValueError, AttributeError, KeyError, TypeError):
        print(status[:200].decode("utf-8", "replace"), file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
