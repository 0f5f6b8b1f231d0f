"""numba where it is installed, plain Python where it is not.

Promises: `HAVE_NUMBA` says which; `jit` compiles a kernel once per machine (`cache=True`) or gives
it back as it is. Every kernel of this family has a NumPy twin, and integers only: the two agree bit
for bit, so a machine without numba plans the same placements, only more slowly. numba itself is
imported when the first kernel is called: a small yard never pays for it. Compiling takes seconds
where nothing is kept yet; who must not wait so long has it done beside, by `defer`.

numba keys its cache by the kernel's own file: after editing a constant or a kernel that another
file's kernels use, delete the `__pycache__` of this folder.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, TypeVar

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

NODES_COMPILED = 256  # a smaller yard is as well off without half a second and 100 MB of numba
HAVE_NUMBA = find_spec("numba") is not None
_FAMILY = __name__.rpartition(".")[0]
_kernels: list["_Uncompiled"] = []
_asked_first: list[Callable[[], bool]] = []  # one at most


class _Uncompiled:
    """Stands for a kernel until any is called: they call each other, so all are compiled then."""

    def __init__(self, kernel: Callable[..., Any]) -> None:
        self.kernel = kernel
        self.compiled: Callable[..., Any] | None = None
        _kernels.append(self)

    def __call__(self, *arguments: Any) -> Any:
        if self.compiled is None:
            _compile()
            assert self.compiled is not None, f"every kernel is compiled by now: {self.kernel}"
        return self.compiled(*arguments)


def compiles(nodes: int) -> bool:
    """True iff so many nodes are worth numba, or it is loaded: the results are the same."""
    worth = HAVE_NUMBA and (nodes >= NODES_COMPILED or "numba" in sys.modules)
    return worth and all(may() for may in _asked_first)


def defer(may: Callable[[], bool]) -> None:
    """Ask `may` before compiled kernels are used: while it says no, their twins are."""
    _asked_first[:] = [may]


def jit(kernel: Kernel) -> Kernel:
    """Compile `kernel` when it is called, kept on disk between runs; unchanged without numba."""
    return _Uncompiled(kernel) if HAVE_NUMBA else kernel  # type: ignore[return-value]


def _compile() -> None:
    """Put the compiled kernels where the family's modules look for them, before any is called."""
    import numba

    for one in _kernels:
        one.compiled = numba.njit(cache=True)(one.kernel)
    for name in [name for name in sys.modules if name.startswith(_FAMILY)]:
        module = sys.modules[name]
        for attribute, value in list(vars(module).items()):
            if isinstance(value, _Uncompiled):
                setattr(module, attribute, value.compiled)
