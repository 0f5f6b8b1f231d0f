"""The house style, as a program that reads every tracked file (after TigerBeetle's tidy).

Checks what ruff and mypy do not: sizes, leftovers, names that must not leave a machine, headings,
and modules that nobody imports. Promises: each finding names a file, a line and what to do.
Run it alone with `python -m tools.tidy`; tests/test_tidy.py runs it in `make test`.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

LINE_LENGTH_MAX = 100  # two files side by side on one screen
FILE_LINES_MAX = 600  # a module one can hold in one's head
FUNCTION_LINES_MAX = 60  # fits on a screen
TEST_LINES_MAX = 80  # a table of cases may be longer than code

CODE = frozenset({".py", ".ts", ".tsx", ".css", ".sql", ".sh", ".toml", ".yaml", ".yml"})
GENERATED = frozenset({"package-lock.json", "uv.lock"})  # besides constraints*.txt
PINNED = re.compile(r"constraints.*\.txt|package-lock\.json|\.npmrc|uv\.lock")

# Written in halves, so that this file does not find itself.
LEFTOVER = re.compile(r"\b(FIX" + r"ME|TO" + r"DO|XX" + r"X)\b")
MACHINE_PATH = re.compile(r"(?<![\w.$}-])/(?:wo" + r"rk|ro" + r"ot|Us" + r"ers|ho" + r"me)/\w")
HOSTS = ("py" + "pi.org", "python" + "hosted", "npm" + "js.", "yarn" + "pkg", "debian" + ".org")
DOCS_PAGE = re.compile(r"\bdocs/[a-z0-9/-]+\.md\b")
IS_PROGRAM = '\nif __name__ == "__main__":'
OUR_MODULE = re.compile(r"\A(madang(?:\.\w+)+)\Z")
OUR_IMPORT = re.compile(r"^from (madang(?:\.\w+)*) import (\w+)$", re.MULTILINE)
ADDRESS = re.compile(r"https?://", re.IGNORECASE)

Files = dict[str, str]  # path from the top of the repository → text, for text files only


def main() -> int:
    """Print every finding; the exit status is 1 if there is one."""
    findings = list(all_findings(tracked_files(Path(__file__).parent.parent)))
    for finding in findings:
        print(finding)
    print(f"tidy: {len(findings)} findings", file=sys.stderr)
    return 1 if findings else 0


def all_findings(files: Files) -> Iterator[str]:
    """Every finding of every check, file by file."""
    for path, text in files.items():
        yield from line_findings(path, text)
        if path.endswith(".md"):
            yield from heading_findings(path, text)
        if path.endswith(".py"):
            yield from module_findings(path, text)
    yield from unused_module_findings(files)
    yield from lost_page_findings(files)


def tracked_files(top: Path) -> Files:
    """What git tracks, and what it would track if it were added; binary files are left out."""
    listed = subprocess.run(
        ["git", "-C", str(top), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    )
    files = {}
    for path in sorted(set(listed.stdout.split("\0")) - {""}):
        whole = top / path
        if whole.is_symlink() or not whole.is_file():
            continue  # deleted in the work tree, not yet in the index
        content = whole.read_bytes()
        if b"\0" not in content:
            files[path] = content.decode("utf-8")
    return files


def line_findings(path: str, text: str) -> Iterator[str]:
    """Long lines, long files, leftover markers, and names that belong to one machine."""
    pinned = PINNED.fullmatch(Path(path).name)
    generated = pinned or Path(path).name in GENERATED
    lines = text.splitlines()
    is_code = Path(path).suffix in CODE and not generated
    is_measured = is_code and not path.startswith("web/")  # prettier breaks those, but no strings
    if is_code and len(lines) > FILE_LINES_MAX:
        yield f"{path}:1: {len(lines)} lines, {FILE_LINES_MAX} at most: split it by what it is for"
    for number, line in enumerate(lines, 1):
        at = f"{path}:{number}"
        if is_measured and len(line) > LINE_LENGTH_MAX and not ADDRESS.search(line):
            yield f"{at}: {len(line)} columns, {LINE_LENGTH_MAX} at most: break the line"
        if not generated and (leftover := LEFTOVER.search(line)):
            yield f"{at}: {leftover[0]}: do it, or file an issue and say here why it can wait"
        if (found := MACHINE_PATH.search(line)) and not generated:
            yield f"{at}: {found[0]}…: a path of one machine: use a relative path or an option"
        for host in HOSTS:
            if host in line:
                yield f"{at}: {host}: a registry's host: name the package only"
        if pinned and re.search(r'"resolved"|--(?:extra-)?index-url|--find-links|^registry', line):
            yield f"{at}: a registry's address in a lock file: `make lock` writes it without"


def heading_findings(path: str, text: str) -> Iterator[str]:
    """Each Markdown file begins with its one `# Title`."""
    fenced = False
    titles = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced and line.startswith("# "):
            titles.append(number)
    if titles[:1] != [1]:
        yield f"{path}:1: no title: begin the file with `# Title`"
    for number in titles[1:]:
        yield f"{path}:{number}: a second title: use `## ` for parts, or make it a file of its own"


def module_findings(path: str, text: str) -> Iterator[str]:
    """Long functions, and package modules that do not say what they are for."""
    tree = ast.parse(text, filename=path)
    if path.startswith("src/") and not ast.get_docstring(tree):
        yield f"{path}:1: no docstring: begin with what the module is for and what it promises"
    lines_max = TEST_LINES_MAX if path.startswith("tests/") else FUNCTION_LINES_MAX
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assert node.end_lineno is not None, node.name
        lines = node.end_lineno - node.lineno + 1
        if lines > lines_max:
            yield (
                f"{path}:{node.lineno}: {node.name}() has {lines} lines, {lines_max} at most: "
                "push the fors down into functions of their own"
            )


def unused_module_findings(files: Files) -> Iterator[str]:
    """Modules of the package that no other file of ours reaches.

    Reached means: imported by another module of the package, named in a string there (what runs
    with `python -m` or `-c`), a program itself, or named in pyproject.toml as an entry point. The
    contract suites in madang.testing are reached from tests; migrations are found by Alembic.
    """
    sources = {path: text for path, text in files.items() if path.endswith(".py")}
    reached_by: dict[str, set[str]] = {}
    for path, text in sources.items():
        for name in reached_names(ast.parse(text, filename=path)):
            reached_by.setdefault(name, set()).add(path)
    scripts = files.get("pyproject.toml", "")
    for path, text in sources.items():
        module = module_name(path)
        if module is None or path.endswith(("__init__.py", "__main__.py")):
            continue
        if "/migrations/" in path or f'"{module}:' in scripts or IS_PROGRAM in text:
            continue
        others = reached_by.get(module, set()) - {path}
        if not module.startswith("madang.testing."):
            others = {other for other in others if other.startswith("src/")}
        if not others:
            yield f"{path}:1: nothing imports {module}: use it from the package or delete it"


def lost_page_findings(files: Files) -> Iterator[str]:
    """Mentions of pages under docs/ that are not there."""
    for path, text in files.items():
        for number, line in enumerate(text.splitlines(), 1):
            for page in DOCS_PAGE.findall(line):
                if page not in files:
                    yield f"{path}:{number}: there is no {page}: write it, or name the right one"


def reached_names(tree: ast.AST) -> Iterator[str]:
    """Every dotted name of ours that the module imports or holds as a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from OUR_MODULE.findall(node.value)
            yield from (f"{package}.{name}" for package, name in OUR_IMPORT.findall(node.value))


def module_name(path: str) -> str | None:
    """`src/madang/core/plan.py` → `madang.core.plan`; None outside the package."""
    if not path.startswith("src/"):
        return None
    return path.removeprefix("src/").removesuffix(".py").replace("/", ".")


def formatted(findings: Iterable[str]) -> str:
    """The findings as one message, for an assertion."""
    return "\n" + "\n".join(findings)


if __name__ == "__main__":
    sys.exit(main())
