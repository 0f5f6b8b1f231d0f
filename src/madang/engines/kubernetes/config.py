"""Where the API server is and how to speak to it: a kubeconfig file, or the pod's own account.

Promises: tokens from files are read again when the file changes (service accounts rotate theirs);
nothing secret is in the `repr` of what is returned, nor in an error's text.
"""

import base64
import binascii
import json
import os
import ssl
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PLUGIN_TIMEOUT_S = 60
PLUGIN_ANSWER_BYTES_MAX = 1 << 20
TOKEN_FILE_READ_EVERY_S = 10.0  # the kubelet renews a token a good while before its end
RENEW_BEFORE_S = 60.0


class ConfigError(Exception):
    """The configuration cannot be used; the text says what was found and what is wanted."""


class Token:
    """A bearer token that may change: fixed, in a file, or what a credential plugin prints."""

    def __init__(
        self,
        fixed: str = "",
        file: Path | None = None,
        plugin: Mapping[str, Any] | None = None,
    ) -> None:
        self._value = fixed
        self._file = file
        self._plugin = plugin
        self._until_s = 0.0 if file or plugin else float("inf")

    def __call__(self) -> str:
        """The token for the next request; empty: none is needed.

        Raises:
            ConfigError: the file or the plugin gives none.
        """
        if time.monotonic() >= self._until_s:
            if self._file is not None:
                self._value = _text_of(self._file).strip()
                self._until_s = time.monotonic() + TOKEN_FILE_READ_EVERY_S
            elif self._plugin is not None:
                self._value, lives_s = _from_plugin(self._plugin)
                self._until_s = time.monotonic() + lives_s
        return self._value

    def forget(self) -> None:
        """The API server refused it: read it anew for the next request."""
        if self._file is not None or self._plugin is not None:
            self._until_s = 0.0


