"""The arrows between rooms, as one table: a contract type for import-linter.

import-linter's own contracts need one list of forbidden modules per room. Here the table of
DESIGN is the contract: a room, and what it may import. Promises: every direct import between two
rooms is in the table, every room is in the table, and the table has no circle, so that "downward
only" follows from it.
"""

import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

ROOT_ROOM = "__init__"  # the package's own file: `import madang`


class RoomContract(Contract):
    """Options: `arrows`, `libraries`, `keepers`, each a list of `name -> name name …`."""

    type_name = "rooms"

    arrows = fields.ListField(subfield=fields.StringField())
    libraries = fields.ListField(subfield=fields.StringField(), required=False)
    keepers = fields.ListField(subfield=fields.StringField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Kept when no import of the graph breaks a line of the tables."""
        root = self.session_options["root_packages"][0]
        arrows = parsed(self.arrows)
        libraries = parsed(self.libraries)
        keepers = parsed(self.keepers)
        wrongs = [
            *circles(arrows),
            *unlisted_rooms(graph, root, arrows),
            *forbidden_arrows(graph, root, arrows),
            *forbidden_libraries(graph, root, libraries, keepers),
        ]
        return ContractCheck(kept=not wrongs, metadata={"wrongs": wrongs})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print one line for each wrong import: where it is, and what the table allows."""
        for wrong in check.metadata["wrongs"]:
            output.print_error(f"- {wrong}")
        output.new_line()


def parsed(lines: object) -> dict[str, frozenset[str]]:
    """`["ledger -> core wire"]` → `{"ledger": {"core", "wire"}}`; raises ValueError."""
    table: dict[str, frozenset[str]] = {}
    if lines is None:  # import-linter's value of an option that is not there
        return table
    assert isinstance(lines, list), lines
    for line in lines:
        name, arrow, allowed = str(line).partition("->")
        if not arrow or name.strip() in table:
            raise ValueError(f"room contract: {line!r}: write `room -> room room`, each once")
        table[name.strip()] = frozenset(allowed.split())
    return table


def circles(arrows: dict[str, frozenset[str]]) -> Iterator[str]:
    """A message if rooms may import each other in a circle, or a room that no line describes."""
    for name, allowed in arrows.items():
        for missing in sorted(allowed - arrows.keys()):
            yield f"{name} -> {missing}: {missing} has no line of its own in `arrows`"
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        yield f"the arrows go in a circle: {' -> '.join(error.args[1])}"


def unlisted_rooms(
    graph: ImportGraph, root: str, arrows: dict[str, frozenset[str]]
) -> Iterator[str]:
    """A message for each child of the package that the table does not know."""
    for child in sorted(graph.find_children(root)):
        if room_of(child, root) not in arrows:
            yield f"{child} is a room without a line in `arrows` (pyproject.toml)"


def forbidden_arrows(
    graph: ImportGraph, root: str, arrows: dict[str, frozenset[str]]
) -> Iterator[str]:
    """A message for each import from one room into another that the table does not allow."""
    for importer, imported in imports(graph):
        if not (inside(importer, root) and inside(imported, root)):
            continue
        source, target = room_of(importer, root), room_of(imported, root)
        # Importing a submodule runs the package's own file anyway, so that one is free to all.
        if target not in (source, ROOT_ROOM, *arrows.get(source, ())):
            allowed = " ".join(sorted(arrows.get(source, ()))) or "no other room"
            yield f"{where(graph, importer, imported)}: {source} may import {allowed}"


def forbidden_libraries(
    graph: ImportGraph,
    root: str,
    libraries: dict[str, frozenset[str]],
    keepers: dict[str, frozenset[str]],
) -> Iterator[str]:
    """A message for each library in a room that may not use it."""
    for importer, imported in imports(graph):
        library = imported.partition(".")[0]
        if library == root or not inside(importer, root) or library in sys.stdlib_module_names:
            continue
        room = room_of(importer, root)
        if library not in libraries.get(room, {library}):
            allowed = " ".join(sorted(libraries[room])) or "no library"
            yield f"{where(graph, importer, imported)}: {room} may use {allowed}"
        if room not in keepers.get(library, {room}):
            allowed = " ".join(sorted(keepers[library]))
            yield f"{where(graph, importer, imported)}: only {allowed} may use {library}"


def imports(graph: ImportGraph) -> Iterable[tuple[str, str]]:
    """Every direct import as (importer, imported), in a fixed order."""
    for importer in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(importer)):
            yield importer, imported


def inside(module: str, root: str) -> bool:
    """Whether the module belongs to our package."""
    return module == root or module.startswith(f"{root}.")


def room_of(module: str, root: str) -> str:
    """`madang.engines.local.shim` → `engines`; the package itself → `__init__`."""
    return ROOT_ROOM if module == root else module.removeprefix(f"{root}.").partition(".")[0]


def where(graph: ImportGraph, importer: str, imported: str) -> str:
    """`madang.api.app imports madang.engines (line 7)`."""
    details = graph.get_import_details(importer=importer, imported=imported)
    lines = ", ".join(str(detail["line_number"]) for detail in details)
    return f"{importer} imports {imported} (line {lines})"
