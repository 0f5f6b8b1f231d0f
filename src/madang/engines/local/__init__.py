"""The engine of one machine: every member is a process under a shim that outlives the daemon.

    daemon ── LocalEngine ──(socketpair)── keeper ──fork── shim ──fork+exec── member
                  ▲                                         │
                  └───────────(FIFO: started, ended)────────┘

`engine.py` is the daemon's side; `keeper.py` and `shim.py` run with a bare interpreter and import
only `records.py` and `proc.py`. Why so: docs/decisions/shims-from-a-keeper.md. This file imports
nothing by itself, because the keeper passes through it.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from madang.engines.local.engine import LocalEngine

__all__ = ["LocalEngine"]


def __getattr__(name: str) -> object:
    if name != "LocalEngine":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from madang.engines.local.engine import LocalEngine

    return LocalEngine
