"""The HTTP API: requests in, rows out. It decides nothing and writes nothing but tokens.

`create_app(yard, settings)` makes the application, `make_server` serves it within limits. What it
needs of the daemon is `madang.api.yard.Yard`. Names load on first use: the daemon's other threads
need `yard` long before anybody needs FastAPI.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from madang.api.app import create_app
    from madang.api.server import make_server
    from madang.api.settings import ApiSettings

_HOMES = {
    "ApiSettings": "madang.api.settings",
    "create_app": "madang.api.app",
    "make_server": "madang.api.server",
}
__all__ = ["ApiSettings", "create_app", "make_server"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'madang.api' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