@dataclass(frozen=True, slots=True)
class Access:
    """`tls` is None over plain HTTP. `namespace` is the one that the configuration names."""

    server: str
    token: Token = field(default_factory=Token, repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    namespace: str = "default"


def in_cluster(root: Path = ACCOUNT, environ: Mapping[str, str] = os.environ) -> Access:
    """The account of the pod that this runs in.

    Raises:
        ConfigError: this is no pod, or it has no account.
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise ConfigError(
            "--in-cluster: this does not run in a pod (KUBERNETES_SERVICE_HOST and _PORT are not "
            "set); outside, name a file with --kubeconfig"
        )
    host = f"[{host}]" if ":" in host else host
    namespace = root / "namespace"
    return Access(
        server=f"https://{host}:{port}",
        token=Token(file=root / "token"),
        tls=_context(authority=_text_of(root / "ca.crt")),
        namespace=_text_of(namespace).strip() if namespace.exists() else "default",
    )


def from_kubeconfig(path: Path, context: str = "") -> Access:
    """The current context of a kubeconfig file, or the one that is named.

    Raises:
        ConfigError: it cannot be read, names what is not there, or wants a way to log in that is
            not supported (auth-provider, user name and password).
    """
    try:
        read = yaml.safe_load(_text_of(path))
    except yaml.YAMLError as failure:
        raise ConfigError(f"{path} is not YAML: {failure}") from failure
    if not isinstance(read, dict):
        raise ConfigError(f"{path} is not a kubeconfig file")
    wanted = context or str(read.get("current-context") or "")
    known = [str(one.get("name")) for one in read.get("contexts") or []]
    if not wanted:
        raise ConfigError(f"{path} has no current context; it knows {', '.join(known) or 'none'}")
    chosen = _named(read, "contexts", "context", wanted, path)
    cluster = _named(read, "clusters", "cluster", str(chosen.get("cluster")), path)
    user = _named(read, "users", "user", str(chosen.get("user")), path)
    return Access(
        server=str(cluster.get("server", "")).rstrip("/"),
        token=_token(user, path),
        tls=_tls(cluster, user, path),
        namespace=str(chosen.get("namespace") or "default"),
    )


def find(kubeconfig: str = "", inside: bool = False) -> Access:
    """As asked for; else KUBECONFIG, else ~/.kube/config, else the pod's account.

    Raises:
        ConfigError: none of them is there, or the one there cannot be used.
    """
    if inside:
        return in_cluster()
    if kubeconfig:
        return from_kubeconfig(Path(kubeconfig))
    named = os.environ.get("KUBECONFIG", "")
    path = Path(named.split(os.pathsep)[0]) if named else Path.home() / ".kube" / "config"
    if path.exists():
        return from_kubeconfig(path)
    if ACCOUNT.exists():
        return in_cluster()
    raise ConfigError(
        f"no cluster is named: there is no {path}, and this is no pod; "
        "use --kubeconfig FILE or --in-cluster"
    )


# -- pieces ----------------------------------------------------------------------------------------


def _named(read: dict[str, Any], many: str, one: str, name: str, path: Path) -> dict[str, Any]:
    entries = [entry for entry in read.get(many) or [] if isinstance(entry, dict)]
    for entry in entries:
        if entry.get("name") == name:
            return dict(entry.get(one) or {})
    known = ", ".join(str(entry.get("name")) for entry in entries) or "none"
    raise ConfigError(f"{path} has no {one} {name!r}; it knows {known}")


def _token(user: dict[str, Any], path: Path) -> Token:
    if "exec" in user:
        return Token(plugin=user["exec"])
    for refused in ("auth-provider", "username"):
        if refused in user:
            raise ConfigError(
                f"{path}: logging in by {refused} is not supported; use a token, a certificate or "
                "an exec plugin"
            )
    if user.get("tokenFile"):
        return Token(file=_beside(path, user["tokenFile"]))
    return Token(fixed=str(user.get("token") or ""))


def _tls(cluster: dict[str, Any], user: dict[str, Any], path: Path) -> ssl.SSLContext | None:
    if not str(cluster.get("server", "")).startswith("https:"):
        return None
    authority = _content(cluster, "certificate-authority", path)
    context = _context(authority, verify=not cluster.get("insecure-skip-tls-verify"))
    certificate = _content(user, "client-certificate", path)
    if certificate:
        _load_chain(context, certificate, _content(user, "client-key", path), path)
    return context


def _load_chain(context: ssl.SSLContext, certificate: str, key: str, path: Path) -> None:
    """Python loads chains from files only: an anonymous one in memory that nobody can open."""
    descriptor = os.memfd_create("client-chain", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, f"{certificate}\n{key}\n".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except (ssl.SSLError, OSError) as failure:
        raise ConfigError(f"{path}: the client certificate cannot be used: {failure}") from failure
    finally:
        os.close(descriptor)


def _context(authority: str, verify: bool = True) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=authority or None)
    except (ssl.SSLError, ValueError) as failure:
        raise ConfigError(f"the cluster's certificate authority cannot be read: {failure}") from (
            failure
        )
    # Authorities of clusters are often made without what RFC 5280 asks of them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _content(entry: dict[str, Any], name: str, path: Path) -> str:
    """`NAME-data`, base64, or the file that `NAME` names; "" if neither is there."""
    data = entry.get(f"{name}-data")
    if data:
        try:
            return base64.b64decode(data, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as failure:
            raise ConfigError(f"{path}: {name}-data is not base64 of PEM text") from failure
    return _text_of(_beside(path, entry[name])) if entry.get(name) else ""


def _beside(path: Path, named: str) -> Path:
    return path.parent / Path(named).expanduser()


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as failure:
        reason = getattr(failure, "strerror", None) or "not text"
        raise ConfigError(f"{path} cannot be read: {reason}") from failure


def _from_plugin(plugin: Mapping[str, Any]) -> tuple[str, float]:
    """(token, seconds it lives) as a client-go credential plugin prints it (ExecCredential)."""
    argv = [str(plugin.get("command", "")), *[str(word) for word in plugin.get("args") or []]]
    extra = {str(one["name"]): str(one["value"]) for one in plugin.get("env") or []}
    asked = {
        "apiVersion": plugin.get("apiVersion", "client.authentication.k8s.io/v1"),
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }
    environ = {**os.environ, **extra, "KUBERNETES_EXEC_INFO": json.dumps(asked)}
    try:
        ran = subprocess.run(
            argv, env=environ, stdin=subprocess.DEVNULL, capture_output=True, check=True,
            timeout=PLUGIN_TIMEOUT_S,
        )  # fmt: skip
        status = json.loads(ran.stdout[:PLUGIN_ANSWER_BYTES_MAX])["status"]
        token = str(status["token"])
        ends = status.get("expirationTimestamp")
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as failure:
        kind = type(failure).__name__
        raise ConfigError(f"the credential plugin {argv[0]!r} gave no token ({kind})") from None
    if not ends:
        return token, float("inf")
    lives_s = datetime.fromisoformat(str(ends).replace("Z", "+00:00")).timestamp() - time.time()
    return token, max(0.0, lives_s - RENEW_BEFORE_S)
