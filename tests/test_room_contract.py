"""The contract of the rooms finds each kind of wrong import, and lets the right ones be."""

import pytest
from grimp import ImportGraph

from tools import room_contract

ARROWS = {
    "core": frozenset[str](),
    "ledger": frozenset({"core"}),
    "api": frozenset({"core", "ledger"}),
    "__init__": frozenset[str](),
}


def graph_of(*imports: tuple[str, str]) -> ImportGraph:
    graph = ImportGraph()
    graph.add_module("madang")
    for line, (importer, imported) in enumerate(imports, 1):
        graph.add_import(
            importer=importer, imported=imported, line_number=line, line_contents="import"
        )
    return graph


@pytest.mark.parametrize(
    ("importer", "imported", "finding"),
    [
        ("madang.ledger.sql", "madang.core.model", None),
        ("madang.ledger.sql", "madang.ledger.rows", None),
        ("madang.core.plan", "madang", None),
        ("madang.core.plan", "madang.ledger.sql", "core may import no other room"),
        ("madang.ledger", "madang.api.app", "ledger may import core"),
        ("madang", "madang.core", "__init__ may import no other room"),
    ],
)
def test_an_import_against_the_arrows_is_found(importer, imported, finding):
    graph = graph_of((importer, imported))

    findings = list(room_contract.forbidden_arrows(graph, "madang", ARROWS))

    expected = [f"{importer} imports {imported} (line 1): {finding}"] if finding else []
    assert findings == expected


@pytest.mark.parametrize(
    ("importer", "library", "finding"),
    [
        ("madang.core.plan", "numpy", None),
        ("madang.core.plan", "heapq", None),
        ("madang.api.app", "fastapi", None),
        ("madang.ledger.sql", "sqlalchemy", None),
        ("madang.core.plan", "pydantic", "core may use numpy"),
        ("madang.api.app", "sqlalchemy", "only ledger may use sqlalchemy"),
    ],
)
def test_a_library_in_the_wrong_room_is_found(importer, library, finding):
    libraries = {"core": frozenset({"numpy"})}
    keepers = {"sqlalchemy": frozenset({"ledger"})}
    graph = graph_of((importer, library))

    findings = list(room_contract.forbidden_libraries(graph, "madang", libraries, keepers))

    expected = [f"{importer} imports {library} (line 1): {finding}"] if finding else []
    assert findings == expected


def test_arrows_in_a_circle_are_found():
    findings = list(room_contract.circles({**ARROWS, "core": frozenset({"api"})}))

    assert len(findings) == 1
    assert "in a circle" in findings[0]


def test_a_room_that_the_table_does_not_know_is_found():
    graph = graph_of(("madang.attic", "madang.core"))
    graph.add_module("madang.attic.old")

    findings = list(room_contract.unlisted_rooms(graph, "madang", ARROWS))

    assert findings == ["madang.attic is a room without a line in `arrows` (pyproject.toml)"]


def test_a_line_that_is_no_arrow_is_refused():
    with pytest.raises(ValueError, match="write `room -> room room`"):
        room_contract.parsed(["core: numpy"])
