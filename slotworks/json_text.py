"""JSON from files that a kill, a disk or a hand may have changed: whatever is wrong with one is a ValueError."""

import json
from typing import Any

DEPTH = 64  # of objects and lists inside one another


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text. What walks through it later may call itself for each level: there are few.

    Raises:
        ValueError: if it is not JSON, not UTF-8, names half a character (such as the escape d800, which no file can
            hold), or has more than `DEPTH` objects and lists inside one another.
    """
    text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise _too_deep() from None
    level = [value]
    for _ in range(DEPTH + 1):
        holders = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [item for items in holders for item in items]
        if not level:
            return value
    raise _too_deep()


def _too_deep() -> ValueError:
    return ValueError(f"more than {DEPTH} objects and lists inside one another")
