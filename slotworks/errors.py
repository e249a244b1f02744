"""Errors that are meant for the user; in a file of its own because the report page must not import torch."""

import difflib
import errno
import importlib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from slotworks.version import __version__

MESSAGE = 4000  # characters of a message; room for the names of every data set, not for a file
QUOTE = 200  # characters of a value in a message
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # how the system says that a file finds no room


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, of which the command has already said what it saved; `signal` is the number.

    The command line exits with 128 and this number, as a shell reports a process that a signal ended.
    """

    def __init__(self, signal: int):
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


class UserError(Exception):
    """A mistake the user can fix. The message is one sentence or two: what was given, what was expected, what to do.

    The command line prints the message alone and exits with code 2. A message that quotes a whole file is cut in the
    middle, so that its end, which says what to do, stays.
    """

    def __init__(self, message: str):
        super().__init__(shorten(str(message), MESSAGE))


def shorten(text: str, limit: int) -> str:
    """The text, or its beginning and end where it is longer than `limit` characters.

    >>> shorten("a" * 50 + "b" * 50, 40)
    'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa [...] bbbbbbbbbb'
    """
    return text if len(text) <= limit else f"{text[: 3 * limit // 4]} [...] {text[-(limit // 4) :]}"


def quote(value: Any) -> str:
    """A value as a message shows it: its `repr` on one line, of at most about 200 characters.

    >>> quote([1, "a"])
    "[1, 'a']"
    """
    if isinstance(value, str):
        return repr(shorten(value, QUOTE))
    try:
        return shorten(repr(value), QUOTE)
    except (ValueError, RecursionError):  # a number of more digits than Python prints; lists too deep to print
        return f"a huge {type(value).__name__}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The three known names that look most like `name`, for a message."""
    lower = {one.lower(): one for one in known}
    return ", ".join(lower[one] for one in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0)) or "none"


def printable(text: str) -> str:
    r"""Control characters written out, so that a name cannot move the cursor, ring or colour; line breaks stay.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() or c in "\n\t" else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    # Not all that is not printable does harm: rich draws with some of it, for example spaces of other widths.
    if ord(character) < 32 or 127 <= ord(character) < 160 or character in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068":
        return repr(character)[1:-1]
    return character


def deprecated(what: str, instead: str, *, gone: str) -> None:
    """Warn the caller of the function that calls this: something of the public interface will go away.

    Args:
        what: that goes, as a user writes it, such as `evaluate(batch=...)`.
        instead: what takes its place.
        gone: the version that no longer has it, `MAJOR.MINOR.0`, see CONTRIBUTING.md.

    Raises:
        AssertionError: in that version and later ones: what was announced is still there. Remove it.
    """
    reached = tuple(map(int, __version__.split(".")[:2])) >= tuple(map(int, gone.split(".")[:2]))
    assert not reached, f"{what} was to go in {gone} and this is {__version__}; remove it."
    warnings.warn(f"{what} goes away in slotworks {gone}; use {instead}.", FutureWarning, stacklevel=3)


def check_extra(extra: str, *modules: str) -> None:
    """Refuse work whose last step would not find an optional library.

    Raises:
        UserError: as `needs_extra`.
    """
    with needs_extra(extra):
        for module in modules:
            importlib.import_module(module)


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Around the import of an optional library: says how to install it where it is missing or does not fit.

    with needs_extra("vision"):
        from transformers import AutoModel

    Raises:
        UserError: if the import fails. A torchvision built for another torch breaks transformers and diffusers with a
            RuntimeError, so that is caught, too.
    """
    try:
        yield
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        hint = "; a torchvision that does not fit this torch has to go first" if "torchvision" in reason else ""
        raise UserError(
            f"An optional library is missing or does not work here ({reason}); install it with "
            f"`pip install 'slotworks[{extra}]'`{hint}."
        ) from error


def transport_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises for connections that fail; it changed the library that it asks by twice."""
    try:
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        return (OSError,)
    base = HfHubHTTPError.__bases__[0]  # of requests, httpx or httpx2
    library = importlib.import_module(base.__module__.partition(".")[0])
    return (OSError, base, *([library.InvalidURL] if hasattr(library, "InvalidURL") else []))
