"""numba where it is installed, plain Python where it is not.

Promises: `HAVE_NUMBA` says which; `jit` compiles a kernel once per machine (`cache=True`) or gives it
back as it is. Every kernel of this family has a NumPy twin, and integers only: the two agree bit for
bit, so a machine without numba plans the same placements, only more slowly.
"""

from collections.abc import Callable
from typing import Any, TypeVar

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

try:
    import numba
except ImportError:  # pragma: no cover  (numba is an optional accelerator)
    HAVE_NUMBA = False
else:
    HAVE_NUMBA = True


def jit(kernel: Kernel) -> Kernel:
    """Compile `kernel` to machine code, kept on disk between runs; unchanged without numba."""
    if not HAVE_NUMBA:
        return kernel
    compiled: Kernel = numba.njit(cache=True, boundscheck=False)(kernel)
    return compiled
