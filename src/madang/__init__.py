"""Madang: one shared yard of GPUs.

Inside a job: `report`, `checkpoint_dir`, `checkpoint_saved`, `should_stop`, `warning`. Outside:
`Client`.
Names load on first use, so `import madang` costs a training script nothing.
"""

TYPE_CHECKING = False  # typing's own constant costs an import of 10 ms
if TYPE_CHECKING:
    from madang.client import (
        Client,
        checkpoint_dir,
        checkpoint_saved,
        report,
        should_stop,
        warning,
    )

__version__ = "0.1.0"
__all__ = [
    "Client",
    "__version__",
    "checkpoint_dir",
    "checkpoint_saved",
    "report",
    "should_stop",
    "warning",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'madang' has no attribute {name!r}; it has {__all__}")
    import madang.client

    return getattr(madang.client, name)
