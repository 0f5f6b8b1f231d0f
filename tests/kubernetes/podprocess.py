"""A pod's containers as real processes of this machine, and the HTTPS door of a kubelet.

What is real: command and arguments, environment (with `valueFrom`, `envFrom` and `$(NAME)`), exit
codes, signals, the log, commands beside it. What is not: images and isolation. A volume is a folder
of this machine; wherever its mount path stands in a command or the environment, the folder's path
is put in its place.
"""

import asyncio
import base64
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from madang.engines.kubernetes.client import ApiError, Client, Object
from madang.engines.kubernetes.connecting import settled

CANNOT_START = 128  # what a runtime gives for a command that is not there
# The image is what these tests run in: its `python` is ours, wherever they were started from.
PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
BASE = {"PATH": PATH, "HOME": "/tmp", "HOSTNAME": ""}


@dataclass
class Container:
    """One that has been prepared: all its names are put in."""

    name: str
    argv: list[str]
    env: dict[str, str]
    folder: str
    log: Path
    running: asyncio.subprocess.Process | None = field(default=None)


class PodProcesses:
    """`prepare`, then `run` to its end; `close` whatever happened."""

    def __init__(self, client: Client, pod: Object, folder: Path) -> None:
        self._client = client
        self._pod = pod
        self._folder = folder
        self.containers: dict[str, Container] = {}

    @property
    def pids(self) -> list[int]:
        return [
            one.running.pid
            for one in self.containers.values()
            if one.running is not None and one.running.returncode is None
        ]

    async def prepare(self) -> tuple[int, str] | None:
        """Run the init containers and start the others; (exit code, reason) if that fails."""
        spec = self._pod["spec"]
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            volumes = await self._volumes()
            for one in spec.get("initContainers") or []:
                container = await self._container(one, volumes)
                await self._start(container)
                assert container.running is not None
                if code := _code(await container.running.wait()):
                    return code, "Error"
            for one in spec["containers"]:
                await self._start(await self._container(one, volumes))
        except ApiError as failure:
            return CANNOT_START, f"CreateContainerConfigError: {failure}"
        except OSError as failure:
            self.kill()
            return CANNOT_START, f"StartError: {failure}"
        return None

    async def run(self, going: asyncio.Event, left_s: Callable[[], float]) -> int:
        """The worst exit code, once all have ended; SIGTERM when `going`, SIGKILL after it."""
        mains = [self.containers[one["name"]] for one in self._pod["spec"]["containers"]]
        ends = asyncio.gather(*(one.running.wait() for one in mains if one.running))
        ending = asyncio.create_task(self._end(going, left_s))
        try:
            return max(_code(code) for code in await ends)
        finally:
            ending.cancel()
            await asyncio.wait((ending,))

    async def _end(self, going: asyncio.Event, left_s: Callable[[], float]) -> None:
        await going.wait()
        self._signal(signal.SIGTERM)
        while left_s() > 0:  # noqa: ASYNC110 - it may be shortened meanwhile
            await asyncio.sleep(min(0.02, left_s()))
        self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, number)

    async def close(self) -> None:
        self.kill()
        for one in self.containers.values():
            if one.running is not None:
                await one.running.wait()

    # -- making a container ----------------------------------------------------------------------

    async def _start(self, container: Container) -> None:
        self.containers[container.name] = container
        with container.log.open("ab") as out:
            starting = asyncio.ensure_future(
                asyncio.create_subprocess_exec(
                    *container.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=container.env,
                    cwd=container.folder,
                    start_new_session=True,
                )
            )
            try:
                container.running = await asyncio.shield(starting)
            except asyncio.CancelledError:
                container.running = await starting  # it has begun: `close` must know of it
                raise

    async def _container(self, one: Object, volumes: Mapping[str, Path]) -> Container:
        places: dict[str, str] = {}
        for mount in one.get("volumeMounts") or []:
            if mount["name"] in volumes:
                place = _folder(volumes[mount["name"]] / mount.get("subPath", ""))
                places[mount["mountPath"].rstrip("/")] = str(place)
        env = BASE | {"HOSTNAME": str(self._pod["metadata"]["name"])}
        for source in one.get("envFrom") or []:
            env |= await self._whole(source)
        for item in one.get("env") or []:
            value = item.get("value")
            if value is None:
                value = await self._value(item.get("valueFrom") or {})
            env[item["name"]] = _put_in(_expanded(value, env), places)
        words = [*(one.get("command") or []), *(one.get("args") or [])]
        argv = [_put_in(_expanded(word, env), places) for word in words]
        folder = _put_in(one.get("workingDir") or str(self._folder), places)
        log = self._folder / f"{one['name']}.log"
        return Container(one["name"], argv, env, folder, log)

    async def _volumes(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for volume in self._pod["spec"].get("volumes") or []:
            name = volume["name"]
            place = self._folder / "volumes" / name
            if path := (volume.get("hostPath") or {}).get("path"):
                place = Path(path)
            elif claim := (volume.get("persistentVolumeClaim") or {}).get("claimName"):
                place = self._folder.parent / "claims" / claim
            elif not name.startswith(("default-token", "kube-api-access")):
                await self._fill(volume, place)
            found[name] = _folder(place)
        return found

    async def _fill(self, volume: Object, place: Path) -> None:
        for kind, named in (("secret", "secretName"), ("configMap", "name")):
            if kind in volume:
                values = await self._values(kind, volume[kind][named])
                items = volume[kind].get("items") or [{"key": k, "path": k} for k in values]
                for item in items:
                    path = _folder((place / item["path"]).parent) / Path(item["path"]).name
                    path.write_bytes(values[item["key"]])

    async def _values(self, kind: str, name: str) -> dict[str, bytes]:
        namespace = self._pod["metadata"]["namespace"]
        plural = {"secret": "secrets", "configMap": "configmaps"}[kind]
        found = await self._client.get(f"/api/v1/namespaces/{namespace}/{plural}/{name}")
        values = found.get("data") or {}
        if kind == "secret":
            return {key: base64.b64decode(value) for key, value in values.items()}
        return {key: str(value).encode() for key, value in values.items()}

    async def _whole(self, source: Object) -> dict[str, str]:
        kind = "secret" if "secretRef" in source else "configMap"
        values = await self._values(kind, source[f"{kind}Ref"]["name"])
        return {source.get("prefix", "") + key: value.decode() for key, value in values.items()}

    async def _value(self, source: Object) -> str:
        for kind in ("secret", "configMap"):
            if ref := source.get(f"{kind}KeyRef"):
                return (await self._values(kind, ref["name"]))[ref["key"]].decode()
        return self._field((source.get("fieldRef") or {}).get("fieldPath", ""))

    def _field(self, path: str) -> str:
        """The downward API."""
        metadata = self._pod["metadata"]
        if keyed := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
            kept = self._pod["annotations"] if keyed[1] == "annotations" else metadata["labels"]
            return str((kept or {}).get(keyed[2], ""))
        plain = {
            "metadata.name": metadata["name"],
            "metadata.namespace": metadata["namespace"],
            "metadata.uid": metadata["uid"],
            "spec.nodeName": self._pod["spec"]["nodeName"],
            "spec.serviceAccountName": self._pod["spec"].get("serviceAccountName", ""),
            "status.podIP": "127.0.0.1",
            "status.hostIP": "127.0.0.1",
        }
        return str(plain.get(path, ""))


class Door:
    """Logs and commands, as the API server asks a kubelet for them, over TLS on loopback."""

    def __init__(self, folder: Path, find: Callable[[str, str], PodProcesses | None]) -> None:
        self.port = 0
        self._folder = folder
        self._find = find

    async def open(self) -> None:
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._log)
        app.router.add_route("*", "/exec/{namespace}/{pod}/{container}", self._exec)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=_certificate(self._folder))
        await site.start()
        self.port = int(self._runner.addresses[0][1])

    async def close(self) -> None:
        await end_server(self._runner)

    def _container(self, request: web.Request) -> Container:
        names = request.match_info
        pod = self._find(names["namespace"], names["pod"])
        if pod is None or names["container"] not in pod.containers:
            raise web.HTTPNotFound(text="no such container here")
        return pod.containers[names["container"]]

    async def _log(self, request: web.Request) -> web.StreamResponse:
        container = self._container(request)
        written = container.log.read_bytes()
        if tail := request.query.get("tailLines"):
            lines = written.splitlines(keepends=True)
            written = b"".join(lines[len(lines) - min(int(tail), len(lines)) :])
        if most := request.query.get("limitBytes"):
            written = written[: int(most)]
        answer = web.StreamResponse()
        answer.content_type = "text/plain"
        await answer.prepare(request)
        await answer.write(written)
        offset = container.log.stat().st_size
        while request.query.get("follow") and container.running is not None:
            ended = container.running.returncode is not None
            with container.log.open("rb") as file:
                file.seek(offset)
                more = file.read()
            offset += len(more)
            await answer.write(more)
            if ended:
                break
            await asyncio.sleep(0.05)
        return answer

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        """`v4.channel.k8s.io`: 1 is stdout, 2 stderr, 3 how it ended."""
        container = self._container(request)
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        ran = await asyncio.create_subprocess_exec(
            *request.query.getall("command"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=container.env,
            cwd=container.folder,
        )
        out, err = await ran.communicate()
        await socket.send_bytes(b"\x01" + out)
        await socket.send_bytes(b"\x02" + err)
        await socket.send_bytes(b"\x03" + orjson.dumps(_status(ran.returncode or 0)))
        await socket.close()
        return socket


async def end_server(runner: web.AppRunner) -> None:
    """Close it at once: no client is waited for that reads no more, or says no farewell (TLS)."""
    server = runner.server
    assert server is not None, "ended before it was set up"
    open_ones = [one.transport for one in server.connections]
    await runner.cleanup()
    for transport in open_ones:
        if transport is not None:
            transport.abort()
    await settled()


def _status(code: int) -> dict[str, Any]:
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def _code(returned: int) -> int:
    """As a runtime tells it: 128 + the signal."""
    return 128 - returned if returned < 0 else returned


def _expanded(text: str, env: Mapping[str, str]) -> str:
    """`$(NAME)`, and `$$(NAME)` for the text itself, as Kubernetes does."""

    def one(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        return env.get(found[1], found[0])

    return re.sub(r"\$?\$\(([\w.-]+)\)", one, text)


def _put_in(text: str, places: Mapping[str, str]) -> str:
    """Folders of this machine for mount paths, the longest first."""
    if not places:
        return text
    ordered = sorted(places, key=len, reverse=True)
    paths = "|".join(re.escape(path) for path in ordered)
    return re.sub(rf"(?<![\w./-])({paths})(?![\w.-])", lambda found: places[found[1]], text)


def _folder(path: Path) -> Path:
    if not path.is_file():
        path.mkdir(parents=True, exist_ok=True)
    return path


def _certificate(folder: Path) -> ssl.SSLContext:
    key, authority = folder / "kubelet.key", folder / "kubelet.crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=127.0.0.1", "-keyout", str(key), "-out", str(authority)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, key)
    return context
