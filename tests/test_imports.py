"""What an import loads: the SDK runs in anybody's environment, and the CLI answers at once."""

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

SOURCES = Path(__file__).parent.parent / "src"
HEAVY = [
    "numpy",
    "pydantic",
    "fastapi",
    "starlette",
    "sqlalchemy",
    "alembic",
    "uvicorn",
    "psutil",
    "yaml",
    "zstandard",
]


def loaded_by(statement: str, *options: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after the statement."""
    script = f"import sys; sys.path.insert(0, {str(SOURCES)!r}); {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, *options, "-c", script], check=True, capture_output=True, text=True
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("module", ["madang", "madang.client"])
def test_the_sdk_imports_in_a_python_without_any_library(module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not in this checkout")

    # -I -S: no environment variables, no site-packages.
    loaded = loaded_by(f"import {module}", "-I", "-S")

    assert loaded - {"madang", "__main__"} <= sys.stdlib_module_names


def test_the_command_line_loads_nothing_heavy_before_a_verb_needs_it():
    if importlib.util.find_spec("madang.cli") is None:
        pytest.skip("madang.cli is not in this checkout")

    loaded = loaded_by("import madang.cli.main")

    assert sorted(loaded.intersection(HEAVY)) == []


def imported_libraries(package: Path) -> dict[str, str]:
    """Each top-level module of others that the package imports, and a file that does."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                found[name.partition(".")[0]] = str(path.relative_to(package))
    return {
        name: where
        for name, where in found.items()
        if name not in sys.stdlib_module_names and name != "madang"
    }


def test_every_library_that_the_package_imports_is_declared():
    project = tomllib.loads((SOURCES.parent / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = [line for lines in lists for line in lines]
    declared = {re.split(r"[\[<>=~! ]", line)[0].lower() for line in asked}
    known = importlib.metadata.packages_distributions()
    homes = {name: {home.lower() for home in known.get(name, [name])} for name in known}

    undeclared = {
        name: where
        for name, where in imported_libraries(SOURCES / "madang").items()
        if not homes.get(name, {name}) & declared
    }

    assert undeclared == {}, "add them to pyproject.toml and docs/decisions/libraries.md"
