"""A real Kubernetes control plane on loopback, from real programs, for tests and benchmarks.

`Cluster` starts etcd and kube-apiserver, and, where asked for, kube-controller-manager and
kube-scheduler; all end with it. There is no kubelet: `fleet.py` beside keeps Node objects ready
and takes pods through their life. Each program can be killed, stopped and started again.
"""

import base64
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from ssl import CERT_NONE, SSLContext, create_default_context
from typing import Any

PATIENCE_S = 90.0
SERVICES = "10.96.0.0/16"


class ClusterError(Exception):
    """A program did not start; the text has the end of its log."""


def programs() -> Path | None:
    """Where the programs are: KUBEBUILDER_ASSETS, or what tools/kubernetes.sh built, or None."""
    script = Path(__file__).parents[2] / "tools" / "kubernetes.sh"
    found = subprocess.run(
        ["sh", str(script), "--lacks"], capture_output=True, text=True, check=False
    )
    return Path(found.stdout.strip()) if found.returncode == 0 else None


def free_port() -> int:
    """A port of loopback that nobody has just now."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


class Program:
    """One process with its log; the same command can be started again."""

    def __init__(self, name: str, argv: Sequence[str], folder: Path) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = folder / f"{name}.log"
        self._running: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._running is not None, f"{self.name} does not run"
        return self._running.pid

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stand_still(self) -> None:
        """SIGSTOP; when this returns no thread of it runs any more. `go_on` ends it."""
        self.signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.pid}/task")
        while any(_state(task) != "T" for task in tasks.iterdir()):
            time.sleep(0.001)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        if self._running is not None:
            self._running.send_signal(signal.SIGCONT)
            self._running.kill()
            self._running.wait()
            self._running = None

    def failed(self) -> str:
        """The end of its log if it has ended by itself, else nothing."""
        if self._running is None or self._running.poll() is None:
            return ""
        return self.log.read_text(errors="replace")[-3000:]


class Cluster:
    """etcd and an API server, ready when the constructor returns. `close` it.

    Raises:
        ClusterError: a program did not come up.
    """

    def __init__(self, folder: Path, *, controllers: bool = False, scheduler: bool = False) -> None:
        binaries = programs()
        if binaries is None:
            raise ClusterError("no Kubernetes to test against: sh tools/kubernetes.sh")
        self.folder = folder
        self.binaries = binaries
        self.port = free_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.token = secrets.token_hex(16)
        self._tls = _trusting()
        self._tokens = [f'{self.token},admin,admin-uid,"system:masters"']
        self.programs: dict[str, Program] = {}
        with ExitStack() as undo:
            undo.callback(self.close)
            self._begin(controllers=controllers, scheduler=scheduler)
            undo.pop_all()

    # -- programs ------------------------------------------------------------------------------

    def _begin(self, *, controllers: bool, scheduler: bool) -> None:
        _make_key(self.folder / "accounts.key")
        self._write_tokens()
        peer, client = free_port(), free_port()
        self._etcd_url = f"http://127.0.0.1:{client}"
        self._add("etcd", self._etcd(peer, client))
        self._add("kube-apiserver", self._api_server(accounts=controllers))
        self.wait_ready()
        if controllers:
            self._add("kube-controller-manager", self._controller_manager())
        if scheduler:
            self._add("kube-scheduler", self.scheduler_argv())

    def _add(self, name: str, argv: Sequence[str]) -> None:
        program = self.programs[name] = Program(name, argv, self.folder)
        program.start()

    def _etcd(self, peer: int, client: int) -> list[str]:
        peers = f"http://127.0.0.1:{peer}"
        return [
            str(self.binaries / "etcd"),
            "--name=one",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=one={peers}",
            "--unsafe-no-fsync",
            "--quota-backend-bytes=4294967296",
        ]

    def _api_server(self, *, accounts: bool) -> list[str]:
        """`accounts`: somebody makes the account that each pod of a namespace has by default."""
        key = self.folder / "accounts.key"
        without = [] if accounts else ["--disable-admission-plugins=ServiceAccount"]
        return [
            str(self.binaries / "kube-apiserver"),
            f"--etcd-servers={self._etcd_url}",
            f"--cert-dir={self.folder / 'certificates'}",
            f"--secure-port={self.port}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--endpoint-reconciler-type=none",
            f"--service-cluster-ip-range={SERVICES}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--anonymous-auth=true",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--enable-priority-and-fairness=false",
            "--max-requests-inflight=3000",
            "--max-mutating-requests-inflight=2000",
            "--allow-privileged=true",
            *without,
        ]

    def _controller_manager(self) -> list[str]:
        return [
            str(self.binaries / "kube-controller-manager"),
            f"--kubeconfig={self.kubeconfig()}",
            "--leader-elect=false",
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
            "--use-service-account-credentials=false",
            "--controllers=*,-nodelifecycle,-nodeipam,-attachdetach",
            "--concurrent-gc-syncs=20",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
            "--port=0",
            f"--secure-port={free_port()}",
            f"--cert-dir={self.folder / 'certificates-controllers'}",
        ]

    def scheduler_argv(self, *, qps: int = 0, burst: int = 0) -> list[str]:
        """kube-scheduler's command; with the client limits of its own unless they are given."""
        limits = [f"--kube-api-qps={qps}", f"--kube-api-burst={burst}"] if qps else []
        return [
            str(self.binaries / "kube-scheduler"),
            f"--kubeconfig={self.kubeconfig()}",
            "--leader-elect=false",
            "--port=0",
            f"--secure-port={free_port()}",
            f"--cert-dir={self.folder / 'certificates-scheduler'}",
            *limits,
        ]

    def add_user(self, name: str, groups: str = "") -> str:
        """The token of a new user without any right; the API server is started anew to know it."""
        token = secrets.token_hex(16)
        self._tokens.append(f'{token},{name},{name}-uid,"{groups}"')
        self._write_tokens()
        self.restart_api_server()
        return token

    def _write_tokens(self) -> None:
        (self.folder / "tokens.csv").write_text("\n".join(self._tokens) + "\n")

    def restart_api_server(self) -> None:
        """Kill it and start it anew; returns when it is ready."""
        self.programs["kube-apiserver"].kill()
        self.programs["kube-apiserver"].start()
        self.wait_ready()

    def forget_history(self) -> None:
        """Compact etcd to what is true now, and start the API server anew: its cache is empty."""
        url = f"{self._etcd_url}/v3/kv"
        everything = base64.b64encode(b"\0").decode()
        asked = {"key": everything, "range_end": everything, "limit": "1"}
        now = int(self._post(f"{url}/range", asked)["header"]["revision"])
        self._post(f"{url}/compaction", {"revision": str(now)})
        self.restart_api_server()

    @staticmethod
    def _post(url: str, body: Any) -> Any:
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=10) as answer:
            return json.load(answer)

    def wait_ready(self) -> None:
        """Until the API server answers that it is ready.

        Raises:
            ClusterError: it ended, or took longer than any healthy one.
        """
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            for program in self.programs.values():
                if text := program.failed():
                    raise ClusterError(f"{program.name} ended:\n{text}")
            try:
                if self._ask("GET", "/readyz") == b"ok":
                    return
            except (OSError, urllib.error.HTTPError):
                pass
            time.sleep(0.1)
        log = self.programs["kube-apiserver"].log.read_text(errors="replace")
        raise ClusterError(f"the API server is not ready after {PATIENCE_S:.0f} s:\n{log[-3000:]}")

    def close(self) -> None:
        """End all programs."""
        for program in reversed(self.programs.values()):
            program.kill()
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)

    # -- asking it, as its administrator ---------------------------------------------------------

    def kubeconfig(self, token: str = "") -> Path:
        """A kubeconfig file for the administrator, or for the user of a token."""
        whose = hashlib.sha256(token.encode()).hexdigest()[:12]  # tokens of accounts begin alike
        path = self.folder / f"kubeconfig-{whose}"
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [
                {
                    "name": "it",
                    "cluster": {
                        "server": self.url,
                        "certificate-authority-data": base64.b64encode(self.authority).decode(),
                    },
                }
            ],
            "users": [{"name": "it", "user": {"token": token or self.token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }
        path.write_text(json.dumps(text))
        path.chmod(0o600)
        return path

    @property
    def authority(self) -> bytes:
        """The certificate by which the API server is known, PEM."""
        return (self.folder / "certificates" / "apiserver.crt").read_bytes()

    def ask(self, verb: str, path: str, body: Any = None, *, kind: str = "") -> Any:
        """One request and its JSON answer.

        Raises:
            urllib.error.HTTPError: the API server refused.
        """
        answer = self._ask(verb, path, body, kind)
        return json.loads(answer) if answer else None

    def _ask(self, verb: str, path: str, body: Any = None, kind: str = "") -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=verb)
        request.add_header("Authorization", f"Bearer {self.token}")
        if data is not None:
            request.add_header("Content-Type", kind or "application/json")
        with urllib.request.urlopen(request, timeout=30, context=self._tls) as answer:
            return bytes(answer.read())

    def kubectl(self, *words: str, text: str = "") -> str:
        """What kubectl prints.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        ran = subprocess.run(
            [str(self.binaries / "kubectl"), f"--kubeconfig={self.kubeconfig()}", *words],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stdout


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def _trusting() -> SSLContext:
    context = create_default_context()
    context.check_hostname = False
    context.verify_mode = CERT_NONE
    return context


def _make_key(path: Path) -> None:
    command = ["openssl", "genrsa", "-out", str(path), "2048"]
    subprocess.run(command, check=True, capture_output=True)
