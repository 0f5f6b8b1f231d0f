"""The SDK: what a job says of itself, and a client with the command line's verbs.

Only Python's own library, and no syntax newer than Python 3.9: it runs inside any user's
environment. Names load on first use; `report` alone never touches a socket.
"""

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from madang.client.api import Client
    from madang.client.code import Packed, pack
    from madang.client.errors import (
        ApiError,
        CodeError,
        Invalid,
        MadangError,
        NotFound,
        Refused,
        Rejected,
        Unreachable,
    )
    from madang.client.inside import (
        checkpoint_dir,
        checkpoint_saved,
        report,
        should_stop,
        warning,
    )

_HOMES = {
    "Client": "madang.client.api",
    "Packed": "madang.client.code",
    "pack": "madang.client.code",
    "ApiError": "madang.client.errors",
    "CodeError": "madang.client.errors",
    "MadangError": "madang.client.errors",
    "Invalid": "madang.client.errors",
    "NotFound": "madang.client.errors",
    "Refused": "madang.client.errors",
    "Rejected": "madang.client.errors",
    "Unreachable": "madang.client.errors",
    "checkpoint_dir": "madang.client.inside",
    "checkpoint_saved": "madang.client.inside",
    "report": "madang.client.inside",
    "should_stop": "madang.client.inside",
    "warning": "madang.client.inside",
}
__all__ = [
    "ApiError",
    "Client",
    "CodeError",
    "Invalid",
    "MadangError",
    "NotFound",
    "Packed",
    "Refused",
    "Rejected",
    "Unreachable",
    "checkpoint_dir",
    "checkpoint_saved",
    "pack",
    "report",
    "should_stop",
    "warning",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'madang.client' has no attribute {name!r}; it has {__all__}")
    import importlib

    return getattr(importlib.import_module(home), name)
