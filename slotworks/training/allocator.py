"""An opt-in for training on a CPU under Linux: keep freed memory instead of handing it back to the system.

glibc takes every block above 128 KiB from the system anew and gives it back when it is freed, so each step maps,
clears and unmaps the same activations. Kept, they are reused as they are. Resident memory then stays at its peak.
"""

import ctypes
import sys

from slotworks.types import UserError

# Option numbers of mallopt(3) in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


keeps = False  # whether this process keeps freed memory


def keep_freed_memory() -> None:
    """Call it before the first large tensor, once per process.

    Raises:
        UserError: on systems without glibc.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        raise UserError(
            f"--keep-memory sets glibc's allocator, which this system ({sys.platform}) does not have; leave it out."
        ) from None
    global keeps
    keeps = True
    mallopt(_M_MMAP_MAX, 0)  # large blocks come from the heap too
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # and its free end is not given back
    mallopt(_M_TOP_PAD, 256 * 2**20)  # it grows in few, large pieces
