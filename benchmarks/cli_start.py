"""How long the command line takes from the shell's point of view: python benchmarks/cli_start.py

Each row is a whole process, started again and again: the least and the median of wall and of CPU
time. `run` talks to a small daemon in this process, so its rows hold everything but the real
daemon's work. The imports below are what other ways to build a command line would begin with.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).parent.parent
sys.path[:0] = [str(TOP), str(TOP / "src")]

from tests.client.double import TOKEN, Double  # noqa: E402

ROUNDS = 31
ENTRY = "import sys; from madang.cli.main import main; sys.argv[0] = 'madang'; main()"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "madang --help": ["-c", ENTRY, "--help"],
    "madang run --help": ["-c", ENTRY, "run", "--help"],
    "madang run --no-code -- true": ["-c", ENTRY, "run", "--no-code", "--", "true"],
    "madang run -- true (3 files)": ["-c", ENTRY, "run", "--", "true"],
    "madang ls (10 jobs)": ["-c", ENTRY, "ls"],
    "python -m madang --help": ["-m", "madang", "--help"],
    "import argparse": ["-c", "import argparse"],
    "import http.client": ["-c", "import http.client"],
    "import httpx": ["-c", "import httpx"],
    "import click": ["-c", "import click"],
    "import typer": ["-c", "import typer"],
    "import rich.console, rich.table": ["-c", "import rich.console, rich.table"],
    "import pydantic": ["-c", "import pydantic"],
}


def measured(words: list[str], folder: str, env: dict[str, str]) -> tuple[list[float], list[float]]:
    """Wall and CPU milliseconds of each round."""
    walls, cpus = [], []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        _, status, used = os.wait4(child.pid, 0)
        walls.append((time.perf_counter() - began) * 1000)
        cpus.append((used.ru_utime + used.ru_stime) * 1000)
        child.returncode = os.waitstatus_to_exitcode(status)
        said = child.stderr.read() if child.stderr else b""
        if child.stderr:
            child.stderr.close()
        if child.returncode:
            raise SystemExit(f"{words}: {said.decode()}")
    return walls, cpus


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder, Double().serving() as double:
        for name in ("train.py", "model.py", "README.md"):
            Path(folder, name).write_text("x = 1\n" * 100)
        for _ in range(10):
            double.submit({"command": ["true"], "name": "digits"})
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(TOP / "src"),
            "XDG_CACHE_HOME": str(Path(folder) / ".git"),  # never packed
            "MADANG_URL": double.url,
            "MADANG_TOKEN": TOKEN,
        }
        print(f"{'':34}{'wall ms':>16}{'CPU ms':>16}")
        print(f"{'':34}{'least  median':>16}{'least  median':>16}")
        for name, words in COMMANDS.items():
            try:
                walls, cpus = measured(words, folder, env)
            except SystemExit as error:
                print(f"{name:34}not here: {str(error).splitlines()[-1][:60]}")
                continue
            figures = "".join(
                f"{min(each):8.1f}{statistics.median(each):8.1f}" for each in (walls, cpus)
            )
            print(f"{name:34}{figures}", flush=True)


if __name__ == "__main__":
    main()
