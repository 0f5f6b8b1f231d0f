"""What an import loads: the SDK runs in anybody's environment, and the CLI answers at once."""

import importlib.util
import subprocess
import sys
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
