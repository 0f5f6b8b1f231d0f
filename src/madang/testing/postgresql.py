"""A PostgreSQL server of its own for a test run: made, started, used, and gone.

It listens on a Unix socket in its own directory and nowhere else, and keeps fsync on. The server
refuses to be root; where the tests are, it is given to the user `postgres` or `nobody`.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

_INSTALLED = ("/usr/lib/postgresql", "/usr/local/pgsql")
START_WAIT_S = 60.0
USERS = ("postgres", "nobody")


class NoPostgresql(Exception):
    """There is none to start here; the message says what to install."""


@dataclass(slots=True)
class Server:
    """A running server. `stop` and `start` are for tests of what happens when it goes away."""

    binaries: Path
    home: Path
    user: str | None
    running: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        """A URL of one of its databases."""
        return f"postgresql+psycopg://yard@/{database}?host={quote(str(self.home), safe='')}"

    def make(self) -> None:
        """The files of a server that has no databases yet."""
        options = ["-U", "yard", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
        self._do("initdb", "-D", str(self.home / "rows"), *options)

    def make_database(self, name: str) -> str:
        """An empty database; its URL."""
        self._do("createdb", "-h", str(self.home), "-U", "yard", name)
        return self.url(name)

    def start(self) -> None:
        """Start it and wait until it answers."""
        log = (self.home / "log").open("ab")
        command = [
            *(str(self.binaries / "postgres"), "-D", str(self.home / "rows")),
            *("-k", str(self.home), "-c", "listen_addresses=", "-c", "fsync=on"),
            *("-c", "shared_buffers=32MB", "-c", "max_connections=60"),
        ]
        with log:
            self.running = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.home,
                user=self.user,
                group=_group(self.user),
                extra_groups=None if self.user is None else [],
            )
        until_s = time.monotonic() + START_WAIT_S
        while self._ask("pg_isready", "-q", "-h", str(self.home)) != 0:
            if self.running.poll() is not None or time.monotonic() > until_s:
                raise RuntimeError((self.home / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.05)

    def stop(self, *, kill: bool = False) -> None:
        """Stop it at once: an immediate shutdown, or SIGKILL to the postmaster."""
        if self.running is None:
            return
        if kill:
            self.running.kill()
        else:
            self._ask("pg_ctl", "stop", "-m", "immediate", "-D", str(self.home / "rows"))
        self.running.wait(START_WAIT_S)
        self.running = None

    def _ask(self, program: str, *arguments: str) -> int:
        return self._run(program, *arguments).returncode

    def _do(self, program: str, *arguments: str) -> None:
        done = self._run(program, *arguments)
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr.decode(errors='replace')}")

    def _run(self, program: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            [str(self.binaries / program), *arguments],
            capture_output=True,
            check=False,
            cwd=self.home,
            user=self.user,
            group=_group(self.user),
            extra_groups=None if self.user is None else [],
        )


@contextmanager
def postgresql_server() -> Iterator[Server]:
    """A fresh server, gone with all its rows at the end.

    Raises:
        NoPostgresql: it is not installed, or there is no user to run it as.
    """
    binaries, user = _binaries(), _user()
    home = Path(tempfile.mkdtemp(prefix="madang-pg-"))
    server = Server(binaries, home, user)
    try:
        if user is not None:
            shutil.chown(home, user)
        server.make()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


def _binaries() -> Path:
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = [initdb.parent for root in _INSTALLED for initdb in Path(root).glob("**/bin/initdb")]
    if not found:
        raise NoPostgresql("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    return max(found, key=lambda path: [int(part) for part in path.parts if part.isdigit()])


def _user() -> str | None:
    """Whom to run the server as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    for name in USERS:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    raise NoPostgresql(f"PostgreSQL refuses root, and there is no user {' or '.join(USERS)}")


def _group(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid
