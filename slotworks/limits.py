"""How much memory one picture, frame, record or mask from a file may take; asked before anything is decoded."""

import math
import os

from slotworks.errors import UserError

VARIABLE = "SLOTWORKS_MAX_DECODED_GB"
DEFAULT_GB = 2.0


def max_decoded_bytes() -> int:
    """Bytes that decoding one thing may take: the environment variable `SLOTWORKS_MAX_DECODED_GB`, else 2 GB.

    Raises:
        UserError: if the variable is no positive number.
    """
    text = os.environ.get(VARIABLE, "").strip()
    try:
        gigabytes = float(text) if text else DEFAULT_GB
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes < math.inf:
        raise UserError(f"{VARIABLE} is {text[:50]!r}; expected a positive number of GB, for example 4.")
    return int(gigabytes * 1e9)


def check_decoded(needed: int, name: object, what: str) -> None:
    """Refuse what would take more memory than is allowed.

    Args:
        needed: bytes.
        name: the file, or the place in it.
        what: what it states about its size, for example `40,000 x 40,000 pixels of 16 bits`.

    Raises:
        UserError: says how much it would take and how the limit is raised.
    """
    if needed > (allowed := max_decoded_bytes()):
        raise UserError(
            f"{name} states {what}, which take about {needed / 1e9:.2g} GB to decode; at most {allowed / 1e9:g} GB are "
            f"allowed. Make it smaller or leave it out, or set {VARIABLE} to a larger number if you trust the file."
        )
