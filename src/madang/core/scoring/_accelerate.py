"""numba where it is installed, plain Python where it is not.

Promises: `HAVE_NUMBA` says which; `jit` compiles a kernel once per machine (`cache=True`) or gives
it back as it is. Every kernel of this family has a NumPy twin, and integers only: the two agree bit
for bit, so a machine without numba plans the same placements, only more slowly.

numba keys its cache by the kernel's own file: after editing a constant or a kernel that another
file's kernels use, delete the `__pycache__` of this folder.
"""

from collections.abc import Callable
from typing import Any, TypeVar

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

try:
    import numba
except ImportError:
    HAVE_NUMBA = False
else:
    HAVE_NUMBA = True


def jit(kernel: Kernel) -> Kernel:
    """Compile `kernel` to machine code, kept on disk between runs; unchanged without numba."""
    if not HAVE_NUMBA:
        return kernel
    compiled: Any = numba.njit(cache=True)(kernel)
    return compiled  # type: ignore[no-any-return]
